"""What differs between two images, path by path; the catalogs that they were made from are not needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple

from shrinkwrap.image.entries import DIR, FILE, LINK, ImageEntry
from shrinkwrap.image.provenance import FOLDER
from shrinkwrap.image.squashfs.layout import BLOCK_BYTES
from shrinkwrap.image.squashfs.reader import Image, Inode
from shrinkwrap.snapshot.diff import ADDED, CHANGED, REMOVED, Change, Shown
from shrinkwrap.snapshot.merge import merge

#: What can be told of a path that both have; words of :data:`shrinkwrap.snapshot.diff.ASPECTS`.
ASPECTS: Final = ("type", "content", "size", "target", "mode", "owner", "mtime", "xattr")
_TYPES: Final = {DIR: "dir", FILE: "file", LINK: "symlink"}
_PIECE: Final = 1 << 20
#: Pairs of contents that are remembered: many paths share one.
_REMEMBERED: Final = 65_536


class _Item(NamedTuple):
    path: bytes
    entry: ImageEntry
    inode: Inode


def changes(old: Image, new: Image, ignore: Collection[str] = ()) -> Iterator[Change]:
    """All paths that are not the same in both, in the order of snapshots. Contents are read where they may differ.

    Left out are what the images say of themselves (``/.provenance``), and which files are hard links of each other.

    Args:
        ignore: what does not count, of :data:`ASPECTS`.

    Raises:
        CorruptObject: one of them is damaged.
    """
    same = lru_cache(_REMEMBERED)(lambda one, two: _same_content(old, one, new, two))
    for before, after in merge(_items(old), _items(new)):
        if before is None:
            assert after is not None
            yield Change(after.path, ADDED, (), None, _shown(after.entry))
        elif after is None:
            yield Change(before.path, REMOVED, (), _shown(before.entry), None)
        else:
            one, two = _shown(before.entry), _shown(after.entry)
            found = [what for what in _differing(one, two) if what not in ignore]
            if one.type == two.type == "file" and one.size == two.size and not same(before.inode, after.inode):
                found.insert(0, "content")
            if found:
                yield Change(before.path, CHANGED, tuple(found), one, two)


def _items(image: Image) -> Iterator[_Item]:
    for entry, inode in image.walk():
        if entry.path != FOLDER and not entry.path.startswith(FOLDER + b"/"):
            yield _Item(entry.path, entry, inode)


def _shown(entry: ImageEntry) -> Shown:
    path, kind, mode, uid, gid, mtime_ns, xattrs, target, size, _, _ = entry
    xattrs = tuple(sorted(xattrs))
    return Shown(path, _TYPES[kind], mode, uid, gid, mtime_ns, size, xattrs, target, None, (1, b""), 0)


def _differing(one: Shown, two: Shown) -> Iterator[str]:
    if one.type != two.type:
        yield "type"
        return
    if one.type == "file" and one.size != two.size:
        yield from ("content", "size")
    for what, before, after in (
        ("target", one.target, two.target),
        ("mode", one.mode, two.mode),
        ("owner", (one.uid, one.gid), (two.uid, two.gid)),
        ("mtime", one.mtime_ns, two.mtime_ns),
        ("xattr", one.xattrs, two.xattrs),
    ):
        if before != after:
            yield what


def _same_content(old: Image, one: Inode, new: Image, two: Inode) -> bool:
    """Whether two files of one size hold the same bytes: mostly their blocks are the same already."""
    if one.words == two.words and _kind(old) == _kind(new):
        length = sum(word & BLOCK_BYTES for _, word, _ in old.blocks(one))
        for at in range(0, length, _PIECE):
            size = min(_PIECE, length - at)
            if old.data.read(one.start + at, size) != new.data.read(two.start + at, size):
                break
        else:
            return True
    return _digest(old, one) == _digest(new, two)


def _kind(image: Image) -> tuple[int, int]:
    return image.superblock.block_size, image.superblock.compressor


def _digest(image: Image, inode: Inode) -> bytes:
    digest = blake2b(digest_size=20)
    for piece in image.pieces(inode):
        digest.update(piece)
    return digest.digest()
