"""What differs between two snapshots: their streams merged, catalogs that both have left out (DESIGN, skip rule).

A nested catalog is left out of both walks, and never fetched, where both sides mount it at the same place with the same
content hash, where their specifications say the same below that place, and where their entries are shown alike.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry, kind_of
from shrinkwrap.cvmfs.xattr import parse_xattrs
from shrinkwrap.errors import CatalogError
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.snapshot.merge import merge
from shrinkwrap.snapshot.view import Content, Report, View, ViewOptions, Xattrs, content_of
from shrinkwrap.snapshot.walk import MAX_CATALOGS, Walk, selected
from shrinkwrap.spec.matcher import YES, Matcher, State

ADDED: Final = "added"
REMOVED: Final = "removed"
CHANGED: Final = "changed"

#: What can differ between two things at one path, in the order in which it is told.
ASPECTS: Final = ("type", "content", "storage", "size", "device", "target", "mode", "owner", "mtime", "xattr", "links")

_S_IFMT: Final = 0o170000
_DEVICES: Final = ("chardev", "blockdev")
_GROUPED: Final = 1 << 32


class Shown(NamedTuple):
    """One path of a snapshot as it is compared.

    Attributes:
        path: absolute in the repository; the root is empty.
        type: ``file``, ``dir``, ``symlink``, ``fifo``, ``socket``, ``chardev`` or ``blockdev``.
        mode: the low twelve bits.
        mtime_ns: nanoseconds since the epoch.
        size: bytes; of a link of its target, 0 for directories and special files.
        target: of a link; with variables expanded if it is shown as an export shows it.
        content: of a file.
        links: number of hard links, and the first name of the group in its directory; ``(1, b"")`` without any, and
            in exports, which do not keep the groups of the repository.
        device: number of a device, as the catalog has it.
    """

    path: bytes
    type: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    xattrs: Xattrs
    target: bytes
    content: Content | None
    links: tuple[int, bytes]
    device: int


class Change(NamedTuple):
    """One path that is not the same on both sides.

    Attributes:
        kind: :data:`ADDED`, :data:`REMOVED` or :data:`CHANGED`.
        what: of :data:`ASPECTS`, for changed ones. ``storage``: the same size, stored by another hash algorithm, or
            compressed, cut or placed otherwise, so that the catalogs do not tell whether the bytes are the same.
            ``type`` stands alone.
        old, new: what is there; None where nothing is.
    """

    path: bytes
    kind: str
    what: tuple[str, ...]
    old: Shown | None
    new: Shown | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of two snapshots.

    Attributes:
        catalogs: brings its catalogs. Both sides may share one.
        root: its root catalog.
        matcher: what is looked at.
        view: how entries are shown: as an export with these options has them; None: as the repository has them, special
            files and link targets with their variables included.
        variables: for link targets, if there is a view; None for those that are not set.
    """

    catalogs: CatalogStore
    root: NestedRef
    matcher: Matcher
    view: ViewOptions | None = None
    variables: Mapping[bytes, bytes | None] = field(default_factory=dict)


class Diff:
    """The differences of two snapshots, in the order of the stream. To be iterated once.

    Catalogs that are needed are fetched before the first difference comes. Memory does not grow with the number of
    entries.

    Args:
        ignore: those of :data:`ASPECTS` that do not count.
        progress: told of bytes as they are received.

    Attributes:
        skipped: catalogs that both sides have, and nobody looked into.
        read: catalogs that were read, of both sides together.

    Raises (while it is iterated):
        MissingObject, NetworkError, CorruptObject.
    """

    def __init__(
        self,
        old: Side,
        new: Side,
        *,
        ignore: Collection[str] = (),
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self._old = old
        self._new = new
        self._compared = tuple(aspect for aspect in ASPECTS if aspect not in ignore)
        self._progress = progress
        owners = "owner" in self._compared
        views = [_what_counts(side.view, owners=owners) for side in (old, new)]
        #: Equal entries are shown alike.
        self._alike = views[0] == views[1] and _agree(old.variables, new.variables)
        self.skipped = 0
        self.read = 0

    def __iter__(self) -> Iterator[Change]:
        common, self.read = _bring(self._old, self._new, skip=self._alike, progress=self._progress)
        self.skipped = len(common)
        passed = _Passed(common), _Passed(common)
        walks = [
            Walk(side.catalogs, side.root, side.matcher, borders=borders)
            for side, borders in zip((self._old, self._new), passed, strict=True)
        ]
        yield from self._changes(*walks)
        if passed[0].met != passed[1].met:
            raise CatalogError("the two snapshots do not mount the catalogs alike that they have in common")

    def _changes(self, old_walk: Walk, new_walk: Walk) -> Iterator[Change]:
        old_shape, new_shape = _Shape(self._old), _Shape(self._new)
        alike = self._alike
        for before, after in merge(old_walk, new_walk):
            if alike and before == after and before is not None and before.links < _GROUPED:
                continue
            old = None if before is None else old_shape.show(before)
            new = None if after is None else new_shape.show(after)
            if old is None:
                if new is not None:
                    yield Change(new.path, ADDED, (), None, new)
            elif new is None:
                yield Change(old.path, REMOVED, (), old, None)
            else:
                what = _differences(old, new, self._compared)
                if what:
                    yield Change(new.path, CHANGED, what, old, new)


def _what_counts(view: ViewOptions | None, *, owners: bool) -> ViewOptions | None:
    """Of a view, what makes a difference here."""
    if view is None:
        return None
    view = replace(view, share_mtime=False)
    if view.claim or not owners:
        view = replace(view, uid_map=None, gid_map=None)
    return view if owners else replace(view, claim=True, uid=0, gid=0)


def _agree(old: Mapping[bytes, bytes | None], new: Mapping[bytes, bytes | None]) -> bool:
    """Whether variables that both sides know have the same values.

    Each side knows all that its own links use, so links that both have use none that only one of them knows.
    """
    return all(new[name] == value for name, value in old.items() if name in new)


# -- one side --------------------------------------------------------------------------------------------------------


class _Shape:
    """Shows the entries of one side."""

    def __init__(self, side: Side) -> None:
        self._view: View | None = None
        if side.view is not None:
            values = {name: value for name, value in side.variables.items() if value is not None}
            self._view = View(side.view, values, Report())
        #: Directories that the walk is in, and the first names of the hard link groups in each.
        self._groups: list[tuple[bytes, dict[int, bytes]]] = []

    def show(self, entry: Entry) -> Shown | None:
        """None for what does not come out."""
        kind = kind_of(entry.mode)
        if self._view is not None:
            node = self._view.node(entry)
            if node is None:
                return None
            size = len(node.target) if node.content is None else node.content.size
            return Shown(
                node.path,
                kind,
                node.mode,
                node.uid,
                node.gid,
                node.mtime_ns,
                size,
                node.xattrs,
                node.target,
                node.content,
                (1, b""),
                0,
            )
        content = content_of(entry) if kind == "file" else None
        target = entry.target if kind == "symlink" else b""
        return Shown(
            entry.path,
            kind,
            stat.S_IMODE(entry.mode),
            max(entry.uid, 0),
            max(entry.gid, 0),
            entry.mtime_ns,
            len(target) if content is None else content.size,
            parse_xattrs(entry.xattr),
            target,
            content,
            (1, b"") if kind == "dir" else self._links(entry),
            entry.size if kind in _DEVICES else 0,
        )

    def _links(self, entry: Entry) -> tuple[int, bytes]:
        """Groups have numbers that may change from revision to revision; all of one lie in one directory."""
        count = max(entry.link_count, 1)
        if not entry.link_group:
            return count, b""
        while self._groups and not entry.path.startswith(self._groups[-1][0]):
            self._groups.pop()
        prefix = entry.path[: len(entry.path) - len(entry.name)]
        if not self._groups or self._groups[-1][0] != prefix:
            self._groups.append((prefix, {}))
        return count, self._groups[-1][1].setdefault(entry.link_group, entry.name)


def _differences(old: Shown, new: Shown, compared: tuple[str, ...]) -> tuple[str, ...]:
    if old.type != new.type:
        return ("type",) if "type" in compared else ()
    found = set()
    if old.content is not None and new.content is not None and old.content != new.content:
        content = _content_differs(old.content, new.content)
        if content:
            found.add(content)
        if old.size != new.size:
            found.add("size")
    if old.target != new.target:
        found.add("target")
    if old.device != new.device:
        found.add("device")
    if old.mode != new.mode and old.type != "symlink":
        found.add("mode")
    if (old.uid, old.gid) != (new.uid, new.gid):
        found.add("owner")
    if old.mtime_ns != new.mtime_ns:
        found.add("mtime")
    if old.xattrs != new.xattrs:
        found.add("xattr")
    if old.links != new.links:
        found.add("links")
    return tuple(aspect for aspect in compared if aspect in found)


def _content_differs(old: Content, new: Content) -> str:
    if old.size != new.size:
        return "content"
    if old.kind == new.kind and old.digest.algorithm == new.digest.algorithm and not old.chunks and not new.chunks:
        # An external file is served by its path, but named by its hash all the same.
        return "content" if old.digest != new.digest else ""
    if (old.kind, old.digest) == (new.kind, new.digest):
        return ""
    # Of chunks cut alike, one that differs tells.
    cut_alike = [chunk[:2] for chunk in old.chunks] == [chunk[:2] for chunk in new.chunks]
    if old.kind == new.kind and old.digest.algorithm == new.digest.algorithm and cut_alike:
        return "content"
    return "storage"


# -- catalogs --------------------------------------------------------------------------------------------------------


class _Passed:
    """Leaves out of a walk the catalogs that both sides have."""

    def __init__(self, common: frozenset[bytes]) -> None:
        self._common = common
        self.met = 0

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        """See :class:`~shrinkwrap.snapshot.walk.Borders`."""
        if ref.mount not in self._common:
            return None
        self.met += 1
        # Directories that wait for something below them do not wait here: the mount itself comes out.
        return 0

    def leave(self) -> None:
        """Nothing is open."""


class _Wanted(NamedTuple):
    """A catalog that a side's walk comes to."""

    ref: NestedRef
    state: State
    depth: int


def _bring(old: Side, new: Side, *, skip: bool, progress: Callable[[int], None] | None) -> tuple[frozenset[bytes], int]:
    """Fetch every catalog that only one side has, level by level and in parallel.

    A catalog waits while one around it is still to be opened on the other side: that may mount the same one.

    Returns:
        Mounts of those that both have, and the number of the others.
    """
    sides = (old, new)
    pending: tuple[dict[bytes, _Wanted], dict[bytes, _Wanted]] = ({}, {})
    common: set[bytes] = set()
    number = 0
    for side, waiting in zip(sides, pending, strict=True):
        state = side.matcher.root.state
        if state is None:
            # Only the root itself comes out; its catalog is opened by the walk all the same.
            side.catalogs.keeper.bring([side.catalogs.wanted(side.root)], progress)
            number += 1
        else:
            waiting[side.root.mount] = _Wanted(side.root, state, 1)
    while pending[0] or pending[1]:
        if skip:
            for mount in [mount for mount in pending[0] if mount in pending[1]]:
                if _same(old.matcher, pending[0][mount], new.matcher, pending[1][mount]):
                    del pending[0][mount], pending[1][mount]
                    common.add(mount)
        ready = [
            [wanted for mount, wanted in mine.items() if not skip or not _inside(mount, others)]
            for mine, others in (pending, pending[::-1])
        ]
        _fetch(sides, ready, progress)
        for side, waiting, opened in zip(sides, pending, ready, strict=True):
            for wanted in opened:
                del waiting[wanted.ref.mount]
                number += 1
                waiting.update(_below(side, wanted))
            if number + len(waiting) + len(common) > MAX_CATALOGS:
                raise CatalogError(f"more than {MAX_CATALOGS} catalogs are to be compared")
    return frozenset(common), number


def _fetch(sides: tuple[Side, Side], ready: list[list[_Wanted]], progress: Callable[[int], None] | None) -> None:
    """Each object once, those of both sides at once if they come from the same place."""
    lists = [{side.catalogs.wanted(one.ref): None for one in wanted} for side, wanted in zip(sides, ready, strict=True)]
    if sides[0].catalogs is sides[1].catalogs:
        lists = [lists[0] | lists[1]]
    for side, objects in zip(sides, lists, strict=False):
        side.catalogs.keeper.bring(list(objects), progress)


def _below(side: Side, wanted: _Wanted) -> dict[bytes, _Wanted]:
    """The catalogs mounted right below one that the walk goes into."""
    if wanted.depth >= limits.CATALOG_DEPTH:
        raise CatalogError(f"more than {limits.CATALOG_DEPTH} catalogs inside each other")
    catalog = side.catalogs.open(wanted.ref)
    try:
        return {ref.mount: _Wanted(ref, state, wanted.depth + 1) for ref, state in selected(catalog, side.matcher)}
    finally:
        side.catalogs.release(catalog)


def _inside(mount: bytes, others: Collection[bytes]) -> bool:
    """Whether a mount lies below another one."""
    while mount:
        mount = mount.rpartition(b"/")[0]
        if mount in others:
            return True
    return False


def _same(old_matcher: Matcher, old: _Wanted, new_matcher: Matcher, new: _Wanted) -> bool:
    """Whether the same comes out of a catalog on both sides, and the mount's directory in any case.

    On the way through a glob a directory comes out only if something below it does: such a catalog has to be read.
    """
    return (
        old.ref.digest == new.ref.digest
        and old.ref.digest is not None
        and (old.ref.bind, old.ref.outer) == (new.ref.bind, new.ref.outer)
        and old_matcher.spec.rules == new_matcher.spec.rules
        and old_matcher.fingerprint(old.state) == new_matcher.fingerprint(new.state)
        and _comes_out(old_matcher, old.ref.mount)
        and _comes_out(new_matcher, new.ref.mount)
    )


def _comes_out(matcher: Matcher, mount: bytes) -> bool:
    step = matcher.root
    for name in mount.split(b"/")[1:]:
        if step.state is None:
            return False
        if matcher.everything(step.state):
            return True
        step = matcher.step(step.state, name, True)
    return step.included == YES
