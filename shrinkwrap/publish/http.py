"""What a client may ask for and gets: requests read from bytes, and the files that they name (RFC 9110, RFC 9112).

Nothing here knows of sockets; :mod:`shrinkwrap.publish.serve` does.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes

_OBJECT: Final = rb"data/[0-9a-f]{2}/[0-9a-f]{38}(?:-rmd160|-shake128)?[CHXMP]?"
_SHORTCUT: Final = rb"\.cvmfsalt-[0-9a-f]{40}(?:-rmd160|-shake128)?[CHXM]?"
#: What may be asked for (FORMAT.md §1.1, §1.3). No name of it leads out of the folder.
_FILES: Final = re.compile(
    rb"(?:\.cvmfspublished|\.cvmfswhitelist(?:\.pkcs7)?|\.cvmfsreflog|\.cvmfs_master_replica|\.cvmfs_last_snapshot"
    rb"|\.cvmfs_status\.json|" + _SHORTCUT + rb"|" + _OBJECT + rb")"
)
_LINK: Final = re.compile(_OBJECT)
_TARGET: Final = re.compile(rb"/(?:cvmfs/)?([^/]+)/(.+)", re.DOTALL)
_REQUEST_LINE: Final = re.compile(rb"([!-~]{1,32}) ([!-\xff]+) HTTP/([0-9])\.([0-9])")
_FIELD_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE: Final = re.compile(rb"[\0\r\n]")
_ABSOLUTE: Final = re.compile(rb"http://[^/?#]*", re.IGNORECASE)
_RANGE: Final = re.compile(rb"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*")

#: Why a file of that name cannot be opened: it is not there, or is a link, a socket, something else.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EMLINK})
# Not blocking: somebody may have put a pipe there.
_FILE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        method, target: as they came.
        fields: the header's, by name in lower case; of a repeated one the last.
        keep: the client wants to keep the connection.
    """

    method: bytes
    target: bytes
    fields: Mapping[bytes, bytes]
    keep: bool


class RefusedError(Exception):
    """An answer without a file; ``last``: the connection cannot be used any more."""

    def __init__(self, status: int, *fields: bytes, last: bool = False) -> None:
        super().__init__(status)
        self.status = status
        self.fields = fields
        self.last = last


def parse(head: bytes) -> Request:
    """A request from its lines, without the empty one at the end. Raises RefusedError."""
    first, *lines = head.split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(first)
    if match is None:
        raise RefusedError(400, last=True)
    method, target, major, minor = match.groups()
    if major != b"1":
        raise RefusedError(505, last=True)
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _FIELD_NAME.fullmatch(name) is None or _NO_VALUE.search(value):
            raise RefusedError(400, last=True)
        fields[name.lower()] = value.strip(b" \t")
    if b"transfer-encoding" in fields or fields.get(b"content-length", b"0") != b"0":
        # What follows would be taken for the next request.
        raise RefusedError(413, last=True)
    if minor != b"0" and b"host" not in fields:
        raise RefusedError(400, last=True)
    options = {word.strip() for word in fields.get(b"connection", b"").lower().split(b",")}
    keep = b"close" not in options if minor != b"0" else b"keep-alive" in options
    return Request(method, target, fields, keep)


def route(target: bytes, storages: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
    """Storage and name of the file that a request asks for. Raises RefusedError: nobody may ask for that."""
    path = _ABSOLUTE.sub(b"", target, count=1) if target[:1] != b"/" else target
    match = _TARGET.fullmatch(unquote_to_bytes(path.partition(b"?")[0]))
    storage = storages.get(match[1]) if match is not None else None
    if match is None or storage is None or _FILES.fullmatch(match[2]) is None:
        raise RefusedError(404)
    return storage, match[2]


def open_file(storage: bytes, name: bytes) -> int:
    """A descriptor of a file of a storage. Raises RefusedError: there is none, or it cannot be had."""
    try:
        return _open(storage, name)
    except PermissionError:
        raise RefusedError(403) from None
    except OSError as exc:
        # What passes (too many open files) says nothing of whether the file is there.
        raise RefusedError(404 if exc.errno in _NO_FILE else 503) from None


def _open(storage: bytes, name: bytes) -> int:
    """No link is followed, but for the shortcuts to objects (FORMAT.md §1.3). Raises OSError."""
    *folders, last = name.split(b"/")
    at = os.open(storage, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        for folder in folders:
            below = os.open(folder, _FOLDER, dir_fd=at)
            os.close(at)
            at = below
        if name.startswith(b".cvmfsalt-"):
            with suppress(OSError):  # no link: a file then
                target = os.readlink(name, dir_fd=at)
                if _LINK.fullmatch(target) is not None:
                    return _open(storage, target)
        return os.open(last, _FILE, dir_fd=at)
    finally:
        os.close(at)


def lifetime(name: bytes) -> bytes:
    """What caches are told of a file (FORMAT.md §1.1)."""
    return b"max-age=61" if name.startswith(b".cvmfs") else b"max-age=259200"


def span_of(request: Request, size: int, tag: bytes, changed: bytes) -> tuple[int, int] | None:
    """First byte and number of bytes that are asked for; None: all of the file.

    A range that cannot be read as one, and several in one request, are left out of account (RFC 9110 §14.2).

    Raises:
        RefusedError: nothing of the range is in the file.
    """
    given = request.fields.get(b"range")
    if given is None or request.fields.get(b"if-range", tag) not in (tag, changed):
        return None
    match = _RANGE.fullmatch(given)
    if match is None or match.groups() == (b"", b""):
        return None
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < first:
            return None
    if first > last:
        raise RefusedError(416, b"Content-Range: bytes */%d" % size)
    return first, last - first + 1


def unchanged(request: Request, tag: bytes, mtime: int) -> bool:
    """Whether the client has that already (RFC 9110 §13.2.2)."""
    tags = request.fields.get(b"if-none-match")
    if tags is not None:
        return any(one.strip().removeprefix(b"W/") in (tag, b"*") for one in tags.split(b","))
    since = request.fields.get(b"if-modified-since")
    if since is None:
        return False
    try:
        return mtime <= parsedate_to_datetime(since.decode("latin-1")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return False


@lru_cache(maxsize=256)
def http_date(seconds: int) -> bytes:
    """A time since the epoch as HTTP writes it (RFC 9110 §5.6.7)."""
    return formatdate(seconds, usegmt=True).encode()


def head_of(status: int, keep: bool, fields: Sequence[bytes]) -> bytes:
    """All of an answer that comes before its body."""
    return b"\r\n".join(
        [
            b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode()),
            b"Server: shrinkwrap",
            b"Date: " + http_date(int(time.time())),
            b"Connection: keep-alive" if keep else b"Connection: close",
            *fields,
            b"\r\n",
        ]
    )
