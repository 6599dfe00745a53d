"""Numbers of a survey: of everything, of each line of a specification, of each directory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap.snapshot.view import DIR, FILE, Node
from shrinkwrap.spec.grammar import Line, Mode, Spec, resolve

#: Sets of lines that are kept apart; beyond it they are added up line by line.
_SETS: Final = 4096


@dataclass(slots=True)
class Sum:
    """Entries as they come out. ``bytes`` are those of files, each path counted."""

    files: int = 0
    dirs: int = 0
    symlinks: int = 0
    bytes: int = 0

    def add(self, node: Node) -> None:
        if node.kind == FILE:
            self.files += 1
            assert node.content is not None
            self.bytes += node.content.size
        elif node.kind == DIR:
            self.dirs += 1
        else:
            self.symlinks += 1

    def take(self, other: Sum) -> None:
        self.files += other.files
        self.dirs += other.dirs
        self.symlinks += other.symlinks
        self.bytes += other.bytes

    @property
    def entries(self) -> int:
        return self.files + self.dirs + self.symlinks

    def to_json(self) -> dict[str, int]:
        return {"files": self.files, "dirs": self.dirs, "symlinks": self.symlinks, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class LineSum:
    """What one line brings.

    Attributes:
        matched: entries of the repository that it matches, special files included; None of lines that are not asked
            for any: those that exclude, and those that a later line for the same path replaces.
        brings: of these, what comes out.
        alone: of that, what no other line brings.
    """

    line: Line
    matched: int | None
    brings: Sum
    alone: Sum

    def to_json(self) -> dict[str, Any]:
        line = self.line
        return {
            "line": line.text,
            "file": line.file,
            "number": line.number,
            "matched": self.matched,
            **self.brings.to_json(),
            "alone": self.alone.to_json(),
        }


class _Set:
    """Entries that the same lines match."""

    __slots__ = ("matched", "sum")

    def __init__(self) -> None:
        self.matched = 0
        self.sum = Sum()


class LineSums:
    """Adds up by line of a specification, in memory that does not grow with the number of entries.

    Attributes (after :meth:`finish`):
        total: of all lines together, each entry once.
        empty: directories that an exact line brought and nothing below them, with the index of the line.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        number = len(spec.lines)
        self._matched = [0] * number
        self._brings = [Sum() for _ in range(number)]
        self._alone = [Sum() for _ in range(number)]
        in_force = {rule.line for rule in resolve(spec.lines)}
        self._counted = [line.mode.includes and index in in_force for index, line in enumerate(spec.lines)]
        self._including = [line.mode.includes for line in spec.lines]
        self._sets: dict[tuple[int, ...], _Set] = {}
        exact = [index for index, line in enumerate(spec.lines) if line.mode is Mode.EXACT]
        self._exact = frozenset(exact)
        # A directory that a line names without `/*`: the entry that comes next tells whether it comes out empty.
        self._named: tuple[bytes, int] | None = None
        self.empty: list[tuple[bytes, int]] = []
        self.total = Sum()

    def add(self, lines: tuple[int, ...], node: Node | None) -> None:
        """One more entry, of which these lines are a match; None for one that does not come out as anything."""
        found = self._sets.get(lines)
        if found is None:
            if len(self._sets) >= _SETS:
                self._spread()
            found = self._sets[lines] = _Set()
        found.matched += 1
        if node is None:
            return
        found.sum.add(node)
        if self._exact:
            self._follow(node.path)
            if node.kind == DIR:
                line = next((index for index in lines if index in self._exact), None)
                self._named = None if line is None else (node.path, line)

    def _follow(self, path: bytes | None) -> None:
        if self._named is not None:
            if path is None or not path.startswith(self._named[0] + b"/"):
                self.empty.append(self._named)
            self._named = None

    def _spread(self) -> None:
        """From sets of lines to lines."""
        for lines, found in self._sets.items():
            self.total.take(found.sum)
            bringing = [index for index in lines if self._including[index]]
            for index in lines:
                self._matched[index] += found.matched
            for index in bringing:
                self._brings[index].take(found.sum)
            if len(bringing) == 1:
                self._alone[bringing[0]].take(found.sum)
        self._sets.clear()

    def finish(self) -> list[LineSum]:
        """The lines in order."""
        self._follow(None)
        self._spread()
        return [
            LineSum(
                line, self._matched[index] if self._counted[index] else None, self._brings[index], self._alone[index]
            )
            for index, line in enumerate(self._spec.lines)
        ]


class DirectorySums:
    """A sum for each directory down to some depth, with all that lies below it, itself included; the root is left out.

    A directory comes after those in it, as with ``du``: what is kept are the sums of one way down.

    Args:
        depth: of the directories that have one; 1: those in the root.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._open: list[tuple[bytes, Sum]] = []
        self._last = b"\0"

    def add(self, node: Node) -> Iterator[tuple[bytes, Sum]]:
        """Count an entry; the directories that no more comes from."""
        path = node.path
        folder = path if node.kind == DIR else path.rpartition(b"/")[0]
        if folder != self._last:
            yield from self._move(folder)
        if self._open:
            self._open[-1][1].add(node)

    def _move(self, folder: bytes) -> Iterator[tuple[bytes, Sum]]:
        self._last = folder
        way = folder.split(b"/")[1 : self._depth + 1]
        while self._open and self._open[-1][0].split(b"/")[1:] != way[: len(self._open)]:
            yield self._close()
        while len(self._open) < len(way):
            self._open.append((b"/" + b"/".join(way[: len(self._open) + 1]), Sum()))

    def _close(self) -> tuple[bytes, Sum]:
        path, done = self._open.pop()
        if self._open:
            self._open[-1][1].take(done)
        return path, done

    def finish(self) -> Iterator[tuple[bytes, Sum]]:
        """The directories that are left."""
        while self._open:
            yield self._close()
