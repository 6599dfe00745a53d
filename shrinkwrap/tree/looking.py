"""A visible tree as it lies there, for whoever only looks: nothing is opened up, nothing changed, not even a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from shrinkwrap.tree.beneath import DIRECTORY, Folders
from shrinkwrap.tree.disk import kind_of

_SHUT: Final = (errno.EACCES, errno.EPERM)


class Seen(NamedTuple):
    """What stands at a path."""

    path: bytes
    kind: str
    info: os.stat_result


class Looking:
    """The tree ``name`` in a folder, in the order of snapshots; an empty stream if it is not there.

    Args:
        folder: descriptor of it, which stays the caller's.
        name: of the tree.
        shut: told of a directory that we may not look into: nothing below it comes.
        broken: told of a path that the system cannot tell of, and why; nothing below it comes.

    Attributes:
        folders: descriptors beneath the folder.
    """

    def __init__(
        self, folder: int, name: bytes, shut: Callable[[bytes], None], broken: Callable[[bytes, str], None]
    ) -> None:
        self.folders = Folders(folder)
        self._name = name
        self._shut = shut
        self._broken = broken
        self._pruned = False

    def prune(self) -> None:
        """Do not go below the directory that was given last."""
        self._pruned = True

    def place(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor of the folder that a path of the tree is in, good until the next call, and its name there."""
        parent, _, name = (self._name + path).rpartition(b"/")
        return self.folders.fd(parent), name

    def __iter__(self) -> Iterator[Seen]:
        seen = self._look(b"")
        if seen is None:
            return
        self._pruned = False
        yield seen
        if self._pruned or seen.kind != "d":
            return
        stack = [(b"", iter(self._names(b"")))]
        while stack:
            folder, names = stack[-1]
            name = next(names, None)
            if name is None:
                stack.pop()
                continue
            path = folder + b"/" + name
            try:
                seen = self._look(path)
            except PermissionError:
                # A directory that may be listed, and not searched: none of the others can be looked at, either.
                self._shut(folder)
                stack.pop()
                continue
            if seen is None:
                continue
            self._pruned = False
            yield seen
            if seen.kind == "d" and not self._pruned:
                stack.append((path, iter(self._names(path))))

    def _look(self, path: bytes) -> Seen | None:
        """None for what is not there, and what was told of as broken. Raises PermissionError."""
        try:
            folder, name = self.place(path)
            info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise
        except OSError as exc:
            self._broken(path, exc.strerror or str(exc))
            return None
        return Seen(path, kind_of(info), info)

    def _names(self, path: bytes) -> list[bytes]:
        try:
            listing = os.open(b".", DIRECTORY, dir_fd=self.folders.fd(self._name + path))
            try:
                return sorted(os.fsencode(name) for name in os.listdir(listing))
            finally:
                os.close(listing)
        except OSError as exc:
            if exc.errno in _SHUT:
                self._shut(path)
            else:
                self._broken(path, exc.strerror or str(exc))
            return []

    def close(self) -> None:
        """Idempotent."""
        self.folders.clear()
