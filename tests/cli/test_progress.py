"""What people see while an export runs: bars on a terminal, lines in a log, nothing if they say so."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli.calling import call
from support import golden
from support.processes import dying_with_parent
from support.servers import RepoServer

from shrinkwrap.cli.output import size
from shrinkwrap.cli.progress import Progress
from shrinkwrap.tree.request import ExportResult

FQRN = "small.cern.ch"
_LINE = re.compile(r"^[a-z]+: \d+ paths, \d+ of \d+ objects, .* received, .*/s, \d+ s")
#: Sequences that a terminal acts on: colours, cursor, modes.
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def args(repos: Path, repo_server: RepoServer, scratch: Path) -> list[str]:
    spec = scratch / "the.spec"
    spec.write_text("/lcg/*\n/special/size/*\n")
    return [
        *("export", "-r", FQRN, "--server", repo_server.repo(FQRN), "--key", str(repos / "keys" / f"{FQRN}.pub")),
        *("-t", str(spec), "-z", str(scratch / "base")),
    ]


def on_a_terminal(*args: str, columns: int = 100) -> tuple[int, str, str]:
    """Run with standard error on a terminal; exit code, standard output, and what the terminal got."""
    ours, theirs = pty.openpty()
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": str(golden.CHECKOUT),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "COLUMNS": str(columns),
    }
    try:
        process = subprocess.Popen(
            [*dying_with_parent(), sys.executable, "-m", "shrinkwrap", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment,
        )
    finally:
        os.close(theirs)
    seen = bytearray()
    try:
        while piece := os.read(ours, 65536):
            seen += piece
    except OSError:
        pass  # how Linux says that the other end is closed
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=60)
    return process.returncode, out.decode(), seen.decode()


def test_a_terminal_shows_bars_and_at_the_end_a_summary(args: list[str]) -> None:
    code, out, seen = on_a_terminal(*args)
    assert code == 0
    assert out == ""
    assert "\x1b[?25l" in seen, "no bars: the cursor was never hidden"
    assert seen.count("\x1b[?25h") >= 1, "the cursor is still hidden"
    assert re.search(r"\d+ objects, \d+ paths", _SEQUENCE.sub("", seen))
    summary = _SEQUENCE.sub("", seen.rpartition("\x1b[?25h")[2]).replace("\r", "").strip().splitlines()
    assert any(
        re.match(rf"{FQRN} revision 4: \d+ files, \d+ directories, \d+ symbolic links, ", one) for one in summary
    )
    assert any(re.match(r"changes: \d+ added, 0 changed, 0 removed; \d+ objects fetched, ", one) for one in summary)
    assert "root hash ff954a6a8600a7718345e31cdcd85ae22c5be4bb" in summary
    assert not any(_LINE.match(one) for one in summary)


def test_names_in_notices_are_neither_markup_nor_terminal_sequences(args: list[str], scratch: Path) -> None:
    spec = scratch / "odd.spec"
    spec.write_bytes(b"/README\n!/[bold red]\x1b[2J\x07/*\n")
    args[args.index("-t") + 1] = str(spec)
    code, _, seen = on_a_terminal(*args, columns=400)
    assert code == 0
    assert "[bold red]" in seen
    assert "\x1b[2J" not in seen
    assert "\x07" not in seen
    assert "\\x1b[2J\\x07" in seen


def test_a_terminal_gets_errors_in_full(args: list[str], scratch: Path) -> None:
    code, out, seen = on_a_terminal(*args, "--tag", "nope", "--json")
    assert code == 2
    assert '"reason": "usage"' in out.splitlines()[-1]
    assert "shrinkwrap: " in seen


def test_quiet_is_quiet_on_a_terminal_too(args: list[str]) -> None:
    assert on_a_terminal(*args, "-q") == (0, "", "")


def test_a_log_gets_lines(args: list[str]) -> None:
    result = call(*args, "-p", "0.001").ok()
    lines = [line for line in result.err.splitlines() if _LINE.match(line)]
    assert len(lines) >= 3
    assert "\x1b" not in result.err
    assert "\r" not in result.err
    assert result.out == ""


def test_a_period_of_0_is_none(args: list[str]) -> None:
    result = call(*args, "-p", "0").ok()
    assert not any(_LINE.match(line) for line in result.err.splitlines())
    assert f"{FQRN} revision 4: " in result.err


@pytest.mark.parametrize("option", ["-q", "--json"])
def test_quiet_says_nothing_beside_the_result(option: str, args: list[str]) -> None:
    result = call(*args, option, "-p", "0.001").ok()
    assert result.err == ""
    assert len(result.out.splitlines()) == (1 if option == "--json" else 0)


def test_a_run_with_nothing_new_says_so(args: list[str], scratch: Path) -> None:
    (scratch / "spec").write_text("/special/swap/*\n")
    args[args.index("-t") + 1] = str(scratch / "spec")
    call(*args).ok()
    lines = call(*args).ok().err.splitlines()
    assert len(lines) == 2
    assert "nothing new" in lines[0]
    assert "files" in lines[0]


def test_bytes_are_told_in_powers_of_1000() -> None:
    cases = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 1_500_000: "1.5 MB", 10**18: "1000.0 PB"}
    assert {number: size(number) for number in cases} == cases


def test_tags_and_paths_in_the_summary_are_data() -> None:
    progress = Progress(period=0, quiet=True)
    result = ExportResult(FQRN, "/base", tag="\x1b[2J", abilities="")
    with progress:
        assert any("\x1b[2J" in line for line in progress.summary(result)), "say() has to clean it"
