"""What a plan costs: time, memory at its peak, and notes on disk, by the number of entries.

    python benchmarks/planning.py --files 100000 --files 1000000

Each repository is published once and kept in the cache (``--cache``). A million files of the smallest size take about
10 GB there, nearly all of it in blocks that are not full. Figures are those of the command as a whole, in a process of
its own, with the repository on local disk and in the cache of the kernel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import synthetic

_HEAD = f"{'entries':>9} {'catalogs':>9} {'wall s':>8} {'cpu s':>8} {'us/entry':>9} {'peak MiB':>9}"


def plan(repository: synthetic.Repository) -> tuple[float, float, float, dict[str, object]]:
    """Wall seconds, CPU seconds, MiB at the peak, and what the plan says."""
    where = ["-r", repository.fqrn, "--storage", repository.storage, "--key", repository.key]
    words = [sys.executable, "-m", "shrinkwrap", "plan", *where, "-t", repository.spec, "--json"]
    start = time.monotonic()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(words, stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        if process.returncode:
            raise SystemExit(f"plan ended with {process.returncode}")
        out.seek(0)
        said = json.loads(out.read().splitlines()[-1])
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, action="append", help="in a repository; may be given several times")
    parser.add_argument("--rounds", type=int, default=3, help="plans of each repository; the quickest is told")
    parser.add_argument("--cache", default=synthetic.default_cache(), help="folder for repositories")
    given = parser.parse_args()
    print(_HEAD, flush=True)
    for files in given.files or [100_000]:
        repository = synthetic.obtain(synthetic.Recipe(files=files, sizes="64"), given.cache)
        best = min((plan(repository) for _ in range(given.rounds)), key=lambda found: found[1])
        wall, cpu, peak, said = best
        tree = said["tree"]
        assert isinstance(tree, dict)
        entries = tree["files"] + tree["dirs"] + tree["symlinks"]
        assert entries == repository.entries
        each = cpu / entries * 1e6
        print(f"{entries:>9} {said['catalogs']:>9} {wall:>8.2f} {cpu:>8.2f} {each:>9.2f} {peak:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
