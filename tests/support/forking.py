"""The command line in forks of one process that has imported everything, and deaths of it at a chosen call.

Starting Python and importing costs more than a small export; here a command costs a fork. A command can be made to
die, as by SIGKILL, just before its n-th call of one of the functions that change a file system. Run as a script, this
file is the process that forks.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

#: Functions of :mod:`os` that change what is on disk, or bring it there.
CHANGING = (
    *(
        "rename",
        "replace",
        "link",
        "symlink",
        "mkdir",
        "unlink",
        "rmdir",
        "chmod",
        "fchmod",
        "chown",
        "fchown",
        "utime",
    ),
    *("setxattr", "removexattr", "write", "pwrite", "copy_file_range", "ftruncate", "truncate", "fsync", "open"),
)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        code: exit code, or a signal's number, negative.
        out, err: what it wrote.
        calls: of the functions that count, the one that it died at included.
        last: the last of them, with its arguments.
    """

    code: int
    out: str
    err: str
    calls: int
    last: str

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])

    def ok(self) -> Ended:
        return self.ends_with(0)

    def ends_with(self, code: int) -> Ended:
        assert "Traceback (most recent call last)" not in self.err, self.err
        assert self.code == code, self
        return self

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class Forks:
    """Runs commands in forks. Made by :func:`forks`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        *args: str | bytes | os.PathLike[str],
        die_at: int | None = None,
        kill_after: float | None = None,
        at: Sequence[str] = CHANGING,
        env: Mapping[str, str] | None = None,
        patches: Mapping[str, str] | None = None,
        umask: int = 0o022,
    ) -> Ended:
        """Run ``shrinkwrap`` with these arguments.

        Args:
            die_at: die before the n-th call (from 1) of one of the functions ``at``; of a write half is done.
            kill_after: send SIGKILL after so many seconds.
            env: the environment, nothing by default.
            patches: texts that module attributes are replaced by a function giving, as
                ``{"shrinkwrap.tree.intents.boot_id": "another"}``.
        """
        order = {
            "args": [os.fsdecode(arg) for arg in args],
            "die_at": die_at,
            "kill_after": kill_after,
            "at": list(at),
            "env": dict(env or {}),
            "patches": dict(patches or {}),
            "umask": umask,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that forks is gone"
        return Ended(**json.loads(answer))


@contextmanager
def forks() -> Iterator[Forks]:
    """A process that forks, as long as the block runs."""
    from support.filesystems import own_namespace
    from support.golden import CHECKOUT
    from support.processes import dying_with_parent

    # File systems that are mounted later are to be seen by the forks, too.
    if os.getuid() == 0:
        own_namespace()
    environment = {name: os.environ[name] for name in ("PATH", "TMPDIR", "SHRINKWRAP_TEST_RUN") if name in os.environ}
    process = subprocess.Popen(
        [*dying_with_parent(), sys.executable, "-P", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**environment, "LANG": "C.UTF-8", "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
        start_new_session=True,
    )
    try:
        yield Forks(process)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.wait()
        process.stdout.close()


# --------------------------------------------------------------------------------------- in the process that forks


class _Counter:
    """Counts calls, and dies at the one that was chosen."""

    def __init__(self, names: Sequence[str], die_at: int | None, report: int) -> None:
        self.calls = 0
        self.last = ""
        self._die_at = die_at
        self._report = report
        self._write = os.write
        for name in names:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if name == "open" and not (len(args) > 1 and args[1] & os.O_CREAT):
                return function(*args, **options)
            self.calls += 1
            self.last = f"{name}{tuple(arg if not isinstance(arg, bytes) else arg[:60] for arg in args)!r}"[:300]
            if self.calls == self._die_at:
                if name in ("write", "pwrite"):
                    function(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                self.report()
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)

        return counted

    def report(self) -> None:
        self._write(self._report, json.dumps({"calls": self.calls, "last": self.last}).encode())


def _patch(name: str, value: str) -> None:
    module, _, attribute = name.rpartition(".")
    found = sys.modules[module]
    assert hasattr(found, attribute)
    setattr(found, attribute, lambda: value)


def _child(order: dict[str, Any], out: int, err: int, report: int, parent: int) -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
    os.umask(order["umask"])
    os.environ.clear()
    os.environ.update({"LANG": "C.UTF-8", "PATH": os.defpath, **order["env"]})
    for name, value in order["patches"].items():
        _patch(name, value)
    from shrinkwrap.cli.main import run

    sys.argv = ["shrinkwrap", *order["args"]]
    counter = _Counter(order["at"], order["die_at"], report)
    try:
        run()
        code = 0
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    sys.stdout.flush()
    sys.stderr.flush()
    counter.report()
    return code


def _serve() -> None:
    import shrinkwrap.cli.export
    import shrinkwrap.cli.main
    import shrinkwrap.cli.progress
    import shrinkwrap.fetch.bulk
    import shrinkwrap.fetch.control
    import shrinkwrap.fetch.http
    import shrinkwrap.fetch.storage
    import shrinkwrap.tree.export
    import shrinkwrap.tree.pour
    import shrinkwrap.tree.remove
    import shrinkwrap.tree.status  # noqa: F401 - so that a fork need not

    parent = os.getpid()
    for line in sys.stdin:
        order = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as report:
            pid = os.fork()
            if pid == 0:
                code = 70
                try:
                    code = _child(order, out.fileno(), err.fileno(), report.fileno(), parent)
                except BaseException:
                    traceback.print_exc()
                    sys.stderr.flush()
                    raise
                finally:
                    os._exit(code)
            if order["kill_after"] is not None:
                time.sleep(order["kill_after"])
                os.kill(pid, signal.SIGKILL)  # not waited for yet, so it is still the child's number
            status = os.waitpid(pid, 0)[1]
            texts = []
            for file in (out, err, report):
                file.seek(0)
                texts.append(file.read().decode("utf-8", "backslashreplace"))
        seen = json.loads(texts[2] or '{"calls": 0, "last": ""}')
        answer = {"code": os.waitstatus_to_exitcode(status), "out": texts[0], "err": texts[1], **seen}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
