"""How many CPUs this process may use: login nodes and batch systems give fewer than the machine has."""

from __future__ import annotations

import os
from typing import Final

_GROUPS: Final = "/proc/self/cgroup"
_ROOT: Final = "/sys/fs/cgroup"


def usable_cpus() -> int:
    """CPUs by the affinity of this process and by the quota of its control groups (version 2), rounded up; 1 at least.

    A group shares the quota of each group above it: the least of them counts.
    """
    cpus = len(os.sched_getaffinity(0))
    for quota in _quotas():
        cpus = min(cpus, max(1, -(-quota[0] // quota[1])))
    return cpus


def _quotas() -> list[tuple[int, int]]:
    """Microseconds of CPU in each period of so many, of this process's group and of all above it that have a limit."""
    try:
        with open(_GROUPS, encoding="utf-8", errors="surrogateescape") as file:
            # "0::/user.slice/user-1000.slice": lines with other numbers are of version 1.
            path = next((line[3:].rstrip("\n") for line in file if line.startswith("0::")), None)
    except OSError:
        return []
    found = []
    # In a container the path may lead outside of what is mounted there, where nothing is found.
    names = [] if path is None else [name for name in path.split("/") if name and name != ".."]
    for depth in range(len(names) + 1):
        try:
            with open(os.path.join(_ROOT, *names[:depth], "cpu.max"), encoding="ascii") as file:
                quota, period = file.read(64).split()
            if quota != "max" and int(quota) > 0 and int(period) > 0:
                found.append((int(quota), int(period)))
        except (OSError, ValueError):
            continue
    return found
