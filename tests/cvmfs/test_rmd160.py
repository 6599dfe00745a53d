"""RIPEMD-160 without OpenSSL."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs import digest
from shrinkwrap.cvmfs.rmd160 import Rmd160

# The test values of the algorithm's authors.
VECTORS = {
    b"": "9c1185a5c5e9fc54612808977ee8f548b2258d31",
    b"a": "0bdc9d2d256b3ee9daae347be6f4dc835a467ffe",
    b"abc": "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc",
    b"message digest": "5d0689ef49d2fae572b881b123a85ffa21595f36",
    b"abcdefghijklmnopqrstuvwxyz": "f71c27109c692c1b56bbdceb5b9d2865b3708dbc",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": "12a053384a9c0c88e405a06c27dcf49ada62eb2b",
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789": ("b0e20b6e3116640286ed3a87a5713079b21f5189"),
    b"1234567890" * 8: "9b752e45573d4b39f4dbd3323cab82bf63326bfb",
}


def openssl_has_it() -> bool:
    try:
        hashlib.new("ripemd160", usedforsecurity=False)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("data", "expected"), VECTORS.items())
def test_the_published_test_values_come_out(data: bytes, expected: str) -> None:
    hasher = Rmd160()
    hasher.update(data)
    assert hasher.digest().hex() == expected


@pytest.mark.skipif(not openssl_has_it(), reason="this OpenSSL has no RIPEMD-160 to compare with")
@given(pieces=st.lists(st.binary(max_size=150), max_size=6))
def test_any_bytes_in_any_pieces_hash_as_openssl_hashes_them(pieces: list[bytes]) -> None:
    ours, theirs = Rmd160(), hashlib.new("ripemd160", usedforsecurity=False)
    for piece in pieces:
        ours.update(memoryview(piece))
        theirs.update(piece)
        assert ours.digest() == theirs.digest()


@pytest.mark.parametrize("size", [54, 55, 56, 57, 63, 64, 65, 119, 120, 128])
def test_the_padding_is_right_around_the_ends_of_blocks(size: int) -> None:
    whole, bytewise = Rmd160(), Rmd160()
    whole.update(bytes(size))
    for _ in range(size):
        bytewise.update(b"\0")
    assert whole.digest() == bytewise.digest()
    if openssl_has_it():
        assert whole.digest() == hashlib.new("ripemd160", bytes(size), usedforsecurity=False).digest()


def test_it_takes_over_where_openssl_hides_the_algorithm(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(name: str, *args: object, **options: object) -> None:
        raise ValueError(f"unsupported hash type {name}")

    monkeypatch.setattr(hashlib, "new", hidden)
    assert isinstance(digest.new_hasher(digest.RMD160), Rmd160)
    assert str(digest.digest_of(digest.RMD160, b"abc")) == VECTORS[b"abc"] + "-rmd160"
