"""What it costs to run an export again: when nothing is new, and when a few catalogs have changed.

    python benchmarks/again.py [--files 10000,100000,1000000] [--changed 0.02] [--dest DIR|ext4|tmpfs]

A repository is exported; a file is added in some of its nested catalogs, and the next revision is exported into a fresh
destination, to compare with, and into the one that there is; then again, when nothing is new. Served by nginx.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator

from contestants import Setting, ours
from measure import Cost, machine, measure, warn_of_load
from places import fresh, parse_place
from serving import serving
from synthetic import FQRN, Recipe, Repository, default_cache, entries, obtain

from shrinkwrap.publish import publish
from shrinkwrap.publish.source import SourceEntry

#: Below this directory a package has a catalog of its own: ``releases/LCG_105/pkg0000/1.2.3/x86_64-el9-gcc13-opt``.
_DEPTH = 4


def main() -> None:
    arguments = _arguments()
    cache = os.path.abspath(arguments.cache)
    print(machine())
    print(f"to {arguments.dest}; changes in {arguments.changed:.1%} of the nested catalogs")
    warn_of_load()
    heads = ("entries", "", "wall s", "CPU s", "PSS MiB", "wall / fresh", "CPU / fresh")
    print("".join(f"{head:>14}" for head in heads), flush=True)
    for files in arguments.files:
        recipe = Recipe(files, arguments.sizes, arguments.duplicates, 0.0)
        repository = obtain(recipe, cache)
        with tempfile.TemporaryDirectory(prefix="bench-again-", dir=cache) as work:
            _measure(repository, recipe, arguments, work)


def _measure(repository: Repository, recipe: Recipe, arguments: argparse.Namespace, work: str) -> None:
    storage = os.path.join(work, "srv", FQRN)
    _copy(repository.storage, storage)
    place = parse_place(arguments.dest)
    need = repository.stored * 3 + repository.entries * 1000
    with serving(os.path.join(work, "srv")) as served, fresh(place, need) as dest, fresh(place, need) as other:
        contestant = ours(Setting(repository, served.port, arguments.cache, work, 0), arguments.workers)

        def run(title: str, into: str, compared: Cost | None = None) -> Cost:
            cost = measure(contestant.command(into, os.devnull), into, server=served.cpu)
            ratios = f"{cost.total / compared.total:>14.4f}{cost.cpu / compared.cpu:>14.4f}" if compared else ""
            print(
                f"{repository.entries:>14}{title:>14}{cost.total:>14.2f}{cost.cpu:>14.2f}{cost.pss / (1 << 20):>14.0f}"
                f"{ratios}",
                flush=True,
            )
            return cost

        into = os.path.join(dest, "export")
        run("fresh", into)
        changed = _change(storage, repository, recipe, arguments.changed)
        compared = run("fresh, changed", os.path.join(other, "export"))
        run(f"{changed} catalogs", into, compared)
        for _ in range(arguments.rounds):
            run("nothing new", into, compared)
    shutil.rmtree(os.path.dirname(storage))


def _copy(storage: str, to: str) -> None:
    """The repository again: objects are linked, since no publisher writes to them; all else is copied."""
    os.makedirs(to)
    subprocess.run(["cp", "-al", os.path.join(storage, "data"), to], check=True)
    for name in os.listdir(storage):
        if name != "data":
            shutil.copy2(os.path.join(storage, name), os.path.join(to, name))


def _change(storage: str, repository: Repository, recipe: Recipe, part: float) -> int:
    """Add a file in some of the packages; in how many."""
    packages = [
        entry.path for entry in entries(recipe) if stat.S_ISDIR(entry.mode) and entry.path.count(b"/") == _DEPTH
    ]
    chosen = random.Random(1).sample(packages, max(1, round(part * len(packages))))

    def added() -> Iterator[SourceEntry]:
        for package in sorted(chosen):
            text = b"# new in " + package
            yield SourceEntry(package + b"/NEWS", stat.S_IFREG | 0o644, size=len(text), content=text)

    publish(added(), storage=storage, fqrn=FQRN, keys=os.path.dirname(repository.key), workers=1)
    return len(chosen)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=_numbers, default=[10_000, 100_000, 1_000_000], metavar="N,…")
    parser.add_argument("--sizes", default="small")
    parser.add_argument("--duplicates", type=float, default=0.98)
    parser.add_argument("--changed", type=float, default=0.02, help="part of the nested catalogs")
    parser.add_argument("--dest", default="tmpfs", metavar="PLACE")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3, help="of runs that find nothing new")
    parser.add_argument("--cache", default=default_cache())
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


if __name__ == "__main__":
    main()
