"""A cold export beside `cp -a` and `rsync -aH` of the same tree.

    python benchmarks/cold_export.py --storage DIR --key FILE -r FQRN [--server URL] [--dest DIR] [--rounds N]

Each round exports into a fresh destination, then copies the exported tree twice beside it, so that all three see the
machine in the same state. Printed are medians over the rounds, with CPU time of all processes, and the ratio to the
export of the same round. Nothing is asserted: machines are noisy, compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time, and of CPU in user and in kernel mode, of one command and its children."""

    wall: float
    user: float
    system: float

    @property
    def cpu(self) -> float:
        return self.user + self.system


def measure(command: list[str]) -> tuple[Cost, str]:
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    wall, after = time.perf_counter() - start, os.times()
    return (
        Cost(wall, after.children_user - before.children_user, after.children_system - before.children_system),
        done.stdout,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-r", "--repo", required=True)
    parser.add_argument("--storage", help="the repository's storage on local disk")
    parser.add_argument("--server", help="its URL, instead")
    parser.add_argument("--key", required=True)
    parser.add_argument("--dest", default=None, help="folder for destinations (default: the temporary folder)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if bool(arguments.storage) == bool(arguments.server):
        parser.error("one of --storage and --server")
    source = ["--storage", arguments.storage] if arguments.storage else ["--server", arguments.server]

    costs: dict[str, list[Cost]] = {"export": [], "cp -a": [], "rsync -aH": []}
    result: dict[str, dict[str, int]] = {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory(prefix="cold-export-", dir=arguments.dest) as folder:
            spec = os.path.join(folder, "everything.spec")
            with open(spec, "w", encoding="ascii") as file:
                file.write("/*\n")
            dest = os.path.join(folder, "export")
            command = [sys.executable, "-m", "shrinkwrap", "export", "-r", arguments.repo, *source, "--json"]
            cost, out = measure([*command, "--key", arguments.key, "-t", spec, "-z", dest])
            costs["export"].append(cost)
            result = json.loads(out.splitlines()[-1])
            tree = os.path.join(dest, arguments.repo)
            costs["cp -a"].append(measure(["cp", "-a", tree, os.path.join(folder, "copy")])[0])
            if shutil.which("rsync"):
                costs["rsync -aH"].append(measure(["rsync", "-aH", tree + "/", os.path.join(folder, "synced")])[0])

    counts, sizes = result["counts"], result["bytes"]
    print(
        f"{arguments.repo}: {counts['files']} files, {counts['dirs']} directories, {counts['symlinks']} links,"
        f" {counts['bytes'] / 1e6:.1f} MB; {counts['fetched']} objects fetched, {sizes['received'] / 1e6:.1f} MB"
    )
    print(f"{'':<10} {'wall s':>8} {'user s':>8} {'sys s':>8}   {'wall / export':>13} {'CPU / export':>13}")
    for name, list_of in costs.items():
        if not list_of:
            continue
        wall, user, system = (
            statistics.median(getattr(cost, key) for cost in list_of) for key in ("wall", "user", "system")
        )
        pairs = list(zip(list_of, costs["export"], strict=True))
        ratio_wall = statistics.median(cost.wall / base.wall for cost, base in pairs)
        ratio_cpu = statistics.median(cost.cpu / base.cpu for cost, base in pairs)
        print(f"{name:<10} {wall:8.2f} {user:8.2f} {system:8.2f}   {ratio_wall:13.2f} {ratio_cpu:13.2f}")
    wall = statistics.median(cost.wall for cost in costs["export"])
    cpu = statistics.median(cost.cpu for cost in costs["export"])
    print(
        f"export: {counts['fetched'] / wall:.0f} objects/s, {counts['bytes'] / wall / 1e6:.1f} MB/s of content,"
        f" {sizes['received'] / wall / 1e6:.1f} MB/s received,"
        f" {cpu / counts['fetched'] * 1e6:.0f} µs of CPU per object (start of the interpreter included)"
    )


if __name__ == "__main__":
    main()
