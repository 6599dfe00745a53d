"""Blobs of extended attributes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs.xattr import pack_xattrs, parse_xattrs

#: user.a=1, user.bc=23
TWO = b"\x01\x02" + b"\x06\x01user.a1" + b"\x07\x02user.bc23"


def test_a_blob_is_read_byte_for_byte_as_the_format_says() -> None:
    assert parse_xattrs(TWO) == ((b"user.a", b"1"), (b"user.bc", b"23"))
    assert pack_xattrs([(b"user.bc", b"23"), (b"user.a", b"1")]) == TWO


names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)


@given(st.dictionaries(names, st.binary(max_size=255), max_size=8))
def test_what_is_packed_is_read_again_sorted_by_name(attributes: dict[bytes, bytes]) -> None:
    blob = pack_xattrs(attributes.items())
    assert (blob is None) == (not attributes)
    assert parse_xattrs(blob) == tuple(sorted(attributes.items()))


def test_the_limits_of_the_format_can_be_used_up() -> None:
    attributes = tuple((b"%03d" % number + b"x" * 252, b"v" * 255) for number in range(255))
    blob = pack_xattrs(attributes)
    assert blob is not None
    assert len(blob) == 2 + 255 * (2 + 255 + 255)
    assert parse_xattrs(blob) == attributes


@pytest.mark.parametrize(
    "attributes",
    [
        [(b"", b"v")],
        [(b"a\0b", b"v")],
        [(b"a" * 256, b"v")],
        [(b"a", b"v" * 256)],
        [(b"%d" % number, b"") for number in range(256)],
    ],
)
def test_what_one_byte_cannot_count_is_not_packed(attributes: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ValueError, match="extended attribute"):
        pack_xattrs(attributes)


@pytest.mark.parametrize(
    "blob",
    [
        None,
        b"",
        b"\x01",
        b"\x01\x00",
        b"\x00" + TWO[1:],
        b"\x02" + TWO[1:],
        TWO[:-1],
        TWO[:10],
        TWO[:11],
        b"\x01\x03" + TWO[2:],
        b"\x01\x01\x00\x01v",
        b"\x01\x01\x03\x01a\0bv",
        b"\x01\xff",
    ],
)
def test_a_malformed_blob_means_no_attributes(blob: bytes | None) -> None:
    assert parse_xattrs(blob) == ()


def test_bytes_after_the_last_attribute_are_ignored() -> None:
    assert parse_xattrs(TWO + b"rest") == parse_xattrs(TWO)


def test_every_cut_of_a_good_blob_gives_nothing_rather_than_half_of_it() -> None:
    for length in range(len(TWO)):
        assert parse_xattrs(TWO[:length]) == ()


@given(st.binary(max_size=60))
def test_any_bytes_are_read_without_an_exception(blob: bytes) -> None:
    for name, value in parse_xattrs(blob):
        assert 0 < len(name) < 256
        assert b"\0" not in name
        assert len(value) < 256
