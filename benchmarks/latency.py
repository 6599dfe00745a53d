"""Throughput on a far network: whether enough transfers are in flight to hide the round trips.

    python benchmarks/latency.py [--rtt 0,1,5,20] [--sizes 4096,65536] [--transfers 32] [--network netem|relay]

With N transfers in flight, round trips of r seconds and objects of s stored bytes, no client that asks for one object
at a time on each connection gets more than min(line, N × s / r). ``line`` is what the same client gets without delay,
by the same way. Printed is how much of that is reached, of the whole run and while objects come ("objects": without the
start, the head and the catalogs), and the same for curl.

The delay is made by ``tc netem`` on the loopback interface of a network namespace (root), which delays packets: new
connections start slowly. Where the kernel has no netem, a small relay delays bytes instead: no slow start, no loss.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from contestants import Contestant, Setting, make, ours
from measure import Calm, Cost, FailedError, cpu_of, machine, measure, warn_of_load
from places import Place, fresh, parse_place
from serving import far, round_trip, serving
from synthetic import Recipe, Repository, default_cache, obtain

#: Transfers per host (docs/fetching.md).
_MOST = 32
_INSIDE = "SHRINKWRAP_BENCH_NAMESPACE"


def main() -> None:
    arguments = _arguments()
    network = arguments.network or ("netem" if _has_netem() else "relay")
    if network == "netem" and os.environ.get(_INSIDE) != "1":
        # Everything again, in a network of its own: delays on the loopback interface would be everybody's.
        os.environ[_INSIDE] = "1"
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])
    if network == "netem":
        # An interface like others: packets of usual size, or a window would be one packet.
        subprocess.run(["ip", "link", "set", "lo", "up", "mtu", "1500"], check=True)
    cache = os.path.abspath(arguments.cache)
    place = parse_place(arguments.dest)
    print(machine())
    how = "tc netem" if network == "netem" else "a relay (the kernel has no netem, or it was asked for)"
    count = arguments.transfers or "as many as useful"
    print(f"to {place}; {count} transfers in flight; delayed by {how}; medians of {arguments.rounds}")
    warn_of_load()
    report = []
    for size in arguments.sizes:
        # Not copies: each object is a transfer.
        repository = obtain(Recipe(arguments.objects, str(size), 0.0), cache)
        print(f"\n{repository}: {repository.stored / repository.objects:.0f} bytes each as stored")
        heads = (
            "RTT ms",
            "measured",
            "bound MB/s",
            "ours",
            "of bound",
            "objects",
            "of bound",
            "curl",
            "of bound",
            "others",
        )
        print("".join(f"{head:>11}" for head in heads), flush=True)
        report += _sweep(repository, place, cache, network, arguments)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), "network": network, "rows": report}, file, indent=1)


def _arguments() -> argparse.Namespace:
    def numbers(text: str) -> list[float]:
        return [float(word) for word in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rtt", type=numbers, default=[0, 1, 5, 20], help="round trips in ms; 0 is always measured")
    parser.add_argument(
        "--sizes", type=lambda text: [int(word) for word in text.split(",")], default=[4096, 65536], help="of the files"
    )
    parser.add_argument("--objects", type=int, default=8000)
    parser.add_argument(
        "--transfers", type=int, default=32, help="the most that a host is asked for (docs/fetching.md)"
    )
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument(
        "--calm",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="wait, and measure again, while others have more than this part of the machine, e.g. 0.1",
    )
    parser.add_argument("--network", choices=("netem", "relay"), help="default: netem where there is one")
    parser.add_argument("--dest", default=tempfile.gettempdir(), metavar="PLACE", help="folder, ext4, xfs or tmpfs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cache", default=default_cache(), help="where repositories are kept")
    parser.add_argument("--json", metavar="FILE")
    return parser.parse_args()


def _has_netem() -> bool:
    """Try it where it harms nobody."""
    if os.environ.get(_INSIDE) == "1":
        return True
    probe = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms"
    try:
        done = subprocess.run(["unshare", "-n", "sh", "-c", probe], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


@contextmanager
def _delayed(network: str, port: int, seconds: float, cache: str) -> Iterator[tuple[int, list[int]]]:
    """The port by which the server is as far as wanted, and processes that make it so."""
    if network == "relay":
        with far(port, seconds, cache) as (by_relay, pid):
            yield by_relay, [pid]
        return
    # Every packet leaves by the interface once: half of the round trip in each direction.
    rule = [
        "tc",
        "qdisc",
        "replace",
        "dev",
        "lo",
        "root",
        "netem",
        "limit",
        "1000000",
        "delay",
        f"{seconds / 2 * 1e6}us",
    ]
    subprocess.run(rule, check=True)
    try:
        yield port, []
    finally:
        subprocess.run(["tc", "qdisc", "del", "dev", "lo", "root"], check=True)


def _sweep(
    repository: Repository, place: Place, cache: str, network: str, arguments: argparse.Namespace
) -> list[dict[str, float]]:
    rows = []
    lines: dict[str, float] = {}
    times = sorted({0.0, *arguments.rtt})
    with (
        tempfile.TemporaryDirectory(prefix="bench-work-") as work,
        serving(os.path.dirname(repository.storage)) as server,
    ):
        for milliseconds in times:
            with _delayed(network, server.port, milliseconds / 1000, cache) as (port, relay):
                trip = round_trip(port, f"/{repository.fqrn}/.cvmfspublished")
                setting = Setting(repository, port, cache, work, arguments.transfers)
                rates, others = _rates(setting, place, lambda: server.cpu() + cpu_of(relay), arguments)
            if not lines:
                lines = rates
            wait = milliseconds / 1000
            latency = (
                (arguments.transfers or _MOST) * repository.stored / repository.objects / wait if wait else float("inf")
            )
            row = {
                "rtt_ms": milliseconds,
                "measured_ms": trip * 1000,
                "latency_bound": latency,
                "others": others,
                **rates,
            }
            words = [f"{milliseconds:11g}", f"{trip * 1000:11.2f}", f"{min(lines['objects'], latency) / 1e6:11.2f}"]
            for name, rate in rates.items():
                # What the whole run could get is bounded by the rate while objects come, too.
                line = lines["objects"] if name == "ours" else lines[name]
                words += [f"{rate / 1e6:11.2f}", f"{rate / min(line, latency):11.0%}"]
            print("".join(words) + f"{others:11.0%}", flush=True)
            rows.append({"objects": repository.objects, "stored": repository.stored, **row})
    return rows


def _rates(
    setting: Setting, place: Place, cpu: Callable[[], float], arguments: argparse.Namespace
) -> tuple[dict[str, float], float]:
    """Stored bytes per second of our whole run without its final sync, of its phase of objects, and of curl; and the
    largest part of the machine that others had."""
    repository = setting.repository
    found: dict[str, list[float]] = {}
    phases = os.path.join(setting.work, "phases")
    alike = replace(setting, transfers=setting.transfers or _MOST)
    contestants: list[Contestant | str] = [ours(setting, arguments.workers, "ours"), make("curl", alike)]
    calm = Calm(arguments.calm)
    disturbance = 0.0

    def once(one: Contestant) -> Cost:
        with fresh(place, repository.content + 5000 * repository.entries) as dest:
            try:
                # The relay counts as a server, too.
                return measure(one.command(dest, phases), dest, server=cpu, phases=phases if one.is_ours else "")
            except FailedError as exc:
                raise SystemExit(str(exc)) from None

    for _ in range(arguments.rounds):
        for one in contestants:
            if isinstance(one, str):
                continue
            calm.wait()
            while not calm.bears(cost := once(one)):
                calm.wait()
            disturbance = max(disturbance, cost.disturbance)
            found.setdefault(one.name, []).append(repository.stored / cost.wall)
            if one.is_ours:
                found.setdefault("objects", []).append(repository.stored / cost.phases["objects"])
    return {name: statistics.median(rates) for name, rates in found.items()}, disturbance


if __name__ == "__main__":
    main()
