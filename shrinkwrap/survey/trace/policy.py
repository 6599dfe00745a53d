"""From paths that were touched to the lines of a specification."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.snapshot.session import Session
from shrinkwrap.snapshot.walk import Walk, order_key
from shrinkwrap.spec.glob import MAGIC
from shrinkwrap.spec.grammar import Mode, parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.survey.trace.touched import How

EXACT: Final = "exact"
PARENT: Final = "parent"
PACKAGE: Final = "package"
POLICIES: Final = (EXACT, PARENT, PACKAGE)

#: A directory whose name looks like a version: what stands above it is software, what stands below it a release.
_VERSION: Final = re.compile(rb"v?\d+[._]\d.*|LCG_\d+\w*|\d{4}[.-]\d{2}.*|.*[-_]v?\d+[._]\d+.*", re.IGNORECASE)
_LINK_STEPS: Final = 40
_SIGNS: Final = {Mode.EXACT: (b"", b""), Mode.FLAT: (b"^", b"/*"), Mode.DEEP: (b"", b"/*")}


def points(paths: Mapping[bytes, How], policy: str) -> dict[bytes, Mode]:
    """The mode of each path: a directory that was listed brings what is directly in it, all else itself.

    By the policy ``parent`` a file that was opened brings all that is beside it.
    """
    found: dict[bytes, Mode] = {}
    for path, how in paths.items():
        mode = Mode.FLAT if how & How.LISTED else Mode.EXACT
        if found.get(path, Mode.EXACT) is Mode.EXACT:
            found[path] = mode
        if policy == PARENT and how & How.OPENED and path:
            found[path.rpartition(b"/")[0]] = Mode.FLAT
    return found


def packages(
    session: Session, root: NestedRef, paths: Mapping[bytes, How], *, percent: float = 10
) -> dict[bytes, Mode]:
    """The version directories of which more than some part of the files was opened: they come out whole.

    A version directory is the uppermost one whose name looks like a version.
    """
    opened: dict[bytes, int] = {}
    for path, how in paths.items():
        above = _release(path)
        if above and how & How.OPENED:
            opened[above] = opened.get(above, 0) + 1
    if not opened:
        return {}
    there = dict.fromkeys(opened, 0)
    spec = parse(b"".join(quoted(path) + b"/*\n" for path in opened))
    for entry in Walk(session.catalogs, root, Matcher(spec)):
        if entry.is_file:
            above = _release(entry.path)
            if above in there:
                there[above] += 1
    return {path: Mode.DEEP for path, number in opened.items() if there[path] and number * 100 > percent * there[path]}


def _release(path: bytes) -> bytes:
    """The uppermost directory above a path whose name looks like a version; empty if there is none."""
    names = path.split(b"/")[1:-1]
    for depth, name in enumerate(names, 1):
        if _VERSION.fullmatch(name):
            return b"/" + b"/".join(names[:depth])
    return b""


class Resolved(NamedTuple):
    """Paths as a repository has them.

    Attributes:
        paths: with the links on their way, and what is behind those.
        outside: targets of links that lead out of the repository.
        gone: paths that are not there. Jobs look for many such, and the client's tracer writes them down.
    """

    paths: dict[bytes, How]
    outside: list[bytes]
    gone: list[bytes]


def resolved(session: Session, root: NestedRef, paths: Mapping[bytes, How]) -> Resolved:
    """Follow the links on the way to paths.

    Raises:
        MissingObject, NetworkError, CorruptObject: a catalog cannot be had, or is wrong.
    """
    known: dict[bytes, Entry | None] = {}
    found: dict[bytes, How] = {}
    outside: dict[bytes, None] = {}
    gone: list[bytes] = []
    mounted = b"/cvmfs/" + session.repository.fqrn.encode()

    def look(path: bytes) -> Entry | None:
        if path not in known:
            there = session.find(root, path)
            if there is not None:
                session.catalogs.release(there[0])
            known[path] = None if there is None else there[1]
        return known[path]

    for path, how in paths.items():
        here = path
        for _ in range(_LINK_STEPS):
            link, rest = _first_link(here, look)
            if link is None:
                if look(here) is None:
                    gone.append(path)
                else:
                    found[here] = found.get(here, how) | how
                break
            found[link.path] = found.get(link.path, How.SEEN) | How.SEEN
            if not rest and not how & (How.OPENED | How.LISTED):
                break
            onward = _followed(link.path, link.target, mounted)
            if onward is None:
                outside[link.target] = None
                break
            here = onward + rest
    return Resolved(found, list(outside), gone)


def _first_link(path: bytes, look: Callable[[bytes], Entry | None]) -> tuple[Entry | None, bytes]:
    """The uppermost link on a path, and what of the path is behind it."""
    at = 0
    while at >= 0 and path:
        at = path.find(b"/", at + 1)
        head = path if at < 0 else path[:at]
        entry = look(head)
        if entry is None:
            break
        if entry.is_link:
            return entry, path[len(head) :]
    return None, b""


def _followed(link: bytes, target: bytes, mounted: bytes) -> bytes | None:
    """Where a link leads to in its repository; None if it leads out of it."""
    names = link.split(b"/")[1:-1]
    if target.startswith(b"/"):
        if target != mounted and not target.startswith(mounted + b"/"):
            return None
        names, target = [], target[len(mounted) :]
    for name in target.split(b"/"):
        if name == b"..":
            if not names:
                return None
            names.pop()
        elif name not in (b"", b"."):
            names.append(name)
    return b"".join(b"/" + name for name in names)


def lines_of(wanted: Mapping[bytes, Mode]) -> Iterator[bytes]:
    """The lines of a specification, in the order of names; what another line brings has none."""
    above = {path[:at] for path in wanted for at in range(1, len(path)) if path[at : at + 1] == b"/"}
    deep: bytes | None = None
    for path in sorted(wanted, key=order_key):
        mode = wanted[path]
        if deep is not None and (path == deep or path.startswith(deep + b"/")):
            continue
        if mode is Mode.DEEP:
            deep = path
        if mode is Mode.EXACT:
            parent = path.rpartition(b"/")[0]
            if not path or path in above or wanted.get(parent) is Mode.FLAT:
                continue
        sign, end = _SIGNS[mode]
        yield sign + (quoted(path) + end if path or end else b"/")


def quoted(path: bytes) -> bytes:
    """A path as it stands in a line: what a line would take for a wildcard, or for its end, made plain."""
    if not MAGIC.intersection(path) and b"\n" not in path and path == path.rstrip(b" \t\r"):
        return path
    out = bytearray()
    for at in range(len(path)):
        char = path[at : at + 1]
        if char == b"\n":
            out += b"?"  # nothing else stands for it in a line
        elif char == b"\\":
            out += b"[\\\\]"
        elif char in b"*?[" or (char in b" \t\r" and not path[at:].strip(b" \t\r")):
            out += b"[" + char + b"]"
        else:
            out += char
    return bytes(out)
