"""What really lies in the visible tree, as a stream in the order of snapshots; and how it is held against nodes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from shrinkwrap.snapshot.view import DIR, FILE, LINK, Node, View, Xattrs
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.tree import marker
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.place import HARDLINK
from shrinkwrap.tree.probe import Abilities

OTHER: Final = "o"
_RWX: Final = 0o700
_RX: Final = 0o500


class Old(NamedTuple):
    """What stands at a path before the run: from the record's snapshot (``node``), or from the disk (``info``).

    ``sum`` is the checksum of a file's content, empty if it is not known.
    """

    path: bytes
    kind: str
    mode: int
    node: Node | None
    info: os.stat_result | None
    sum: bytes = b""


class Comparer(Protocol):
    """Decides whether what is there is what is wanted."""

    def same(self, old: Old, node: Node, name: str) -> bool:
        """``name`` is the stored file's, empty for what is no file. Both have the same kind."""
        ...


class Names(Protocol):
    """Names stored files."""

    def __call__(self, node: Node) -> str: ...


class Stored(Protocol):
    """The store, as far as comparing needs it: see :class:`~shrinkwrap.tree.sink.Store`."""

    def holds(self, name: str, inode: tuple[int, int]) -> bool: ...
    def equals(self, stored: str, folder: int, name: bytes) -> bool: ...
    def drop(self, name: str) -> None: ...


class RecordComparer:
    """Compares with what the record says is there."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def same(self, old: Old, node: Node, name: str) -> bool:
        before = old.node
        assert before is not None
        if node.kind == FILE:
            return self._names(before) == name
        return before == node


class DiskComparer:
    """Compares with what lies on the disk.

    Args:
        own: owners are ours to set (root).
        share_mtime: mtimes of files mean nothing.
    """

    def __init__(
        self,
        base: Base,
        tree: bytes,
        store: Stored,
        abilities: Abilities,
        link_mode: str,
        *,
        own: bool,
        share_mtime: bool,
    ) -> None:
        self._base = base
        self._tree = tree
        self._store = store
        self._abilities = abilities
        self._linked = link_mode == HARDLINK
        self._own = own
        self._share_mtime = share_mtime

    def same(self, old: Old, node: Node, name: str) -> bool:
        info = old.info
        assert info is not None
        if node.kind == marker.MARKER:
            return self._is_marker(info, node)
        if node.kind == LINK:
            return self._readlink(node.path) == node.target and self._owned(info, node) and self._timed(info, node)
        right = stat.S_IMODE(info.st_mode) == node.mode and self._owned(info, node)
        if node.kind == DIR:
            return right and self._timed(info, node) and self._xattrs(node.path) == self._held(node.xattrs)
        assert node.content is not None
        right = right and info.st_size == node.content.size and (self._share_mtime or self._timed(info, node))
        right = right and self._file_xattrs(node) in (None, self._held(node.xattrs))
        if not self._linked:
            # Nothing but the content itself tells of which revision a copy is: size and time may be the same in both.
            return right and info.st_nlink == 1 and self._is_copy(name, node.path)
        if not self._store.holds(name, (info.st_dev, info.st_ino)):
            return False
        if not right:
            # Somebody changed the stored file through this path: it is no longer what its name says.
            self._store.drop(name)
            return False
        return True

    def _is_marker(self, info: os.stat_result, node: Node) -> bool:
        right = stat.S_IMODE(info.st_mode) == node.mode and self._owned(info, node) and self._timed(info, node)
        return right and marker.is_written(self._base.folders.fd(self._tree), marker.NAME)

    def _is_copy(self, name: str, path: bytes) -> bool:
        parent, _, last = (self._tree + path).rpartition(b"/")
        return self._store.equals(name, self._base.folders.fd(parent), last)

    def _owned(self, info: os.stat_result, node: Node) -> bool:
        return not self._own or (info.st_uid, info.st_gid) == (node.uid, node.gid)

    def _timed(self, info: os.stat_result, node: Node) -> bool:
        return info.st_mtime_ns == self._abilities.time(node.mtime_ns)

    def _held(self, xattrs: Xattrs) -> Xattrs:
        return tuple(pair for pair in xattrs if pair[0].startswith(b"user.")) if self._abilities.xattrs else ()

    def _readlink(self, path: bytes) -> bytes:
        parent, _, name = (self._tree + path).rpartition(b"/")
        return os.readlink(name, dir_fd=self._base.folders.fd(parent))

    def _xattrs(self, path: bytes) -> Xattrs:
        return read_xattrs(self._base.folders.fd(self._tree + path))

    def _file_xattrs(self, node: Node) -> Xattrs | None:
        """Attributes of a file; None if we may not read them, as those of our own files of mode 0000."""
        parent, _, name = (self._tree + node.path).rpartition(b"/")
        try:
            return _user_xattrs(b"/proc/self/fd/%d/%s" % (self._base.folders.fd(parent), name))
        except PermissionError:
            return None


def read_xattrs(fd: int) -> Xattrs:
    """``user.*`` attributes of what an O_PATH descriptor stands for; none where they are not supported."""
    with suppress(OSError):
        return _user_xattrs(b"/proc/self/fd/%d" % fd)
    return ()


def _user_xattrs(place: bytes) -> Xattrs:
    try:
        names = [os.fsencode(name) for name in os.listxattr(place)]
    except OSError as exc:
        if exc.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return ()
        raise
    return tuple(sorted((name, os.getxattr(place, name)) for name in names if name.startswith(b"user.")))


class OldSums(Protocol):
    """Checksums of the files of a stream, in its order."""

    def take(self) -> bytes:
        """That of the next file; empty if it is not known."""
        ...

    def lose(self) -> None:
        """Files are left out of the stream."""
        ...


class DiskWalk:
    """The visible tree as it is.

    Without root, directories that their owner may not enter are opened up; whoever walks has to finish them. Of a
    destination that is open for reading only they are taken for empty.

    Attributes:
        closed: number of those.
    """

    def __init__(self, base: Base, tree: bytes) -> None:
        self._base = base
        self._tree = tree
        self._pruned = False
        self._root = os.geteuid() == 0
        self.closed = 0

    def prune(self) -> None:
        """Do not go below the directory that was given last."""
        self._pruned = True

    def __iter__(self) -> Iterator[Old]:
        info = os.stat(self._tree, dir_fd=self._base.fd, follow_symlinks=False)
        yield Old(b"", kind_of(info), stat.S_IMODE(info.st_mode), None, info)
        if self._pruned or not stat.S_ISDIR(info.st_mode):
            return
        stack = [(b"", iter(self._names(b"", info)))]
        while stack:
            folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                continue
            path = folder + b"/" + name
            try:
                info = os.stat(name, dir_fd=self._base.folders.fd(self._tree + folder), follow_symlinks=False)
            except FileNotFoundError:
                continue
            self._pruned = False
            yield Old(path, kind_of(info), stat.S_IMODE(info.st_mode), None, info)
            if stat.S_ISDIR(info.st_mode) and not self._pruned:
                stack.append((path, iter(self._names(path, info))))

    def _names(self, path: bytes, info: os.stat_result) -> list[bytes]:
        fd = self._base.folders.fd(self._tree + path)
        if not self._root and self._base.look and info.st_mode & _RX != _RX:
            self.closed += 1
            return []
        if not self._root and not self._base.look and info.st_mode & _RWX != _RWX:
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(info.st_mode) | _RWX)
        listing = os.open(b".", DIRECTORY, dir_fd=fd)
        try:
            return sorted(os.fsencode(name) for name in os.listdir(listing))
        finally:
            os.close(listing)


def kind_of(info: os.stat_result) -> str:
    if stat.S_ISREG(info.st_mode):
        return FILE
    if stat.S_ISDIR(info.st_mode):
        return DIR
    return LINK if stat.S_ISLNK(info.st_mode) else OTHER


class RecordWalk:
    """The tree as the record says: the old snapshot's entries, shown as they were, and the marker if there is one.

    Args:
        sums: checksums that are known of it.
    """

    def __init__(self, walk: Walk, view: View, *, marked: bool = False, sums: OldSums | None = None) -> None:
        self._walk = walk
        self._view = view
        self._marked = marked
        self._sums = sums

    def prune(self) -> None:
        """Do not go below the directory that was given last."""
        self._walk.prune()
        if self._sums is not None:
            self._sums.lose()

    def __iter__(self) -> Iterator[Old]:
        for node in marker.with_marker(self._nodes()) if self._marked else self._nodes():
            known = self._sums.take() if node.kind == FILE and self._sums is not None else b""
            yield Old(node.path, node.kind, node.mode, node, None, known)

    def _nodes(self) -> Iterator[Node]:
        for entry in self._walk:
            node = self._view.node(entry)
            if node is not None:
                yield node
