"""Taking over a destination that the original made (FORMAT.md §10.3): ``--adopt``.

Its store is moved aside, to ``.data/old``, before ours is begun; ``store.json`` says that the move is complete. From
then on an object that our store lacks is looked for there before it is fetched. The original may have left empty and
cut-off files under good names (FORMAT.md §10.7), so nothing is believed: content counts as proved when deflating it
again with stock zlib gives the digest that the catalog names (FORMAT.md §3), chunk by chunk for files in chunks. After
a run that ended well what is left of the old store goes, unless a tree of another repository still waits for it.

Killed at any instant, the next run finds one of these states and goes on from it, with or without ``--adopt``:
a folder ``old`` without ``store.json`` (go on moving), or with it (go on looking there).
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from shrinkwrap.cvmfs.digest import Digest, new_hasher
from shrinkwrap.snapshot.view import Content
from shrinkwrap.tree import marker
from shrinkwrap.tree.beneath import DIRECTORY, Folders

if TYPE_CHECKING:
    from shrinkwrap.tree.base import Base
    from shrinkwrap.tree.place import Meta
    from shrinkwrap.tree.storage import Storage

#: Where the store of the original waits, in ours.
OLD: Final = b"old"
#: All that a first run of ours which was cut off may have left in its store; and what stands in the root of an ext4.
BEGINNINGS: Final = frozenset({"lock", "store.json.new", "lost+found"})
_GARBAGE: Final = ".garbage"
_SHARD: Final = re.compile(r"[0-9a-f]{2}")
#: What the original writes of a run (FORMAT.md §10.3).
_INFOS: Final = (b"/src.info", b"/src.config", b"/dest.info")
#: Level of what publishers store (FORMAT.md §3).
_LEVEL: Final = 6
_STEP: Final = 1 << 20
#: Labels of this machine, not metadata of a repository; the original's names leave them out, too.
_LABEL: Final = "security.selinux"


# -- the folder of the store -----------------------------------------------------------------------------------------


def is_original(data: int) -> bool:
    """True if a folder holds what a store of the original holds, and nothing else but the beginnings of one of ours."""
    names = set(_listed(data)) - BEGINNINGS
    for name in names:
        if name != "old" and name != _GARBAGE and _SHARD.fullmatch(name) is None:
            return False
        if not stat.S_ISDIR(os.stat(name, dir_fd=data, follow_symlinks=False).st_mode):
            return False
    return bool(names)


def move_aside(store: Storage) -> None:
    """Move what the original stored out of the way. The store is locked, and ``store.json`` is not there yet."""
    names = [name for name in _listed(store.fd) if name == _GARBAGE or _SHARD.fullmatch(name)]
    if not names:
        return
    store.make_folder(OLD, 0o700)
    old = store.folders.fd(OLD)
    for name in names:
        os.rename(name, name, src_dir_fd=store.fd, dst_dir_fd=old)
    # store.json must not be on disk before this is.
    store.sync_folder(OLD)
    store.sync_folder(b"")


def is_waiting(store: Storage) -> bool:
    """True if the store of the original is there, moved aside."""
    with suppress(FileNotFoundError):
        os.stat(OLD, dir_fd=store.fd, follow_symlinks=False)
        return True
    return False


def made_by_original(base: Base, fqrn: str) -> bool:
    """True if there is evidence that the original made the tree of a repository: its marker, or its provenance."""
    return os.path.lexists(os.path.join(base.path, fqrn, os.fsdecode(marker.NAME))) or _has(base, fqrn, "src.info")


def finish(base: Base, fqrn: str, *, changed: bool) -> None:
    """The tree is what its record says: what it has no more use for goes.

    Args:
        changed: objects may have lost their last path since the last time.
    """
    folder = base.provenance(fqrn)
    infos = [name for name in _INFOS if _has(base, fqrn, os.fsdecode(name[1:]))]
    if any(True for _ in base.store.bases()):
        # Other destinations of the original may wait for it, which only their links tell of.
        if (changed or infos) and _prune(base):
            _drop(base)
    elif not _others(base, fqrn):
        _drop(base)
    elif changed:
        _prune(base)
    # Last, because they say that this is still to be done.
    for name in infos:
        base.remove_file(folder + name)


def told(counts: dict[str, int]) -> str:
    """What became of the objects, for people."""
    unproved = counts.get("not_proved", 0)
    return (
        f"taken over from the original: {counts.get('adopted', 0)} stored files;"
        f" {counts.get('fetched', 0)} fetched anew"
        + (f", and {unproved} were not what their names say" if unproved else "")
    )


def _others(base: Base, fqrn: str) -> bool:
    """Whether other trees of the original are there that no export of ours has taken over."""
    return any(
        name != fqrn
        and not name.startswith(".")
        and _has(base, name, "src.info")
        and not _has(base, name, "record.json")
        and os.path.isdir(os.path.join(base.path, name))
        for name in os.listdir(os.path.join(base.path, ".provenance"))
    )


def _has(base: Base, fqrn: str, name: str) -> bool:
    return os.path.lexists(os.path.join(base.path, ".provenance", fqrn, name))


def _drop(base: Base) -> None:
    """In one step, into the folder that each run empties."""
    store = base.store
    store.make_folder(b"trash", 0o700)
    os.rename(OLD, base.run.encode() + b"old", src_dir_fd=store.fd, dst_dir_fd=store.folders.fd(b"trash"))
    store.folders.clear()
    base.adopting = False


def _prune(base: Base) -> bool:
    """Remove the stored files that no path shows. True if none is left."""
    empty = True
    top = os.path.join(base.store.path, os.fsdecode(OLD))
    for shard in _folders(top):
        for folder in _folders(shard):
            with os.scandir(folder) as files:
                for file in files:
                    if file.stat(follow_symlinks=False).st_nlink == 1 and not file.is_dir(follow_symlinks=False):
                        os.unlink(file.path)
                    else:
                        empty = False
    return empty


def _folders(place: str) -> Iterator[str]:
    with os.scandir(place) as entries:
        for entry in entries:
            if _SHARD.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                yield entry.path


def _listed(folder: int) -> list[str]:
    listing = os.open(b".", DIRECTORY, dir_fd=folder)
    try:
        return os.listdir(listing)
    finally:
        os.close(listing)


# -- its files -------------------------------------------------------------------------------------------------------


class Candidate(NamedTuple):
    """A file of the old store that bears the name of a content.

    ``folder`` is below ``.data``; ``fits`` if its metadata is what is wanted but for the time.
    """

    folder: bytes
    name: str
    fits: bool


def candidates(folders: Folders, content: Content, meta: Meta, *, own: bool) -> list[Candidate]:
    """Files that may be a content, those that can be had by renaming first.

    Args:
        folders: beneath ``.data``.
        own: owners are ours to set (root).
    """
    found = []
    for digest in (content.digest,) if content.bulk is None else (content.bulk, content.digest):
        folder, prefix = _place(digest)
        try:
            fd = folders.fd(folder)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for name in _listed(fd):
            if name.startswith(prefix):
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISREG(info.st_mode):
                    found.append(Candidate(folder, name, _fits(info, meta, own=own)))
    return sorted(found, key=lambda one: (not one.fits, one.name))


def _place(digest: Digest) -> tuple[bytes, str]:
    text = str(digest)
    return f"old/{text[:2]}/{text[2:4]}".encode(), f"{text[4:]}."


def _fits(info: os.stat_result, meta: Meta, *, own: bool) -> bool:
    owned = (info.st_uid, info.st_gid) == (meta.uid, meta.gid) if own else info.st_uid == os.geteuid()
    return owned and stat.S_IMODE(info.st_mode) == meta.mode


def has_xattrs(fd: int, meta: Meta) -> bool:
    """True if a file has these attributes and no others, of whatever kind."""
    try:
        names = [name for name in os.listxattr(fd) if not name.startswith(_LABEL)]
        there = sorted((os.fsencode(name), os.getxattr(fd, name)) for name in names)
    except OSError:
        return not meta.xattrs
    return there == sorted(meta.xattrs)


def proves(fd: int, content: Content) -> bool:
    """True if an open file is a content: its size fits, and storing it again gives the digest, or all of the chunks'.

    A file that cannot be read is none.
    """
    algorithm = content.digest.algorithm
    pieces: Iterable[tuple[int, int, bytes]] = content.chunks or ((0, content.size, content.digest.raw),)
    try:
        return os.fstat(fd).st_size == content.size and all(
            _stored_digest(fd, offset, size, algorithm, compressed=content.compressed) == raw
            for offset, size, raw in pieces
        )
    except OSError:
        return False


def _stored_digest(fd: int, offset: int, size: int, algorithm: int, *, compressed: bool) -> bytes:
    """Digest of a piece of a file as publishers store it; of less, if the file ends before."""
    hasher = new_hasher(algorithm)
    deflater = zlib.compressobj(_LEVEL) if compressed else None
    end = offset + size
    while offset < end:
        data = os.pread(fd, min(_STEP, end - offset), offset)
        if not data:
            break
        offset += len(data)
        hasher.update(data if deflater is None else deflater.compress(data))
    if deflater is not None:
        hasher.update(deflater.flush())
    return hasher.digest()
