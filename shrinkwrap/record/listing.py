"""Listings: one line of JSON a path, and the digest over all of them that names what an export holds.

A listing shows the *repository's* metadata, before anything is claimed, stripped or clamped: owners and set-id bits as
in the catalog. So it does not depend on who runs the export, and where. Only link targets come out as in the tree, with
their variables expanded; the statement says which values they had.

What is not in it: the SHA-256 of a file's content, which no catalog knows, and (of exports) link counts, which mean
nothing for a part of a repository. The content of a file is named by its content hash; that of a file in chunks by the
digest over its list of chunks, since its bulk hash is often missing and vouches for nothing (FORMAT.md §2.3).
"""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from binascii import hexlify
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from shrinkwrap.cvmfs.digest import TAGS, Digest
from shrinkwrap.cvmfs.entry import FLAG_EXTERNAL, UNCOMPRESSED, ZLIB, Entry, kind_of
from shrinkwrap.cvmfs.variants import expand
from shrinkwrap.cvmfs.xattr import parse_xattrs
from shrinkwrap.snapshot.view import content_of

_NS: Final = 10**9
_UNSIGNED: Final = (1 << 64) - 1
#: Marks an attribute whose value stands in base64. Attributes whose own names end like this are escaped.
_BASE64: Final = "#b64"


def entry_row(entry: Entry, target: bytes, *, as_mounted: bool = False) -> dict[str, Any]:
    """An entry as one object of a listing, its keys in the order of the listing.

    ``path`` (the root is ``/``), ``type``, ``mode`` (octal, four digits or more), ``uid``, ``gid`` (0 where the
    catalog has none, FORMAT.md §6.3), ``mtime`` in seconds and ``mtime_ns`` below a second, ``size`` in bytes (of a
    link: of its target), ``nlink`` as mounted, ``rdev`` of devices, ``target`` and, where variables made another
    one, ``rawlink``; of files ``hash``, ``chunks`` (if more than one), ``chunks_hash``, ``compression``,
    ``external``; ``xattrs``.

    Text that is not UTF-8 has backslash escapes, and its true bytes under ``path_b64``, ``target_b64``,
    ``rawlink_b64``. A value of an attribute that is not is under ``NAME#b64``; attributes whose *names* would not be
    clear are pairs under ``xattrs_b64``.

    Args:
        target: of a link, expanded.
        as_mounted: what a mount shows too (``nlink``), and no more than that (no ``chunks_hash``).

    Raises:
        CatalogError: the flags of a file name no known hash algorithm or compression.
    """
    kind = kind_of(entry.mode)
    seconds, nanoseconds = divmod(entry.mtime_ns, _NS)
    out: dict[str, Any] = text("path", entry.path or b"/")
    out["type"] = kind
    out["mode"] = f"{stat.S_IMODE(entry.mode):04o}"
    out["uid"] = max(entry.uid, 0)
    out["gid"] = max(entry.gid, 0)
    out["mtime"] = seconds
    out["mtime_ns"] = nanoseconds
    out["size"] = len(target) if kind == "symlink" else entry.size if kind in ("file", "dir") else 0
    if as_mounted:
        out["nlink"] = entry.link_count
    if kind in ("chardev", "blockdev"):
        out["rdev"] = list(_device(entry.size & _UNSIGNED))
    if kind == "symlink":
        out.update(text("target", target))
        if target != entry.target:
            out.update(text("rawlink", entry.target))
    if kind == "file":
        out.update(_content(entry, as_mounted))
    if entry.xattr is not None:
        out.update(_attributes(entry.xattr))
    return out


def repository_row(entry: Entry, variables: Mapping[bytes, bytes]) -> dict[str, Any]:
    """The same as a mount of the repository shows it, as far as catalogs know. Raises CatalogError."""
    return entry_row(entry, expand(entry.target, variables) if entry.is_link else b"", as_mounted=True)


def _device(number: int) -> tuple[int, int]:
    """Major and minor number in glibc's encoding (FORMAT.md §6.5): what os.major and os.minor do where they can."""
    return (number >> 8) & 0xFFF | (number >> 32) & 0xFFFFF000, number & 0xFF | (number >> 12) & 0xFFFFFF00


def _content(entry: Entry, as_mounted: bool) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if entry.hash is not None:
        out["hash"] = str(Digest(entry.algorithm, entry.hash))
    if len(entry.chunks) > 1:
        out["chunks"] = len(entry.chunks)
    if entry.chunks and not as_mounted:
        out["chunks_hash"] = str(content_of(entry).digest)
    out["compression"] = "none" if entry.compression == UNCOMPRESSED else "zlib"
    if entry.is_external:
        out["external"] = 1
    return out


def text(key: str, raw: bytes) -> dict[str, str]:
    """Bytes as text where they are UTF-8, else escaped, with the true bytes in base64 under ``KEY_b64``."""
    try:
        return {key: raw.decode()}
    except UnicodeDecodeError:
        return {key: raw.decode("utf-8", "backslashreplace"), f"{key}_b64": base64.b64encode(raw).decode()}


def _attributes(blob: bytes) -> dict[str, Any]:
    clear: dict[str, str] = {}
    odd: list[list[str]] = []
    for raw, value in parse_xattrs(blob):
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            name = _BASE64
        if name.endswith(_BASE64):
            # Two attributes must never come out as one.
            odd.append([base64.b64encode(raw).decode(), base64.b64encode(value).decode()])
            continue
        try:
            clear[name] = value.decode()
        except UnicodeDecodeError:
            clear[name + _BASE64] = base64.b64encode(value).decode()
    out: dict[str, Any] = {"xattrs": clear} if clear else {}
    if odd:
        out["xattrs_b64"] = odd
    return out


def line(row: Mapping[str, Any]) -> bytes:
    """The one way to write a row: JSON in the order of its keys, no blanks, UTF-8 unescaped, a line feed.

    JSON escapes the control characters below U+0020 only. For a terminal write the row with escapes instead.
    """
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


#: Bytes that stand for themselves in a line: JSON escapes control characters, quotes and backslashes, and what is not
#: ASCII has to be decoded first.
_PLAIN: Final = bytes(byte for byte in range(0x20, 0x80) if byte not in b'"\\')
_HEAD: Final = b'{"path":"%b","type":"%b","mode":"%%04o","uid":%%d,"gid":%%d,"mtime":%%d,"mtime_ns":%%d,"size":%%d'
_DIR_LINE: Final = _HEAD % (b"%b", b"dir") + b"}\n"
_LINK_LINE: Final = _HEAD % (b"%b", b"symlink") + b',"target":"%b"}\n'
_FILE_LINE: Final = _HEAD % (b"%b", b"file") + b',"hash":"%b%b\n'
#: The bits of a file's flags that its line shows: algorithm, compression, external (FORMAT.md §6.4).
_SHOWN_FLAGS: Final = 0x3F00 | FLAG_EXTERNAL
#: What comes after a hash, by those bits. Those that are not here name nothing known.
_ENDS: Final = {
    algorithm << 8 | compression << 11 | external: b'%b","compression":"%b"%b}'
    % (tag.encode(), b"none" if compression == UNCOMPRESSED else b"zlib", b',"external":1' if external else b"")
    for algorithm, tag in enumerate(TAGS)
    for compression in (ZLIB, UNCOMPRESSED)
    for external in (0, FLAG_EXTERNAL)
}


def entry_line(entry: Entry, target: bytes = b"") -> bytes:
    """The same as ``line(entry_row(entry, target))``, several times faster for what most entries are.

    Raises:
        CatalogError: see :func:`entry_row`.
    """
    path, _, mode, size, mtime_ns, uid, gid, flags, digest, raw, _, xattr, chunks = entry
    if xattr is None and not path.translate(None, _PLAIN):
        kind = mode & 0o170000
        uid = uid if uid > 0 else 0
        gid = gid if gid > 0 else 0
        seconds, nanoseconds = divmod(mtime_ns, _NS)
        mode &= 0o7777
        if kind == stat.S_IFREG:
            end = _ENDS.get(flags & _SHOWN_FLAGS)
            if digest is not None and end is not None and not chunks:
                common = (path or b"/", mode, uid, gid, seconds, nanoseconds, size)
                return _FILE_LINE % (*common, hexlify(digest), end)
        elif kind == stat.S_IFDIR:
            return _DIR_LINE % (path or b"/", mode, uid, gid, seconds, nanoseconds, size)
        elif kind == stat.S_IFLNK and target == raw and not target.translate(None, _PLAIN):
            return _LINK_LINE % (path or b"/", mode, uid, gid, seconds, nanoseconds, len(target), target)
    return line(entry_row(entry, target))


class ListingDigest:
    """SHA-256 over the lines of a listing in the order of the stream, one at a time.

    The order is that of names component by component, a parent before what it holds; not that of whole paths.
    ``sha256sum`` of the written listing gives the same digest.

    Args:
        out: where the lines are written too, if anywhere.

    Attributes:
        entries: lines so far.
    """

    __slots__ = ("_hash", "_out", "entries")

    def __init__(self, out: BinaryIO | None = None) -> None:
        self._hash = hashlib.sha256()
        self._out = out
        self.entries = 0

    def add(self, entry: Entry, target: bytes = b"") -> None:
        """The next entry that the export shows, with its expanded target if it is a link.

        Raises:
            CatalogError: see :func:`entry_row`. OSError: the listing cannot be written.
        """
        self.add_line(entry_line(entry, target))

    def add_line(self, data: bytes) -> None:
        """The next entry as the line that :func:`entry_line` makes of it. Raises OSError as :meth:`add` does."""
        self._hash.update(data)
        self.entries += 1
        if self._out is not None:
            self._out.write(data)

    def add_lines(self, data: bytes) -> None:
        """Several whole lines. Raises OSError as :meth:`add` does."""
        self._hash.update(data)
        self.entries += data.count(b"\n")
        if self._out is not None:
            self._out.write(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
