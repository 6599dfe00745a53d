"""Differences summed up: all of them, and by directory. Memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from shrinkwrap.snapshot.diff import ADDED, CHANGED, REMOVED, Change, Shown

#: How entries are counted, by type; all others are special files.
_COUNTED: Final = {"file": "files", "dir": "dirs", "symlink": "symlinks"}
_OTHERS: Final = "special"
#: Differences that mean that a file is to be fetched anew, as far as catalogs tell.
_OF_CONTENT: Final = frozenset({"type", "content", "storage", "size"})


@dataclass(slots=True)
class Tally:
    """Numbers of entries, and bytes of files: as the repository has them, before deduplication and compression.

    Attributes:
        added, removed, changed: entries by ``files``, ``dirs``, ``symlinks``, ``special`` (of changed ones by what is
            there now).
        bytes_added: in files that were added; ``bytes_removed``: in those that were removed.
        bytes_before, bytes_after: in files whose content changed, or that became files or were some.
        aspects: changed entries by what differs in them.
    """

    added: dict[str, int] = field(default_factory=dict)
    removed: dict[str, int] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    bytes_added: int = 0
    bytes_removed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    aspects: dict[str, int] = field(default_factory=dict)

    def add(self, change: Change) -> None:
        shown = change.new or change.old
        assert shown is not None
        counts = {ADDED: self.added, REMOVED: self.removed, CHANGED: self.changed}[change.kind]
        name = _COUNTED.get(shown.type, _OTHERS)
        counts[name] = counts.get(name, 0) + 1
        if change.kind == ADDED:
            self.bytes_added += _bytes(change.new)
        elif change.kind == REMOVED:
            self.bytes_removed += _bytes(change.old)
        else:
            if not _OF_CONTENT.isdisjoint(change.what):
                self.bytes_before += _bytes(change.old)
                self.bytes_after += _bytes(change.new)
            for aspect in change.what:
                self.aspects[aspect] = self.aspects.get(aspect, 0) + 1

    @property
    def entries(self) -> tuple[int, int, int]:
        """Entries added, removed, changed."""
        return sum(self.added.values()), sum(self.removed.values()), sum(self.changed.values())

    @property
    def gained(self) -> int:
        """Bytes of files that are new, or have another content now."""
        return self.bytes_added + self.bytes_after

    @property
    def lost(self) -> int:
        """Bytes of files that are gone, or had another content."""
        return self.bytes_removed + self.bytes_before

    def to_json(self) -> dict[str, Any]:
        added, removed, changed = self.entries
        return {
            "added": {"entries": added, **dict(sorted(self.added.items())), "bytes": self.bytes_added},
            "removed": {"entries": removed, **dict(sorted(self.removed.items())), "bytes": self.bytes_removed},
            "changed": {
                "entries": changed,
                **dict(sorted(self.changed.items())),
                "bytes_before": self.bytes_before,
                "bytes_after": self.bytes_after,
                "by": dict(sorted(self.aspects.items())),
            },
        }


def _bytes(shown: Shown | None) -> int:
    return shown.size if shown is not None and shown.type == "file" else 0


class ByDirectory:
    """A tally for each directory down to some depth, with all that lies below it; the root is left out.

    As with ``du``, a directory comes after those in it: what is kept are the tallies of one way down.

    Args:
        depth: of the directories that have one; 1: those in the root.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._open: list[tuple[bytes, Tally]] = []

    def add(self, change: Change) -> Iterator[tuple[bytes, Tally]]:
        """Count a change; the directories that no more comes from."""
        shown = change.new or change.old
        assert shown is not None
        path = change.path if shown.type == "dir" else change.path.rpartition(b"/")[0]
        way = path.split(b"/")[1 : self._depth + 1]
        while self._open and self._open[-1][0].split(b"/")[1:] != way[: len(self._open)]:
            yield self._open.pop()
        while len(self._open) < len(way):
            self._open.append((b"/" + b"/".join(way[: len(self._open) + 1]), Tally()))
        for _, tally in self._open:
            tally.add(change)

    def finish(self) -> Iterator[tuple[bytes, Tally]]:
        """The directories that are left."""
        while self._open:
            yield self._open.pop()
