"""Running the command line as people do: in a process of its own, perhaps as another user, perhaps killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.filesystems import scratch_folder
from support.golden import CHECKOUT
from support.processes import MARK, dying_with_parent, living, wait_until_gone
from support.users import python_for

Word = str | bytes | os.PathLike[str]


@dataclass(slots=True, frozen=True)
class Result:
    """How a command ended: exit code (negative: the signal that ended it) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of standard output, parsed: what ``--json`` reports."""
        lines = self.out.splitlines()
        assert lines, f"nothing on standard output; {self}"
        return json.loads(lines[-1])

    def ok(self) -> Result:
        """Itself, if the command ended well."""
        return self.ends_with(0)

    def ends_with(self, code: int) -> Result:
        """Itself, if the command ended with that exit code and without a traceback."""
        assert "Traceback (most recent call last)" not in self.err, self.err
        assert self.code == code, f"exit code {self.code} instead of {code}\n{self}"
        return self

    def __str__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out[-4000:]}\n--- stderr\n{self.err[-4000:]}"


def _environment(home: Path, python: Mapping[str, str], env: Mapping[str, str] | None) -> dict[str, str]:
    # Made from nothing: neither proxies nor settings of whoever runs the tests count.
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH", MARK) if name in os.environ}
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "COLUMNS": "120",
        "PYTHONDONTWRITEBYTECODE": "1",
        **kept,
        **python,
        "HOME": str(home),
        **(env or {}),
    }


def _start(
    args: tuple[Word, ...],
    home: Path,
    env: Mapping[str, str] | None,
    user: tuple[int, int] | None,
    cwd: Path | None,
) -> subprocess.Popen[str]:
    ids = user or (None, None)
    if user is not None and os.getuid() != 0:
        if user[0] != os.getuid():
            pytest.skip("running as another user needs root")
        ids = (None, None)
    python, variables = python_for(user, CHECKOUT)
    return subprocess.Popen(
        [*dying_with_parent(*ids), python, "-m", "shrinkwrap", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="backslashreplace",
        env=_environment(home, variables, env),
        cwd=cwd or home,
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Kill a command with its process group; what it wrote before."""
    with suppress(ProcessLookupError):  # all of it is gone already
        os.killpg(process.pid, signal.SIGKILL)
    try:
        return process.communicate(timeout=15)
    except subprocess.TimeoutExpired:
        # Somebody outside the group holds the pipes open; nothing that is left may go on working.
        left = living(lambda one: process.pid in (one.session, one.parent))
        for one in left:
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGKILL)
        pytest.fail(f"survived SIGKILL to their group: {[(one.pid, one.command) for one in left]}")


def run_cli(
    *args: Word,
    env: Mapping[str, str] | None = None,
    user: tuple[int, int] | None = None,
    cwd: Path | None = None,
    timeout: float = 120.0,
) -> Result:
    """Run ``python -m shrinkwrap`` with these arguments and wait for it.

    Args:
        env: added to an environment that holds nothing of the caller's but PATH.
        user: uid and gid to run as; the test is skipped where that needs root.
        cwd: folder to run in; default: HOME, an empty folder that the user owns and that is removed
            afterwards.
        timeout: seconds; a command that takes longer is killed with all its processes, and the test fails.
    """
    with scratch_folder(user) as home:
        process = _start(args, home, env, user, cwd)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            out, err = _kill(process)
            pytest.fail(f"not done after {timeout} s: {args!r}\n{Result(process.returncode, out, err)}")
        except BaseException:
            _kill(process)
            raise
    return Result(process.returncode, out, err)


@dataclass(slots=True, frozen=True)
class Killed:
    """A command that was to be killed after ``delay`` seconds; ``finished`` if it had ended by then."""

    delay: float
    finished: bool
    result: Result


def kill_after(
    delay: float,
    *args: Word,
    env: Mapping[str, str] | None = None,
    user: tuple[int, int] | None = None,
    cwd: Path | None = None,
    patience: float = 10.0,
) -> Killed:
    """Start the command line and send SIGKILL to its whole process group after ``delay`` seconds.

    All of its processes must be gone within ``patience`` seconds: one that lives on fails the test.
    """
    with scratch_folder(user) as home:
        process = _start(args, home, env, user, cwd)
        try:
            # Its output is read all the time: a full pipe would hold it up before the instant that is wanted.
            out, err = process.communicate(timeout=delay)
            finished = True
        except subprocess.TimeoutExpired:
            out, err = _kill(process)
            finished = process.returncode != -signal.SIGKILL
        except BaseException:
            _kill(process)
            raise
        left = wait_until_gone(lambda one: process.pid in (one.group, one.session), patience)
    assert not left, f"survived their parent: {[(one.pid, one.command) for one in left]}"
    return Killed(delay, finished, Result(process.returncode, out, err))


def kill_at_random(
    *args: Word,
    seed: int,
    within: tuple[float, float] = (0.0, 1.5),
    env: Mapping[str, str] | None = None,
    user: tuple[int, int] | None = None,
    cwd: Path | None = None,
) -> Killed:
    """:func:`kill_after` with a delay between the two of ``within`` (seconds) that follows from ``seed``."""
    return kill_after(random.Random(seed).uniform(*within), *args, env=env, user=user, cwd=cwd)
