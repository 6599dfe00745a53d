"""A fresh export beside programs that do parts of its work.

    python benchmarks/export.py [--files 50000] [--sizes lcg|small|BYTES] [--duplicates 0.17] [--dest DIR|ext4|tmpfs]...
                                [--rounds 3] [--only NAME,...] [--json FILE]

A synthetic repository is served by nginx on the loopback interface. In each round every contestant gets a fresh
destination: our export with 1, 2 and 4 workers; the original cvmfs_shrinkwrap, if it is on the PATH; curl, which only
downloads all objects (the network's limit); a C program that inflates objects from the storage and writes them (the
disk's limit); tar, cp and rsync with the exported tree. Printed are medians. Nothing is asserted: machines are noisy,
compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict

from contestants import NAMES, Contestant, Setting, make
from measure import Calm, Cost, FailedError, count_calls, machine, measure, warn_of_load
from places import Place, fresh, parse_place
from serving import Server, serving
from synthetic import Recipe, Repository, adopt, default_cache, obtain

_NOTES = """\
wall: without the final sync; +sync: what that takes then; user, sys: CPU of all processes of the contestant; nginx:
CPU of the server meanwhile; others: of all else on the machine; PSS: most memory of all processes together; calls:
system calls for each file; wall× and CPU×: with the sync, to the best of ours, median of the ratios in each round;
objects/s and MB/s: with the sync (MB of content; for curl of what is stored); µs/object: CPU, user and sys."""


def main() -> None:
    arguments = _arguments()
    cache = os.path.abspath(arguments.cache)
    recipe = Recipe(arguments.files, arguments.sizes, arguments.duplicates, arguments.other_mtime, arguments.seed)
    if arguments.storage:
        repository = adopt(arguments.repo, arguments.storage, arguments.key, cache)
    else:
        repository = obtain(recipe, cache)
    places = [parse_place(text) for text in arguments.dest or [tempfile.gettempdir()]]
    print(machine())
    print(repository, flush=True)
    warn_of_load()
    report: list[dict[str, object]] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-work-") as work,
        serving(os.path.dirname(repository.storage)) as server,
    ):
        setting = Setting(repository, server.port, cache, work, arguments.transfers)
        contestants = _gather(arguments.only, setting)
        for place in places:
            costs = _rounds(contestants, place, server, setting, arguments.rounds, Calm(arguments.calm))
            calls = {} if arguments.no_strace else _all_calls(contestants, place, repository)
            _show(place, arguments.rounds, costs, calls, {one.name: one.content for one in contestants}, repository)
            report.append(
                {
                    "dest": str(place),
                    "costs": {name: [asdict(cost) for cost in list_of] for name, list_of in costs.items()},
                    "calls": calls,
                }
            )
    if arguments.json:
        facts = {"machine": machine(), "repository": asdict(repository), "recipe": asdict(recipe), "places": report}
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=_NOTES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--sizes", default="lcg", help="lcg, small, or bytes that all files have")
    parser.add_argument("--duplicates", type=float, default=0.17, help="part of the files that are copies")
    parser.add_argument("--other-mtime", type=float, default=0.85, help="part of those that have a time of their own")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--dest", action="append", metavar="PLACE", help="folder, or ext4, xfs, tmpfs with :SIZE or without; several"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", metavar="NAME,…", help=f"of: {', '.join(NAMES)}")
    parser.add_argument(
        "--transfers", type=int, default=16, help="in flight at a time, for ours, the original and curl"
    )
    parser.add_argument(
        "--calm",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="wait, and measure again, while others have more than this part of the machine, e.g. 0.1",
    )
    parser.add_argument("--no-strace", action="store_true", help="do not count system calls")
    parser.add_argument("--cache", default=default_cache(), help="where repositories are kept")
    parser.add_argument("--json", metavar="FILE", help="all figures, of all rounds")
    there = parser.add_argument_group("another repository than a synthetic one")
    there.add_argument("-r", "--repo", metavar="FQRN")
    there.add_argument("--storage", metavar="DIR", help="all objects in it count, also those of older revisions")
    there.add_argument("--key", metavar="FILE")
    arguments = parser.parse_args()
    if len({bool(arguments.repo), bool(arguments.storage), bool(arguments.key)}) != 1:
        parser.error("--repo, --storage and --key belong together")
    if arguments.rounds < 1 or arguments.files < 1:
        parser.error("--rounds and --files: at least 1")
    wrong = [name for name in _names(arguments.only) if name not in NAMES]
    if wrong:
        parser.error(f"--only {','.join(wrong)}: not of {', '.join(NAMES)}")
    return arguments


def _names(only: str) -> list[str]:
    return [name.strip() for name in only.split(",") if name.strip()]


def _gather(only: str, setting: Setting) -> list[Contestant]:
    found = []
    for name in _names(only) or NAMES:
        one = make(name, setting)
        if isinstance(one, str):
            print(f"without {name}: {one}", flush=True)
        else:
            found.append(one)
    return found


def _rounds(
    contestants: Sequence[Contestant], place: Place, server: Server, setting: Setting, rounds: int, calm: Calm
) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {one.name: [] for one in contestants}
    for number in range(rounds):
        for one in contestants:
            if sys.stderr.isatty():
                print(f"\r{number + 1}/{rounds} {one.name:<20}", end="", file=sys.stderr, flush=True)
            calm.wait()
            while not calm.bears(cost := _once(one, place, server, setting)):
                calm.wait()
            costs[one.name].append(cost)
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return costs


def _once(one: Contestant, place: Place, server: Server, setting: Setting) -> Cost:
    phases = os.path.join(setting.work, "phases")
    with fresh(place, setting.repository.content) as dest:
        command = one.command(dest, phases)
        try:
            return measure(command, dest, server=server.cpu, phases=phases if one.is_ours else "", stdin=one.stdin)
        except FailedError as exc:
            raise SystemExit(f"{one.name}: {exc}") from None


def _all_calls(contestants: Sequence[Contestant], place: Place, repository: Repository) -> dict[str, dict[str, int]]:
    """System calls, of runs apart: counting them makes everything slow."""
    calls = {}
    for one in contestants:
        with fresh(place, repository.content) as dest:
            calls[one.name] = count_calls(one.command(dest, os.devnull), one.stdin)
    return calls


def _show(
    place: Place,
    rounds: int,
    costs: dict[str, list[Cost]],
    calls: dict[str, dict[str, int]],
    contents: dict[str, int],
    repository: Repository,
) -> None:
    own = [name for name in costs if name.startswith("ours")]
    totals = {name: statistics.median(cost.total for cost in list_of) for name, list_of in costs.items()}
    best = min(own or costs, key=lambda name: totals[name])
    print(f"\nto {place}; medians of {rounds}; × = {best}")
    heads = (
        "wall s",
        "+sync",
        "user",
        "sys",
        "nginx",
        "others",
        "PSS MiB",
        "calls",
        "wall×",
        "CPU×",
        "objects/s",
        "MB/s",
    )
    print(f"{'':<17}" + "".join(f"{head:>10}" for head in heads) + f"{'µs/object':>11}")
    for name, list_of in costs.items():

        def median(key: str, list_of: Sequence[Cost] = list_of) -> float:
            return float(statistics.median(getattr(cost, key) for cost in list_of))

        pairs = list(zip(list_of, costs[best], strict=True))
        wall = statistics.median(cost.total / base.total for cost, base in pairs)
        cpu = statistics.median(cost.cpu / max(base.cpu, 1 / 100) for cost, base in pairs)
        each = sum(calls.get(name, {}).values()) / max(1, repository.files)
        content = contents[name] / totals[name] / 1e6
        words = [f"{median(key):10.2f}" for key in ("wall", "sync", "user", "system", "server", "others")]
        words += [f"{max(cost.pss for cost in list_of) / 2**20:10.0f}", f"{each:10.1f}" if each else f"{'':10}"]
        words += [f"{wall:10.2f}", f"{cpu:10.2f}", f"{repository.objects / totals[name]:10.0f}"]
        words += [f"{content:10.1f}" if content else f"{'':10}"]
        words += [f"{median('cpu') / max(1, repository.objects) * 1e6:11.0f}"]
        print(f"{name:<17}" + "".join(words))
    for name in own:
        phases = {phase for cost in costs[name] for phase in cost.phases}
        spans = {phase: statistics.median(cost.phases.get(phase, 0.0) for cost in costs[name]) for phase in phases}
        order = [phase for phase in costs[name][0].phases if phase in spans]
        print(f"{name}: " + ", ".join(f"{phase} {spans[phase]:.2f} s" for phase in order), flush=True)
    for name in own:
        most = sorted(calls.get(name, {}).items(), key=lambda item: -item[1])[:10]
        if most:
            each_of = ", ".join(f"{call} {count / repository.files:.2f}" for call, count in most)
            print(f"{name}: calls for each file: {each_of}")


if __name__ == "__main__":
    main()
