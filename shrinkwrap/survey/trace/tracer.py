"""The log that the CernVM-FS client writes itself, ``CVMFS_TRACEFILE`` (FORMAT.md §11.1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import IO, Final

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import SpecError
from shrinkwrap.survey.trace.touched import How, Touched, normal

_FIELD: Final = rb'"((?:[^"]|"")*+)"'
_RECORD: Final = re.compile(rb",".join([rb'"(\d+(?:\.\d+)?)"', rb'"(-?\d{1,4})"', _FIELD, _FIELD]) + rb"\r?\n")
#: Whatever begins so is taken for such a log.
START: Final = re.compile(rb'"\d+(?:\.\d+)?","-?\d{1,4}","')
_PIECE: Final = 1 << 20
#: Longest record: a path of 4096 bytes, each of them quoted, and the rest.
_LONGEST: Final = 16 * 1024

_EVENTS: Final = {
    1: How.OPENED,
    2: How.LISTED,
    3: How.SEEN,
    4: How.SEEN,
    5: How.SEEN,
    6: How.SEEN,
    7: How.SEEN,
    8: How.SEEN,
}
_CREATED, _STOPPED, _FLUSHED = -1, -2, -3
#: Folders that file managers look for in each file system.
_TRASH: Final = (b"/.Trash", b"/.Trash-")
_FLUSH_HINT: Final = "flush the buffer before the client ends: cvmfs_talk -i REPOSITORY tracebuffer flush"


def read_tracer(file: IO[bytes], name: str, fqrn: str) -> Touched:
    """Read a log.

    Args:
        name: of the file, for messages.
        fqrn: of the repository, which the log does not name.

    Returns:
        What was touched; :attr:`Touched.problems` tells logs apart that are truncated, were never flushed, or have
        events that are not known.

    Raises:
        SpecError: what stands in it is no such log. OSError.
    """
    touched = Touched()
    unknown: dict[tuple[int, bytes], int] = {}
    first = last = None
    records = 0
    lost = 0
    rest = b""
    for record in _records(file, name):
        if isinstance(record, bytes):
            rest = record
            break
        code, path, event = record
        first = code if first is None else first
        if code == _CREATED and last not in (None, _FLUSHED, _STOPPED):
            lost += 1
        last = code
        if code < 0:
            if code not in (_CREATED, _STOPPED, _FLUSHED):
                unknown[code, event] = unknown.get((code, event), 0) + 1
            continue
        records += 1
        how = _EVENTS.get(code)
        if how is None:
            unknown[code, event] = unknown.get((code, event), 0) + 1
        elif path == b"@UNKNOWN":
            unknown[code, b"path @UNKNOWN"] = unknown.get((code, b"path @UNKNOWN"), 0) + 1
        elif not path.startswith(_TRASH):
            touched.add(fqrn, normal(path), how)
    problems = touched.problems
    if rest:
        problems.append(f"{name}: truncated: it ends in the middle of a record ({show(rest[:60])}); {_FLUSH_HINT}")
    elif not records:
        problems.append(f"{name}: not flushed: it holds no event; {_FLUSH_HINT}")
    elif last not in (_FLUSHED, _STOPPED):
        problems.append(f"{name}: not flushed to the end: the last record is an event; {_FLUSH_HINT}")
    if first is not None and first != _CREATED:
        problems.append(f"{name}: its beginning is missing: the first record is not that of a new buffer")
    if lost:
        problems.append(f"{name}: {lost} times a client began anew before the last one had flushed; {_FLUSH_HINT}")
    for (code, event), number in sorted(unknown.items()):
        problems.append(
            f"{name}: unknown event {code} ({show(event)}), {number} times: which paths it means is not known"
        )
    return touched


def _records(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes, bytes] | bytes]:
    """Code, path and name of each event; at the end what is left of a record that is not whole, if there is any."""
    data = b""
    at = 0
    more = True
    while True:
        found = _RECORD.match(data, at)
        if found is None or (more and len(data) - found.end() < 2):
            if more:
                piece = file.read(_PIECE)
                data, at, more = data[at:] + piece, 0, bool(piece)
                if more and len(data) <= _PIECE + _LONGEST:
                    continue
                if not more:
                    continue
            if found is None:
                break
        yield int(found[2]), found[3].replace(b'""', b'"'), found[4].replace(b'""', b'"')
        at = found.end()
    rest = data[at:]
    if len(rest) > _LONGEST or (rest and not b'"'.startswith(rest[:1])):
        raise SpecError(f"{name}: not a record of the tracer: {show(rest[:60])}", hint="is it another kind of trace?")
    if rest:
        yield rest
