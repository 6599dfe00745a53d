"""Small streams of entries with every special case, and their contents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from shrinkwrap.image.entries import DIR, FILE, LINK, ImageEntry
from shrinkwrap.snapshot.walk import order_key

SECOND = 10**9
TIME = 1_700_000_000 * SECOND


class Held:
    """Contents by key; pieces of so many bytes.

    Attributes:
        asked: paths whose content was asked for.
    """

    def __init__(self, pieces: int = 1 << 20) -> None:
        self.by_key: dict[bytes, bytes] = {}
        self.asked: list[bytes] = []
        self._pieces = pieces

    def pieces(self, entry: ImageEntry) -> Iterator[bytes]:
        self.asked.append(entry.path)
        content = self.by_key[entry.key]
        for start in range(0, len(content), self._pieces):
            yield content[start : start + self._pieces]

    def cut(self, pieces: int) -> Held:
        """The same contents in other pieces."""
        other = Held(pieces)
        other.by_key = self.by_key
        return other


class Maker:
    """Collects entries; :meth:`stream` gives them in the order of snapshots."""

    def __init__(self) -> None:
        self.held = Held()
        self._entries: dict[bytes, ImageEntry] = {b"": self._entry(b"", DIR)}

    def _entry(self, path: bytes, kind: str, **fields: object) -> ImageEntry:
        base = ImageEntry(path, kind, 0o755 if kind == DIR else 0o644, 0, 0, TIME, (), b"", 0, b"", 0)
        return base._replace(**fields)  # type: ignore[arg-type]

    def _put(self, entry: ImageEntry) -> None:
        parent = entry.path.rpartition(b"/")[0]
        if parent not in self._entries:
            self.folder(parent)
        self._entries[entry.path] = entry

    def folder(self, path: bytes, **fields: object) -> None:
        self._put(self._entry(path, DIR, **fields))

    def file(self, path: bytes, content: bytes, **fields: object) -> None:
        key = hashlib.blake2b(content, digest_size=16).digest()
        self.held.by_key[key] = content
        self._put(self._entry(path, FILE, size=len(content), key=key, **fields))

    def link(self, path: bytes, target: bytes, **fields: object) -> None:
        fields = {"mode": 0o777, "target": target, "size": len(target)} | fields
        self._put(self._entry(path, LINK, **fields))

    def stream(self) -> list[ImageEntry]:
        return sorted(self._entries.values(), key=lambda entry: order_key(entry.path))


def special(*, equals: bool = False) -> Maker:
    """Every special case that a file system on this machine can hold, too.

    ``equals`` adds an extended attribute with an equals sign in its name.
    """
    make = Maker()
    top = b"/sft.cern.ch"
    make.file(top + b"/plain", b"plain\n")
    make.file(top + b"/empty", b"")
    make.file(top + b"/odd size", random.Random(1).randbytes(700_001))
    make.file(top + b"/block", b"x" * 512)
    make.file(top + b"/set-uid", b"s", mode=0o4755)
    make.file(top + b"/closed", b"c", mode=0o000)
    make.file(top + b"/owned", b"o", uid=1000, gid=2**21 + 1)
    make.file(top + b"/owned by a high number", b"o", uid=2**32 - 2, gid=2**31)
    make.file(top + b"/sub-second", b"t", mtime_ns=TIME + 123_456_789)
    make.file(top + b"/old", b"t", mtime_ns=-5 * SECOND)
    make.file(top + b"/old, sub-second", b"t", mtime_ns=-SECOND // 2)
    make.file(top + b"/late", b"t", mtime_ns=8_589_934_592 * SECOND)
    make.file(top + b"/attributes", b"a", xattrs=((b"user.a", b"\xff\0=\n"), (b"user.a%3Db", b""), (b"user.b", b"v")))
    if equals:
        make.file(top + b"/equals", b"a", xattrs=((b"user.=%3D=", b"v"),))
    make.folder(top + b"/folder", mode=0o1777, mtime_ns=TIME + 1, xattrs=((b"user.of", b"folder"),))
    for number in range(3):
        make.file(top + b"/folder/link%d" % number, b"linked", link=1)
        make.link(top + b"/folder/symlink%d" % number, b"linked", link=2)
    make.file(top + b"/folder/sub/between", b"b", link=1)
    make.file(top + b"/folder/zz", b"linked", link=1)
    make.file(top + b"/folder/zz-other", b"other", link=1)
    make.link(top + b"/relative", b"../../x")
    make.link(top + b"/absolute", b"/etc/passwd", uid=7)
    make.link(top + b"/long target", b"t" * 3000)
    make.link(top + b"/raw target", b"\xff\xfe")
    make.file(top + "/unicode-ü".encode(), b"u")
    make.file(top + b"/raw-\xff\xfe", b"r")
    make.file(top + b'/odd-\n-\x1b[31m-\\-"', b"n")
    make.file(top + b"/ leading and trailing ", b"n")
    make.folder(top + b"/" + b"n" * 255)
    deep = top
    for _ in range(12):
        deep += b"/" + b"d" * 30
    make.file(deep + b"/deep", b"d")
    for length in range(96, 106):
        make.file(b"/" + b"l" * (length - 10) + b"/123456789", b"l")
        make.folder(b"/" + b"m" * (length - 10) + b"/12345678")
        make.link(top + b"/target%d" % length, b"t" * length)
    for length in (154, 155, 156):
        make.file(b"/" + b"p" * length + b"/" + b"q" * 100, b"l")
        make.file(b"/" + b"p" * length + b"/" + b"q" * 101, b"l")
    # Sorted by whole paths "a-b" would come between "a" and what lies in it.
    make.file(top + b"/a/x", b"x")
    make.file(top + b"/a-b", b"y")
    return make
