"""Garbage collection: stored files that no path shows and nothing else needs (docs/gc.md, docs/internals/store.md).

Two ways to the candidates: the log of dropped links, which costs as much as was dropped, or all of the store, where
there is no such log. A candidate is a stored file that no path shows (one link, which is its name in the store); it
goes unless an export needs it that has copies instead of links, or was cut off. Killed at any instant, a collection
has removed less than it would have.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

from shrinkwrap.errors import DestinationError, UsageError
from shrinkwrap.tree import dropped
from shrinkwrap.tree.base import Base, explain
from shrinkwrap.tree.beneath import DIRECTORY, open_beneath
from shrinkwrap.tree.buckets import SHARDS, Buckets
from shrinkwrap.tree.needs import Wanted, WantedOfShard, needs, users, uses
from shrinkwrap.tree.records import Records
from shrinkwrap.tree.shardsums import keep_only, name_of, number_of_sums
from shrinkwrap.tree.sink import MAX_OVERFLOW
from shrinkwrap.tree.storage import Storage
from shrinkwrap.tree.unreached import reached, sweep

_NS: Final = 10**9
#: Later than all times of a file system.
_NEVER: Final = 1 << 100
#: Of an overflow file, as the store numbers them.
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(slots=True)
class GcResult:
    """What a collection did, or with ``dry_run`` would do.

    Attributes:
        dest, store: the destination, and where its stored files are.
        bases: the destinations that use the store.
        full: all of the store was looked at, not only what was dropped lately.
        candidates: stored files that no path shows.
        objects, bytes: those of them that were removed, and the bytes in them.
        needed: those that stay for an export that has copies, or was cut off.
        young: those that stay for the grace period.
        kept_objects, kept_bytes: catalogs, histories and certificates that were removed.
        summaries, summary_bytes: summaries that were removed.
        notices: what people should know.
    """

    dest: str
    store: str
    bases: list[str] = field(default_factory=list)
    full: bool = False
    dry_run: bool = False
    candidates: int = 0
    objects: int = 0
    bytes: int = 0
    needed: int = 0
    young: int = 0
    kept_objects: int = 0
    kept_bytes: int = 0
    summaries: int = 0
    summary_bytes: int = 0
    notices: list[str] = field(default_factory=list)

    @property
    def freed(self) -> int:
        """All bytes together."""
        return self.bytes + self.kept_bytes + self.summary_bytes

    def to_json(self) -> dict[str, Any]:
        return {
            "dest": self.dest,
            "store": self.store,
            "bases": self.bases,
            "full": self.full,
            "dry_run": self.dry_run,
            "candidates": self.candidates,
            "objects": self.objects,
            "bytes": self.bytes,
            "needed": self.needed,
            "young": self.young,
            "kept_objects": self.kept_objects,
            "kept_bytes": self.kept_bytes,
            "summaries": self.summaries,
            "summary_bytes": self.summary_bytes,
            "freed": self.freed,
            "warnings": self.notices,
        }


def gc(
    dest: str,
    *,
    full: bool = False,
    grace: float = 0,
    dry_run: bool = False,
    wait: bool = False,
    forget: Iterable[str] = (),
) -> GcResult:
    """Remove what nothing needs from the store of a destination, and from its records.

    Args:
        full: look at all of the store, whatever the log says.
        grace: seconds for which a stored file stays after it lost its last path.
        dry_run: remove nothing. Nothing at all is changed.
        wait: wait for another run to end.
        forget: destinations that are gone for good: they do not use the store any more.

    Raises:
        DestinationError: no export was made there; or which files are needed cannot be told. LockedError, UsageError.
    """
    with opened(dest, wait=wait, look=dry_run) as base:
        struck = [_strike_off(base, place, dry_run=dry_run) for place in forget]
        return collect(base, full=full or bool(struck), grace=grace, dry_run=dry_run, without=struck)


@contextmanager
def opened(dest: str, *, wait: bool, look: bool = False) -> Iterator[Base]:
    """A destination that some export was made to, locked as long as the block runs.

    Raises:
        DestinationError: there is none, or an error of the operating system in the block. LockedError.
    """
    if not os.path.lexists(os.path.join(dest, ".data", "store.json")):
        raise DestinationError(
            f"{dest}: no export was made here", hint="name the destination, which holds .data and .provenance"
        )
    try:
        base = Base(dest, wait=wait, look=look)
        try:
            yield base
        finally:
            base.close()
    except OSError as exc:
        raise explain(exc, dest) from exc


def _strike_off(base: Base, place: str, *, dry_run: bool) -> str:
    """A destination does not use the store any more; its name as it is noted. Raises UsageError, OSError."""
    noted = list(base.store.bases())
    name = next((one for one in noted if one in (place, os.path.abspath(place), os.path.realpath(place))), None)
    if name is None:
        known = ", ".join(noted) or "none"
        raise UsageError(f"--forget {place}: no destination of {base.store.path}", hint=f"those noted there: {known}")
    with suppress(DestinationError):
        if uses(name, base.store.path):
            raise UsageError(
                f"--forget {place}: it is there, and uses {base.store.path}",
                hint="remove its repositories with 'shrinkwrap remove' instead",
            )
    if not dry_run:
        dropped.forget(base.store)
        base.store.unregister(name)
    return name


def collect(
    base: Base,
    *,
    full: bool = False,
    grace: float = 0,
    dry_run: bool = False,
    without: Sequence[str] = (),
) -> GcResult:
    """The collection in an open destination.

    Args:
        base: locked; with ``dry_run`` it may be open for looking only.
        full, grace, dry_run: as those of :func:`gc`.
        without: destinations that do not use the store any more.

    Raises:
        DestinationError, OSError.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=None if base.look else base.scratch))
        collection = _Collection(base, scratch, grace, dry_run=dry_run)
        stack.callback(collection.close)
        return collection.go(without, full=full)


class _Collection:
    def __init__(self, base: Base, scratch: str, grace: float, *, dry_run: bool) -> None:
        self.result = GcResult(base.path, base.store.path, dry_run=dry_run)
        self._base = base
        self._store = base.store
        self._scratch = scratch
        self._dry = dry_run
        now = time.time_ns() if base.look else base.clock()
        # Without grace not even a clock that was set back keeps anything.
        self._before = now - round(grace * _NS) if grace else _NEVER
        self._candidates = Buckets(scratch)
        self._young = Buckets(scratch)
        self._wanted: Wanted | None = None

    def close(self) -> None:
        self._candidates.close()
        self._young.close()
        if self._wanted is not None:
            self._wanted.close()

    def go(self, without: Sequence[str], *, full: bool) -> GcResult:
        result, store = self.result, self._store
        if not self._base.look:
            self._base.empty_trash()
        result.bases = users(store, self._base.path, without)
        needing = needs(result.bases, counted=self._dry or self._links_are_counted())
        result.full = full or not dropped.read(store, self._look_at)
        if result.full:
            self._look_at_all()
        if needing and not self._candidates.empty:
            self._wanted = Wanted(self._scratch)
            for need in needing:
                self._wanted.add(need)
        for shard in SHARDS:
            self._collect(shard)
        if not self._dry:
            if result.full:
                self._drop_sums()
            dropped.begin(store, self._names_of_young())
        self._sweep_records()
        if not self._dry:
            strike_off_empty(self._base)
        return result

    def _links_are_counted(self) -> bool:
        """Whether the file system tells how many links a file has: on some networks it is always one."""
        folder = self._store.folders.fd(self._store.tmp)
        names = (b"counted", b"counted-too")
        os.close(os.open(names[0], os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=folder))
        try:
            os.link(names[0], names[1], src_dir_fd=folder, dst_dir_fd=folder)
            return os.stat(names[0], dir_fd=folder).st_nlink == len(names)
        except OSError:
            return False
        finally:
            for name in names:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)

    # -- candidates --------------------------------------------------------------------------------------------------

    def _look_at(self, name: str) -> None:
        """One that was dropped: a candidate, if no path shows it any more."""
        shard, _, rest = name.partition("/")
        try:
            files = _files(self._store.folders.fd(shard.encode()), rest, None)
        except FileNotFoundError:
            return
        if any(info.st_nlink == 1 for info in files.values()):
            self._candidates.add(shard, b"%s %d\n" % (rest.encode(), max(files)))

    def _look_at_all(self) -> None:
        for shard in SHARDS:
            with _listed(self._store, shard) as (folder, names):
                found = _without_links(folder, names)
            for rest, highest in found.items():
                self._candidates.add(shard, b"%s %d\n" % (rest.encode(), highest))

    # -- removal -----------------------------------------------------------------------------------------------------

    def _collect(self, shard: str) -> None:
        lines = set(self._candidates.read(shard).decode().splitlines())
        if not lines:
            return
        wanted = self._wanted.of(shard) if self._wanted is not None else WantedOfShard(set())
        folder = os.dup(self._store.folders.fd(shard.encode()))
        try:
            for line in sorted(lines):
                rest, _, highest = line.partition(" ")
                self._collect_one(folder, shard, rest, int(highest), wanted)
        finally:
            os.close(folder)

    def _collect_one(self, folder: int, shard: str, rest: str, highest: int, wanted: WantedOfShard) -> None:
        """A stored file and its overflow files; those that stay have the lowest numbers afterwards, without a gap."""
        result = self.result
        files = _files(folder, rest, highest)
        garbage = sorted(number for number, info in files.items() if info.st_nlink == 1)
        result.candidates += len(garbage)
        young = [number for number in garbage if files[number].st_ctime_ns >= self._before]
        garbage = [number for number in garbage if number not in young]
        if young:
            result.young += len(young)
            self._young.add(shard, f"{shard}/{rest}\n".encode())
        stay = files.keys() - set(garbage)
        if garbage and not stay and f"{shard}/{rest}" in wanted:
            stay = {garbage.pop(0)}
            result.needed += 1
        result.objects += len(garbage)
        result.bytes += sum(files[number].st_size for number in garbage)
        if self._dry:
            return
        for number in range(len(stay)):
            if number not in stay:
                last = max(stay)
                os.rename(_numbered(rest, last), _numbered(rest, number), src_dir_fd=folder, dst_dir_fd=folder)
                stay = stay - {last} | {number}
        for number in sorted(set(garbage) - stay, reverse=True):
            os.unlink(_numbered(rest, number), dir_fd=folder)

    def _drop_sums(self) -> None:
        """Checksums of contents that are stored no more, in folders where there must be some."""
        for shard in SHARDS:
            with _listed(self._store, shard) as (_, names):
                if number_of_sums(self._store.fd, shard) > len(names):
                    contents = {f"{shard}/{name.partition('.')[0]}" for name in names}
                    keep_only(self._store.fd, shard, {name_of(content) for content in contents})

    def _names_of_young(self) -> Iterator[str]:
        for shard in SHARDS:
            yield from self._young.read(shard).decode().splitlines()

    # -- records -----------------------------------------------------------------------------------------------------

    def _sweep_records(self) -> None:
        result = self.result
        try:
            needed = reached(self._base, self._scratch)
        except DestinationError as exc:
            result.notices.append(f"no catalog was removed: {exc.message}")
            return
        objects, summaries = sweep(self._base, needed, self._before, dry_run=self._dry)
        result.kept_objects, result.kept_bytes = objects
        result.summaries, result.summary_bytes = summaries


def strike_off_empty(base: Base) -> None:
    """A destination without repositories does not use its store; it is noted again when an export is made there."""
    with Records(base.path) as records:
        if not records.names():
            base.store.unregister(base.path)


@contextmanager
def _listed(store: Storage, shard: str) -> Iterator[tuple[int, list[str]]]:
    """A folder of the store, and the names in it; none if it is not there."""
    try:
        fd = open_beneath(store.fd, shard.encode(), DIRECTORY)
    except FileNotFoundError:
        yield -1, []
        return
    try:
        yield fd, os.listdir(fd)
    finally:
        os.close(fd)


def _without_links(folder: int, names: list[str]) -> dict[str, int]:
    """The stored files that no path shows, or some overflow file of theirs, with the highest number of those."""
    found: dict[str, int] = {}
    numbers: dict[str, set[int]] = {}
    for name in names:
        rest, overflow, number = name.partition("~")
        if overflow and _NUMBER.fullmatch(number) and dropped.STORED.fullmatch(rest):
            numbers.setdefault(rest, set()).add(int(number))
        # Asked of nearly all files there are: the name only where the number of links calls for it.
        elif os.stat(name, dir_fd=folder, follow_symlinks=False).st_nlink == 1 and dropped.STORED.fullmatch(name):
            found[name] = 0
    there = set(names) if numbers else set()
    for rest, others in numbers.items():
        files = _files(folder, rest, max(others))
        # Where a number is missing those after it would not be found.
        if rest not in there or len(files) <= max(files, default=0) or any(i.st_nlink == 1 for i in files.values()):
            found[rest] = max(others)
    return found


def _files(folder: int, rest: str, highest: int | None) -> dict[int, os.stat_result]:
    """A stored file and its overflow files, by number.

    Args:
        highest: number of the last; None: the one before the first that is not there.
    """
    found: dict[int, os.stat_result] = {}
    for number in range(MAX_OVERFLOW if highest is None else highest + 1):
        try:
            info = os.stat(_numbered(rest, number), dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            if highest is None:
                break
            continue
        if stat.S_ISREG(info.st_mode):
            found[number] = info
    return found


def _numbered(rest: str, number: int) -> str:
    return f"{rest}~{number}" if number else rest
