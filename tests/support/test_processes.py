"""Nothing that a test starts survives it, and the command line is run as it is meant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support import cli
from support.cli import Result, kill_after, kill_at_random, run_cli
from support.golden import CHECKOUT
from support.listing import ORDINARY
from support.processes import dying_with_parent, living, nothing_survives, running, wait_until_gone


def alive(pid: int) -> bool:
    return bool(living(lambda one: one.pid == pid))


def test_a_leftover_process_is_found_and_ended() -> None:
    # An own session: neither a signal to our group nor our end would reach it.
    started: list[subprocess.Popen[bytes]] = []
    with pytest.raises(AssertionError, match="survived the tests"), nothing_survives(patience=0.0):
        started.append(subprocess.Popen(["sleep", "1000"], start_new_session=True))
    assert started[0].wait(10) == -signal.SIGKILL


def test_processes_that_ended_are_no_leftovers() -> None:
    with nothing_survives():
        subprocess.run(["true"], check=True)


def test_a_service_dies_with_a_killed_parent(tmp_path: Path) -> None:
    code = textwrap.dedent(f"""
        import os, pathlib, signal
        from support.processes import running
        with running(["sleep", "1000"], log=pathlib.Path({str(tmp_path / "log")!r})) as process:
            print(process.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "tests")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert wait_until_gone(lambda one: one.pid == pid) == []


def test_a_service_is_stopped_when_its_test_fails(tmp_path: Path) -> None:
    pids = []

    def failing_test() -> None:
        with running(["sleep", "1000"], log=tmp_path / "log") as process:
            pids.append(process.pid)
            assert not alive(process.pid)

    with pytest.raises(AssertionError):
        failing_test()
    assert not alive(pids[0])


@pytest.fixture
def package(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place for a ``__main__.py`` that is run instead of the real ``shrinkwrap``."""
    (scratch / "shrinkwrap").mkdir()
    (scratch / "shrinkwrap" / "__init__.py").touch()  # else an installed one goes first
    monkeypatch.setattr(cli, "CHECKOUT", scratch)
    return scratch / "shrinkwrap" / "__main__.py"


def test_output_and_exit_code_are_kept_apart(package: Path) -> None:
    package.write_text(
        "import sys\nprint('text')\nprint('{\"a\": [1]}')\nprint('warned', file=sys.stderr)\nsys.exit(3)\n"
    )
    result = run_cli("export")
    assert (result.code, result.err) == (3, "warned\n")
    assert result.json == {"a": [1]}
    assert result.ends_with(3) is result
    with pytest.raises(AssertionError, match="exit code 3 instead of 0"):
        result.ok()


def test_a_traceback_is_never_a_good_end(package: Path) -> None:
    package.write_text(
        "import sys, traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()\nsys.exit(2)\n"
    )
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_cli().ends_with(2)


def test_arguments_are_bytes_and_settings_of_ours_do_not_count(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    package.write_text(
        "import json, os, sys\n"
        "print(json.dumps([os.fsencode(sys.argv[1]).hex(), os.environ.get('http_proxy'), os.environ['X'],\n"
        "                  os.getcwd() == os.environ['HOME'], os.access('.', os.W_OK), sys.stdin.read()]))\n"
    )
    assert run_cli(b"\xff\n", env={"X": "1"}).json == ["ff0a", None, "1", True, True, ""]


@pytest.mark.root
def test_a_command_can_run_as_an_ordinary_user(package: Path) -> None:
    package.write_text(
        "import json, os\nopen('mine', 'w').close()\nprint(json.dumps([os.getuid(), os.getgid(), os.getgroups()]))\n"
    )
    assert run_cli(user=ORDINARY).ok().json == [*ORDINARY, []]


def test_a_command_that_hangs_is_killed_and_fails(package: Path) -> None:
    package.write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(1000)\n")
    with pytest.raises(pytest.fail.Exception, match="not done after") as caught:
        run_cli(timeout=0.5)
    assert "exit code -9" in str(caught.value)


FORKING = """
import os, sys, time
for _ in range(3):
    if os.fork() == 0:
        time.sleep(1000)
        os._exit(0)
print(os.getpid(), flush=True)
time.sleep(1000)
"""


def test_a_kill_ends_the_whole_group(package: Path) -> None:
    package.write_text(FORKING)
    killed = kill_after(0.5)
    assert not killed.finished
    assert killed.result.code == -signal.SIGKILL
    group = int(killed.result.out)
    assert living(lambda one: one.group == group) == []


def test_a_worker_that_survives_its_parent_fails_the_test(package: Path) -> None:
    package.write_text(
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setpgid(0, 0)\n"
        "    os.close(1)\n"
        "    os.close(2)\n"
        "time.sleep(1000)\n"
    )
    with (
        pytest.raises(AssertionError, match="survived the tests"),
        nothing_survives(patience=0.0),
        pytest.raises(AssertionError, match="survived their parent"),
    ):
        kill_after(0.5, patience=0.5)


def test_the_instant_of_a_kill_follows_from_the_seed(package: Path) -> None:
    package.write_text("import time\ntime.sleep(1000)\n")
    delays = [kill_at_random(seed=seed, within=(0.0, 0.2)).delay for seed in (1, 2, 1)]
    assert delays[0] == delays[2] != delays[1]


def test_a_command_that_was_faster_is_finished(package: Path) -> None:
    package.write_text("print('done')\n")
    killed = kill_after(30.0)
    assert killed.finished
    assert killed.result == Result(0, "done\n", "")


def test_a_command_whose_parent_is_gone_already_does_not_start() -> None:
    assert subprocess.run([*dying_with_parent(), "true"], check=False).returncode == 0
    assert subprocess.run([*dying_with_parent(), "sh", "-c", "exit 7"], check=False).returncode == 7
    # It names us as its parent, and so does not run when it has come to another one.
    other = ["sh", "-c", '"$@"; exit 0', "sh", *dying_with_parent(), "echo", "ran"]
    assert subprocess.run(other, capture_output=True, check=True).stdout == b""
