"""Names of contents, and a table of them that a million entries do not blow up."""

from __future__ import annotations

import mmap
from hashlib import blake2b
from struct import Struct
from typing import Final

from shrinkwrap.cvmfs.digest import TAGS
from shrinkwrap.snapshot.view import Content

KEY_BYTES: Final = 16
_SLOT: Final = KEY_BYTES + 8
_VALUE: Final = Struct("<Q")
_FREE: Final = bytes(KEY_BYTES)


def item_name(content: Content) -> str:
    """What names a content: digest, interpretation and size (DESIGN, identity); no metadata."""
    text = content.digest.raw.hex()
    return f"{text[:2]}/{text[2:]}{TAGS[content.digest.algorithm]}{content.kind}{content.size}"


def key_of(name: str) -> bytes:
    """The key of a name; also of what no repository has (:func:`own_key`)."""
    return blake2b(name.encode(), digest_size=KEY_BYTES).digest()


def own_key(data: bytes) -> bytes:
    """The key of content that is made here, by a digest of it."""
    return blake2b(data, digest_size=KEY_BYTES, person=b"shrinkwrap-own").digest()


class KeyTable:
    """Numbers by key: 24 bytes a slot outside of Python's memory, against some 170 in a dictionary."""

    def __init__(self, slots: int = 1 << 14) -> None:
        self._slots = slots
        self._used = 0
        self._map = mmap.mmap(-1, slots * _SLOT)

    def __len__(self) -> int:
        return self._used

    def get(self, key: bytes) -> int | None:
        """The number of a key; None if it is not there."""
        table, mask = self._map, self._slots - 1
        slot = int.from_bytes(key[:8], "little") & mask
        while True:
            at = slot * _SLOT
            there = table[at : at + KEY_BYTES]
            if there == key:
                number: int = _VALUE.unpack_from(table, at + KEY_BYTES)[0]
                return number
            if there == _FREE:
                return None
            slot = (slot + 1) & mask

    def set(self, key: bytes, number: int) -> None:
        """Give a key a number, 0 to 2^64 - 1. A key of zeros only is refused by an assertion: no digest is that."""
        at = self._find(key)
        if self._map[at : at + KEY_BYTES] != key:
            assert key != _FREE
            if 3 * self._used >= 2 * self._slots:
                self._grow()
                at = self._find(key)
            self._map[at : at + KEY_BYTES] = key
            self._used += 1
        _VALUE.pack_into(self._map, at + KEY_BYTES, number)

    def _find(self, key: bytes) -> int:
        table, mask = self._map, self._slots - 1
        slot = int.from_bytes(key[:8], "little") & mask
        while True:
            at = slot * _SLOT
            there = table[at : at + KEY_BYTES]
            if there in (key, _FREE):
                return at
            slot = (slot + 1) & mask

    def _grow(self) -> None:
        old, end = self._map, self._slots * _SLOT
        self._slots *= 2
        self._map = mmap.mmap(-1, self._slots * _SLOT)
        for start in range(0, end, _SLOT):
            key = old[start : start + KEY_BYTES]
            if key != _FREE:
                at = self._find(key)
                self._map[at : at + _SLOT] = old[start : start + _SLOT]
        old.close()

    def close(self) -> None:
        self._map.close()
