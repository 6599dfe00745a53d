"""Ownership maps: other numbers for the users and groups of a repository (FORMAT.md §8.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.cvmfs.limits import MIB
from shrinkwrap.errors import UsageError

#: A map of every account of a large site.
FILE_LIMIT: Final = 16 * MIB
#: The highest user or group number; the one above means "leave as it is" to chown(2).
HIGHEST: Final = 2**32 - 2

_DIGITS: Final = re.compile(r"[0-9]{1,10}")
_HINT: Final = "each line is two numbers separated by spaces (not tabs): '<from> <to>', or '* <to>' for all others"


@dataclass(frozen=True, slots=True)
class OwnerMap:
    """Numbers for numbers. Picklable; ids that are not named become ``default``, or stay if it is None."""

    pairs: tuple[tuple[int, int], ...] = ()
    default: int | None = None
    _table: dict[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_table", dict(self.pairs))

    def map(self, number: int) -> int:
        """The number to use for ``number``."""
        return self._table.get(number, number if self.default is None else self.default)


def parse_owner_map(data: bytes, file: str) -> OwnerMap:
    """Read a map. Blank lines and lines that start with ``#`` are skipped; of two lines for one id the last counts.

    Raises:
        UsageError: a line that is not of the form (named by ``file:line``), or a file that is too large. A line that
            was skipped would give files to the wrong owner.
    """
    if len(data) > FILE_LIMIT:
        raise UsageError(f"{file}: larger than {FILE_LIMIT} bytes; this is not an ownership map")
    pairs: dict[int, int] = {}
    default: int | None = None
    for where, raw in enumerate(data.decode("utf-8", "replace").split("\n"), 1):
        line = raw.removesuffix("\r").strip(" \t")
        if not line or line.startswith("#"):
            continue
        fields = [part for part in line.split(" ") if part]
        if len(fields) != 2 or not _number(fields[1]) or not (fields[0] == "*" or _number(fields[0])):
            raise UsageError(f"{file}:{where}: {line[:80]!a} is not a line of an ownership map", hint=_HINT)
        if fields[0] == "*":
            default = int(fields[1])
        else:
            pairs[int(fields[0])] = int(fields[1])
    return OwnerMap(tuple(sorted(pairs.items())), default)


def _number(text: str) -> bool:
    return _DIGITS.fullmatch(text) is not None and int(text) <= HIGHEST
