"""Processes that tests start: none of them survives the test run, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Set in the environment of everything that a test run starts, so that leftovers can be told from other
#: processes.
MARK = "SHRINKWRAP_TEST_RUN"


@dataclass(slots=True, frozen=True)
class Process:
    """One line of the process table; ``state`` is the letter of ``/proc/PID/stat`` (``Z`` is a zombie)."""

    pid: int
    state: str
    parent: int
    group: int
    session: int

    @property
    def command(self) -> str:
        try:
            raw = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return ""
        return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def processes() -> Iterator[Process]:
    """All processes that ``/proc`` shows now."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            stat = Path(f"/proc/{name}/stat").read_text(errors="replace")
        except OSError:  # gone meanwhile
            continue
        # The second field, the name in parentheses, may hold blanks and parentheses itself.
        state, parent, group, session = stat[stat.rindex(")") + 2 :].split()[:4]
        yield Process(int(name), state, int(parent), int(group), int(session))


def living(condition: Callable[[Process], bool]) -> list[Process]:
    """Processes that are no zombies and fulfil the condition."""
    return [one for one in processes() if one.state not in "ZX" and condition(one)]


def wait_until_gone(condition: Callable[[Process], bool], timeout: float = 10.0) -> list[Process]:
    """Wait until no process fulfils the condition; those that still do after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while (left := living(condition)) and time.monotonic() < end:
        time.sleep(0.01)
    return left


def need(program: str) -> str:
    """Path of a program; the test is skipped where it is not installed."""
    # Debian keeps mkfs and nginx in sbin, which is not in every user's PATH.
    found = shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed (.ci/run installs what the tests use)")
    return found


def dying_with_parent(uid: int | None = None, gid: int | None = None) -> list[str]:
    """Words to put before a command: it is killed when the process that started it ends, even by SIGKILL.

    With ``uid`` and ``gid`` the command runs as that user, without further groups.
    """
    words = [need("setpriv"), "--pdeathsig", "KILL"]
    if uid is not None:
        words += [f"--reuid={uid}", f"--regid={uid if gid is None else gid}", "--clear-groups"]
    # Whoever dies before the kernel was told to watch is noticed by the shell: it has another parent then.
    return [*words, "--", need("sh"), "-c", f'[ "$PPID" = {os.getpid()} ] && exec "$@"', "sh"]


@contextmanager
def running(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A service that runs as long as the block; its output goes to the file ``log``."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*dying_with_parent(), *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _belongs_to(run: str) -> Callable[[Process], bool]:
    wanted = f"{MARK}={run}".encode()

    def belongs(process: Process) -> bool:
        if process.pid == os.getpid():
            return False
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:  # gone, or of another user
            return False
        if wanted not in environment.split(b"\0"):
            return False
        # These two of our own end when we do, because a pipe to them closes.
        helper = process.parent == os.getpid() and "from multiprocessing." in process.command
        return not helper

    return belongs


@contextmanager
def nothing_survives(patience: float = 3.0) -> Iterator[None]:
    """Whatever is started in the block must have ended with it, else it is killed and an AssertionError
    raised.
    """
    run = f"{os.getpid()}-{time.monotonic_ns()}"
    before = os.environ.get(MARK)
    os.environ[MARK] = run
    try:
        yield
    finally:
        if before is None:
            del os.environ[MARK]
        else:
            os.environ[MARK] = before
        left = [(one.pid, one.command) for one in wait_until_gone(_belongs_to(run), patience)]
        for pid, _ in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    assert not left, f"processes survived the tests that started them: {left}"
