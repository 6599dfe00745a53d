"""Contents on standard output: verified, or nothing at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from cli.calling import call
from support import golden
from support.cli import run_cli
from support.golden import Pinned
from support.listing import Record
from support.processes import dying_with_parent
from support.servers import RepoServer

FQRN = "small.cern.ch"


def _one_of_each() -> list[tuple[Pinned, str, Record]]:
    """One file of each way to store contents, of each repository."""
    found: dict[tuple[str, str], tuple[Pinned, str, Record]] = {}
    for at in golden.pinned():
        by_path = {record.path: record for record in golden.mounted(at)}
        for row in golden.rows(f"{at.fqrn}/{at.rev}.jsonl"):
            if row["type"] != "file" or "path_b64" in row:
                continue
            kind = " ".join(
                [
                    row.get("compression", "zlib"),
                    "chunked" if row.get("chunks", 1) > 1 else "bulk",
                    "hashed" if "hash" in row else "unhashed",
                    "external" if row.get("external") else "internal",
                    "empty" if row["size"] == 0 else "full",
                    row.get("hash", "").rpartition("-")[2] if "-" in row.get("hash", "") else "sha1",
                ]
            )
            if at.tag is not None:
                found.setdefault((at.fqrn, kind), (at, kind, by_path[row["path"].encode()]))
    return list(found.values())


@pytest.mark.parametrize(
    ("at", "kind", "record"),
    [pytest.param(*one, id=f"{one[0].fqrn}: {one[1]}") for one in _one_of_each()] or [pytest.param(None, "", None)],
)
def test_a_file_is_what_the_mount_shows(at: Pinned, kind: str, record: Record, repo_server: RepoServer) -> None:
    assert at.tag is not None
    result = call_bytes(
        *("cat", "-r", at.fqrn, "--server", repo_server.repo(at.fqrn), "--key", str(at.key), "--tag", at.tag),
        *("--external-server", repo_server.external(at.fqrn)) if "external" in kind.split() else (),
        os.fsdecode(record.path),
    )
    assert len(result) == record.size
    assert hashlib.sha256(result).hexdigest() == record.sha256


def call_bytes(*words: str) -> bytes:
    """Standard output, which is no text here."""
    import io
    import sys
    from contextlib import redirect_stdout
    from unittest import mock

    from shrinkwrap.cli.main import run

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with (
        mock.patch.object(sys, "argv", ["shrinkwrap", *words]),
        mock.patch("signal.signal"),
        redirect_stdout(out),
        pytest.raises(SystemExit) as end,
    ):
        run()
    assert end.value.code == 0
    out.flush()
    assert isinstance(out.buffer, io.BytesIO)
    return out.buffer.getvalue()


def _where(repos: Path) -> list[str]:
    return ["-r", FQRN, "--storage", str(repos / FQRN), "--key", str(repos / "keys" / f"{FQRN}.pub")]


def test_several_files_come_one_after_the_other(repos: Path) -> None:
    one, two = call("cat", *_where(repos), "/README").ok().out, call("cat", *_where(repos), "/lcg/README").ok().out
    assert call("cat", *_where(repos), "/README", "/lcg/README", "/README").ok().out == one + two + one


@pytest.mark.parametrize(
    ("path", "code", "word"),
    [("/lcg", 2, "dir"), ("/", 2, "dir"), ("/latest", 2, "symlink"), ("/nope", 5, "not in"), ("README", 2, "begin")],
)
def test_what_is_no_file_is_refused(path: str, code: int, word: str, repos: Path) -> None:
    result = call("cat", *_where(repos), path).ends_with(code)
    assert result.out == ""
    assert word in result.err
    assert len(result.err.splitlines()) <= 2


def test_a_device_is_refused(repos: Path) -> None:
    where = ["-r", "nodes.cern.ch", "--storage", repos / "nodes.cern.ch", "--key", repos / "keys"]
    assert "chardev" in call("cat", *where, "/nodes/dev/null").ends_with(2).err


@pytest.mark.parametrize("kind", ["bulk", "chunked"])
def test_nothing_is_printed_of_a_file_that_is_not_whole(kind: str, repos: Path, repo_server: RepoServer) -> None:
    rows = [row for row in golden.rows(f"{FQRN}/rev3.jsonl") if row["type"] == "file" and "path_b64" not in row]
    chosen = next(
        row
        for row in rows
        if (
            row.get("chunks", 1) > 2 and "hash" not in row
            if kind == "chunked"
            else row["size"] > 1000 and "chunks" not in row
        )
    )
    before = repo_server.with_files()
    where = ["-r", FQRN, "--key", str(repos / "keys")]
    call("cat", *where, "--server", before.repo(FQRN), chosen["path"]).ok()
    objects = [one.path for one in before.requests() if "/data/" in one.path and one.path[-1] not in "CXH"]
    assert len(objects) == chosen.get("chunks", 1)
    variant = repo_server.with_files()
    variant.flip(objects[-1], 9)
    result = call("cat", *where, "--server", variant.repo(FQRN), chosen["path"]).ends_with(6)
    assert result.out == ""
    variant.answer(objects[-1], 404)
    result = call("cat", *where, "--server", variant.repo(FQRN), chosen["path"]).ends_with(5)
    assert result.out == ""


def test_what_comes_before_a_bad_path_is_printed_and_the_code_tells(repos: Path) -> None:
    result = call("cat", *_where(repos), "/README", "/nope").ends_with(5)
    assert result.out == call("cat", *_where(repos), "/README").ok().out


def test_a_reader_that_has_seen_enough_is_no_error(repos: Path) -> None:
    import subprocess
    import sys

    big = max((record for record in golden.mounted(Pinned(FQRN, "rev3"))), key=lambda one: one.size)
    process = subprocess.Popen(
        [*dying_with_parent(), sys.executable, "-m", "shrinkwrap", "cat", *_where(repos), os.fsdecode(big.path)],
        env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(golden.CHECKOUT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert len(process.stdout.read(10)) == 10
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 0


def test_it_needs_no_place_of_its_own(repos: Path, scratch: Path) -> None:
    assert run_cli("cat", *_where(repos), "/README", cwd=scratch).ok().out
    assert os.listdir(scratch) == []
