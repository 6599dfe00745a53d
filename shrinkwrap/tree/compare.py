"""What there is to compare: snapshots of open repositories, and exports by their records (docs/diff.md)."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Final

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.trust import check_fqrn
from shrinkwrap.errors import CorruptObject, DestinationError, MissingObject, UsageError
from shrinkwrap.fetch.types import Source
from shrinkwrap.record.record import RECORD_BYTES, Record
from shrinkwrap.snapshot.both import Both
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.diff import Change, Diff, Side
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.spec.grammar import Spec, parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.known import encode, gaps_in
from shrinkwrap.tree.records import Records
from shrinkwrap.tree.snapshots import snapshots
from shrinkwrap.tree.verify import recorded

_PROVENANCE: Final = ".provenance"
_RECORD: Final = "record.json"
_OBJECTS: Final = ".objects"
_NO_RECORD: Final = "name the folder that an export was made in, the tree in it, or a record.json"
_LOST: Final = (
    "catalogs that an export was made from are missing beside its record: name a server (-r, --server) to fetch them"
    " from; shrinkwrap export --repair keeps them anew"
)


@dataclass(frozen=True, slots=True)
class Live:
    """A snapshot of an open repository.

    Attributes:
        fqrn: its name.
        catalogs: of that repository.
        root: root catalog of the snapshot.
        source: of that repository: what is missing beside a record may come from there.
    """

    fqrn: str
    catalogs: CatalogStore
    root: NestedRef
    source: Source


@dataclass(frozen=True, slots=True)
class Recorded:
    """An export, as its record tells of it. The tree itself is not looked at.

    Attributes:
        place: of the record, for messages.
        objects: folder of the catalogs that were kept with it, which need not be there.
        unfinished: a run was cut off, or is under way: the tree is not what the record says.
    """

    record: Record
    place: str
    objects: str
    unfinished: bool = False

    @property
    def fqrn(self) -> str:
        return self.record.goal.fqrn

    @property
    def gaps(self) -> int:
        """Files that its tree lacks, as the user allowed; they are compared as if they were there."""
        return gaps_in(self.record)


# -- finding records -------------------------------------------------------------------------------------------------


def find_record(path: str, fqrn: str = "") -> Recorded:
    """The record that a path stands for.

    Args:
        path: a destination, a tree in one, a folder of ``.provenance``, or a record itself.
        fqrn: which repository of a destination; may be empty if there is one only.

    Raises:
        UsageError: there are several repositories, or another one than that. DestinationError: there is no record, or
        it cannot be read.
    """
    shown = show(os.fsencode(path))
    try:
        found = _find(os.path.realpath(path), shown, fqrn)
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise DestinationError(f"{shown}: no record can be read there: {why}", hint=_NO_RECORD) from None
    if fqrn and found.fqrn != fqrn:
        raise UsageError(
            f"{shown}: an export of {found.fqrn}, not of {fqrn}",
            hint="compare exports of one repository, or leave out -r",
        )
    return found


def _find(place: str, shown: str, fqrn: str) -> Recorded:
    if not stat.S_ISDIR(os.stat(place).st_mode):
        return _read(place, shown)
    parent, name = os.path.split(place)
    # A tree first: what lies in it is the repository's, whatever its name.
    if _is_file(os.path.join(parent, _PROVENANCE, name, _RECORD)):
        return _kept(parent, name, shown)
    if os.path.basename(parent) == _PROVENANCE and _is_file(os.path.join(place, _RECORD)):
        return _kept(os.path.dirname(parent), name, shown)
    dest = parent if name == _PROVENANCE else place
    if fqrn:
        return _kept(dest, check_fqrn(fqrn), shown)
    try:
        names = recorded(dest)
    except DestinationError as exc:
        beside = ", ".join(snapshots(dest))
        hint = f"there are snapshots: {beside}; name one as {shown}/NAME" if beside else _NO_RECORD
        raise DestinationError(exc.message, hint=hint) from None
    if len(names) > 1:
        raise UsageError(
            f"{shown}: there are exports of {', '.join(names)}",
            hint=f"choose one: -r {names[0]}, or {shown}/{names[0]}",
        )
    return _kept(dest, names[0], shown)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _kept(dest: str, fqrn: str, shown: str) -> Recorded:
    with Records(dest) as records:
        kept = records.kept(fqrn)
    if kept.record is None or kept.record.goal.fqrn != fqrn:
        why = (
            "its record cannot be read"
            if kept.unreadable or kept.record is not None
            else "no export of it has ended yet"
        )
        raise DestinationError(f"{shown}: {fqrn}: {why}", hint="run the export again, with --repair")
    place = os.path.join(dest, _PROVENANCE)
    return Recorded(
        kept.record,
        os.path.join(place, fqrn, _RECORD),
        os.path.join(place, _OBJECTS),
        kept.intent is not None,
    )


def _read(place: str, shown: str) -> Recorded:
    """A record by itself. The catalogs lie beside its folder, if they were copied too."""
    # Not blocking: somebody may have put a pipe there.
    fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        data = file.read(RECORD_BYTES + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    record = None
    if len(data) <= RECORD_BYTES:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        record = Record.from_json(value) if isinstance(value, dict) else None
    if record is None:
        raise DestinationError(f"{shown}: not the record of an export", hint=_NO_RECORD)
    check_fqrn(record.goal.fqrn)
    folder = os.path.dirname(place)
    return Recorded(
        record,
        place,
        os.path.join(os.path.dirname(folder), _OBJECTS),
        os.path.lexists(os.path.join(folder, "intent.json")),
    )


# -- comparing -------------------------------------------------------------------------------------------------------


class _KeptWithRecords:
    """The catalogs kept beside records, of which nothing is changed, and a folder for what is fetched."""

    def __init__(self, kept: Sequence[KeepFolder], scratch: KeepFolder | None) -> None:
        self._kept = kept
        self._scratch = scratch
        self._broken: set[tuple[Digest, str]] = set()

    def open(self, digest: Digest, suffix: str) -> IO[bytes] | None:
        found = None if self._scratch is None else self._scratch.open(digest, suffix)
        if found is None and (digest, suffix) not in self._broken:
            for folder in self._kept:
                found = found or folder.open(digest, suffix)
        return found

    def create(self) -> tuple[IO[bytes], str]:
        assert self._scratch is not None  # nothing arrives without a source
        return self._scratch.create()

    def adopt(self, temporary: str, digest: Digest, suffix: str) -> None:
        assert self._scratch is not None
        self._scratch.adopt(temporary, digest, suffix)

    def discard(self, temporary: str) -> None:
        assert self._scratch is not None
        self._scratch.discard(temporary)

    def drop(self, digest: Digest, suffix: str) -> None:
        """Without a source it stays: broken is another error than missing."""
        if self._scratch is not None:
            self._scratch.drop(digest, suffix)
            self._broken.add((digest, suffix))


class Comparison:
    """The differences of two sides, to be iterated once; see :class:`~shrinkwrap.snapshot.diff.Diff`.

    Attributes:
        diff: how it was done.

    Raises (while it is iterated):
        MissingObject, CorruptObject: with a hint if it is about a kept catalog. NetworkError. DestinationError:
        something cannot be read, or there is no room for scratch files.
    """

    def __init__(self, diff: Diff, hint: str) -> None:
        self.diff = diff
        self._hint = hint

    def __iter__(self) -> Iterator[Change]:
        try:
            yield from self.diff
        except OSError as exc:
            raise _unreadable(exc) from None
        except (MissingObject, CorruptObject) as exc:
            raise type(exc)(exc.message, hint=exc.hint or self._hint) from None


def _unreadable(error: OSError) -> DestinationError:
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else tempfile.gettempdir()
    return DestinationError(f"{show(os.fsencode(where))}: {error.strerror or error}")


@contextmanager
def compared(
    old: Live | Recorded,
    new: Live | Recorded,
    *,
    spec: Spec | None = None,
    variables: Mapping[bytes, bytes] | None = None,
    source: Source | None = None,
    ignore: Collection[str] = (),
    progress: Callable[[int], None] | None = None,
) -> Iterator[Comparison]:
    """The differences of two snapshots; to be used before the context ends.

    An export shows what its record says: its specification, owners, modes, variables. A snapshot beside it is looked at
    as if it were exported in the same way; two snapshots are compared whole, and as the repository has them.

    Args:
        spec: leaves out, on both sides, what it does not select.
        variables: for links of a snapshot beside an export; those of the record win.
        source: where catalogs come from that are not kept beside a record any more; None: that of an open repository,
            if one of the two is such.
        ignore: see :class:`~shrinkwrap.snapshot.diff.Diff`.

    Raises:
        UsageError: two repositories. DestinationError: there is no room for scratch files.
    """
    if old.fqrn != new.fqrn:
        raise UsageError(f"{old.fqrn} and {new.fqrn} are different repositories", hint="compare two sides of one")
    live = [side for side in (old, new) if isinstance(side, Live)]
    records = [side for side in (old, new) if isinstance(side, Recorded)]
    if source is None and live:
        source = live[0].source
    with ExitStack() as stack:
        fetched = None
        try:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkwrap-"))
            if source is not None:
                folder = os.path.join(scratch, "objects")
                os.mkdir(folder)
                fetched = KeepFolder(folder, scratch)
        except OSError as exc:
            raise _unreadable(exc) from None
        keeper = ObjectKeeper(source, _KeptWithRecords([KeepFolder(one.objects, scratch) for one in records], fetched))
        for one in live:
            # The root catalog of the head may be elsewhere (FORMAT.md §1.3).
            keeper.elsewhere.update(one.catalogs.keeper.elsewhere)
        catalogs = CatalogStore(keeper, scratch)
        stack.callback(catalogs.close)
        beside = records[0].record if records else None
        sides = [
            _live(side, beside, spec, variables or {})
            if isinstance(side, Live)
            else _recorded(side.record, catalogs, spec)
            for side in (old, new)
        ]
        diff = Diff(sides[0], sides[1], ignore=ignore, progress=progress)
        yield Comparison(diff, _LOST if records and source is None else "")


def _live(side: Live, beside: Record | None, spec: Spec | None, variables: Mapping[bytes, bytes]) -> Side:
    if beside is None:
        return Side(side.catalogs, side.root, Matcher(parse(b"/*") if spec is None else spec))
    values: dict[bytes, bytes | None] = {**variables, **_variables(beside)}
    return Side(side.catalogs, side.root, _matcher(beside, spec), beside.goal.view, values)


def _recorded(record: Record, catalogs: CatalogStore, spec: Spec | None) -> Side:
    goal = record.goal
    return Side(catalogs, goal.root, _matcher(record, spec), goal.view, _variables(record))


def _variables(record: Record) -> dict[bytes, bytes | None]:
    return {encode(name): None if value is None else encode(value) for name, value in record.variables.items()}


def _matcher(record: Record, spec: Spec | None) -> Matcher:
    own = Matcher(parse(record.goal.spec, file="<record>", rules=record.goal.rules))
    return own if spec is None else Both(own, Matcher(spec))
