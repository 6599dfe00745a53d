"""Whether there is room for an export: bytes and inodes that it needs at most, and those that are free."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap.errors import DestinationError
from shrinkwrap.survey.plan import Plan

#: Most file systems give whole blocks of this size, a directory takes one of them.
BLOCK: Final = 4096
#: Folders that a new store has for its objects, and the few around them.
_FOLDERS: Final = 272


@dataclass(frozen=True, slots=True)
class Room:
    """One file system.

    Attributes:
        path: a folder on it that is there.
        holds: what is to lie on it: ``store``, ``tree``, or both.
        bytes, inodes: needed, at most.
        free_bytes, free_inodes: for this user; None where the file system makes inodes as they are needed.
    """

    path: str
    holds: tuple[str, ...]
    bytes: int
    inodes: int
    free_bytes: int
    free_inodes: int | None

    @property
    def enough(self) -> bool:
        return self.bytes <= self.free_bytes and (self.free_inodes is None or self.inodes <= self.free_inodes)

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "holds": list(self.holds),
            "needed": {"bytes": self.bytes, "inodes": self.inodes},
            "free": {"bytes": self.free_bytes, "inodes": self.free_inodes},
            "enough": self.enough,
        }


@dataclass(frozen=True, slots=True)
class Needs:
    """What new things take, at most: bytes and inodes in the store, and in the tree."""

    store_bytes: int
    store_inodes: int
    tree_bytes: int
    tree_inodes: int


def needs(plan: Plan, counts: Mapping[str, int], lacking: int, *, link_mode: str) -> Needs:
    """What an export needs that is not there.

    A dry run tells how many contents the store lacks, and how many paths are new. What it does not tell is bounded
    from above: contents that are there with other metadata, and what kind of thing a new path is.

    Args:
        counts: ``to_fetch``, ``to_link``, ``to_make_dirs`` and ``to_replace`` of a dry run (docs/dry-run.md).
        lacking: bytes of the contents to fetch.
        link_mode: hardlink, reflink or copy.
    """
    stored, total = plan.stored, plan.total
    paths = counts.get("to_link", 0) + counts.get("to_replace", 0)
    fetch = counts.get("to_fetch", 0)
    if fetch >= stored.contents:
        store_bytes, store_inodes = stored.blocks, stored.inodes
    else:
        variants = min(stored.inodes - stored.contents, paths)
        more = stored.inode_bytes - stored.content_bytes if variants else 0
        store_inodes = fetch + variants
        store_bytes = min(stored.blocks, lacking + more + store_inodes * BLOCK)
    if store_inodes:
        store_inodes += _FOLDERS
        store_bytes += _FOLDERS * BLOCK
    folders = counts.get("to_make_dirs", 0)
    links = min(paths, total.symlinks)
    tree_bytes, tree_inodes = (folders + links) * BLOCK, folders + links
    if link_mode != "hardlink":
        files = min(paths, total.files)
        tree_inodes += files
        if link_mode == "copy" and files:
            tree_bytes += total.bytes + files * BLOCK
    return Needs(store_bytes, store_inodes, tree_bytes, tree_inodes)


def rooms(needed: Needs, *, tree: str, store: str) -> list[Room]:
    """The file systems that an export goes to: one, or two if the store lies on another.

    Args:
        tree, store: their folders, which need not be there.

    Raises:
        DestinationError: a file system cannot be asked.
    """
    places = {"store": _there(store), "tree": _there(tree)}
    wanted = {
        "store": (needed.store_bytes, needed.store_inodes),
        "tree": (needed.tree_bytes, needed.tree_inodes),
    }
    by_device: dict[int, list[str]] = {}
    found = []
    try:
        for name, path in places.items():
            by_device.setdefault(os.stat(path).st_dev, []).append(name)
        for names in by_device.values():
            path = places[names[-1]]
            free = os.statvfs(path)
            found.append(
                Room(
                    path,
                    tuple(names),
                    sum(wanted[name][0] for name in names),
                    sum(wanted[name][1] for name in names),
                    free.f_bavail * free.f_frsize,
                    free.f_favail if free.f_files else None,
                )
            )
    except OSError as exc:
        raise DestinationError(f"{tree}: its file system does not tell what is free: {exc.strerror}") from None
    return found


def _there(path: str) -> str:
    """The folder, or the nearest above it that is there."""
    place = os.path.realpath(path)
    while not os.path.isdir(place) and place != "/":
        place = os.path.dirname(place)
    return place
