"""Text forms and computation of content digests."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest, digest_of, new_hasher, parse_digest
from shrinkwrap.errors import CorruptObject

DIGESTS = st.builds(Digest, st.sampled_from([SHA1, RMD160, SHAKE128]), st.binary(min_size=20, max_size=20))


@pytest.mark.parametrize(
    ("data", "algorithm", "text"),
    [
        ("789c030000000001", SHA1, "e8ec3d88b62ebf526e4e5a4ff6162a3aa48a6b78"),
        ("789c030000000001", RMD160, "fcdb20b894f31f1306d56294c049ca7293dde0fc-rmd160"),
        ("789c030000000001", SHAKE128, "28d94b83b7229b331fc601362b8e272e02665122-shake128"),
        ("", SHA1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        ("", RMD160, "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160"),
        ("", SHAKE128, "7f9c2ba4e88f827d616045507605853ed73b8093-shake128"),
    ],
)
def test_empty_files_have_the_digests_that_the_format_says(data: str, algorithm: int, text: str) -> None:
    assert str(digest_of(algorithm, bytes.fromhex(data))) == text


@given(DIGESTS)
def test_the_text_form_is_read_back(digest: Digest) -> None:
    assert parse_digest(str(digest)) == digest


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("ab" + "0" * 38, "data/ab/" + "0" * 38),
        ("ab" + "0" * 38 + "-rmd160", "data/ab/" + "0" * 38 + "-rmd160"),
        ("ab" + "0" * 38 + "-shake128", "data/ab/" + "0" * 38 + "-shake128"),
    ],
)
def test_the_suffix_letter_of_a_path_follows_the_tag(text: str, path: str) -> None:
    assert parse_digest(text).object_path() == path
    assert parse_digest(text).object_path("C") == path + "C"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0" * 39,
        "0" * 41,
        "0" * 32,
        "A" * 40,
        "g" * 40,
        "0" * 40 + "C",
        "0" * 40 + "-RMD160",
        "0" * 40 + "-sha1",
        "0" * 40 + "-shake256",
        "0" * 40 + "-rmd160C",
        "0" * 40 + "-rmd160-shake128",
        " " + "0" * 40,
        "0" * 40 + "\n",
        "0" * 38 + "٣٣",
        "../" * 13 + "x",
        "0x" + "0" * 38,
        "0_" * 20,
    ],
)
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(CorruptObject, match="not a content hash"):
        parse_digest(text)


@given(st.text(max_size=60))
def test_any_text_is_a_hash_or_refused(text: str) -> None:
    try:
        digest = parse_digest(text)
    except CorruptObject:
        return
    assert str(digest) == text


@pytest.mark.parametrize("algorithm", [-1, 3, 7])
def test_an_unknown_algorithm_number_is_refused(algorithm: int) -> None:
    with pytest.raises(CorruptObject, match="algorithm"):
        new_hasher(algorithm)


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_pieces_hash_like_the_whole(pieces: list[bytes]) -> None:
    for algorithm in (SHA1, RMD160, SHAKE128):
        hasher = new_hasher(algorithm)
        for piece in pieces:
            hasher.update(memoryview(piece))
        assert hasher.digest() == digest_of(algorithm, b"".join(pieces)).raw
        assert len(hasher.digest()) == 20


def test_shake128_is_cut_to_160_bits() -> None:
    assert digest_of(SHAKE128, b"x").raw == hashlib.shake_128(b"x").digest(20)


def test_only_twenty_zero_bytes_are_the_null_hash() -> None:
    assert parse_digest("0" * 40).is_null
    assert not parse_digest("0" * 39 + "1").is_null
