"""``shrinkwrap serve``: what it says, what it serves, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli.calling import call
from support.processes import dying_with_parent

FQRN = "small.cern.ch"


@contextmanager
def serving(*words: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, which is gone afterwards."""
    process = subprocess.Popen(
        [*dying_with_parent(), sys.executable, "-m", "shrinkwrap", "serve", *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(repos: Path, scratch: Path, way: signal.Signals) -> None:
    key = repos / "keys" / f"{FQRN}.pub"
    with serving(repos / FQRN, "--port", "0", "--json") as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        (served,) = first["repositories"]
        assert served == {"fqrn": FQRN, "url": f"{first['url']}/cvmfs/{FQRN}", "storage": str(repos / FQRN)}
        (scratch / "some.spec").write_text("/special/swap/*\n")
        words = ["-r", FQRN, "--server", served["url"], "--key", key]
        call("export", *words, "-t", scratch / "some.spec", "-z", scratch / "export", "-q").ok()
        assert (scratch / "export" / FQRN / "special" / "swap").is_dir()
        process.send_signal(way)
        out, err = process.communicate(timeout=60)
    last = json.loads(out)
    assert (process.returncode, err) == (0, "")
    assert last["reason"] == "done"
    assert last["requests"] > 5
    assert last["bytes"] > 1000


def test_what_it_says_to_try_works(repos: Path, scratch: Path) -> None:
    with serving(repos, "--port", "0") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip("\n")]
        while "production" not in lines[-1]:
            lines.append(process.stdout.readline().rstrip("\n"))
        tried = [line.strip() for line in lines if line.startswith("  ") and "shrinkwrap" in line]
        assert len(tried) == 2
        bin_ = scratch / "bin"
        bin_.mkdir()
        (bin_ / "shrinkwrap").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shrinkwrap "$@"\n')
        (bin_ / "shrinkwrap").chmod(0o755)
        env = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-c", tried[0]], cwd=scratch, env=env, capture_output=True, text=True, check=True)
        assert "ext" in done.stdout, "external.cern.ch is the first"
        assert tried[1].startswith("echo '/*' > all.spec && shrinkwrap export -r external.cern.ch --server http://")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err.startswith("stopped after ")


def test_a_folder_without_repositories_is_an_error_with_a_hint(scratch: Path) -> None:
    result = call("serve", scratch, "--json").ends_with(2)
    assert result.err.startswith(f"shrinkwrap: {scratch}: no repository")
    assert "hint: " in result.err
    assert result.json["command"] == "serve"


def test_a_port_that_is_none_is_refused(scratch: Path) -> None:
    assert "--port" in call("serve", scratch, "--port", "65536").ends_with(2).err
