"""The run log tells what a run was like, survives crashes and full disks, and never breaks an export."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.filesystems import Filesystem
from support.golden import CHECKOUT

from shrinkwrap import __version__
from shrinkwrap.cvmfs import inflate
from shrinkwrap.fetch.types import FetchStats
from shrinkwrap.record import runlog
from shrinkwrap.record.runlog import HOSTS, LINE_BYTES, WARNING_CHARACTERS, WARNINGS, LeftOut, RunFacts, RunLog


def facts(**values: Any) -> RunFacts:
    return RunFacts(**{"run": "1-2-abc", "fqrn": "small.cern.ch", "start": 1e9, "end": 1e9 + 4, **values})


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def log(folder: int, notices: list[str]) -> RunLog:
    return RunLog(folder, notices.append)


def run_names(folder: int, **options: Any) -> list[str]:
    return [run["run"] for run in runlog.read_runs(folder, **options)]


# ------------------------------------------------------------------------------------------------------ what it tells


def test_a_line_tells_of_the_run_the_machine_and_the_libraries(log: RunLog, folder: int) -> None:
    stats = FetchStats(requests=9, retries=2, failovers=1, hosts={"http://one": 7, "http://two": 2})
    log.add(
        facts(
            reason="exported",
            counts={"objects": 8, "files": 10},
            received=4000,
            written=9000,
            stats=stats,
            destination="hard links, no reflinks",
            warnings=["one", "two"],
            left_out={"special_file": 1},
            jobs=16,
        )
    )
    (run,) = runlog.read_runs(folder)
    assert run["start"] == "2001-09-09T01:46:40.000Z"
    assert run["seconds"] == 4
    assert run["rates"] == {"received_per_second": 1000, "objects_per_second": 2.0}
    assert (run["host"], run["uid"], run["pid"]) == (os.uname().nodename, os.geteuid(), os.getpid())
    assert run["versions"]["shrinkwrap"] == __version__
    assert run["versions"]["inflate"] == inflate.LIBRARY
    assert run["hosts"] == {"http://one": 7, "http://two": 2}
    assert (run["requests"], run["retries"], run["failovers"]) == (9, 2, 1)
    assert run["warnings"] == ["one", "two"]
    assert run["left_out"] == {"special_file": 1}
    assert run["destination"] == "hard links, no reflinks"


def test_a_run_that_failed_tells_why(log: RunLog, folder: int) -> None:
    log.add(facts(reason="network", exit_code=4, error="no server answered"))
    (run,) = runlog.read_runs(folder)
    assert (run["reason"], run["exit_code"], run["error"]) == ("network", 4, "no server answered")


def test_passwords_in_urls_are_not_told(log: RunLog, folder: int, tmp_path: Path) -> None:
    hosts = {"http://user:secret@one": 1, "http://other:secret@one": 2}
    log.add(facts(reason="exported", stats=FetchStats(hosts=hosts)))
    assert b"secret" not in (tmp_path / "runs.jsonl").read_bytes()
    assert [run["hosts"] for run in runlog.read_runs(folder)] == [{"http://one": 3}]


def test_warnings_and_hosts_are_kept_up_to_a_cap_and_counted(log: RunLog, folder: int) -> None:
    hosts = {f"http://host{number}": number for number in range(HOSTS + 5)}
    log.add(facts(reason="exported", warnings=["x" * 10**6] * (WARNINGS + 5), stats=FetchStats(hosts=hosts)))
    (run,) = runlog.read_runs(folder)
    assert [len(one) for one in run["warnings"]] == [WARNING_CHARACTERS] * WARNINGS
    assert run["warnings_in_all"] == WARNINGS + 5
    assert len(run["hosts"]) == HOSTS
    assert "http://host0" not in run["hosts"]


@pytest.mark.parametrize("end", [1e9, 0.0, float("1e300")])
def test_a_clock_that_stands_still_or_jumps_breaks_nothing(log: RunLog, folder: int, end: float) -> None:
    log.add(facts(reason="exported", end=end, received=10, counts={"objects": 1}))
    (run,) = runlog.read_runs(folder)
    assert run["seconds"] >= 0


@pytest.mark.parametrize("text", ["a\nb", "\x1b[2J", "\udcff", "ü\u2028", "\0"])
def test_odd_text_stays_one_line_of_ascii(log: RunLog, folder: int, tmp_path: Path, text: str) -> None:
    log.add(facts(reason="exported", tag=text, error=text, warnings=[text]))
    data = (tmp_path / "runs.jsonl").read_bytes()
    assert data.count(b"\n") == 1
    assert data.isascii()
    assert b"\x1b" not in data
    assert [run["tag"] for run in runlog.read_runs(folder)] == [text]


def test_logging_loads_no_library_that_the_run_did_not_need() -> None:
    program = "import sys; from shrinkwrap.record.runlog import versions; versions(); print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(CHECKOUT)}
    )
    assert not {"pycurl", "isal", "httpx", "cryptography", "sqlite3"} & set(done.stdout.split())


# ------------------------------------------------------------------------------------------------- crashes, rotation


@pytest.mark.parametrize("torn", [b"{", b'{"run": "torn"}', b"\0" * 100, b'{"run": "to\0\0'])
def test_a_last_line_that_a_crash_tore_is_cut_off_by_the_next_run(
    log: RunLog, folder: int, tmp_path: Path, torn: bytes, notices: list[str]
) -> None:
    log.add(facts(run="one", reason="exported"))
    with (tmp_path / "runs.jsonl").open("ab") as file:
        file.write(torn)
    assert run_names(folder) == ["one"]
    log.add(facts(run="two", reason="exported"))
    assert run_names(folder) == ["one", "two"]
    lines = (tmp_path / "runs.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["one", "two"]
    assert notices == []


def test_a_log_that_is_nothing_but_a_torn_line_begins_anew(log: RunLog, folder: int, tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_bytes(b'{"run": "torn')
    log.add(facts(run="two", reason="exported"))
    assert run_names(folder) == ["two"]
    assert not (tmp_path / "runs.jsonl.1").exists()


def test_a_log_without_any_line_end_is_moved_aside_unread(log: RunLog, folder: int, tmp_path: Path) -> None:
    with (tmp_path / "runs.jsonl").open("wb") as file:
        file.truncate(LINE_BYTES * 3)
    log.add(facts(run="two", reason="exported"))
    assert run_names(folder) == ["two"]
    assert (tmp_path / "runs.jsonl.1").stat().st_size == LINE_BYTES * 3


@pytest.mark.parametrize("junk", [b"\xff\xfe\n", b"[1]\n", b"[" * 200_000 + b"\n", b"x" * (LINE_BYTES * 2 + 7) + b"\n"])
def test_lines_that_are_no_runs_are_passed_over(log: RunLog, folder: int, tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "runs.jsonl").write_bytes(b'{"run": "one"}\n' + junk + b'{"run": "two"}\n')
    assert run_names(folder) == ["one", "two"]


def test_the_log_is_rotated_at_its_cap_and_the_oldest_is_dropped(
    folder: int, tmp_path: Path, notices: list[str]
) -> None:
    one = len(json.dumps(facts(run="000", reason="exported").to_json(), separators=(",", ":"))) + 1
    log = RunLog(folder, notices.append, size=2 * one + one // 2, kept=2)
    for number in range(9):
        log.add(facts(run=f"{number:03}", reason="exported"))
    assert run_names(folder, kept=2) == ["004", "005", "006", "007", "008"]
    assert sorted(os.listdir(tmp_path)) == ["runs.jsonl", "runs.jsonl.1", "runs.jsonl.2"]
    assert all(file.stat().st_size <= 2 * one + one // 2 for file in tmp_path.iterdir())
    assert notices == []


def test_without_old_logs_to_keep_a_full_log_begins_anew(folder: int, tmp_path: Path) -> None:
    log = RunLog(folder, lambda line: None, size=1, kept=0)
    for number in range(3):
        log.add(facts(run=str(number), reason="exported"))
    assert run_names(folder) == ["2"]
    assert os.listdir(tmp_path) == ["runs.jsonl"]


# ------------------------------------------------------------------------------------------------ never breaks a run


@pytest.mark.parametrize("kind", ["symlink", "dangling", "folder", "fifo"])
def test_what_stands_where_the_log_must_be_is_moved_aside_and_not_followed(
    log: RunLog, folder: int, tmp_path: Path, kind: str, notices: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "file"
    place = tmp_path / "runs.jsonl"
    if kind == "symlink":
        outside.write_bytes(b"precious")
        place.symlink_to(outside)
    elif kind == "dangling":
        place.symlink_to(outside)
    elif kind == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    log.add(facts(run="one", reason="exported"))
    assert run_names(folder) == ["one"]
    assert outside.read_bytes() == b"precious" if kind == "symlink" else not outside.exists()
    assert notices == []


def test_a_log_that_cannot_be_opened_is_a_notice(log: RunLog, notices: list[str], monkeypatch: Any) -> None:
    def refuse(*args: Any, **options: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "open", refuse)
    log.add(facts(reason="exported"))
    assert len(notices) == 1
    assert os.strerror(errno.EROFS) in notices[0]


def test_a_folder_that_is_gone_is_a_notice(notices: list[str], tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    fd = os.open(gone, os.O_RDONLY | os.O_DIRECTORY)
    gone.rmdir()
    try:
        RunLog(fd, notices.append).add(facts(reason="exported"))
        LeftOut(fd, notices.append).commit()
    finally:
        os.close(fd)
    assert len(notices) == 2


@pytest.mark.root
def test_a_full_disk_leaves_whole_lines_and_a_notice(make_filesystem: Any, notices: list[str]) -> None:
    made: Filesystem = make_filesystem("tmpfs", size=64 * 1024)
    place = made.folder("log")
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        log = RunLog(fd, notices.append)
        written = 0
        while not notices:
            assert written < 1000
            log.add(facts(run=str(written), reason="exported", warnings=["x" * 900] * 5))
            written += 1
        assert "cannot be written" in notices[0]
        assert (place / "runs.jsonl").read_bytes().endswith(b"\n")
        assert run_names(fd) == [str(number) for number in range(written - 1)]
        left_out = LeftOut(fd, notices.append)
        for number in range(10_000):
            left_out.add("special_file", b"/%d" % number)
        left_out.commit()
        assert len(notices) == 2
        assert sorted(os.listdir(place)) == ["runs.jsonl"]
    finally:
        os.close(fd)


def test_a_line_beyond_the_cap_is_a_notice(log: RunLog, notices: list[str], tmp_path: Path) -> None:
    log.add(facts(reason="exported", counts={f"count{number}": number for number in range(100_000)}))
    assert len(notices) == 1
    assert not (tmp_path / "runs.jsonl").exists()


# ------------------------------------------------------------------------------------------------- what was left out


def left_out_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "left-out.jsonl").read_bytes().splitlines()]


def test_every_case_is_in_the_list_with_its_true_path(folder: int, notices: list[str], tmp_path: Path) -> None:
    left_out = LeftOut(folder, notices.append)
    left_out.add("special_file", b"/fifo", "fifo")
    left_out.add("unset_variable", b"/\xff\n", "\udcff")
    left_out.add("set_id_stripped", b"")
    left_out.commit()
    assert left_out_rows(tmp_path) == [
        {"what": "special_file", "path": "/fifo", "detail": "fifo"},
        {"what": "unset_variable", "path": "/\\xff\n", "path_b64": "L/8K", "detail": "\\udcff"},
        {"what": "set_id_stripped", "path": "/"},
    ]
    assert os.listdir(tmp_path) == ["left-out.jsonl"]
    assert notices == []


def test_a_run_that_fails_leaves_the_list_of_the_export_that_is_there(
    folder: int, notices: list[str], tmp_path: Path
) -> None:
    done = LeftOut(folder, notices.append)
    done.add("special_file", b"/old")
    done.commit()
    done.discard()
    failed = LeftOut(folder, notices.append)
    failed.add("special_file", b"/new")
    failed.discard()
    failed.discard()
    assert [row["path"] for row in left_out_rows(tmp_path)] == ["/old"]
    assert os.listdir(tmp_path) == ["left-out.jsonl"]


def test_what_a_crash_left_is_no_obstacle(folder: int, notices: list[str], tmp_path: Path) -> None:
    (tmp_path / "left-out.jsonl.new").write_bytes(b"half")
    left_out = LeftOut(folder, notices.append)
    left_out.commit()
    assert left_out_rows(tmp_path) == []
    assert notices == []


def test_a_list_beyond_its_cap_says_how_much_it_does_not_name(folder: int, notices: list[str], tmp_path: Path) -> None:
    left_out = LeftOut(folder, notices.append, size=200)
    for number in range(100):
        left_out.add("special_file", b"/%03d" % number)
    left_out.commit()
    *rows, last = left_out_rows(tmp_path)
    assert last == {"what": "more", "count": 100 - len(rows)}
    assert 0 < len(rows) < 10
    assert len(notices) == 1
