"""What a command costs: wall time, CPU of all its processes, memory, system calls; and what the machine is."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

_PR_SET_CHILD_SUBREAPER = 36
_TICK = os.sysconf("SC_CLK_TCK")
#: Seconds between looks at the memory. A look takes about a millisecond for each process.
_PERIOD = 0.25
CPUS = len(os.sched_getaffinity(0))
#: Seconds of one look at how busy the machine is, and of all waiting for it to be less.
_LOOK = 2.0
_PATIENCE = 3600.0


@dataclass(frozen=True)
class Cost:
    """Of one run of a command.

    Attributes:
        wall: seconds, without what it spent on bringing everything to disk.
        sync: seconds of that, of its own or done for it afterwards.
        user, system: CPU seconds of all its processes; ``server``: of the server meanwhile.
        others: CPU seconds of everything else on the machine meanwhile: figures with much of it are worth little.
        pss: most bytes of memory of all its processes together, shared pages counted in parts.
        phases: seconds of each phase, where the command tells.
    """

    wall: float
    sync: float
    user: float
    system: float
    server: float = 0.0
    others: float = 0.0
    pss: int = 0
    phases: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds until everything was on disk."""
        return self.wall + self.sync

    @property
    def cpu(self) -> float:
        return self.user + self.system

    @property
    def disturbance(self) -> float:
        """Part of the machine that others had meanwhile."""
        return self.others / max(self.wall + self.sync, 1e-9) / CPUS


class FailedError(Exception):
    """A command ended with an error; what it said."""


class Calm:
    """Waits for a calm machine before a measurement, and says whether it was one.

    Args:
        share: part of the machine that others may have; 1: whatever they take.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = _PATIENCE

    def wait(self) -> None:
        """Until others take less than that for some seconds, or patience ends."""
        while self._share < 1 and self._left > 0:
            busy, start = _busy(), time.perf_counter()
            time.sleep(_LOOK)
            self._left -= _LOOK
            if (_busy() - busy) / (time.perf_counter() - start) / CPUS <= self._share:
                return

    def bears(self, cost: Cost) -> bool:
        """False if it should be measured again."""
        good = self._left <= 0 or cost.disturbance <= self._share
        if not good:
            self._left -= cost.total
        return good


def measure(
    command: Sequence[str],
    dest: str,
    *,
    server: Callable[[], float] = lambda: 0.0,
    phases: str = "",
    stdin: str = os.devnull,
    log: str = "",
) -> Cost:
    """Run a command that fills ``dest``, then bring that to disk.

    Args:
        server: CPU seconds of the server so far.
        phases: file in which the command says when its phases began (``phased.py``); the last one is the sync.
        stdin: file that it reads.
        log: file for what it prints to standard output; none if empty.

    Raises:
        FailedError: it ended with an error.
    """
    _adopt_orphans()
    os.sync()  # what others have written is not to be paid for here
    with tempfile.TemporaryFile("w+") as errors, open(log or os.devnull, "wb") as out, open(stdin, "rb") as given:
        served, before, all_before = (
            server(),
            resource.getrusage(resource.RUSAGE_CHILDREN),
            _busy() - time.process_time(),
        )
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=given, stdout=out, stderr=errors)
        with _Watch(process.pid) as watch:
            process.wait()
        wall = time.perf_counter() - start
        _reap()
        after, served = resource.getrusage(resource.RUSAGE_CHILDREN), server() - served
        busy = _busy() - time.process_time() - all_before
        user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
        others = max(0.0, busy - user - system - served)
        cost = Cost(wall, 0.0, user, system, served, others, watch.most)
        if process.returncode:
            errors.seek(0)
            raise FailedError(f"{' '.join(command)[:300]}: exit code {process.returncode}\n{errors.read()[-2000:]}")
    sync = sync_tree(dest)
    found = read_phases(phases)
    own = found.get("sync", 0.0)
    return replace(cost, wall=wall - own, sync=own + sync, phases=found)


def read_phases(path: str) -> dict[str, float]:
    """Seconds of each phase. ``start`` is all before the first one."""
    if not path or not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        marks = [(name, float(when)) for name, when in (line.split() for line in file)]
    spans: dict[str, float] = {}
    for (name, begin), (_, end) in pairwise(marks):
        spans[name] = spans.get(name, 0.0) + end - begin
    return spans


def sync_tree(path: str) -> float:
    """Bring a file system to disk; seconds."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        start = time.perf_counter()
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
        return time.perf_counter() - start
    finally:
        os.close(fd)


def count_calls(command: Sequence[str], stdin: str = os.devnull) -> dict[str, int]:
    """System calls of a command and all its processes, by name; empty without strace."""
    if shutil.which("strace") is None:
        return {}
    with tempfile.TemporaryDirectory() as folder, open(stdin, "rb") as given:
        told = os.path.join(folder, "calls")
        traced = ["strace", "-f", "-c", "-o", told, *command]
        done = subprocess.run(traced, stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            raise FailedError(f"{' '.join(traced)[:300]}: exit code {done.returncode}\n{done.stderr[-2000:]!r}")
        with open(told, encoding="utf-8", errors="replace") as file:
            return dict(_calls(file))


def _calls(lines: Iterator[str]) -> Iterator[tuple[str, int]]:
    """Rows of the summary: percent, seconds, µs per call, calls, errors (or nothing), name."""
    for line in lines:
        words = line.split()
        if len(words) >= 5 and words[0][0].isdigit() and words[3].isdigit() and words[-1] != "total":
            yield words[-1], int(words[3])


# -- memory ------------------------------------------------------------------------------------------------------------


class _Watch:
    """Looks at the memory of a process and its descendants from time to time."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        period = 0.02  # short runs want to be seen, too
        while not self._end.wait(period):
            self.most = max(self.most, sum(map(_pss, family(self._pid))))
            period = min(_PERIOD, period * 2)


def _pss(pid: int) -> int:
    """Bytes; 0 for a process that is gone."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{one}/task"):
                with open(f"/proc/{one}/task/{task}/children", encoding="ascii") as file:
                    found.extend(map(int, file.read().split()))
    return found


def cpu_of(pids: Sequence[int]) -> float:
    """CPU seconds of processes so far (proc(5): fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICK


def _busy() -> float:
    """CPU seconds of the whole machine so far (proc(5)): all but idle, waiting for disks, and guests' share."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICK


def _adopt_orphans() -> None:
    """Processes whose parents end before them become ours, so that their CPU time is counted."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue


# -- the machine -------------------------------------------------------------------------------------------------------


def machine() -> str:
    """One line about it."""
    model = platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    load = os.getloadavg()[0]
    return f"{model}, {CPUS} CPUs, Linux {platform.release()}, Python {platform.python_version()}; load {load:.1f}"


def warn_of_load() -> None:
    if os.getloadavg()[0] > 1:
        print("the machine is busy: figures will be those of a busy machine", file=sys.stderr)
