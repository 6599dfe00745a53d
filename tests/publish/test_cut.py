"""Chunks: any cut is valid, these are the reference's."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.golden import Pinned

from shrinkwrap import Repository
from shrinkwrap.errors import UsageError
from shrinkwrap.publish.cut import ChunkLimits, cuts, parse_limits


def by_definition(data: bytes, sizes: ChunkLimits) -> Iterator[int]:
    """FORMAT.md §12.3, byte by byte."""
    start = 0
    while len(data) - start > sizes.least:
        state = 0
        end = min(start + sizes.most, len(data))
        cut = end
        for position in range(start + sizes.least - 32, end):
            state = ((state << 1) ^ data[position]) & 0xFFFFFFFF
            if position >= start + sizes.least:
                away = (state - 0x7FFFFFFF) & 0xFFFFFFFF
                if min(away, 2**32 - away) < (2**32 - 1) // sizes.average:
                    cut = position
                    break
        start = cut
        if start < len(data):
            yield start
    if start < len(data) or not data:
        yield len(data)
    else:
        yield start


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("sizes", [(32, 64, 128), (64, 300, 900), (1000, 3000, 9000)])
def test_cuts_are_those_of_the_definition(seed: int, sizes: tuple[int, int, int]) -> None:
    chance = random.Random(seed)
    data = chance.randbytes(30_000) if seed % 2 else bytes(chance.choices(b"ab \0\xff", k=30_000))
    limits = ChunkLimits(*sizes)
    for size in (0, 31, 32, 33, sizes[0], sizes[0] + 1, sizes[2], sizes[2] + 1, 30_000):
        part = data[:size]
        found = list(cuts(lambda offset, count, part=part: part[offset : offset + count], size, limits))  # type: ignore[misc]
        assert found == list(by_definition(part, limits))
        assert found[-1] == size


def test_content_that_never_triggers_is_cut_at_the_maximum() -> None:
    limits = ChunkLimits(100, 200, 400)
    assert list(cuts(lambda offset, count: bytes(count), 1000, limits)) == [400, 800, 1000]


def test_files_of_the_reference_are_cut_where_it_cut_them(repos: Path) -> None:
    at = Pinned("small.cern.ch", "rev3")
    limits = parse_limits("256K:512K:1M")
    checked = 0
    with Repository(at.fqrn, storage=repos / at.fqrn, keys=[at.key]) as repository:
        head = repository.head
        for entry in head.entries():
            if entry.is_file and entry.size > limits.least:
                data = head.read(entry.path)
                found = list(cuts(lambda offset, count, data=data: data[offset : offset + count], len(data), limits))  # type: ignore[misc]
                wanted = [chunk.offset + chunk.size for chunk in entry.chunks] or [len(data)]
                assert found == wanted, entry.path
                checked += 1
    assert checked > 20


@pytest.mark.parametrize("text", ["", "1:2", "4M:2M:8M", "1:2:3", "4M:8M:2G", "a:b:c", "-1:2:3", "4 M:8M:16M", "M:M:M"])
def test_sizes_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_limits(text)


def test_sizes_have_units() -> None:
    assert parse_limits("4M:8m:16M") == ChunkLimits()
    assert parse_limits("100:2K:3000") == ChunkLimits(100, 2048, 3000)
