"""RIPEMD-160 in plain Python, for the OpenSSL builds that hide it (FORMAT.md §2.1).

It is a fallback of less than 1 MB/s: enough for manifests, certificates and catalogs, slow for whole exports.
The algorithm is that of Dobbertin, Bosselaers and Preneel, "RIPEMD-160: A Strengthened Version of RIPEMD"
(1996); the tables below carry that paper's names.
"""

from __future__ import annotations

import struct
from typing import Final

_BLOCK: Final = 64
_MASK: Final = 0xFFFFFFFF
_WORDS: Final = struct.Struct("<16I")
_START: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0)

#: rho, the permutation that makes each round's word order from that of the round before.
_RHO: Final = (7, 4, 13, 1, 10, 6, 15, 3, 12, 0, 9, 5, 2, 14, 11, 8)
#: Shifts of each round, by the number of the *word*, not of the step: both lines share them.
_SHIFTS: Final = (
    (11, 14, 15, 12, 5, 8, 7, 9, 11, 13, 14, 15, 6, 7, 9, 8),
    (12, 13, 11, 15, 6, 9, 9, 7, 12, 15, 11, 13, 7, 8, 7, 7),
    (13, 15, 14, 11, 7, 7, 6, 8, 13, 14, 13, 12, 5, 5, 6, 9),
    (14, 11, 12, 14, 8, 6, 5, 5, 15, 12, 15, 14, 9, 9, 8, 6),
    (15, 12, 13, 13, 9, 5, 8, 6, 14, 11, 12, 11, 8, 6, 5, 5),
)
_LEFT_CONSTANTS: Final = (0x00000000, 0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xA953FD4E)
_RIGHT_CONSTANTS: Final = (0x50A28BE6, 0x5C4DD124, 0x6D703EF3, 0x7A6D76E9, 0x00000000)


def _orders(first: tuple[int, ...]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each of the five rounds: the steps' (word, shift)."""
    rounds = []
    order = first
    for shifts in _SHIFTS:
        rounds.append(tuple((word, shifts[word]) for word in order))
        order = tuple(_RHO[word] for word in order)
    return tuple(rounds)


_LEFT: Final = _orders(tuple(range(16)))
_RIGHT: Final = _orders(tuple((9 * word + 5) % 16 for word in range(16)))


def _mix(number: int, x: int, y: int, z: int) -> int:
    """The Boolean functions f1 to f5 (``number`` 0 to 4)."""
    if number == 0:
        return x ^ y ^ z
    if number == 1:
        return (x & y) | (~x & z)
    if number == 2:
        return (x | ~y) ^ z
    if number == 3:
        return (x & z) | (y & ~z)
    return x ^ (y | ~z)


def _line(
    state: tuple[int, int, int, int, int],
    words: tuple[int, ...],
    rounds: tuple[tuple[tuple[int, int], ...], ...],
    constants: tuple[int, ...],
    functions: tuple[int, ...],
) -> tuple[int, int, int, int, int]:
    """One of the two parallel lines of the compression function: 80 steps."""
    a, b, c, d, e = state
    for steps, constant, function in zip(rounds, constants, functions, strict=True):
        for word, shift in steps:
            total = (a + _mix(function, b, c, d) + words[word] + constant) & _MASK
            turned = ((total << shift) | (total >> (32 - shift))) + e
            a, e, d, c, b = e, d, ((c << 10) | (c >> 22)) & _MASK, b, turned & _MASK
    return a, b, c, d, e


def _compress(state: tuple[int, int, int, int, int], block: bytes) -> tuple[int, int, int, int, int]:
    words = _WORDS.unpack(block)
    left = _line(state, words, _LEFT, _LEFT_CONSTANTS, (0, 1, 2, 3, 4))
    right = _line(state, words, _RIGHT, _RIGHT_CONSTANTS, (4, 3, 2, 1, 0))
    return (
        (state[1] + left[2] + right[3]) & _MASK,
        (state[2] + left[3] + right[4]) & _MASK,
        (state[3] + left[4] + right[0]) & _MASK,
        (state[4] + left[0] + right[1]) & _MASK,
        (state[0] + left[1] + right[2]) & _MASK,
    )


class Rmd160:
    """The part of hashlib's interface that :class:`~shrinkwrap.cvmfs.digest.Hasher` asks for."""

    __slots__ = ("_length", "_pending", "_state")

    def __init__(self) -> None:
        self._state = _START
        self._pending = b""
        self._length = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._length += memoryview(data).nbytes
        pending = self._pending + bytes(data)
        whole = len(pending) - len(pending) % _BLOCK
        for start in range(0, whole, _BLOCK):
            self._state = _compress(self._state, pending[start : start + _BLOCK])
        self._pending = pending[whole:]

    def digest(self) -> bytes:
        """The digest of what was fed so far (20 bytes); more may be fed afterwards."""
        filler = b"\x80" + bytes((_BLOCK - 9 - self._length) % _BLOCK)
        tail = self._pending + filler + struct.pack("<Q", (8 * self._length) & 0xFFFFFFFFFFFFFFFF)
        state = self._state
        for start in range(0, len(tail), _BLOCK):
            state = _compress(state, tail[start : start + _BLOCK])
        return struct.pack("<5I", *state)
