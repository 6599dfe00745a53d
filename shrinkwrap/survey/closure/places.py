"""Paths followed through a repository as a kernel would where it is mounted at ``/cvmfs/FQRN``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.cvmfs.variants import expand
from shrinkwrap.snapshot.session import Session
from shrinkwrap.survey.trace.touched import normal

HERE: Final = "here"
MISSING: Final = "missing"
LOOP: Final = "loop"
OTHER: Final = "other"
SYSTEM: Final = "system"

#: As in the kernel.
_LINKS: Final = 40
_REMEMBERED: Final = 1 << 16
#: Names that can be those of a repository, and of a file.
_FQRN: Final = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+")
_FQRN_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class Found:
    """Where a path leads to.

    Attributes:
        where: one of the five words above.
        path: ``HERE``: in the repository, without links; ``MISSING``: what is not there, its end by the letter;
            ``OTHER``: in that repository; ``SYSTEM``: absolute; ``LOOP``: the link that was one too many.
        links: of this repository that are on the way, in order.
        entry: what is there, if it is ``HERE``.
        fqrn: of the other repository.
        unset: variables in the targets of links that have no value.
    """

    where: str
    path: bytes
    links: tuple[Entry, ...]
    entry: Entry | None = None
    fqrn: str = ""
    unset: tuple[bytes, ...] = ()


class Places:
    """Follows paths.

    Args:
        variables: for variant symlinks, by name.

    Raises (all methods):
        MissingObject, NetworkError, CorruptObject: a catalog cannot be had, or is wrong.
    """

    def __init__(self, session: Session, root: NestedRef, variables: Mapping[bytes, bytes]) -> None:
        self._session = session
        self._root = root
        self._variables = variables
        self._names = [b"cvmfs", session.repository.fqrn.encode()]
        self.mount = b"/" + b"/".join(self._names)
        self.look: Callable[[bytes], Entry | None] = lru_cache(_REMEMBERED)(self._look)

    def _look(self, path: bytes) -> Entry | None:
        found = self._session.find(self._root, path)
        if found is None:
            return None
        self._session.catalogs.release(found[0])
        return found[1]

    def children(self, path: bytes) -> Iterator[Entry]:
        """What is directly in a directory of the repository."""
        found = self._session.find(self._root, path)
        if found is None:
            return
        try:
            if found[1].is_dir:
                yield from found[0].children(path)
        finally:
            self._session.catalogs.release(found[0])

    def follow(self, path: bytes) -> Found:
        """Where an absolute path of a machine leads to, links at its end followed too."""
        todo = path.split(b"/")[::-1]
        done: list[bytes] = []
        links: list[Entry] = []
        unset: dict[bytes, None] = {}
        while todo:
            name = todo.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if done:
                    done.pop()
                continue
            done.append(name)
            inside = self._inside(done)
            if inside is None:
                if done == [b"cvmfs"]:
                    continue
                path = normal(b"/" + b"/".join([*done, *reversed(todo)]))
                if path != self.mount and not path.startswith(self.mount + b"/"):
                    return _beyond(path, tuple(links), tuple(unset))
                # By the letter it comes back: /usr/../cvmfs/FQRN. Only a link leads out once more.
                done, todo = [], path.split(b"/")[::-1]
                continue
            entry = self.look(inside)
            if entry is None or (todo and not entry.is_dir and not entry.is_link):
                rest = b"".join(b"/" + name for name in reversed(todo) if name not in (b"", b"."))
                return Found(MISSING, inside + rest, tuple(links), unset=tuple(unset))
            if not entry.is_link:
                continue
            if len(links) >= _LINKS:
                return Found(LOOP, inside, tuple(links), unset=tuple(unset))
            links.append(entry)
            used: dict[bytes, bytes | None] = {}
            target = expand(entry.target, self._variables, used)
            unset.update(dict.fromkeys(name for name, value in used.items() if value is None))
            if not target or b"\0" in target or len(target) > limits.LINK_TARGET:
                return Found(MISSING, inside, tuple(links), unset=tuple(unset))
            if target.startswith(b"/"):
                done.clear()
            else:
                done.pop()
            todo += target.split(b"/")[::-1]
            if len(todo) > 2 * limits.PATH_DEPTH:
                return Found(LOOP, inside, tuple(links), unset=tuple(unset))
        inside = self._inside(done)
        if inside is None:
            return Found(SYSTEM, b"/" + b"/".join(done), tuple(links), unset=tuple(unset))
        return Found(HERE, inside, tuple(links), self.look(inside), unset=tuple(unset))

    def _inside(self, names: list[bytes]) -> bytes | None:
        if names[:2] != self._names:
            return None
        return b"".join(b"/" + name for name in names[2:])


def _beyond(path: bytes, links: tuple[Entry, ...], unset: tuple[bytes, ...]) -> Found:
    """Out of the repository: links are not known there, and a path is taken by the letter."""
    names = path.split(b"/")[1:]
    if names[:1] == [b"cvmfs"] and len(names) > 1 and _FQRN.fullmatch(names[1]) and len(names[1]) <= _FQRN_LENGTH:
        inside = b"".join(b"/" + name for name in names[2:])
        return Found(OTHER, inside, links, fqrn=names[1].decode(), unset=unset)
    return Found(SYSTEM, path or b"/", links, unset=unset)
