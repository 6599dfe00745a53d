"""Repositories made of nothing, for benchmarks: published once for each recipe and kept in a cache folder.

They resemble a release of experiment software: packages with a nested catalog each, directories of about six entries,
log-normal sizes, text that zlib packs 2.2 : 1, copies of files of which most have a time of their own. The same recipe
gives the same bytes and the same root hash.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from shrinkwrap.publish import publish
from shrinkwrap.publish.source import SourceEntry

FQRN = "bench.example.org"
#: Median and sigma of log-normal sizes in bytes. ``lcg`` has the mean of a release of 91,100 files and 2.54 GB.
SIZES = {"lcg": (4000, 1.97), "small": (1000, 1.0)}
#: Sizes stay between these.
_LEAST, _MOST = 16, 64 << 20
_FILES_PER_DIRECTORY = 5
_FILES_PER_LINK = 300
_PACKAGE = (100, 1900)
_PATTERN = "/releases/*/*/*/*"
#: Less than this is published by one process.
_FEW = 1000
_START = 1_700_000_000
_SECOND = 1_000_000_000
#: To be raised when the same recipe gives another repository.
_VERSION = 1


@dataclass(frozen=True)
class Recipe:
    """What is published.

    Attributes:
        files: how many.
        sizes: a name of ``SIZES``, or a number of bytes that all have.
        duplicates: part of the files whose content another one has, too.
        other_mtime: part of those that have a time of their own, and so need an inode of their own.
        seed: of everything that is random.
    """

    files: int = 50_000
    sizes: str = "lcg"
    duplicates: float = 0.17
    other_mtime: float = 0.85
    seed: int = 1

    @property
    def key(self) -> str:
        return f"v{_VERSION}-{self.files}-{self.sizes}-{self.duplicates:g}-{self.other_mtime:g}-{self.seed}"


@dataclass(frozen=True)
class Repository:
    """A repository on disk, and what an export of all of it comes to.

    Attributes:
        home: its folder in the cache; scratch for what is made from it.
        storage, key: for ``--storage`` and ``--key``.
        files, entries: in the tree; ``content`` bytes in the files.
        unique: bytes of different contents; 0 if unknown.
        objects: to download, chunks counted one by one; ``stored`` bytes in them.
    """

    fqrn: str
    home: str
    storage: str
    key: str
    files: int
    entries: int
    content: int
    unique: int
    objects: int
    stored: int

    def __str__(self) -> str:
        return (
            f"{self.fqrn}: {self.files} files in {self.entries} entries, {self.content / 1e6:.1f} MB;"
            f" {self.objects} objects, {self.stored / 1e6:.1f} MB"
        )

    def list_objects(self) -> Iterator[str]:
        """Paths of the files' objects, relative to the storage."""
        for path, _ in _objects(self.storage):
            yield path

    @property
    def spec(self) -> str:
        """A specification file that selects everything."""
        path = os.path.join(self.home, "everything.spec")
        if not os.path.exists(path):
            _write(path, "/*\n")
        return path


def default_cache() -> str:
    return os.path.join(tempfile.gettempdir(), f"shrinkwrap-benchmarks-{os.getuid()}")


def obtain(recipe: Recipe, cache: str) -> Repository:
    """The repository of a recipe: from the cache, else published into it."""
    with _locked(cache):
        home = os.path.join(cache, recipe.key)
        if not os.path.exists(os.path.join(home, "facts.json")):
            shutil.rmtree(home, ignore_errors=True)
            _publish(recipe, home)
        return _read(home)


def adopt(fqrn: str, storage: str, key: str, cache: str) -> Repository:
    """A repository that is there already. All objects in its storage count, also those of older revisions."""
    home = os.path.join(cache, f"of-{fqrn}")
    os.makedirs(home, exist_ok=True)
    found = [size for _, size in _objects(storage)]
    command = ["export", "-r", fqrn, "--storage", storage, "--key", key, "--dry-run", "--json"]
    spec = os.path.join(home, "everything.spec")
    _write(spec, "/*\n")
    with tempfile.TemporaryDirectory() as dest:
        out = subprocess.run(
            [sys.executable, "-m", "shrinkwrap", *command, "-t", spec, "-z", dest], check=True, capture_output=True
        ).stdout
    counts = json.loads(out.splitlines()[-1])["counts"]
    entries = counts["files"] + counts["dirs"] + counts["symlinks"]
    paths = (os.path.abspath(storage), os.path.abspath(key))
    return Repository(fqrn, home, *paths, counts["files"], entries, counts["bytes"], 0, len(found), sum(found))


def _publish(recipe: Recipe, home: str) -> None:
    os.makedirs(home)
    storage = os.path.join(home, "srv", FQRN)
    tally = {"files": 0, "entries": 1, "content": 0, "unique": 0}  # the root directory is an entry
    start = time.perf_counter()
    print(f"publishing {recipe.key} …", file=sys.stderr, flush=True)
    done = publish(
        _counted(entries(recipe), tally),
        storage=storage,
        fqrn=FQRN,
        keys=os.path.join(home, "keys"),
        catalogs=[_PATTERN],
        whitelist_days=36_000,
        now=_START,
        workers=1 if recipe.files < _FEW else 0,
    )
    # Each nested catalog has a marker file, which nobody gave us.
    for name in ("files", "entries"):
        tally[name] += len(done.catalogs) - 1
    print(f"published in {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    found = [size for _, size in _objects(storage)]
    facts = {**tally, "objects": len(found), "stored": sum(found), "key": done.public_key, "recipe": asdict(recipe)}
    _write(os.path.join(home, "facts.json"), json.dumps(facts, indent=1))


def _read(home: str) -> Repository:
    with open(os.path.join(home, "facts.json"), encoding="utf-8") as file:
        facts = json.load(file)
    numbers = {name: facts[name] for name in ("files", "entries", "content", "unique", "objects", "stored")}
    return Repository(FQRN, home, os.path.join(home, "srv", FQRN), facts["key"], **numbers)


def _objects(storage: str) -> Iterator[tuple[str, int]]:
    """Path and size of the objects of files: catalogs, certificates and the like have other suffixes."""
    for folder in sorted(os.listdir(os.path.join(storage, "data"))):
        if len(folder) != 2:
            continue
        with os.scandir(os.path.join(storage, "data", folder)) as found:
            for entry in sorted(found, key=lambda entry: entry.name):
                if entry.name[-1] not in "CHXML":
                    yield f"data/{folder}/{entry.name}", entry.stat().st_size


def _counted(source: Iterable[SourceEntry], tally: dict[str, int]) -> Iterator[SourceEntry]:
    seen: set[int] = set()
    for entry in source:
        tally["entries"] += 1
        if stat.S_ISREG(entry.mode):
            tally["files"] += 1
            tally["content"] += entry.size
            known = hash(entry.content)
            if known not in seen:
                seen.add(known)
                tally["unique"] += entry.size
        yield entry


def _write(path: str, text: str) -> None:
    with open(path + ".new", "w", encoding="utf-8") as file:
        file.write(text)
    os.rename(path + ".new", path)


@contextmanager
def _locked(cache: str) -> Iterator[None]:
    """The cache folder, ours alone: the default one has a name that others could guess."""
    os.makedirs(cache, mode=0o700, exist_ok=True)
    if os.stat(cache).st_uid != os.getuid():
        raise SystemExit(f"{cache} belongs to somebody else; name another folder with --cache")
    with open(os.path.join(cache, "lock"), "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- entries -----------------------------------------------------------------------------------------------------------


def entries(recipe: Recipe) -> Iterator[SourceEntry]:
    """The paths of the repository. Memory: eight bytes for each file of its own content."""
    rng = random.Random(recipe.seed)
    contents = _Contents(recipe, rng)
    yield from (_folder(path, 0) for path in (b"releases", b"releases/LCG_105"))
    made, number = 0, 0
    low, high = _PACKAGE if recipe.files >= 5 * _PACKAGE[1] else (recipe.files // 8 + 1, recipe.files // 4 + 1)
    while made < recipe.files:
        files = min(rng.randint(low, high), recipe.files - made)
        name = b"releases/LCG_105/pkg%04d" % number
        version = b"%b/%d.%d.%d" % (name, number % 7, rng.randrange(30), rng.randrange(10))
        for path in (name, version):
            yield _folder(path, number)
        yield from _package(version + b"/x86_64-el9-gcc13-opt", files, number, rng, contents)
        made, number = made + files, number + 1


def _package(root: bytes, files: int, number: int, rng: random.Random, contents: _Contents) -> Iterator[SourceEntry]:
    """Directories with some files each; the next one lies in one of the last few."""
    folders = [root]
    yield _folder(root, number)
    for index in range(files):
        if index and index % _FILES_PER_DIRECTORY == 0:
            parent = folders[max(0, len(folders) - 1 - rng.randrange(6))]
            path = b"%b/part%d" % (parent if parent.count(b"/") < 12 else root, len(folders))
            folders.append(path)
            yield _folder(path, number)
        size, mtime_ns, content = contents.next(rng)
        kind = rng.choice((b"libModule%d.so", b"include%d.hxx", b"module_%d.py", b"data%d.root", b"README%d"))
        path = folders[-1] + b"/" + kind % index
        yield SourceEntry(path, stat.S_IFREG | 0o644, mtime_ns=mtime_ns, size=size, content=content)
        if index % _FILES_PER_LINK == _FILES_PER_LINK // 2:
            yield SourceEntry(
                folders[-1] + b"/current%d" % index,
                stat.S_IFLNK | 0o777,
                mtime_ns=_START * _SECOND,
                target=path.rpartition(b"/")[2],
            )


def _folder(path: bytes, number: int) -> SourceEntry:
    return SourceEntry(path, stat.S_IFDIR | 0o755, mtime_ns=(_START + number) * _SECOND)


class _Contents:
    """Contents by number, which are never kept: only their sizes are."""

    def __init__(self, recipe: Recipe, rng: random.Random) -> None:
        self._recipe = recipe
        self._sizes = array("q")
        self._files = 0
        self._pool = _text(rng)

    def next(self, rng: random.Random) -> tuple[int, int, bytes]:
        """Size, time and bytes of the next file."""
        self._files += 1
        sizes = self._sizes
        if sizes and rng.random() < self._recipe.duplicates:
            number = rng.randrange(len(sizes))
            own = rng.random() < self._recipe.other_mtime
            seconds = _START + 500_000_000 + self._files if own else _START + number
        else:
            number = len(sizes)
            sizes.append(self._size(rng))
            seconds = _START + number
        return sizes[number], seconds * _SECOND, self._bytes(number)

    def _size(self, rng: random.Random) -> int:
        if self._recipe.sizes in SIZES:
            median, sigma = SIZES[self._recipe.sizes]
            return max(_LEAST, min(int(median * rng.lognormvariate(0, sigma)), _MOST))
        return int(self._recipe.sizes)

    def _bytes(self, number: int) -> bytes:
        size, pool = self._sizes[number], self._pool
        start = number * 2_654_435_761 % len(pool)
        # The number in front makes it unlike all others, however short it is.
        pieces = [b"%x\n" % number, pool[start : start + size]]
        left = size - len(pieces[0]) - len(pieces[1])
        while left > 0:
            pieces.append(pool[:left])
            left -= len(pieces[-1])
        return b"".join(pieces)[:size]


def _text(rng: random.Random) -> bytes:
    """Words of which few are frequent, on lines with some numbers: zlib at level 6 packs it about 2.2 : 1."""
    letters = b"etaoinshrdlucmfwypvbgkjqxz_ETAOIN0123456789"
    words = [bytes(rng.choices(letters, k=rng.randint(2, 11))) for _ in range(4_800)]
    weights = [1 / (rank + 28) for rank in range(len(words))]
    drawn = rng.choices(words, weights, k=300_000)
    for index in range(0, len(drawn), 12):
        drawn[index] = b"\n    %d" % rng.randrange(1 << 24)
    return b" ".join(drawn)
