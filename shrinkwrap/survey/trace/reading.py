"""Traces of any kind that is known, by what stands in them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Final

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import SpecError, UsageError
from shrinkwrap.survey.trace.strace import read_strace
from shrinkwrap.survey.trace.touched import How, Place, Touched, normal
from shrinkwrap.survey.trace.tracer import START, read_tracer

TRACER: Final = "tracer"
STRACE: Final = "strace"
LIST: Final = "list"
FORMATS: Final = (TRACER, STRACE, LIST)

_STRACE: Final = re.compile(rb"(?:\[pid +\d+\] +|\d+ +)?(?:\d[\d:.]*\s+)?\w+\(.*|[^/]*(?:\+\+\+|---) .*")
_LINE_LIMIT: Final = 1 << 20
_LOOK: Final = 4096


def read_traces(
    paths: Sequence[str | os.PathLike[str]], place: Place, *, kind: str = "", cwd: bytes | None = None
) -> Touched:
    """Read traces, as one.

    Args:
        kind: of :data:`FORMATS`; empty: what each looks like.
        cwd: where a command was started that strace followed.

    Raises:
        SpecError: a file cannot be read, or is no trace. UsageError: an unknown kind, or a log of the tracer without
        the name of its repository.
    """
    if kind and kind not in FORMATS:
        raise UsageError(f"unknown kind of trace: {kind!r}", hint=f"one of {', '.join(FORMATS)}")
    touched = Touched()
    for path in paths:
        name = show(os.fsencode(path))
        try:
            with open(path, "rb") as file:
                touched.take(_read(file, name, place, kind, cwd))
        except (OSError, ValueError) as exc:  # ValueError: a NUL byte in the file's name
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise SpecError(f"cannot read the trace {name}: {reason}", hint="is it the right name?") from None
    return touched


def _read(file: IO[bytes], name: str, place: Place, kind: str, cwd: bytes | None) -> Touched:
    kind = kind or _kind_of(file)
    if kind == TRACER:
        if not place.fqrn:
            raise UsageError(f"{name}: a log of the tracer does not name its repository", hint="-r FQRN")
        return read_tracer(file, name, place.fqrn)
    if kind == STRACE:
        return read_strace(_lines(file, name), name, place, cwd=cwd)
    return read_list(_lines(file, name), name, place)


def _kind_of(file: IO[bytes]) -> str:
    head = file.read(_LOOK)
    file.seek(0)
    if START.match(head):
        return TRACER
    first = next((line for line in head.split(b"\n") if line.strip()), b"")
    return STRACE if _STRACE.match(first) else LIST


def _lines(file: IO[bytes], name: str) -> Iterator[bytes]:
    while line := file.readline(_LINE_LIMIT):
        if len(line) == _LINE_LIMIT and not line.endswith(b"\n"):
            raise SpecError(f"{name}: a line of more than {_LINE_LIMIT} bytes", hint="is it a trace?")
        yield line


def read_list(lines: Iterable[bytes], name: str, place: Place) -> Touched:
    """Paths, a line each: mounted ones, or with a repository those in it. What ends in a slash was listed.

    Empty lines, and those that begin with ``#``, are passed over.
    """
    touched = Touched()
    others = 0
    for whole in lines:
        line = whole.rstrip(b"\r\n")
        if not line.strip() or line.startswith(b"#"):
            continue
        path = normal(line) if line.startswith(b"/") else None
        how = How.LISTED if line.endswith(b"/") else How.OPENED
        found = None if path is None else place.split(path)
        if found is None and place.fqrn and path is not None and not path.startswith(place.mount + b"/"):
            found = place.fqrn, path
        if found is None:
            others += 1
        else:
            touched.add(*found, how)
    if others and not touched.number:
        touched.problems.append(
            f"{name}: none of its {others} lines is a path of a repository; -r FQRN if it is of one"
        )
    elif others:
        touched.notes.append(f"{name}: {others} lines are no paths of a repository")
    return touched
