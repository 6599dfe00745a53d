"""Where big files are cut into chunks (FORMAT.md §12.3).

Any cut points are valid for readers; those of the reference's detector let files share chunks with what it published,
and chunks survive an insertion before them. Its state is 32 bits, ``x = (x << 1) ^ byte``: a byte's influence is gone
after 32 more, so bit ``j`` (from 7 on) of the state after byte ``n`` is bit ``n - j`` of *one* sequence, the exclusive
or of bit ``k`` of byte ``m + k`` for ``k`` from 0 to 7. That sequence comes for a whole block at once from a few
operations on one long integer, and a state near 2^31 is a run of equal bits in it, which ``bytes.find`` looks for. What
it finds is held against the definition.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import UsageError

_WINDOW: Final = 32
#: Bytes looked at in one go: larger integers leave the processor's caches.
_BLOCK: Final = 64 * limits.KIB
_MIDDLE: Final = (1 << 31) - 1
_MASK: Final = (1 << 32) - 1
#: The largest chunk: workers hold one each in memory.
_LARGEST: Final = 256 * limits.MIB
#: Bits of the state below this one are not those of the sequence.
_LOWEST: Final = 7

_UNITS: Final = {"": 1, "K": limits.KIB, "M": limits.MIB, "G": limits.GIB}


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """Sizes of chunks in bytes. Files not larger than ``least`` stay whole.

    Raises:
        UsageError: they are not in order, or out of bounds.
    """

    least: int = 4 * limits.MIB
    average: int = 8 * limits.MIB
    most: int = 16 * limits.MIB

    def __post_init__(self) -> None:
        if not _WINDOW <= self.least <= self.average <= self.most <= _LARGEST:
            raise UsageError(
                f"chunks of {self.least}:{self.average}:{self.most} bytes: expected minimum, average and maximum in"
                f" this order, from {_WINDOW} to {_LARGEST}"
            )


def parse_limits(text: str) -> ChunkLimits:
    """``MIN:AVG:MAX`` in bytes, or with K, M or G (powers of 1024) after the numbers. Raises UsageError."""
    parts = text.upper().split(":")
    sizes = []
    for part in parts:
        digits = part.rstrip("KMG")
        if len(parts) != 3 or not digits.isdecimal() or len(digits) > 12 or part[len(digits) :] not in _UNITS:
            raise UsageError(f"{text!r} are not sizes of chunks", hint="MIN:AVG:MAX, such as 4M:8M:16M")
        sizes.append(int(digits) * _UNITS[part[len(digits) :]])
    return ChunkLimits(*sizes)


def cuts(read: Callable[[int, int], bytes], size: int, sizes: ChunkLimits) -> Iterator[int]:
    """Ends of the chunks of a file, in order; the last one is ``size``.

    Args:
        read: gives bytes of the file from an offset on, exactly as many as asked for. It is called with rising offsets,
            never below the last end but for 32 bytes.
        size: of the file in bytes.
    """
    start = 0
    while size - start > sizes.least:
        end = min(start + sizes.most, size)
        start = _next_cut(read, start + sizes.least, end, sizes.average)
        if start == size:
            break
        yield start
    yield size


def _next_cut(read: Callable[[int, int], bytes], first: int, end: int, average: int) -> int:
    """The first position from ``first`` on that is a cut, ``end`` if there is none before it."""
    reach = _MASK // average
    low = max((reach - 1).bit_length(), _LOWEST)
    run = b"\x01" + bytes(max(30 - low, 0))
    tail = read(first - _WINDOW, _WINDOW)
    position = first
    while position < end:
        block = tail + read(position, min(_BLOCK, end - position))
        found = _search(block, run, reach)
        if found >= 0:
            return position + found - _WINDOW
        position += len(block) - _WINDOW
        tail = block[-_WINDOW:]
    return end


@functools.lru_cache(maxsize=4)
def _ones(length: int) -> int:
    return int.from_bytes(b"\x01" * length, "little")


def _search(block: bytes, run: bytes, reach: int) -> int:
    """Index in the block of the first byte that triggers a cut; the first 32 bytes only lead up to it."""
    number = int.from_bytes(block, "little")
    number ^= number >> 9
    number ^= number >> 18
    number ^= number >> 36
    # One where a bit of the sequence differs from the next.
    changes = ((number ^ (number >> 8)) & _ones(len(block))).to_bytes(len(block), "little")
    found = changes.find(run, 1)
    while 0 <= found < len(block) - _WINDOW + 1:
        index = found + _WINDOW - 1
        state = 0
        for byte in block[index - _WINDOW + 1 : index + 1]:
            state = ((state << 1) ^ byte) & _MASK
        # The distance is that of signed 32-bit arithmetic that wraps (FORMAT.md §12.3).
        distance = (state - _MIDDLE) & _MASK
        if min(distance, (1 << 32) - distance) < reach:
            return index
        found = changes.find(run, found + 1)
    return -1
