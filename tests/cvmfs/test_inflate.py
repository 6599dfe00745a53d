"""Bounded inflation, with both libraries."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs import inflate as module
from shrinkwrap.cvmfs.inflate import StreamInflater, inflate
from shrinkwrap.errors import CorruptObject

Inflate = Callable[[bytes, int], bytes]

RANDOM = random.Random(20)
CONTENTS = {
    "empty": b"",
    "one byte": b"x",
    "text": b"some text, some text, some more text\n" * 40,
    "noise": RANDOM.randbytes(70_000),
    "zeros": bytes(5 << 19),
}


@pytest.fixture(params=["isal", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both libraries in turn, whichever the module has chosen."""
    if request.param == "zlib":
        monkeypatch.setattr(module, "_zlib", zlib)
        monkeypatch.setattr(module, "_errors", (zlib.error,))
    elif module.LIBRARY != "isal":
        pytest.skip("no isal for this Python")
    return str(request.param)


def streamed(step: int) -> Inflate:
    def run(data: bytes, limit: int) -> bytes:
        inflater = StreamInflater(limit)
        pieces: list[bytes] = []
        stride = max(step, len(data) // 5000)
        for start in range(0, len(data), stride):
            pieces += inflater.feed(data[start : start + stride])
        pieces += inflater.finish()
        assert all(len(piece) <= StreamInflater.STEP for piece in pieces)
        return b"".join(pieces)

    return run


WAYS: dict[str, Inflate] = {
    "whole": inflate,
    "at once": streamed(1 << 30),
    "in pieces": streamed(1009),
    "in crumbs": streamed(3),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, library: str) -> Inflate:
    return WAYS[request.param]


@pytest.fixture(params=CONTENTS)
def content(request: pytest.FixtureRequest) -> bytes:
    return CONTENTS[request.param]


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_a_stream_comes_out_whole_when_the_limit_is_its_exact_size(way: Inflate, content: bytes, level: int) -> None:
    stored = zlib.compress(content, level)
    assert way(stored, len(content)) == content
    assert way(stored, len(content) + 100_000) == content


def test_one_byte_more_than_the_limit_is_refused(way: Inflate, content: bytes) -> None:
    if content:
        with pytest.raises(CorruptObject, match="more than"):
            way(zlib.compress(content), len(content) - 1)


def test_a_bomb_is_stopped_at_the_limit(way: Inflate) -> None:
    with pytest.raises(CorruptObject, match="more than the 1000 bytes"):
        way(zlib.compress(bytes(20_000_000), 9), 1000)


def test_a_stream_that_is_cut_short_anywhere_near_its_end_is_refused(way: Inflate, content: bytes) -> None:
    stored = zlib.compress(content)
    for cut in range(1, min(12, len(stored)) + 1):
        with pytest.raises(CorruptObject, match="cut short"):
            way(stored[:-cut], len(content))


def test_bytes_after_the_stream_are_refused(way: Inflate, content: bytes) -> None:
    stored = zlib.compress(content)
    for extra in (1, 3, 4, 5, 8, 9, 100):
        with pytest.raises(CorruptObject, match="follow"):
            way(stored + b"x" * extra, len(content))


def test_a_second_stream_after_the_first_is_refused(way: Inflate) -> None:
    with pytest.raises(CorruptObject, match="follow"):
        way(zlib.compress(b"one") + zlib.compress(b"two"), 100)


def test_a_wrong_checksum_is_refused_even_at_the_exact_limit(way: Inflate, content: bytes) -> None:
    for position in range(1, 5):
        broken = bytearray(zlib.compress(content))
        broken[-position] ^= 1
        for limit in (len(content), len(content) + 1, len(content) + 70_000):
            with pytest.raises(CorruptObject):
                way(bytes(broken), limit)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x78", b"\x78\x9c", b"not zlib at all", gzip.compress(b"x"), zlib.compress(b"x" * 50)[2:-4]],
    ids=["nothing", "one byte", "header", "text", "gzip", "raw deflate"],
)
def test_other_formats_are_refused(way: Inflate, data: bytes) -> None:
    with pytest.raises(CorruptObject):
        way(data, 1000)


def test_a_stream_with_a_preset_dictionary_is_refused(way: Inflate) -> None:
    packer = zlib.compressobj(zdict=b"a dictionary nobody has")
    with pytest.raises(CorruptObject):
        way(packer.compress(b"a dictionary nobody has, twice") + packer.flush(), 1000)


def test_empty_pieces_between_the_others_change_nothing(library: str) -> None:
    stored = zlib.compress(CONTENTS["text"])
    inflater = StreamInflater(1 << 20)
    pieces = inflater.feed(b"")
    for byte in stored:
        pieces += inflater.feed(bytes([byte])) + inflater.feed(b"")
    pieces += inflater.finish()
    assert b"".join(pieces) == CONTENTS["text"]


def test_memory_views_are_taken(library: str) -> None:
    stored = zlib.compress(b"some text")
    assert inflate(memoryview(stored), 100) == b"some text"
    inflater = StreamInflater(100)
    assert b"".join(inflater.feed(memoryview(stored)) + inflater.finish()) == b"some text"


@given(st.binary(max_size=200), st.integers(0, 300), st.integers(1, 50))
def test_any_bytes_inflate_or_are_refused(data: bytes, limit: int, step: int) -> None:
    for run in (inflate, streamed(step)):
        try:
            assert len(run(data, limit)) <= limit
        except CorruptObject:
            continue


@given(st.binary(max_size=400), st.integers(0, 10_000), st.integers(0, 255), st.integers(1, 64))
def test_a_damaged_stream_never_gives_other_bytes_both_ways(
    content: bytes, position: int, value: int, step: int
) -> None:
    damaged = bytearray(zlib.compress(content))
    damaged[position % len(damaged)] = value
    results: list[bytes | None] = []
    for run in (inflate, streamed(step)):
        try:
            results.append(run(bytes(damaged), 5000))
        except CorruptObject:
            results.append(None)
    assert results[0] == results[1]
