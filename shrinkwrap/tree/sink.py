"""The tree as a sink: objects go into the store, and from there to the paths that want them."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import xxhash

from shrinkwrap.engine.work import Item
from shrinkwrap.record.sums import PACKED
from shrinkwrap.tree.adopt import candidates, has_xattrs, proves
from shrinkwrap.tree.beneath import DIRECTORY, Folders, many_folders, open_beneath
from shrinkwrap.tree.place import (
    HARDLINK,
    UNLINKABLE,
    Check,
    Counts,
    Meta,
    copy_content,
    set_file_meta,
)
from shrinkwrap.tree.shardsums import ShardSums, checksum_of, name_of

#: Overflow names of one object, ``name~1`` and on: more than 65,000 × this many links are not to be expected.
MAX_OVERFLOW: Final = 10_000
#: Shards whose descriptors are kept: a batch goes through them in order.
_OPEN_SHARDS: Final = 16
#: Most folders of the tree whose descriptors are kept: objects of a batch lie all over it.
_OPEN_FOLDERS: Final = 16_384
#: Bytes that are held against each other at a time.
_COMPARED: Final = 1 << 20
_CREATE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Target(NamedTuple):
    """A path that wants an object: parent folder (relative to the destination) and name."""

    parent: bytes
    name: bytes


class Wanted(NamedTuple):
    """Payload of an item.

    The metadata of the stored file, the new paths that are to show it, and the numbers of all files (new or not) whose
    checksum it has.
    """

    meta: Meta
    targets: tuple[Target, ...]
    numbers: tuple[int, ...] = ()


class _Shard:
    """What is in one folder of the store: file names, one of them for each content, and checksums."""

    __slots__ = ("groups", "names", "sums")

    def __init__(self, names: list[str], sums: ShardSums) -> None:
        self.sums = sums
        self.names = set(names)
        self.groups = {name.partition(".")[0]: name for name in names}

    def add(self, name: str) -> None:
        self.names.add(name)
        self.groups[name.partition(".")[0]] = name


def join(one: Item, two: Item) -> Item:
    """The same object, wanted twice."""
    first, second = one.payload, two.payload
    return one._replace(
        payload=Wanted(first.meta, first.targets + second.targets, first.numbers + second.numbers),
    )


@dataclass(frozen=True, slots=True)
class TreeSink:
    """Opens the store of a destination in a worker.

    Attributes:
        path: the destination.
        tmp: this run's work folder, relative to it.
        data: the store.
        data_tmp: this run's work folder in it, relative to it.
        link_mode: ``hardlink``, ``reflink`` or ``copy``.
        own: set owners (root).
        reflinks: the file system can share blocks.
        check: look at stored files before they are used (--repair); None: believe their names.
        adopt: look for objects in the store of the original, which was moved aside.
    """

    path: str
    tmp: bytes
    data: str
    data_tmp: bytes
    link_mode: str
    own: bool
    reflinks: bool
    check: Check | None = None
    adopt: bool = False

    def open(self) -> Store:
        return Store(self)

    def pack(self, payload: Any, /) -> Any:
        meta, targets, numbers = payload
        return tuple(meta), tuple(map(tuple, targets)), numbers

    def unpack(self, packed: Any, /) -> Any:
        meta, targets, numbers = packed
        return Wanted(Meta(*meta), tuple(Target(*target) for target in targets), numbers)


class _Writing:
    """A stored file that is being made."""

    __slots__ = ("fd", "name")

    def __init__(self, fd: int, name: bytes) -> None:
        self.fd = fd
        self.name = name

    def write_at(self, offset: int, data: bytes, /) -> None:
        write_all(self.fd, data, offset)


class Store:
    """The store of one destination, open in one worker. Raises OSError for a full or broken destination."""

    def __init__(self, sink: TreeSink) -> None:
        self._sink = sink
        self._root = os.open(sink.path, DIRECTORY)
        try:
            self._folders = many_folders(self._root, _OPEN_FOLDERS)
            self._data = os.open(sink.data, DIRECTORY)
            #: Where objects are made, on the file system of the store; and what goes to the tree, on that of the tree.
            self._tmp = open_beneath(self._data, sink.data_tmp)
            self._tree_tmp = open_beneath(self._root, sink.tmp)
        except BaseException:
            os.close(self._root)
            raise
        self._shards = Folders(self._data, _OPEN_SHARDS)
        self._originals = Folders(self._data, _OPEN_SHARDS)
        self._listed: dict[str, _Shard] = {}
        self._overflow: dict[str, int] = {}
        self._serial = 0
        self._prefix = b"w%d-" % os.getpid()
        self._counts = Counts()
        self._notes = bytearray()
        self._usual: tuple[int, int, int] | None = None

    def _look_at_new(self) -> tuple[int, int, int]:
        """Mode bits, owner and group that the file system gives to new files."""
        name = self._temporary()
        fd = os.open(name, _CREATE, 0o777, dir_fd=self._tmp)
        try:
            info = os.fstat(fd)
        finally:
            os.close(fd)
            os.unlink(name, dir_fd=self._tmp)
        return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid

    # -- the engine's interface --------------------------------------------------------------------------------------

    def resolve(self, item: Item) -> bool:
        """Link the object to its paths if it is there, or make it from a sibling that differs in metadata only."""
        check = self._sink.check
        if check is not None:
            self._drop_changed(item, check)
        name = item.name
        shard = self._listed.get(name[:2]) or self._list(name[:2])
        rest = name[3:]
        if rest in shard.names:
            self._place_all(item)
            self._note_stored(item, shard)
            return True
        # What another name's metadata should be is not known here, so that nobody could tell whether it was changed.
        sibling = shard.groups.get(rest.partition(".")[0]) if check is None else None
        if sibling is None:
            return self._sink.adopt and self._adopt(item)
        self._derive(item, f"{name[:3]}{sibling}")
        self._note_stored(item, shard)
        return True

    def put(self, item: Item, data: bytes, /) -> None:
        """Write a whole object, and show it at its paths, with as few system calls as there can be."""
        meta: Meta = item.payload.meta
        if self._usual is None:
            self._usual = self._look_at_new()
        usual, uid, gid = self._usual
        mode = meta.mode
        # The mode can be given right away, unless something takes bits away from it, or has to be set before it.
        plain = not meta.xattrs and mode & usual == mode
        temporary = self._temporary()
        fd = os.open(temporary, _CREATE, mode if plain else 0o600, dir_fd=self._tmp)
        try:
            if data:
                write_all(fd, data, 0)
            if not plain:
                set_file_meta(fd, meta, own=self._sink.own, counts=self._counts)
            else:
                if self._sink.own and (meta.uid != uid or meta.gid != gid):
                    os.fchown(fd, meta.uid, meta.gid)
                os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))
        finally:
            os.close(fd)
        self._enter(item, temporary)
        self._place_all(item)
        self._note_new(item, xxhash.xxh3_128_digest(data))

    def begin(self, item: Item) -> _Writing:
        name = self._temporary()
        return _Writing(os.open(name, _CREATE, 0o600, dir_fd=self._tmp), name)

    def commit(self, item: Item, file: _Writing, /) -> None:
        try:
            # Pieces came in any order: what was written is read again, most likely from memory.
            value = checksum_of(file.fd)
            set_file_meta(file.fd, item.payload.meta, own=self._sink.own, counts=self._counts)
        finally:
            os.close(file.fd)
        self._enter(item, file.name)
        self._place_all(item)
        self._note_new(item, value)

    def discard(self, file: _Writing, /) -> None:
        with suppress(OSError):
            os.close(file.fd)
        with suppress(FileNotFoundError):
            os.unlink(file.name, dir_fd=self._tmp)

    def derive(self, item: Item, made: Item) -> None:
        self._derive(item, made.name)
        self._note_stored(item, self._listed.get(item.name[:2]) or self._list(item.name[:2]))

    # -- checksums ---------------------------------------------------------------------------------------------------

    def _note_new(self, item: Item, value: bytes) -> None:
        """An object was written, with this checksum."""
        shard = self._listed.get(item.name[:2]) or self._list(item.name[:2])
        shard.sums.put(name_of(item.group), value)
        for number in item.payload.numbers:
            self._notes += PACKED.pack(number, value)

    def _note_stored(self, item: Item, shard: _Shard) -> None:
        """An object was there: its checksum is noted, or else computed."""
        numbers = item.payload.numbers
        if not numbers:
            return
        name = name_of(item.group)
        value = shard.sums.get(name)
        if value is None:
            fd = self._open_stored(item.name[3:], self._shard(item.name[:2], make=False))
            try:
                value = checksum_of(fd)
            finally:
                os.close(fd)
            shard.sums.put(name, value)
        for number in numbers:
            self._notes += PACKED.pack(number, value)

    def take_notes(self) -> bytes:
        """Checksums for the files of the batch, as :data:`~shrinkwrap.record.sums.PACKED` records."""
        notes = bytes(self._notes)
        self._notes.clear()
        return notes

    def end_batch(self) -> dict[str, int]:
        # The listing of a shard is good for one batch only.
        for shard in self._listed.values():
            shard.sums.flush()
        self._listed.clear()
        return self._counts.take()

    def close(self) -> None:
        self._folders.clear()
        self._shards.clear()
        self._originals.clear()
        for fd in (self._data, self._tmp, self._tree_tmp, self._root):
            os.close(fd)

    # -- objects -----------------------------------------------------------------------------------------------------

    def stat(self, name: str) -> os.stat_result | None:
        """What stands under a name in the store, overflow names included (``name~1``)."""
        shard, _, rest = name.partition("/")
        fd = self._shard(shard, make=False)
        if fd < 0:
            return None
        try:
            return os.stat(rest, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        return self.stat(name) is not None

    def holds(self, name: str, inode: tuple[int, int]) -> bool:
        """True if (device, inode) is the object, under its own name or an overflow name."""
        for number in range(MAX_OVERFLOW):
            info = self.stat(f"{name}~{number}" if number else name)
            if info is None:
                return False
            if (info.st_dev, info.st_ino) == inode:
                return True
        return False

    def equals(self, stored: str, folder: int, name: bytes) -> bool:
        """True if a file in a folder has the content of a stored file, byte for byte; False if that is not there."""
        shard, _, rest = stored.partition("/")
        shard_fd = self._shard(shard, make=False)
        try:
            one = -1 if shard_fd < 0 else self._open_stored(rest, shard_fd)
        except FileNotFoundError:
            one = -1
        if one < 0:
            return False
        try:
            two = self._open_stored(name, folder)
            try:
                return _same_bytes(one, two)
            finally:
                os.close(two)
        finally:
            os.close(one)

    def drop(self, name: str) -> None:
        """Take an object out of the store, with its overflow names: it is not what its name says."""
        shard, _, rest = name.partition("/")
        fd = self._shard(shard, make=False)
        number = 0
        while fd >= 0:
            try:
                os.unlink(f"{rest}~{number}" if number else rest, dir_fd=fd)
            except FileNotFoundError:
                break
            number += 1
        listed = self._listed.pop(shard, None)
        if listed is not None:
            listed.sums.flush()
        self._overflow.pop(name, None)

    def _drop_changed(self, item: Item, check: Check) -> None:
        """Take an object out of the store that somebody changed through one of its paths."""
        number = 0
        while number < MAX_OVERFLOW:
            info = self.stat(f"{item.name}~{number}" if number else item.name)
            if info is None:
                return
            if not check.fits(info, item.payload.meta, item.content.size):
                self.drop(item.name)
                return
            number += 1

    def _shard(self, shard: str, *, make: bool) -> int:
        """A descriptor that stays valid until another shard is asked for; -1 if there is no such folder."""
        name = shard.encode()
        try:
            return self._shards.fd(name)
        except FileNotFoundError:
            if not make:
                return -1
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=self._data)
        return self._shards.fd(name)

    def _temporary(self) -> bytes:
        self._serial += 1
        return self._prefix + b"%d" % self._serial

    def _enter(self, item: Item, temporary: str | bytes, folder: int | None = None) -> None:
        """Give a finished file its name in the store. ``folder`` is the work folder if None."""
        shard, _, rest = item.name.partition("/")
        source = self._tmp if folder is None else folder
        os.rename(temporary, rest, src_dir_fd=source, dst_dir_fd=self._shard(shard, make=True))
        known = self._listed.get(shard)
        if known is not None:
            known.add(rest)

    def _list(self, shard: str) -> _Shard:
        """What is in a folder of the store. Once for each batch: one listing answers what a call an object would."""
        names: list[str] = []
        fd = self._shard(shard, make=False)
        if fd >= 0:
            listing = os.open(".", DIRECTORY, dir_fd=fd)
            try:
                names = os.listdir(listing)
            finally:
                os.close(listing)
        found = self._listed[shard] = _Shard(names, ShardSums(self._data, shard))
        return found

    def _derive(self, item: Item, sibling: str) -> None:
        name = self._copy(sibling, item.payload.meta, self._tmp)
        self._enter(item, name)
        self._counts["derived"] += 1
        self._place_all(item)

    def _adopt(self, item: Item) -> bool:
        """Take the object over from the store of the original, if it is there and can be proved."""
        meta: Meta = item.payload.meta
        for found in candidates(self._originals, item.content, meta, own=self._sink.own):
            folder = self._originals.fd(found.folder)
            fd = self._open_stored(found.name, folder)
            try:
                if not proves(fd, item.content):
                    self._counts["not_proved"] += 1
                    continue
                if found.fits and has_xattrs(fd, meta):
                    # Its other links are paths of a tree that is about to be replaced; nothing but their time changes.
                    # The time is set in any case: it marks the file as younger than the intent (tree/intents.py).
                    os.utime(fd, ns=(meta.mtime_ns, meta.mtime_ns))
                    self._enter(item, found.name, folder)
                else:
                    self._enter(item, self._copied(fd, meta, self._tmp))
            finally:
                os.close(fd)
            self._counts["adopted"] += 1
            self._place_all(item)
            self._note_stored(item, self._listed.get(item.name[:2]) or self._list(item.name[:2]))
            return True
        return False

    def _copy(self, name: str, meta: Meta, work: int) -> bytes:
        """A copy of a stored file under a temporary name in a work folder, with metadata of its own."""
        shard, _, rest = name.partition("/")
        folder = self._shard(shard, make=False)
        if folder < 0:
            raise FileNotFoundError(errno.ENOENT, "not in the store", name)
        source = self._open_stored(rest, folder)
        try:
            return self._copied(source, meta, work)
        finally:
            os.close(source)

    def _copied(self, source: int, meta: Meta, work: int) -> bytes:
        """A copy of an open file under a temporary name in a work folder, with metadata of its own."""
        temporary = self._temporary()
        target = os.open(temporary, _CREATE, 0o600, dir_fd=work)
        try:
            copy_content(source, target, reflink=self._sink.reflinks)
            set_file_meta(target, meta, own=self._sink.own, counts=self._counts)
        finally:
            os.close(target)
        return temporary

    def _open_stored(self, rest: str | bytes, folder: int) -> int:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(rest, flags, dir_fd=folder)
        except PermissionError:
            # Without root a stored file may be unreadable for its own owner (mode 0000). Its mode is given back.
            mode = os.stat(rest, dir_fd=folder, follow_symlinks=False).st_mode & 0o7777
            path = os.open(rest, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                os.chmod(f"/proc/self/fd/{path}", mode | 0o400)
                try:
                    return os.open(f"/proc/self/fd/{path}", os.O_RDONLY | os.O_CLOEXEC)
                finally:
                    os.chmod(f"/proc/self/fd/{path}", mode)
            finally:
                os.close(path)

    # -- paths -------------------------------------------------------------------------------------------------------

    def _place_all(self, item: Item) -> None:
        wanted: Wanted = item.payload
        for parent, name in wanted.targets:
            try:
                self.place(item.name, wanted.meta, parent, name)
            except FileExistsError:
                # Only a second process could have put it there; the whole new thing takes its place all the same.
                self.replace(item.name, wanted.meta, parent, name)

    def place(self, stored: str, meta: Meta, parent: bytes, name: bytes) -> None:
        """Show a stored file at a new path.

        Raises:
            FileNotFoundError: the object is not in the store. FileExistsError: something stands there.
        """
        folder = self._folders.fd(parent)
        mode = self._sink.link_mode
        if mode == HARDLINK and self._link(stored, meta, folder, name):
            return
        temporary = self._copy(stored, meta, self._tree_tmp)
        # A copy is made beside and renamed, so that the path never shows half of it; link() would be refused here.
        os.rename(temporary, name, src_dir_fd=self._tree_tmp, dst_dir_fd=folder)
        self._counts["copied"] += 1

    def replace(self, stored: str, meta: Meta, parent: bytes, name: bytes) -> None:
        """Show a stored file at a path in place of what stands there (not a directory)."""
        folder = self._folders.fd(parent)
        temporary = self._temporary()
        work = self._tree_tmp
        if self._sink.link_mode != HARDLINK or not self._link(stored, meta, work, temporary):
            temporary = self._copy(stored, meta, work)
            self._counts["copied"] += 1
        os.rename(temporary, name, src_dir_fd=work, dst_dir_fd=folder)
        # Renaming onto another name of the same inode does nothing and keeps both.
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=work)

    def forget_folders(self) -> None:
        """A directory was renamed: descriptors by path are no longer right."""
        self._folders.clear()

    def _link(self, stored: str, meta: Meta, folder: int, name: bytes) -> bool:
        """Hard link a stored file; False where that is impossible. More than the limit of links overflows."""
        number = self._overflow.get(stored, 0)
        while True:
            overflowed = f"{stored}~{number}" if number else stored
            shard, _, rest = overflowed.partition("/")
            source = self._shard(shard, make=False)
            if source < 0:
                raise FileNotFoundError(errno.ENOENT, "not in the store", stored)
            try:
                os.link(rest, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
            except OSError as exc:
                if exc.errno == errno.EMLINK and number < MAX_OVERFLOW:
                    number += 1
                    self._overflow[stored] = number
                    continue
                if exc.errno == errno.ENOENT and number and not self.exists(overflowed):
                    self._overflow_file(stored, meta, number)
                    continue
                if exc.errno in UNLINKABLE:
                    self._counts["link_fallback"] += 1
                    return False
                raise
            return True

    def _overflow_file(self, stored: str, meta: Meta, number: int) -> None:
        temporary = self._copy(stored, meta, self._tmp)
        shard, _, rest = stored.partition("/")
        os.rename(temporary, f"{rest}~{number}", src_dir_fd=self._tmp, dst_dir_fd=self._shard(shard, make=False))
        self._counts["overflow"] += 1


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of ``data``, however much the system takes at a time."""
    written = os.pwrite(fd, data, offset)
    if written != len(data):
        view = memoryview(data)
        while written < len(data):
            written += os.pwrite(fd, view[written:], offset + written)


def _same_bytes(one: int, two: int) -> bool:
    position = 0
    while True:
        piece = os.pread(one, _COMPARED, position)
        if piece != os.pread(two, _COMPARED, position):
            return False
        if not piece:
            return True
        position += len(piece)
