"""The ordered stream of a snapshot's entries.

Order: component-wise byte order of names, a parent before its children, depth first (docs/decisions/0001).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final, Protocol

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import Catalog, NestedRef, valid_name
from shrinkwrap.cvmfs.entry import (
    FLAG_BIND_MOUNTPOINT,
    FLAG_HIDDEN,
    FLAG_NESTED_MOUNTPOINT,
    FLAG_NESTED_ROOT,
    TRANSITION_FLAGS,
    Entry,
    show,
)
from shrinkwrap.errors import CatalogError
from shrinkwrap.snapshot.catalogs import CatalogStore
from shrinkwrap.spec.matcher import IF_BELOW, NO, YES, Matcher, State

Notice = Callable[[str], None]
#: Catalogs of one walk. A few small ones that bind-mount each other can come to any number (FORMAT.md §6.8); real
#: repositories have some ten thousand.
MAX_CATALOGS: Final = 1_000_000


def order_key(path: bytes) -> bytes:
    """Sort key of the stream's order. A NUL, which no name has, sorts before every byte that a name may have."""
    return path.replace(b"/", b"\0")


class Borders(Protocol):
    """Is told where the catalogs of a walk begin and end; each ``enter`` has its ``leave``, if no error comes between.

    The entry of a mount is the parent's: it comes before ``enter``. Only a directory on the way through a glob comes
    later, when something below it does: entries at or above the mount may come out between the two calls.
    """

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        """The walk is about to open a catalog, which need not have been fetched yet.

        Args:
            state: what the spec says below the mount; None: nothing (of the root only).

        Returns:
            None to go into it. A number leaves it out; it tells how many entries would have come out of it.
        """
        ...

    def leave(self) -> None:
        """No more comes from the catalog that was entered last."""
        ...


class Frame:
    """A directory that the walk is in."""

    __slots__ = ("catalog", "entries", "lines", "mounted", "path", "state", "whole")

    def __init__(self, catalog: Catalog, path: bytes, state: State, matcher: Matcher, mounted: bool) -> None:
        self.catalog = catalog
        self.path = path
        self.state = state
        self.mounted = mounted
        # With everything below inside, no name decides anything any more.
        self.whole = matcher.everything(state)
        self.lines = matcher.step(state, b"x", True).lines if self.whole else ()
        names = matcher.names(state)
        self.entries = catalog.children(path) if names is None else _lookups(catalog, path, names)


class Walk:
    """Walks one root catalog through one spec.

    Iterating gives entries; :meth:`prune`, called after a directory was given, leaves out what lies below it.

    Args:
        store: brings catalogs.
        root: the root catalog.
        matcher: the spec.
        notice: told of oddities that are no errors.
        count: told of the spec lines that an entry matches.
        borders: see there.
    """

    def __init__(
        self,
        store: CatalogStore,
        root: NestedRef,
        matcher: Matcher,
        *,
        notice: Notice | None = None,
        count: Callable[[tuple[int, ...], Entry], None] | None = None,
        borders: Borders | None = None,
    ) -> None:
        self._store = store
        self._root = root
        self._matcher = matcher
        self._notice = notice
        self._count = count
        self._borders = borders
        self._pruned = False

    def prune(self) -> None:
        """Do not go below the directory that was given last."""
        self._pruned = True

    def __iter__(self) -> Iterator[Entry]:
        frames: list[Frame] = []
        held: list[Catalog] = []
        try:
            yield from self._walk(frames, held)
        finally:
            for catalog in held:
                self._store.release(catalog)

    def _walk(self, frames: list[Frame], held: list[Catalog]) -> Iterator[Entry]:
        matcher, count, borders = self._matcher, self._count, self._borders
        step = matcher.root
        if borders is not None and borders.enter(self._root, step.state) is not None:
            borders.leave()
            return
        catalog = self._store.open(self._root)
        held.append(catalog)
        entry = catalog.root()
        if count is not None:
            count(step.lines, entry)
        self._pruned = False
        yield entry
        if step.state is None or self._pruned:
            if borders is not None:
                borders.leave()
            return
        frames.append(Frame(catalog, entry.path, step.state, matcher, True))
        # Directories on the way through a glob, which come out only if something below them does.
        waiting: list[tuple[Entry, tuple[int, ...]]] = []
        while frames:
            frame = frames[-1]
            entry_or_none = next(frame.entries, None)
            if entry_or_none is None:
                frames.pop()
                if waiting and waiting[-1][0].path == frame.path:
                    waiting.pop()
                if frame.mounted:
                    if borders is not None:
                        borders.leave()
                    self._store.release(held.pop())
                continue
            entry = entry_or_none
            is_dir = entry.is_dir
            if frame.whole:
                if entry.flags & FLAG_HIDDEN:
                    continue
                state: State | None = frame.state if is_dir else None
                lines = frame.lines
                included = YES
            else:
                step = matcher.step(frame.state, entry.name, is_dir)
                included, state, lines = step.included, step.state, step.lines
                if included == NO or (entry.flags & FLAG_HIDDEN and not step.named):
                    continue
                if included == IF_BELOW and (not is_dir or state is None):
                    continue
            if included == IF_BELOW:
                waiting.append((entry, lines))
            else:
                if waiting:
                    pruned_at = yield from self._bring(waiting)
                    if pruned_at is not None:
                        self._leave(pruned_at, frames, held)
                        continue
                if count is not None:
                    count(lines, entry)
                self._pruned = False
                yield entry
                if self._pruned:
                    continue
            if is_dir and state is not None:
                ref = None if borders is None else frame.catalog.nested.get(entry.path)
                if borders is not None and ref is not None:
                    left_out = borders.enter(ref, state)
                    if left_out is not None:
                        pruned_at = (yield from self._bring(waiting)) if left_out else None
                        borders.leave()
                        if pruned_at is not None and pruned_at != entry.path:
                            self._leave(pruned_at, frames, held)
                        elif waiting and waiting[-1][0] is entry:
                            waiting.pop()
                        continue
                frames.append(self._enter(frame.catalog, entry, state, held, len(frames)))

    def _bring(self, waiting: list[tuple[Entry, tuple[int, ...]]]) -> Generator[Entry, None, bytes | None]:
        """The directories that waited for something below them come out; returns the path of one that is pruned."""
        pruned_at = None
        for parent, lines in waiting:
            if self._count is not None:
                self._count(lines, parent)
            self._pruned = False
            yield parent
            if self._pruned:
                pruned_at = parent.path
                break
        waiting.clear()
        return pruned_at

    def _leave(self, path: bytes, frames: list[Frame], held: list[Catalog]) -> None:
        """Go back up out of a directory, from wherever the walk is below it."""
        left = False
        while not left:
            frame = frames.pop()
            left = frame.path == path
            if frame.mounted:
                if self._borders is not None:
                    self._borders.leave()
                self._store.release(held.pop())

    def _enter(self, catalog: Catalog, entry: Entry, state: State, held: list[Catalog], depth: int) -> Frame:
        path = entry.path
        if depth > limits.PATH_DEPTH:
            raise CatalogError(f"{show(path)[:200]}…: more than {limits.PATH_DEPTH} directories inside each other")
        ref = catalog.nested.get(path)
        mounted = ref is not None
        if ref is not None:
            if len(held) >= limits.CATALOG_DEPTH:
                raise CatalogError(f"{show(path)[:200]}…: more than {limits.CATALOG_DEPTH} catalogs inside each other")
            child = self._store.open(ref)
            held.append(child)
            self._compare_transition(entry, child)
            catalog = child
        elif self._notice is not None and entry.flags & (FLAG_NESTED_MOUNTPOINT | FLAG_BIND_MOUNTPOINT):
            self._notice(
                f"{show(path)}: marked as the mount point of a catalog that is not registered; it comes out empty"
            )
        return Frame(catalog, path, state, self._matcher, mounted)

    def _compare_transition(self, entry: Entry, child: Catalog) -> None:
        """The parent's copy of a transition directory counts; a difference is told (FORMAT.md §6.8)."""
        if self._notice is None or child.ref.bind:
            return
        root = child.root()
        same = root._replace(flags=0) == entry._replace(flags=0)
        if (
            not same
            or (root.flags ^ entry.flags) & ~(TRANSITION_FLAGS | FLAG_HIDDEN)
            or not root.flags & FLAG_NESTED_ROOT
        ):
            self._notice(f"{show(entry.path)}: the catalog mounted there describes it differently than its parent does")


def _lookups(catalog: Catalog, path: bytes, names: Iterable[bytes]) -> Iterator[Entry]:
    """The few children that a spec names, without listing a directory that may be large."""
    for name in names:
        if valid_name(name):
            entry = catalog.lookup(path + b"/" + name)
            if entry is not None:
                yield entry


def selected(catalog: Catalog, matcher: Matcher) -> list[tuple[NestedRef, State]]:
    """The catalogs mounted right below one that a walk goes into, with what the spec says there; in byte order.

    Raises:
        CatalogError: rows on the way to them.
    """
    known: dict[bytes, Entry | None] = {}
    found = []
    for mount in sorted(catalog.nested):
        state = _enters(catalog, matcher, mount, known)
        if state is not None:
            found.append((catalog.nested[mount], state))
    return found


def _enters(catalog: Catalog, matcher: Matcher, mount: bytes, known: dict[bytes, Entry | None]) -> State | None:
    """What the spec says at a mount below a catalog that a walk is in; None if it does not get there.

    ``known`` remembers entries on the way.
    """
    state = matcher.root.state
    below: list[tuple[bytes, bool]] = []
    path = b""
    for name in mount[1:].split(b"/"):
        if state is None:
            return None
        path += b"/" + name
        named = False
        if not matcher.everything(state):
            step = matcher.step(state, name, True)
            if step.included == NO:
                return None
            state, named = step.state, step.named
        if len(path) > len(catalog.mount):
            below.append((path, named))
    if state is None:
        return None
    for path, named in below:
        if path != mount and path in catalog.nested:
            return None
        if path not in known:
            known[path] = catalog.lookup(path)
        entry = known[path]
        if entry is None or not entry.is_dir or (entry.is_hidden and not named):
            return None
    return state


def bring_catalogs(
    store: CatalogStore,
    root: NestedRef,
    matcher: Matcher,
    progress: Callable[[int], None] | None = None,
    *,
    pass_by: Callable[[NestedRef, State], bool] = lambda ref, state: False,
) -> tuple[int, int]:
    """Fetch every catalog that a walk will open, level by level and in parallel.

    Args:
        pass_by: asked for each but the root: it, and all in it, is not going to be opened.

    Returns:
        Their number, and the number of entries in them by their own counters: at most so many come out.

    Raises:
        MissingObject, NetworkError, CorruptObject: the first that goes wrong.
    """
    level: deque[NestedRef] = deque([root])
    number = entries = depth = 0
    while level:
        depth += 1
        if depth > limits.CATALOG_DEPTH:
            raise CatalogError(f"more than {limits.CATALOG_DEPTH} catalogs inside each other")
        store.keeper.bring([store.wanted(ref) for ref in level], progress)
        below: deque[NestedRef] = deque()
        for ref in level:
            catalog = store.open(ref)
            try:
                below.extend(child for child, state in selected(catalog, matcher) if not pass_by(child, state))
                entries += catalog.entries()
            finally:
                store.release(catalog)
            number += 1
            if number + len(below) > MAX_CATALOGS:
                raise CatalogError(f"the spec reaches more than {MAX_CATALOGS} catalogs")
        level = below
    return number, entries
