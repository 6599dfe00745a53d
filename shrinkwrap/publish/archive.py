"""Tar archives as a source: ustar, GNU and pax headers, read strictly, once and forwards.

An archive is hostile until proven otherwise: every header is held against its checksum, every number and length against
a limit, and a path is a list of names, never joined to anything on disk. Leading slashes and ``.`` are dropped, ``..``
is refused. Sparse and multi-volume members are refused, not misread.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import CorruptObject, UsageError
from shrinkwrap.publish.source import Content, FileRange, SourceEntry
from shrinkwrap.publish.streams import ByteStream

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_STEP: Final = 256 * limits.KIB
_AHEAD: Final = 16 * limits.KIB
#: Bytes of one pax header or long name: xattrs of one file come to 130 KB at most.
_EXTENDED: Final = 1 * limits.MIB
_LARGEST: Final = 1 << 62
#: What the kernel allows for device numbers.
_MAJOR: Final = 1 << 12
_MINOR: Final = 1 << 20

_KINDS: Final = {
    b"0": stat.S_IFREG,
    b"\0": stat.S_IFREG,
    b"7": stat.S_IFREG,
    b"1": 0,
    b"2": stat.S_IFLNK,
    b"3": stat.S_IFCHR,
    b"4": stat.S_IFBLK,
    b"5": stat.S_IFDIR,
    b"6": stat.S_IFIFO,
}
_REFUSED: Final = {
    b"S": "a sparse file: pack it without --sparse",
    b"M": "a part of a file that goes on from another volume",
    b"D": "a member of an incremental archive",
    b"N": "a long name of an old kind",
}
_SCHILY: Final = b"SCHILY.xattr."
_LIBARCHIVE: Final = b"LIBARCHIVE.xattr."
_SPARSE: Final = b"GNU.sparse."


class _Input(Protocol):
    """Where an archive's bytes come from."""

    def read(self, count: int) -> bytes:
        """Exactly so many, fewer at the end only."""
        ...

    def content(self, size: int) -> Content:
        """The next bytes as the content of a file."""
        ...

    def finish(self, size: int) -> None:
        """Move past content and padding."""
        ...


class FileInput:
    """An uncompressed archive on disk: workers read contents themselves."""

    def __init__(self, fd: int, name: bytes) -> None:
        info = os.fstat(fd)
        self._fd = fd
        self._name = name
        self._size = info.st_size
        self._identity = (info.st_dev, info.st_ino, info.st_size)
        self._mtime_ns = info.st_mtime_ns
        self._position = 0
        self._buffer = b""
        self._start = 0

    def read(self, count: int) -> bytes:
        at = self._position - self._start
        data = self._buffer[at : at + count]
        if len(data) < count:
            data = self._fill(count)[:count]
        self._position += len(data)
        return data

    def _fill(self, count: int) -> bytes:
        """Read ahead as far as the next headers of small files."""
        try:
            self._buffer = os.pread(self._fd, max(count, _AHEAD), self._position)
        except OSError as exc:
            raise UsageError(f"{show(self._name)}: the source cannot be read: {exc.strerror}") from None
        self._start = self._position
        return self._buffer

    def content(self, size: int) -> Content:
        if self._position + size > self._size:
            raise CorruptObject(f"{show(self._name)}: the archive is cut short")
        return FileRange(self._name, self._position, self._identity, self._mtime_ns)

    def finish(self, size: int) -> None:
        self._position += _padded(size)


class PipeInput:
    """An archive that comes through a pipe or a decompressor."""

    def __init__(self, stream: ByteStream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._buffer = b""
        self._at = 0
        self._left = 0

    def read(self, count: int) -> bytes:
        at = self._at
        if len(self._buffer) - at >= count:
            self._at = at + count
            return self._buffer[at : at + count]
        parts = [self._buffer[at:]]
        missing = count - len(parts[0])
        self._buffer, self._at = b"", 0
        while missing > 0 and (data := self._stream.read(max(missing, _STEP))):
            parts.append(data[:missing])
            if len(data) > missing:
                self._buffer, self._at = data, missing
            missing -= len(parts[-1])
        return b"".join(parts)

    def content(self, size: int) -> Content:
        self._left = size
        return _Body(self)

    def take(self, count: int) -> bytes:
        """Content of the member at hand."""
        if count > self._left:
            raise UsageError(f"{self._name}: {count} bytes of a member were asked for, {self._left} are left")
        data = self.read(count)
        if len(data) != count:
            raise CorruptObject(f"{self._name}: the archive is cut short")
        self._left -= count
        return data

    def finish(self, size: int) -> None:
        left = self._left + _padded(size) - size
        self._left = 0
        while left > 0:
            data = self.read(min(left, _STEP))
            if not data:
                raise CorruptObject(f"{self._name}: the archive is cut short")
            left -= len(data)


class _Body:
    """Content of a member in a pipe; of use until the next one."""

    def __init__(self, source: PipeInput) -> None:
        self._source = source

    def read(self, count: int) -> bytes:
        return self._source.take(count)


def read_tar(source: _Input, name: str) -> Iterator[SourceEntry]:
    """The members of an archive.

    Args:
        name: of the archive, for messages.

    Raises:
        CorruptObject: damaged, cut short, or not a tar archive. UsageError: a member that cannot be published.
    """
    return _Reader(source, name).members()


class _Reader:
    def __init__(self, source: _Input, name: str) -> None:
        self._source = source
        self._name = name
        self._global: dict[bytes, bytes] = {}
        self._count = 0

    def members(self) -> Iterator[SourceEntry]:
        source = self._source
        extended: dict[bytes, bytes] = {}
        while True:
            header = source.read(_BLOCK)
            if header == _ZEROS:
                self._check_end()
                return
            if len(header) < _BLOCK:
                if not self._count:
                    raise CorruptObject(f"{self._name}: not a tar archive")
                raise CorruptObject(f"{self._name}: the archive has no end: it is cut short")
            self._check_sum(header)
            self._count += 1
            kind = header[156:157]
            if kind in (b"x", b"X", b"g", b"L", b"K"):
                data = self._extended(header)
                if kind == b"g":
                    self._global.update(self._records(data))
                elif kind == b"L":
                    extended[b"path"] = data.rstrip(b"\0")
                elif kind == b"K":
                    extended[b"linkpath"] = data.rstrip(b"\0")
                else:
                    extended.update(self._records(data))
                continue
            if kind == b"V":  # the label of a volume
                extended = {}
                continue
            if self._global:
                extended = {**self._global, **extended}
            yield from self._member(header, kind, extended)
            if extended:
                extended = {}

    # -- headers -----------------------------------------------------------------------------------------------------

    def _check_sum(self, header: bytes) -> None:
        field = header[148:156]
        total = sum(header) - sum(field) + 8 * 0x20
        stored = field.strip(b" \0")
        try:
            wanted = int(stored, 8) if stored.isdigit() else -1
        except ValueError:
            wanted = -1
        if wanted == total:
            return
        # Some old programs summed signed characters.
        if wanted != total - 256 * sum(byte > 127 for byte in header[:148] + header[156:]):
            if not self._count:
                raise CorruptObject(
                    f"{self._name}: not a tar archive", hint="it may be compressed in a way that is not known here"
                )
            raise CorruptObject(f"{self._name}: the archive is damaged after {self._count} headers")

    def _extended(self, header: bytes) -> bytes:
        size = self._number(header[124:136], "size")
        if size > _EXTENDED:
            raise CorruptObject(f"{self._name}: an extended header of {size} bytes, {_EXTENDED} are allowed")
        data = self._source.read(_padded(size))
        if len(data) != _padded(size):
            raise CorruptObject(f"{self._name}: the archive is cut short")
        return data[:size]

    def _records(self, data: bytes) -> dict[bytes, bytes]:
        """``<length> <key>=<value>\\n``, as often as there is room."""
        found: dict[bytes, bytes] = {}
        position = 0
        while position < len(data):
            space = data.find(b" ", position, position + 10)
            digits = data[position:space]
            if space < 0 or not digits.isdigit():
                raise CorruptObject(f"{self._name}: a damaged pax header")
            end = position + int(digits)
            key, equals, value = data[space + 1 : end - 1].partition(b"=")
            if end > len(data) or end <= space or not equals or data[end - 1 : end] != b"\n":
                raise CorruptObject(f"{self._name}: a damaged pax header")
            found[key] = value
            position = end
        return found

    def _number(self, field: bytes, what: str) -> int:
        """Octal digits, or big-endian in base 256 with the first bit set."""
        digits = field.strip(b" \0")
        if digits.isdigit() and b"8" not in digits and b"9" not in digits:
            return int(digits, 8)
        if field[0] & 0x80:
            number = (
                int.from_bytes(field, "big", signed=True)
                if field[0] & 0x40
                else int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
            )
        else:
            text = field.split(b"\0", 1)[0].strip(b" ")
            if not text:
                return 0
            try:
                number = int(text, 8) if text.isdigit() else -_LARGEST
            except ValueError:
                number = -_LARGEST
        if not -_LARGEST < number < _LARGEST or (number < 0 and what != "time"):
            raise CorruptObject(f"{self._name}: a member's {what} is {field!r}")
        return number

    def _pax_number(self, value: bytes, what: str) -> int:
        if not value.isdigit() or len(value) > 19 or int(value) >= _LARGEST:
            raise CorruptObject(f"{self._name}: a member's {what} is {value[:40]!r}")
        return int(value)

    def _pax_time(self, value: bytes) -> int:
        """Nanoseconds; digits beyond are cut off towards the past."""
        try:
            number = Decimal(value[:64].decode("ascii"))
            if not -_LARGEST // 10**9 < number < _LARGEST // 10**9:
                raise ValueError
            return int((number * 10**9).to_integral_value(rounding="ROUND_FLOOR"))
        except (InvalidOperation, ValueError, UnicodeDecodeError):
            raise CorruptObject(f"{self._name}: a member's time is {value[:40]!r}") from None

    # -- members -----------------------------------------------------------------------------------------------------

    def _member(self, header: bytes, kind: bytes, extended: dict[bytes, bytes]) -> Iterator[SourceEntry]:
        raw = self._raw_name(header) if extended.get(b"path") is None else extended[b"path"]
        if kind in _REFUSED or kind not in _KINDS or any(key.startswith(_SPARSE) for key in extended):
            reason = _REFUSED.get(kind, _REFUSED[b"S"] if kind in _KINDS else f"a member of the unknown type {kind!r}")
            raise UsageError(f"{self._name}: {show(raw)[:300]}: {reason}")
        size = self._number(header[124:136], "size")
        mtime_ns = self._number(header[136:148], "time") * 10**9
        uid, gid = self._number(header[108:116], "owner"), self._number(header[116:124], "group")
        mode = self._number(header[100:108], "mode") & 0o7777
        target = extended.get(b"linkpath", b"")
        xattrs: tuple[tuple[bytes, bytes], ...] = ()
        if extended:
            if (value := extended.get(b"size")) is not None:
                size = self._pax_number(value, "size")
            if (value := extended.get(b"mtime")) is not None:
                mtime_ns = self._pax_time(value)
            if (value := extended.get(b"uid")) is not None:
                uid = self._pax_number(value, "owner")
            if (value := extended.get(b"gid")) is not None:
                gid = self._pax_number(value, "group")
            xattrs = self._xattrs(extended)
        file_type = _KINDS[kind]
        if not target and kind in (b"1", b"2"):
            target = header[157:257].split(b"\0", 1)[0]
        # Before ustar, a name that ends in a slash was the only mark of a directory.
        if kind in (b"0", b"\0") and raw.endswith(b"/"):
            file_type = stat.S_IFDIR
        path = self._path(raw)
        if not path and file_type != stat.S_IFDIR:
            raise UsageError(f"{self._name}: a member without a name")
        if file_type == stat.S_IFREG:
            content = self._source.content(size)
            yield SourceEntry(path, file_type | mode, uid, gid, mtime_ns, size, 0, b"", xattrs, None, None, content)
            self._source.finish(size)
        elif kind == b"1":
            link = self._path(target)
            if not link:
                raise UsageError(f"{self._name}: {show(path)}: a hard link to nothing")
            yield SourceEntry(path, stat.S_IFREG | mode, link=link)
        else:
            rdev = self._device(header, path) if kind in (b"3", b"4") else 0
            yield SourceEntry(path, file_type | mode, uid, gid, mtime_ns, 0, rdev, target, xattrs)

    @staticmethod
    def _raw_name(header: bytes) -> bytes:
        name = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and header[345] != 0:
            # The programs "star" and "xstar" have times after a shorter prefix.
            length = 131 if header[508:512] == b"tar\0" else 155
            name = header[345 : 345 + length].split(b"\0", 1)[0] + b"/" + name
        return name

    def _path(self, raw: bytes) -> bytes:
        """Names joined by slashes, none at the ends."""
        path = raw.rstrip(b"/")
        if path[:1] in (b"/", b".") or b"//" in path or b"/." in path:
            parts = [part for part in path.split(b"/") if part not in (b"", b".")]
            if b".." in parts:
                raise UsageError(
                    f"{self._name}: {show(raw)[:300]}: a path with '..' in it",
                    hint="such an archive could reach anywhere; pack it from the top of the tree",
                )
            path = b"/".join(parts)
        if b"\0" in path:
            raise UsageError(f"{self._name}: {show(raw)[:300]}: a path with a NUL in it")
        return path

    def _device(self, header: bytes, path: bytes) -> int:
        major, minor = self._number(header[329:337], "device"), self._number(header[337:345], "device")
        if major >= _MAJOR or minor >= _MINOR:
            raise UsageError(f"{self._name}: {show(path)}: there is no device {major}:{minor}")
        return os.makedev(major, minor)

    def _xattrs(self, extended: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        found: dict[bytes, bytes] = {}
        for key, value in extended.items():
            if key.startswith(_LIBARCHIVE):
                name = unquote_to_bytes(key.removeprefix(_LIBARCHIVE))
                try:
                    found.setdefault(name, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True))
                except binascii.Error:
                    raise CorruptObject(f"{self._name}: an extended attribute that is not base64") from None
        for key, value in extended.items():
            if key.startswith(_SCHILY):
                # As GNU tar escapes what a keyword cannot hold.
                name = key.removeprefix(_SCHILY).replace(b"%3D", b"=").replace(b"%25", b"%")
                found[name] = value
        return tuple(found.items())

    def _check_end(self) -> None:
        """After the first block of zeros there is nothing but zeros. Reading to the end suits whoever writes a pipe."""
        while data := self._source.read(_STEP):
            if data.strip(b"\0"):
                raise CorruptObject(
                    f"{self._name}: bytes follow the end of the archive",
                    hint="archives that were put one after the other: publish them one by one",
                )


def _padded(size: int) -> int:
    return size + -size % _BLOCK
