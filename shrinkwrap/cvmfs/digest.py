"""Content digests: algorithms, their text forms and hashing (FORMAT.md §2)."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple, Protocol

from shrinkwrap.errors import CorruptObject

SHA1: Final = 0
RMD160: Final = 1
SHAKE128: Final = 2

#: Text tag of each algorithm, by its number in bits 8-10 of a catalog entry's flags (FORMAT.md §2.1).
TAGS: Final = ("", "-rmd160", "-shake128")
NAMES: Final = ("sha1", "rmd160", "shake128")
#: All three digests have 20 bytes (shake128 is cut to 160 bits).
SIZE: Final = 20

_HEX: Final = frozenset("0123456789abcdef")


class Hasher(Protocol):
    """The part of hashlib's interface that is used here."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class _Shake128:
    __slots__ = ("_hash",)

    def __init__(self) -> None:
        self._hash = hashlib.shake_128(usedforsecurity=False)

    def update(self, data: bytes | memoryview, /) -> None:
        self._hash.update(data)

    def digest(self) -> bytes:
        return self._hash.digest(SIZE)


def _rmd160() -> Hasher:
    try:
        return hashlib.new("ripemd160", usedforsecurity=False)
    except ValueError:  # OpenSSL 3 without its legacy provider, FIPS mode
        from shrinkwrap.cvmfs.rmd160 import Rmd160

        return Rmd160()


def new_hasher(algorithm: int) -> Hasher:
    """A fresh hasher for one of :data:`SHA1`, :data:`RMD160`, :data:`SHAKE128`.

    ``usedforsecurity=False`` because FIPS builds hide SHA-1 otherwise; the format leaves no choice.
    """
    if algorithm == SHA1:
        return hashlib.sha1(usedforsecurity=False)
    if algorithm == RMD160:
        return _rmd160()
    if algorithm == SHAKE128:
        return _Shake128()
    raise CorruptObject(f"unknown hash algorithm number {algorithm} (0 sha1, 1 rmd160, 2 shake128 are known)")


class Digest(NamedTuple):
    """A content digest: ``algorithm`` number and 20 ``raw`` bytes."""

    algorithm: int
    raw: bytes

    def __str__(self) -> str:
        """Hex with the algorithm's tag: the form of manifests and catalogs, without a suffix letter."""
        return self.raw.hex() + TAGS[self.algorithm]

    @property
    def is_null(self) -> bool:
        return not any(self.raw)

    def object_path(self, suffix: str = "") -> str:
        """Path below a repository's URL: ``data/ab/cdef…[-tag][suffix]`` (FORMAT.md §1.1)."""
        text = self.raw.hex()
        return f"data/{text[:2]}/{text[2:]}{TAGS[self.algorithm]}{suffix}"


def parse_digest(text: str) -> Digest:
    """Read hex with an optional tag. The algorithm follows from the tag alone, never from context.

    Raises:
        CorruptObject: not 40 lower-case hex digits followed by a known tag.
    """
    for algorithm in (SHAKE128, RMD160, SHA1):
        tag = TAGS[algorithm]
        if len(text) == 2 * SIZE + len(tag) and text.endswith(tag):
            digits = text[: 2 * SIZE]
            if _HEX.issuperset(digits):
                return Digest(algorithm, bytes.fromhex(digits))
    raise CorruptObject(f"not a content hash: {text[:80]!r} (40 hex digits, perhaps with -rmd160 or -shake128)")


def digest_of(algorithm: int, data: bytes | memoryview) -> Digest:
    """Digest of bytes that are at hand."""
    hasher = new_hasher(algorithm)
    hasher.update(data)
    return Digest(algorithm, hasher.digest())
