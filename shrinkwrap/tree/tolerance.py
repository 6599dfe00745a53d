"""What a copy could not hold is no damage: steps of times, owners, attributes, if it is so everywhere.

Nobody may try out what a place can hold that is only looked at, so the answer is put off: differences that one of
these would explain are counted, the first of them kept, and at the end it shows whether *all* files agree with it.
For a destination with its store, where exports write, the run log says what its file system can do, and nothing else
counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final

from shrinkwrap.snapshot.view import Xattrs
from shrinkwrap.tree.findings import LISTED, Case, Verified
from shrinkwrap.tree.probe import Abilities

_NS: Final = 10**9
#: Steps of times that file systems and archives have, coarsest first; each divides the one before.
_STEPS: Final = (2 * _NS, _NS, 10**6, 10**3, 10**2)
#: First and last second that some of them hold.
_FIRST: Final = (0, -(1 << 31))
_LAST: Final = ((1 << 31) - 1, (1 << 32) - 1, 15032385535, 16299260424, (1 << 34) - 1)
#: Where others begin anew: squashfs has 32 bits for a time, and mksquashfs cuts off the rest.
_ROUND: Final = 1 << 32


class _Pending:
    """Differences that something may explain."""

    __slots__ = ("_cases", "_what", "number")

    def __init__(self, what: str) -> None:
        self._what = what
        self._cases: list[Case] = []
        self.number = 0

    def add(self, path: bytes, expected: str, found: str) -> None:
        self.number += 1
        if len(self._cases) < LISTED:
            self._cases.append(Case(self._what, path, expected, found))

    def blame(self, verified: Verified) -> None:
        """Nothing explains them."""
        if self.number:
            verified.add_many(self._what, self.number, self._cases)


class Times:
    """Times of last modification.

    Args:
        abilities: of the destination of the export; None if they are not known.
        at_home: the export is where it was made.
    """

    def __init__(self, verified: Verified, abilities: Abilities | None, *, at_home: bool) -> None:
        self._verified = verified
        self._abilities = abilities
        self._at_home = at_home
        #: All times so far are multiples of this; 1 if of none of the steps.
        self._step = _STEPS[0]
        self._first: int | None = None
        self._last: int | None = None
        self._stepped = {step: _Pending("mtime") for step in _STEPS}
        self._clamped: dict[int, _Pending] = {}
        self._wrapped = _Pending("mtime")

    def see(self, info: os.stat_result) -> None:
        """What any path has, wanted or not."""
        step = self._step
        if step > 1:
            # At home the file system's own times tell what it can hold.
            found = (info.st_mtime_ns, info.st_ctime_ns) if self._at_home else (info.st_mtime_ns,)
            while step > 1 and any(time % step for time in found):
                step = _finer(step)
            self._step = step
        second = info.st_mtime_ns // _NS
        self._first = second if self._first is None else min(second, self._first)
        self._last = second if self._last is None else max(second, self._last)

    def compare(self, path: bytes, wanted: int, found: int) -> None:
        """In nanoseconds since the epoch."""
        if wanted == found or (self._abilities is not None and found == self._abilities.time(wanted)):
            return
        expected, other = shown_time(wanted), shown_time(found)
        for step in reversed(_STEPS):
            if found == wanted - wanted % step:
                self._stepped[step].add(path, expected, other)
                return
        if not (self._at_home and self._abilities is not None):
            second = found // _NS
            if (second in _LAST and wanted > found) or (second in _FIRST and wanted < found):
                self._clamped.setdefault(second, _Pending("mtime")).add(path, expected, other)
                return
            if second == wanted // _NS % _ROUND and not found % _NS:
                self._wrapped.add(path, expected, other)
                return
        self._verified.add("mtime", path, expected, other)

    def settle(self) -> None:
        """All paths were seen."""
        held = {step: one.number for step, one in self._stepped.items() if one.number and step <= self._step}
        if held:
            self._verified.note(
                f"times are held in steps of {_words(max(held))} here: {sum(held.values())} are cut off accordingly"
            )
        for step, pending in self._stepped.items():
            if step not in held:
                pending.blame(self._verified)
        first, last = self._first or 0, self._last or 0
        if self._wrapped.number and first >= 0 and last < _ROUND:
            self._verified.note(f"times have 32 bits here: {self._wrapped.number} are other ones therefore")
        else:
            self._wrapped.blame(self._verified)
        for second, pending in self._clamped.items():
            if second in (first, last):
                self._verified.note(
                    f"times {'after' if second == last else 'before'} second {second} are not held here:"
                    f" {pending.number} are set to it"
                )
            else:
                pending.blame(self._verified)


def _finer(step: int) -> int:
    position = _STEPS.index(step) + 1
    return _STEPS[position] if position < len(_STEPS) else 1


def _words(step: int) -> str:
    return f"{step // _NS} s" if step >= _NS else f"{step} ns"


def shown_time(time: int) -> str:
    """Nanoseconds since the epoch as seconds, to the last digit."""
    sign = "-" if time < 0 else ""
    return f"{sign}{abs(time) // _NS}.{abs(time) % _NS:09}"


class Owners:
    """Owners of files, directories and links.

    Args:
        groups: groups are the export's, too: only root sets them.
        at_home: the export is where it was made.
    """

    def __init__(self, verified: Verified, *, groups: bool, at_home: bool) -> None:
        self._verified = verified
        self._groups = groups
        self._at_home = at_home
        self._pending = _Pending("owner")
        self._owner: int | None = None
        self._alike = True
        self._paths = 0

    def compare(self, path: bytes, uid: int, gid: int, info: os.stat_result) -> None:
        self._paths += 1
        if self._owner is None:
            self._owner = info.st_uid
        elif self._owner != info.st_uid:
            self._alike = False
        if info.st_uid != uid or (self._groups and info.st_gid != gid):
            expected, found = (f"{uid}:{gid}", f"{info.st_uid}:{info.st_gid}") if self._groups else (uid, info.st_uid)
            self._pending.add(path, str(expected), str(found))

    def settle(self) -> None:
        """All paths were seen."""
        if self._pending.number and self._alike and not self._at_home:
            self._verified.note(
                f"everything here belongs to user {self._owner}, as in a copy that somebody made:"
                f" {self._pending.number} owners are not those of the export"
            )
        else:
            self._pending.blame(self._verified)


class Attributes:
    """Extended attributes of files and directories.

    Args:
        abilities: of the destination of the export; None if they are not known.
        lost: the run log tells of attributes that the file system did not hold.
        at_home: the export is where it was made.
    """

    def __init__(self, verified: Verified, abilities: Abilities | None, *, lost: bool, at_home: bool) -> None:
        self._verified = verified
        self._none = at_home and abilities is not None and not abilities.xattrs
        self._lost = lost
        self._at_home = at_home
        self._missing = _Pending("xattr")
        self._held = False

    def compare(self, path: bytes, wanted: Xattrs, found: Xattrs) -> None:
        if found:
            self._held = True
        if wanted == found or (self._none and not found):
            return
        have = dict(found)
        expected = shown_attributes(_beside(wanted, have))
        if all(pair in wanted for pair in found):
            self._missing.add(path, expected, "")
        else:
            self._verified.add("xattr", path, expected, shown_attributes(_beside(found, dict(wanted))))

    def settle(self) -> None:
        """All paths were seen."""
        number = self._missing.number
        if number and self._lost:
            self._verified.note(f"{number} paths lack extended attributes; the run log tells that some were not held")
        elif number and not self._held and not self._at_home:
            self._verified.note(
                f"there are no extended attributes here, as in a copy without them: {number} paths lack some"
            )
        else:
            self._missing.blame(self._verified)


def _beside(pairs: Xattrs, others: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    return ((name, value) for name, value in pairs if others.get(name) != value)


def shown_attributes(pairs: Iterable[tuple[bytes, bytes]]) -> str:
    """For people, cut off where they are long."""
    texts = [f"{name.decode('utf-8', 'backslashreplace')}={value[:40]!r}" for name, value in pairs]
    return ", ".join(texts[:4]) + (", …" if len(texts) > 4 else "")
