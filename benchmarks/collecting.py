"""What collecting garbage costs: by the log of what was dropped, and by looking at all of the store.

    python benchmarks/collecting.py --files 200000 --dropped 2000

makes a store of so many empty stored files, each shown by a path, takes some of the paths away as an update would, and
collects. A collection looks at names and numbers of links alone. Figures are wall time and CPU of this process, with
all of that in the cache of the kernel.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shrinkwrap.tree import dropped
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.gc import GcResult, gc

_META = hashlib.blake2b(b"", digest_size=20).hexdigest()
#: Paths in one directory.
_WIDTH = 1000


def name_of(number: int) -> str:
    """The name of a stored file."""
    digits = hashlib.sha1(b"%d" % number, usedforsecurity=False).hexdigest()
    return f"{digits[:2]}/{digits[2:]}z0.{_META}"


def path_of(dest: str, number: int) -> str:
    return os.path.join(dest, "tree", str(number // _WIDTH), str(number))


def make(dest: str, files: int) -> None:
    """A destination whose tree shows all that is stored; the log of drops is empty."""
    Base(dest).close()
    data = os.path.join(dest, ".data")
    for shard in range(256):
        os.mkdir(os.path.join(data, f"{shard:02x}"))
    for number in range(files):
        if not number % _WIDTH:
            os.makedirs(os.path.dirname(path_of(dest, number)))
        stored = os.path.join(data, name_of(number))
        os.close(os.open(stored, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.link(stored, path_of(dest, number))
    gc(dest)


def drop(dest: str, numbers: range) -> None:
    """Take paths away, and note them as an update does."""
    base = Base(dest)
    with open(os.path.join(base.store.path, os.fsdecode(dropped.LOG)), "a", encoding="ascii") as log:
        for number in numbers:
            os.unlink(path_of(dest, number))
            log.write(f"{name_of(number)}\n")
    base.close()


@contextmanager
def measured(title: str, files: int) -> Iterator[Callable[[GcResult], None]]:
    """Prints what the block costs, and what it gave."""
    found: list[GcResult] = []
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    yield found.append
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    peak = after.ru_maxrss / 1024
    print(f"{title:<28}{files:>9}{found[0].objects:>9}{wall:>9.2f}{cpu:>9.2f}{peak:>9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200_000, help="stored files")
    parser.add_argument("--dropped", type=int, default=2_000, help="that lose their path before each collection")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dest = os.path.join(folder, "dest")
        make(dest, given.files)
        print(f"{'':<28}{'files':>9}{'removed':>9}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}")
        left = given.files
        for title, full in (("by the log", False), ("all of the store", True)):
            drop(dest, range(given.files - left, given.files - left + given.dropped))
            with measured(title, left) as take:
                take(gc(dest, full=full))
            left -= given.dropped
        with measured("by the log, nothing dropped", left) as take:
            take(gc(dest))
        with measured("all of the store, the same", left) as take:
            take(gc(dest, full=True))


if __name__ == "__main__":
    main()
