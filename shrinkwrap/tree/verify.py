"""Whether a destination, or a copy or image of one, still is what its records say (docs/verify.md).

Nothing is written: no lock file, no time, no scratch file at the destination. What is to be there comes from the kept
catalogs, so a copy without the store will do, and so will a mounted image.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import IO, BinaryIO, Final, NamedTuple

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.trust import check_fqrn
from shrinkwrap.errors import DestinationError, LockedError, SpecError, UsageError
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.record.record import Record
from shrinkwrap.record.runlog import read_runs
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.tree.allowed import MISSING
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.chain import check_statement, follow
from shrinkwrap.tree.expected import Expected
from shrinkwrap.tree.findings import Verified, VerifyResult
from shrinkwrap.tree.judge import Circumstances, Judge
from shrinkwrap.tree.known import gaps_in
from shrinkwrap.tree.probe import Abilities
from shrinkwrap.tree.records import Records, read_gaps
from shrinkwrap.tree.request import Hooks
from shrinkwrap.tree.scrub import BROKEN, DIFFERS, SHUT, UNPROVED, Item, Scrub, stored_items
from shrinkwrap.tree.snapshots import snapshots
from shrinkwrap.tree.spill import Spill
from shrinkwrap.tree.storage import read_description

_PROVENANCE: Final = ".provenance"
#: What :meth:`~shrinkwrap.tree.probe.Abilities.line` says of times.
_ABILITIES: Final = re.compile(
    r"(no )?hard links, (no )?reflinks, (no )?user xattrs,"
    r" times (-?\d{1,20})\.\.(-?\d{1,20}) s in steps of (\d{1,12}) ns"
)
#: What the run log tells of that a file system did not hold.
_LOST: Final = ("xattr_lost", "link_too_long", "link_fallback")


class Whence(NamedTuple):
    """Whom to trust for a repository, and where its bytes come from, if anything is to be fetched."""

    keys: tuple[MasterKey, ...]
    blacklist: Blacklist
    source: SourceConfig | None = None


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """One verification.

    Attributes:
        dest: destination, or a copy of it; it may be read-only.
        repositories: their names; none: all that have a record.
        records: the folder that ``.provenance`` is in, or that folder itself; empty: ``dest``.
        content: read all files.
        chain: follow the signatures.
        repair: fetch what is broken, and mend the tree.
        owners: compare owners.
        workers: processes that read files; 0: one for each CPU.
        wait: wait for a run on the destination to end.
        whence: asked for each repository, for ``chain`` and ``repair``.
        now: seconds since the epoch, to judge whitelists; None: the clock's.
    """

    dest: str
    repositories: tuple[str, ...] = ()
    records: str = ""
    content: bool = False
    chain: bool = False
    repair: bool = False
    owners: bool = True
    workers: int = 0
    wait: bool = False
    whence: Callable[[str], Whence] = field(default=lambda fqrn: Whence((), Blacklist()))
    now: float | None = None


def verify(request: VerifyRequest, hooks: Hooks | None = None) -> VerifyResult:
    """Compare, and with ``repair`` mend. Differences are no error here: see :meth:`VerifyResult.check`.

    Raises:
        DestinationError: there is no record, or something cannot be read. LockedError: a run is at work there.
        UsageError: an impossible request. With ``repair`` all that an export raises.
    """
    with ExitStack() as stack:
        try:
            return _Verify(request, hooks or Hooks(), stack).go()
        except OSError as exc:
            raise _unreadable(exc, request.dest) from exc


def _unreadable(error: OSError, where: str) -> DestinationError:
    """What the system said of a place that is only looked at."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    told = f"{where}: {error.strerror or error}" + (f" ({name})" if name and name != where else "")
    hint = "run as a user who may read it" if error.errno in (errno.EACCES, errno.EPERM) else ""
    return DestinationError(told, hint=hint)


def recorded(dest: str, records: str = "") -> list[str]:
    """Names of the repositories that a destination has records of.

    Args:
        records: see :class:`VerifyRequest`.

    Raises:
        DestinationError: it has none.
    """
    place = _place_of(os.path.realpath(dest), records)
    try:
        with Records(place) as opened:
            names = [name for name in opened.names() if _has_record(opened, name)]
    except OSError as exc:
        raise _unreadable(exc, place) from None
    beside = "" if names or records else ", ".join(snapshots(dest))
    if beside:
        raise DestinationError(
            f"{place}/{_PROVENANCE}: no record of an export", hint=f"there are snapshots: {beside}; name one with --as"
        )
    if not names:
        raise DestinationError(
            f"{place}/{_PROVENANCE}: no record of an export",
            hint="name the folder that an export was made in, or with --records the one that has its .provenance",
        )
    return names


def _has_record(records: Records, name: str) -> bool:
    try:
        check_fqrn(name)
    except UsageError:
        return False
    return any(records.read(name, file) is not None for file in ("record.json", "intent.json"))


def _place_of(dest: str, wish: str) -> str:
    place = os.path.realpath(wish) if wish else dest
    if wish and os.path.basename(place) == _PROVENANCE:
        return os.path.dirname(place)
    return place


class ReadOnlyKeep:
    """Kept objects of which nothing is changed, whatever they turn out to be."""

    def __init__(self, folder: str) -> None:
        self._kept = KeepFolder(folder, folder)

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        return self._kept.open(digest, suffix)

    def create(self) -> tuple[IO[bytes], str]:
        raise OSError("nothing is kept by who only looks")

    def adopt(self, temporary: str, digest: Digest, suffix: str) -> None:
        raise OSError("nothing is kept by who only looks")

    def discard(self, temporary: str) -> None:
        """There is nothing temporary."""

    def drop(self, digest: Digest, suffix: str) -> None:
        """It stays for whoever mends."""


class _Verify:
    def __init__(self, request: VerifyRequest, hooks: Hooks, stack: ExitStack) -> None:
        self.request = request
        self.hooks = hooks
        self.dest = os.path.realpath(request.dest)
        self.result = VerifyResult(self.dest)
        names = recorded(self.dest, request.records)
        for name in request.repositories:
            if check_fqrn(name) not in names:
                raise DestinationError(
                    f"{self.dest}: no record of an export of {name}", hint=f"there are records of {', '.join(names)}"
                )
        self.names = [name for name in names if not request.repositories or name in request.repositories]
        self.records = stack.enter_context(Records(_place_of(self.dest, request.records)))
        self.scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkwrap-"))
        try:
            self.fd = os.open(self.dest, DIRECTORY)
        except NotADirectoryError:
            raise DestinationError(f"{self.dest} is not a folder") from None
        stack.callback(os.close, self.fd)
        #: Names of stored files that are not what they say: those that paths show, and others.
        self.broken, self.broken_alone = Spill(self.scratch), Spill(self.scratch)
        stack.callback(self.broken.close)
        stack.callback(self.broken_alone.close)
        self.store = -1
        self.derived: set[str] = set()

    def notice(self, line: str) -> None:
        if line not in self.result.notes:
            self.result.notes.append(line)
            self.hooks.notice(line)

    def go(self) -> VerifyResult:
        request, result = self.request, self.result
        with self._shared(), self._open_store():
            for name in self.names:
                result.repositories.append(self._repository(name, content=request.content, chain=request.chain))
            if request.content and self.store >= 0:
                self.hooks.phase("store")
                result.store = self._scrub_store()
        if request.repair:
            self._repair()
        return result

    # -- the place ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _shared(self) -> Iterator[None]:
        """A lock that keeps runs out, where it can be had without making anything.

        Raises:
            LockedError: a run is at work.
        """
        lock = -1
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            lock = os.open(os.path.join(self.dest, ".data", "lock"), flags)
            fcntl.flock(lock, fcntl.LOCK_SH | (0 if self.request.wait else fcntl.LOCK_NB))
        except FileNotFoundError:
            pass  # a copy: nobody works here
        except BlockingIOError:
            os.close(lock)
            raise LockedError(f"{self.dest}: a run is working here", hint="wait for it to end, or use --wait") from None
        except OSError as exc:
            self.notice(
                f"the lock cannot be had ({exc.strerror}): a run that works here meanwhile would look like damage"
            )
        try:
            yield
        finally:
            if lock >= 0:
                os.close(lock)

    @contextmanager
    def _open_store(self) -> Iterator[None]:
        """The store, if it is there and we may look into it."""
        place = os.path.join(self.dest, ".data")
        try:
            own = os.open(place, DIRECTORY)
            elsewhere = (read_description(own) or {}).get("store", "")
            if elsewhere and isinstance(elsewhere, str) and "\0" not in elsewhere:
                os.close(own)
                own = -1
                own = os.open(os.path.realpath(elsewhere), DIRECTORY)
                place = elsewhere
            self.store, self.store_path = own, place
        except OSError as exc:
            if not isinstance(exc, FileNotFoundError) or os.path.lexists(place):
                self.notice(f"{place}: the store cannot be looked into ({exc.strerror}): hard links are not compared")
        try:
            yield
        finally:
            if self.store >= 0:
                os.close(self.store)
                self.store = -1

    def _circumstances(self, fqrn: str) -> Circumstances:
        abilities = None
        lost: set[str] = set()
        folder = self.records.folder(fqrn)
        try:
            for run in read_runs(folder):
                found = _ABILITIES.fullmatch(str(run.get("destination")))
                if found is not None:
                    first, last, step = (int(number) for number in found.groups()[3:])
                    abilities = Abilities(not found[1], not found[2], not found[3], first, last, max(step, 1))
                counts = run.get("left_out")
                if isinstance(counts, dict):
                    lost.update(name for name in _LOST if counts.get(name))
        finally:
            os.close(folder)
        at_home = os.path.lexists(os.path.join(self.dest, ".data"))
        return Circumstances(at_home, abilities, frozenset(lost), self.store, self.request.owners)

    # -- a repository ------------------------------------------------------------------------------------------------

    def _repository(self, fqrn: str, *, content: bool, chain: bool) -> Verified:
        verified = Verified(fqrn)
        kept = self.records.kept(fqrn)
        record = kept.record
        if kept.intent is not None:
            verified.add("unfinished", b"", found="run the export again, or verify with --repair")
        if record is None or record.goal.fqrn != fqrn:
            why = (
                "it cannot be read"
                if kept.unreadable
                else "there is none"
                if record is None
                else "another repository's"
            )
            verified.add("record", b"", found=f"record.json: {why}; shrinkwrap export --repair makes it anew")
            return verified
        verified.revision, verified.tag, verified.root_hash = record.revision, record.tag, record.goal.root_hash
        self.hooks.phase("content" if content else "compare")
        self.hooks.expect(sum(record.counts.get(name, 0) for name in ("files", "dirs", "symlinks")))
        with ExitStack() as stack:
            keeper = ObjectKeeper(None, ReadOnlyKeep(os.path.join(self.records.path, _PROVENANCE, ".objects")))
            catalogs = CatalogStore(keeper, self.scratch)
            stack.callback(catalogs.close)
            try:
                gaps = self._gaps(verified, record)
                expected = Expected(record, catalogs, self._summaries(), verified, listed=chain, gaps=gaps)
            except SpecError as exc:
                verified.add("record", b"", found=exc.message)
                return verified
            judge = Judge(
                record.goal, self.fd, fqrn.encode(), self._circumstances(fqrn), verified, self.hooks, self.broken
            )
            stack.callback(judge.close)
            if content:
                scrub = Scrub(self.dest, self.request.workers, judge.tell, self._read)
                judge.scrub = stack.enter_context(scrub)
            judge.compare(expected)
            if expected.derived:
                verified.note("summaries are missing: checksums are not known; the next export makes them anew")
                self.derived.add(fqrn)
            if judge.scrub is not None:
                verified.content = judge.scrub.counts
                _tell_unproved(verified)
            if chain:
                self._chain(verified, record, keeper, expected)
        return verified

    def _gaps(self, verified: Verified, record: Record) -> dict[bytes, str] | None:
        """The files that an export was allowed to leave out, because no server had their objects; None if lost."""
        number = gaps_in(record)
        if not number:
            return {}
        gaps = read_gaps(self.records, verified.fqrn)
        if not gaps:
            verified.add("record", b"", found=f"{MISSING}, the list of {number} files that may be missing, is gone")
            return None
        verified.allowed = number
        few = ", ".join(show(path) for path in sorted(gaps)[:3]) + (", …" if len(gaps) > 3 else "")
        verified.note(f"{number} files are left out, because no server had their objects (--allow-missing): {few}")
        return gaps

    def _chain(self, verified: Verified, record: Record, keeper: ObjectKeeper, expected: Expected) -> None:
        whence = self.request.whence(verified.fqrn)
        chain = follow(
            self.records,
            record,
            keeper,
            whence.keys,
            blacklist=whence.blacklist,
            scratch=self.scratch,
            now=self.request.now,
        )
        chain.catalogs = expected.catalogs
        chain.problems.extend((f"catalog of {show(mount)}", why) for mount, why in expected.lost)
        check_statement(chain, self.records, record, expected.listing)
        chain.settle()
        verified.chain = chain

    def _summaries(self) -> SummaryStore:
        folder = os.path.join(self.records.path, _PROVENANCE, ".summaries")

        def read(name: str) -> BinaryIO | None:
            # Not followed and not waited for: whoever made the copy may have put anything there.
            fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                return os.fdopen(fd, "rb")
            os.close(fd)
            return None

        return SummaryStore(read)

    def _read(self, files: int, size: int) -> None:
        self.hooks.objects(files, size, 0)

    # -- the store ---------------------------------------------------------------------------------------------------

    def _scrub_store(self) -> Verified:
        """Stored files that no path shows: those of copies, and those that wait for another export."""
        verified = Verified("")

        def tell(verdict: str, why: str, token: object) -> None:
            assert isinstance(token, Item)
            if verdict in (DIFFERS, BROKEN):
                verified.add("stored", token.path, found=why)
                self.broken_alone.append((os.fsdecode(token.path),))
            elif verdict == SHUT:
                verified.skip("unreadable")

        with Scrub(self.store_path, self.request.workers, tell, self._read) as scrub:
            for item, info in stored_items(self.store):
                scrub.want(item, item, info, links=1)
            scrub.finish()
            verified.content = scrub.counts
        _tell_unproved(verified)
        return verified

    # -- mending -----------------------------------------------------------------------------------------------------

    def _repair(self) -> None:
        """Mend what is not right, then look at it again."""
        from shrinkwrap.tree.mend import drop_stored, mend

        result = self.result
        copies = result.store is not None and bool(result.store.differences)
        found: list[Verified] = []
        if result.store is not None and copies:
            # Before anything is mended: what is still wanted of them is fetched then.
            drop_stored(self.request, self.broken_alone)
            result.store.mended, result.store.differences = result.store.differences, {}
            result.store.cases.clear()
        for one in result.repositories:
            record = self.records.kept(one.fqrn).record
            wanted = bool(one.differences) or one.fqrn in self.derived
            wanted = wanted or (copies and record is not None and record.goal.link_mode != "hardlink")
            if not wanted or record is None or record.goal.fqrn != one.fqrn:
                found.append(one)
                continue
            if one.chain is not None and not one.chain.signed:
                one.note("not mended: its signatures do not vouch for it")
                found.append(one)
                continue
            done = mend(self.request, self.records, record, self.broken, self.hooks)
            with self._shared(), self._open_store():
                again = self._repository(one.fqrn, content=False, chain=one.chain is not None)
            again.mended = dict(one.differences)
            again.content = one.content
            again.repaired = dict(sorted(done.counts.items()))
            found.append(again)
        result.repositories = found


def _tell_unproved(verified: Verified) -> None:
    number = (verified.content or {}).get(UNPROVED, 0)
    if number:
        verified.note(
            f"{number} files have no checksum, and are stored otherwise than stock zlib does it: whether they are right"
            " is not known"
        )
