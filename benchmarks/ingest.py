"""Publishing an archive of many files beside `tar x`, `sha1sum` and a C program that deflates at level 6.

    python benchmarks/ingest.py [--files 20000] [--median BYTES] [--folder DIR] [--rounds N] [--workers N]
                                [--chunk MIN:AVG:MAX] [--compressed gz|zst] [--no-reference]

The archive has files of log-normal sizes, half text and half binary, some of them equal. In each round it is published
into a fresh storage, then unpacked, hashed (`sha1sum`) and deflated (`pigz -6 -z` where there is one, else `gzip -6`),
the last two with as many processes as CPUs. Printed are medians: wall, user and system time, peak memory of the largest
process, and the ratio to publishing. Nothing is asserted: machines are noisy, compare ratios.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass

FQRN = "demo.example.org"


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time and of CPU, of a command and its children; KiB of its largest process."""

    wall: float
    user: float
    system: float
    peak: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.wall + other.wall, self.user + other.user, self.system + other.system, max(self.peak, other.peak)
        )


def make_archive(path: str, files: int, median: int) -> tuple[int, int]:
    """Files and bytes of content."""
    random.seed(20)
    words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz_", k=random.randint(2, 12))) for _ in range(4000)]
    text = b" ".join(random.choices(words, k=1_500_000))
    binary = b"".join(random.randbytes(24) + bytes(random.choices(b"\0\1\2\4\x10", k=40)) for _ in range(120_000))
    total = 0
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as out:
        for number in range(files):
            folder = f"release/pkg{number // 1000:04}/v{number // 100 % 10}"
            if number % 100 == 0:
                info = tarfile.TarInfo(folder)
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                out.addfile(info)
            size = min(int(random.lognormvariate(0, 1.8) * median), 64 << 20)
            source = (text, binary)[number & 1]
            start = 0 if number % 20 == 7 else random.randrange(len(source) - 1)
            size = 1000 if number % 20 == 7 else size  # one in twenty is a copy
            data = source[start : start + size]
            while len(data) < size:
                data += source[: size - len(data)]
            info = tarfile.TarInfo(f"{folder}/file{number:07}.{'txt' if number & 1 == 0 else 'so'}")
            info.size, info.mode, info.mtime = size, 0o644, 1_700_000_000 + number
            out.addfile(info, io.BytesIO(data))
            total += size
    return files, total


def measure(command: str, folder: str) -> tuple[Cost, str]:
    """Run a shell command; the peak is of the largest process among its descendants."""
    start = time.perf_counter()
    process = subprocess.Popen(["bash", "-o", "pipefail", "-c", command], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    out = process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command}: exit code {process.returncode}")
    return Cost(time.perf_counter() - start, usage.ru_utime, usage.ru_stime, usage.ru_maxrss), out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--median", type=int, default=4000, help="of the sizes, in bytes")
    parser.add_argument("--folder", default=None, help="where to work (default: the temporary folder)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--chunk", default="", help="sizes of chunks; default: files stay whole, as for gzip")
    parser.add_argument(
        "--compressed", choices=("gz", "zst"), default=None, help="publish and unpack a compressed archive"
    )
    parser.add_argument("--no-reference", action="store_true", help="only publish")
    parser.add_argument("--make", metavar="FILE", help="only make the archive")
    arguments = parser.parse_args()
    if arguments.make:
        print(*make_archive(arguments.make, arguments.files, arguments.median))
        return
    cpus = len(os.sched_getaffinity(0))
    deflate = "pigz -6 -z -p 1" if shutil.which("pigz") else "gzip -6"
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=arguments.folder) as folder:
        archive = os.path.join(folder, "x.tar")
        # In a process of its own: the memory of whoever starts a process counts as the peak of that one, too.
        making = [sys.executable, __file__, "--make", archive, "--files", str(arguments.files)]
        out = subprocess.run([*making, "--median", str(arguments.median)], check=True, capture_output=True).stdout
        files, content = (int(word) for word in out.split())
        if arguments.compressed:
            tool = {"gz": "gzip -1", "zst": "zstd -q -1 --rm"}[arguments.compressed]
            subprocess.run([*tool.split(), archive], check=True)
            archive += "." + arguments.compressed
        result = {}
        for _ in range(arguments.rounds):
            shutil.rmtree(os.path.join(folder, "srv"), ignore_errors=True)
            chunk = f"--chunk {arguments.chunk}" if arguments.chunk else "--no-chunk"
            command = (
                f"{sys.executable} -m shrinkwrap publish {archive} -r {FQRN} --storage srv/{FQRN} --json"
                f" --workers {arguments.workers} {chunk}"
            )
            cost, out = measure(command, folder)
            costs.setdefault("publish", []).append(cost)
            result = json.loads(out.splitlines()[-1])
            if arguments.no_reference:
                continue
            parts = {
                "tar x": f"mkdir out && tar xf {archive} -C out",
                "sha1sum": f"find out -type f -print0 | xargs -0 -n 500 -P {cpus} sha1sum > sums",
                deflate: f"find out -type f -print0 | xargs -0 -n 500 -P {cpus} {deflate}",
            }
            total = Cost(0, 0, 0, 0)
            for name, part in parts.items():
                cost = measure(part, folder)[0]
                costs.setdefault(name, []).append(cost)
                total += cost
            costs.setdefault("all three", []).append(total)
            shutil.rmtree(os.path.join(folder, "out"))
    print(
        f"{files} files, {content / 1e6:.0f} MB; {result['counts']['new_objects']} objects,"
        f" {result['bytes']['objects'] / 1e6:.0f} MB; {cpus} CPUs"
    )
    print(f"{'':<16} {'wall s':>8} {'user s':>8} {'sys s':>8} {'peak MiB':>9}   {'wall / publish':>14}")
    base = statistics.median(cost.wall for cost in costs["publish"])
    for name, list_of in costs.items():
        wall, user, system = (
            statistics.median(getattr(cost, key) for cost in list_of) for key in ("wall", "user", "system")
        )
        peak = max(cost.peak for cost in list_of) / 1024
        print(f"{name:<16} {wall:8.2f} {user:8.2f} {system:8.2f} {peak:9.0f}   {wall / base:14.2f}")


if __name__ == "__main__":
    main()
