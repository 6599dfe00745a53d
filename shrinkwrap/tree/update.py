"""From what is there to what is wanted: the phases of a run that change the tree (DESIGN, phases and primitives).

While the two streams are merged, new directories and links are made and objects handed out. Everything that touches
what is there already waits in spilled lists until all objects have arrived: replacements, then deletions, then the
final metadata of touched directories, children first.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Protocol

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.engine.batches import Batcher
from shrinkwrap.engine.work import Item
from shrinkwrap.snapshot.view import DIR, FILE, LINK, Node, Report, Xattrs
from shrinkwrap.tree import marker
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.beneath import DIRECTORY, open_beneath, split
from shrinkwrap.tree.disk import Comparer, Names, Old, read_xattrs
from shrinkwrap.tree.place import Counts, Meta, set_xattr
from shrinkwrap.tree.sink import Store, Target, Wanted
from shrinkwrap.tree.spill import Spill

_RWX: Final = 0o700
_PROC: Final = "/proc/self/fd/%d"


class Prunable(Protocol):
    def prune(self) -> None: ...


class _TargetTooLongError(Exception):
    """The file system does not hold a link target."""


class _Frame:
    """A directory that the merge is in.

    ``place`` is where things are made now, which differs from the path below a staged directory.
    """

    __slots__ = ("mode", "node", "old", "path", "place", "prefix", "touched")

    def __init__(self, path: bytes, place: bytes, node: Node | None, old: Old | None) -> None:
        self.path = path
        #: What the paths of all that is in it begin with.
        self.prefix = path + b"/"
        self.place = place
        self.node = node
        self.old = old
        self.touched = old is None
        #: On disk, as far as that matters for writing into it.
        self.mode = _RWX if old is None else old.mode


class Update:
    """Applies the difference of two streams to the tree.

    Args:
        base: the destination.
        tree: name of the visible tree in it.
        batcher: takes objects that are wanted.
        store: for replacements, after the objects have arrived.
        comparer: decides whether what is there is what is wanted.
        names: names stored files.
        own: set owners (root).
        progress: called once for each wanted path.
        want: called for each object that is handed out.
        report: told of what the file system does not hold.
        warn: called with a line that people should read.
        keep: told of the number of a file that is as it was, and of its checksum.
        dropped: told of each file whose path goes or is replaced; of None where nobody knows how many there are.
    """

    def __init__(
        self,
        base: Base,
        tree: bytes,
        batcher: Batcher,
        store: Store,
        comparer: Comparer,
        names: Names,
        *,
        own: bool,
        progress: Callable[[Node], None],
        want: Callable[[], None],
        report: Report,
        warn: Callable[[str], None],
        keep: Callable[[int, bytes], None],
        dropped: Callable[[Old | None], None],
    ) -> None:
        self._base = base
        self._tree = tree
        self._batcher = batcher
        self._store = store
        self._comparer = comparer
        self._names = names
        self._own = own
        self._progress = progress
        self._want_object = want
        self._report = report
        self._warn = warn
        self._keep = keep
        self._dropped = dropped
        self._root = os.geteuid() == 0
        self._frames: list[_Frame] = []
        self._replacements = Spill(base.scratch)
        self._deletions = Spill(base.scratch)
        self._final = Spill(base.scratch)
        self._staged = 0
        self._added = self._placed = self._placed_bytes = 0
        self.counts = Counts()

    # -- merging -----------------------------------------------------------------------------------------------------

    def apply(self, pairs: Iterable[tuple[Old | None, Node | None]], old_walk: Prunable) -> None:
        """Objects and new paths; everything else is noted for later."""
        for old, node in pairs:
            path = node.path if node is not None else old.path if old is not None else b""
            self._leave(path)
            if node is None:
                assert old is not None
                self._gone(old)
            elif old is None:
                self._new(node)
            elif DIR in (old.kind, node.kind) and old.kind != node.kind:
                self._swap(old, node, old_walk)
            else:
                self._both(old, node)
            if node is not None:
                self._progress(node)
        self._leave(None)

    def _leave(self, path: bytes | None) -> None:
        """Leave the directories that ``path`` is not in; the touched ones want their final metadata."""
        frames = self._frames
        while frames:
            frame = frames[-1]
            if path is not None and path.startswith(frame.prefix):
                return
            frames.pop()
            if frame.touched and frame.node is not None:
                node = frame.node
                self._final.append(
                    (frame.path, node.mode, node.uid, node.gid, node.mtime_ns, node.xattrs, frame.old is None)
                )

    def _place(self, path: bytes) -> bytes:
        if not self._frames:
            return self._tree
        return self._frames[-1].place + b"/" + path.rpartition(b"/")[2]

    def _touch(self) -> None:
        """Something in the directory that the merge is in will change."""
        if not self._frames:
            return
        self._frames[-1].touched = True
        self._open_way()

    def _open_way(self) -> None:
        """Without root, what is on the way must be open for us; the final metadata sets that right again."""
        for frame in () if self._root else self._frames:
            if frame.mode & _RWX != _RWX:
                frame.mode |= _RWX
                frame.touched = True
                os.chmod(_PROC % self._base.folders.fd(frame.place), frame.mode)

    def _new(self, node: Node) -> None:
        self._added += 1
        if node.kind == FILE and self._frames:
            # Nearly everything that is new: it is a child of the directory that the merge is in.
            frame = self._frames[-1]
            frame.touched = True
            if not self._root:
                self._open_way()
            self._want(node, (Target(frame.place, node.path[len(frame.prefix) :]),))
            return
        self._touch()
        self._make(node, self._place(node.path))

    def _make(self, node: Node, place: bytes) -> None:
        parent, name = split(place)
        if node.kind == DIR:
            os.mkdir(name, _RWX, dir_fd=self._base.folders.fd(parent))
            self._frames.append(_Frame(node.path, place, node, None))
        elif node.kind == LINK:
            try:
                self._symlink(node, self._base.folders.fd(parent), name)
            except _TargetTooLongError:
                self._refuse_link(node.path, node.target)
        elif node.kind == marker.MARKER:
            self._mark(node, parent, name)
        else:
            self._want(node, (Target(parent, name),))

    def _mark(self, node: Node, parent: bytes, name: bytes) -> None:
        """Put the marker there, in place of what is no directory."""
        temporary = self._base.temporary()
        tmp = os.dup(self._base.folders.fd(self._base.tmp))
        try:
            marker.write(node, tmp, temporary, own=self._own)
            os.rename(temporary, name, src_dir_fd=tmp, dst_dir_fd=self._base.folders.fd(parent))
        finally:
            os.close(tmp)

    def _want(self, node: Node, targets: tuple[Target, ...]) -> None:
        content = node.content
        assert content is not None
        self._placed += 1
        self._placed_bytes += content.size
        wanted = Wanted(_meta(node), targets, (node.number,))
        if self._batcher.add(Item(self._names(node), content, node.path, wanted)):
            self._want_object()

    def _symlink(self, node: Node, folder: int, name: bytes) -> None:
        try:
            os.symlink(node.target, name, dir_fd=folder)
        except OSError as exc:
            if exc.errno == errno.ENAMETOOLONG:
                raise _TargetTooLongError from None
            raise
        if self._own:
            os.chown(name, node.uid, node.gid, dir_fd=folder, follow_symlinks=False)
        os.utime(name, ns=(node.mtime_ns, node.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def _refuse_link(self, path: bytes, target: bytes) -> None:
        """Some file systems hold less than 4,095 bytes of link target (XFS 1,023)."""
        self._report.add("link_too_long", path, f"{len(target)} bytes")

    def _both(self, old: Old, node: Node) -> None:
        name = self._names(node) if node.kind == FILE else ""
        # On the disk a marker is a file like others.
        alike = old.kind == node.kind or (old.kind == FILE and node.kind == marker.MARKER)
        same = alike and self._comparer.same(old, node, name)
        if node.kind == DIR:
            frame = _Frame(node.path, self._place(node.path), node, old)
            # What the disk walk had to open up wants its mode back.
            opened = old.info is not None and not self._root and old.mode & _RWX != _RWX
            if opened:
                frame.mode |= _RWX
            frame.touched = opened or not same
            self._frames.append(frame)
            if not same:
                self._open_way()
                self.counts["changed"] += 1
        elif not same:
            self._touch()
            if old.kind == FILE:
                self._dropped(old)
            self._replace(node, aside=False)
            self.counts["changed"] += 1
        elif node.kind == FILE:
            if old.sum:
                self._keep(node.number, old.sum)
            else:
                # The store is asked: it has the file.
                assert node.content is not None
                self._batcher.add(Item(name, node.content, node.path, Wanted(_meta(node), (), (node.number,))))

    def _swap(self, old: Old, node: Node, old_walk: Prunable) -> None:
        """A directory takes the place of something else, or the other way round."""
        self._touch()
        self.counts["changed"] += 1
        if old.kind == DIR:
            # All that lies below goes aside with it.
            old_walk.prune()
            self._dropped(None)
            self._replace(node, aside=True)
            return
        if old.kind == FILE:
            self._dropped(old)
        # The new directory grows beside the tree, and is moved to its place when all is there.
        self._staged += 1
        stage = self._base.tmp + b"/stage%d" % self._staged
        os.mkdir(split(stage)[1], _RWX, dir_fd=self._base.folders.fd(self._base.tmp))
        self._replacements.append((DIR, self._place(node.path), False, stage))
        self._frames.append(_Frame(node.path, stage, node, None))

    def _replace(self, node: Node, *, aside: bool) -> None:
        place = self._place(node.path)
        if node.kind == FILE:
            self._want(node, ())
            meta = _meta(node)
            self._replacements.append((FILE, place, aside, self._names(node), tuple(meta)))
        elif node.kind == marker.MARKER:
            self._replacements.append((node.kind, place, aside, node.uid, node.gid, node.mtime_ns))
        else:
            self._replacements.append((LINK, place, aside, node.target, node.uid, node.gid, node.mtime_ns, node.path))

    def _gone(self, old: Old) -> None:
        self._touch()
        place = self._place(old.path)
        self._deletions.append((place, old.kind == DIR))
        self.counts["removed"] += 1
        if old.kind == FILE:
            self._dropped(old)
        if old.kind == DIR:
            frame = _Frame(old.path, place, None, old)
            if old.info is not None and not self._root:
                frame.mode |= _RWX
            self._frames.append(frame)
            if not self._root:
                # Its children will go, which needs write permission here.
                self._touch()

    # -- the later phases --------------------------------------------------------------------------------------------

    def replace(self) -> None:
        """All objects are there: put the new in place of the old."""
        for record in self._replacements:
            kind, place, aside = record[:3]
            parent, name = split(place)
            if aside:
                self._move_aside(parent, name)
            if kind == FILE:
                self._store.replace(record[3], Meta(*record[4]), parent, name)
            elif kind == LINK:
                self._replace_link(record, parent, name)
            elif kind == marker.MARKER:
                self._mark(marker.node_of(*record[3:]), parent, name)
            else:
                self._move_in(record[3], parent, name)

    def _move_aside(self, parent: bytes, name: bytes) -> None:
        base = self._base
        with suppress(FileExistsError):
            os.mkdir(b"trash", 0o700, dir_fd=base.folders.fd(b".data"))
        trash = b".data/trash/" + base.run.encode() + base.temporary()
        if not self._root:
            # Renaming a directory changes its "..", which needs write permission on it.
            os.chmod(_PROC % base.folders.fd(_join(parent, name)), _RWX)
        self._rename(_join(parent, name), trash)

    def _move_in(self, stage: bytes, parent: bytes, name: bytes) -> None:
        base = self._base
        # What stands there is no directory: it goes first. For an instant there is nothing; the kernel has no better.
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=base.folders.fd(parent))
        self._rename(stage, _join(parent, name))

    def _rename(self, source: bytes, target: bytes) -> None:
        folders = self._base.folders
        from_parent, from_name = split(source)
        to_parent, to_name = split(target)
        from_fd = os.dup(folders.fd(from_parent))
        try:
            os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=folders.fd(to_parent))
        finally:
            os.close(from_fd)
        # Descriptors by path are not right any more.
        folders.clear()
        self._store.forget_folders()

    def _replace_link(self, record: tuple[Any, ...], parent: bytes, name: bytes) -> None:
        target, uid, gid, mtime_ns, path = record[3:]
        node = Node(path, LINK, 0o777, uid, gid, mtime_ns, (), target, None)
        temporary = self._base.temporary()
        tmp = os.dup(self._base.folders.fd(self._base.tmp))
        try:
            self._symlink(node, tmp, temporary)
            os.rename(temporary, name, src_dir_fd=tmp, dst_dir_fd=self._base.folders.fd(parent))
        except _TargetTooLongError:
            # What stood there is not wanted any more, whether or not the new thing can be.
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._base.folders.fd(parent))
            self._refuse_link(path, target)
        finally:
            os.close(tmp)

    def delete(self) -> None:
        """Remove what is not wanted any more, children first."""
        for place, is_dir in reversed(self._deletions):
            parent, name = split(place)
            try:
                folder = self._base.folders.fd(parent)
                if is_dir:
                    os.rmdir(name, dir_fd=folder)
                else:
                    os.unlink(name, dir_fd=folder)
            except FileNotFoundError:
                continue
            except OSError as exc:
                if exc.errno != errno.ENOTEMPTY:
                    raise
                self._warn(
                    f"{show(b'/' + place)}: not removed, there are files in it that no export put there"
                    " (--repair removes them)"
                )

    def finish(self, *, failed: bool = False) -> None:
        """Final metadata of all touched directories, children first.

        Args:
            failed: the run failed before replacements: directories that wait beside the tree are left out, the others
                get their metadata all the same, so that what has come can be read.
        """
        for record in self._final:
            try:
                self._finish_directory(self._tree + record[0], *record[1:])
            except OSError as exc:
                if failed and exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue
                raise

    def _finish_directory(
        self, path: bytes, mode: int, uid: int, gid: int, mtime_ns: int, xattrs: Xattrs, fresh: bool
    ) -> None:
        try:
            fd = open_beneath(self._base.fd, path, DIRECTORY)
        except PermissionError:
            # Its own mode shuts us out: by its name in /proc it can be changed all the same.
            fd = self._base.folders.fd(path)
            self._set_directory(fd, _PROC % fd, mode, uid, gid, mtime_ns, xattrs, fresh)
            return
        try:
            self._set_directory(fd, fd, mode, uid, gid, mtime_ns, xattrs, fresh)
        finally:
            os.close(fd)

    def _set_directory(
        self, fd: int, place: int | str, mode: int, uid: int, gid: int, mtime_ns: int, xattrs: Xattrs, fresh: bool
    ) -> None:
        if self._own:
            os.chown(place, uid, gid)
        surplus = () if fresh else {key for key, _ in read_xattrs(fd)} - {key for key, _ in xattrs}
        if (surplus or xattrs) and not self._root:
            os.chmod(place, _RWX)
        for name in surplus:
            os.removexattr(place, name)
        for name, value in xattrs:
            set_xattr(place, name, value, self.counts)
        os.chmod(place, mode)
        os.utime(place, ns=(mtime_ns, mtime_ns))

    def close(self) -> None:
        if self._added:
            self.counts["added"] = self._added
        if self._placed:
            self.counts["placed"] = self._placed
            self.counts["placed_bytes"] = self._placed_bytes
        for spill in (self._replacements, self._deletions, self._final):
            spill.close()


def _meta(node: Node) -> Meta:
    return Meta(node.mode, node.uid, node.gid, node.mtime_ns, node.xattrs)


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
