"""What an entry costs as repositories grow: cost that stays level, memory that stays flat.

    python benchmarks/sweep.py [--steps 10000,30000,100000,300000,1000000] [--duplicates 0.98] [--dest DIR|ext4|tmpfs]

Repositories of small files, most of them copies with the same metadata, so that even a million entries are published
and exported in minutes. ``marginal`` is what each entry costs that the step before did not have: start-up is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from dataclasses import asdict

from contestants import Setting, ours
from measure import Calm, Cost, FailedError, machine, measure, warn_of_load
from places import Place, fresh, parse_place
from serving import serving
from synthetic import Recipe, Repository, default_cache, obtain


def main() -> None:
    arguments = _arguments()
    cache = os.path.abspath(arguments.cache)
    place = parse_place(arguments.dest)
    print(machine())
    print(
        f"to {place}; {arguments.workers or 'a'} worker{'s' if arguments.workers > 1 else ''}"
        f"{'' if arguments.workers else ' for each CPU'}; medians of {arguments.rounds}",
        flush=True,
    )
    warn_of_load()
    heads = (
        "entries",
        "objects",
        "wall s",
        "+sync",
        "user",
        "sys",
        "nginx",
        "PSS MiB",
        "µs/entry",
        "marginal",
        "CPU µs",
    )
    print("".join(f"{head:>10}" for head in (*heads, "marginal")), flush=True)
    before: tuple[int, float, float] | None = None
    report = []
    for files in arguments.steps:
        recipe = Recipe(files, arguments.sizes, arguments.duplicates, arguments.other_mtime, arguments.seed)
        repository = obtain(recipe, cache)
        costs = _measure(repository, place, cache, arguments)
        before = _show(repository, costs, before)
        report.append({"repository": asdict(repository), "costs": [asdict(cost) for cost in costs]})
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "dest": str(place), "steps": report}, file, indent=1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps",
        type=lambda text: [int(word) for word in text.split(",")],
        default=[10_000, 30_000, 100_000, 300_000, 1_000_000],
        help="files of each repository",
    )
    parser.add_argument("--sizes", default="small", help="lcg, small, or bytes that all files have")
    parser.add_argument("--duplicates", type=float, default=0.98, help="part of the files that are copies")
    parser.add_argument("--other-mtime", type=float, default=0.0, help="part of those that have a time of their own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dest", default=tempfile.gettempdir(), metavar="PLACE", help="folder, ext4, xfs or tmpfs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--calm",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="wait, and measure again, while others have more than this part of the machine, e.g. 0.1",
    )
    parser.add_argument("--transfers", type=int, default=16)
    parser.add_argument("--cache", default=default_cache(), help="where repositories are kept")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def _measure(repository: Repository, place: Place, cache: str, arguments: argparse.Namespace) -> list[Cost]:
    costs: list[Cost] = []
    calm = Calm(arguments.calm)
    with (
        tempfile.TemporaryDirectory(prefix="bench-work-") as work,
        serving(os.path.dirname(repository.storage)) as server,
    ):
        one = ours(Setting(repository, server.port, cache, work, arguments.transfers), arguments.workers)
        phases = os.path.join(work, "phases")
        while len(costs) < arguments.rounds:
            calm.wait()
            # An entry takes up to a block, and an inode.
            with fresh(place, repository.content + 5000 * repository.entries) as dest:
                try:
                    cost = measure(one.command(dest, phases), dest, server=server.cpu, phases=phases)
                except FailedError as exc:
                    raise SystemExit(str(exc)) from None
            if calm.bears(cost):
                costs.append(cost)
    return costs


def _show(
    repository: Repository, costs: list[Cost], before: tuple[int, float, float] | None
) -> tuple[int, float, float]:
    """Print a step; entries, wall and CPU seconds of it."""

    def median(key: str) -> float:
        return float(statistics.median(getattr(cost, key) for cost in costs))

    entries, total, cpu = repository.entries, median("total"), median("cpu")
    words = [f"{entries:10}", f"{repository.objects:10}"]
    words += [f"{median(key):10.2f}" for key in ("wall", "sync", "user", "system", "server", "others")]
    words.append(f"{max(cost.pss for cost in costs) / 2**20:10.0f}")
    for value, index in ((total, 1), (cpu, 2)):
        words.append(f"{value / entries * 1e6:10.1f}")
        more = entries - before[0] if before else 0
        words.append(f"{(value - before[index]) / more * 1e6:10.1f}" if before and more > 0 else f"{'':10}")
    print("".join(words), flush=True)
    return entries, total, cpu


if __name__ == "__main__":
    main()
