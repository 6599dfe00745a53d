"""Checksums in any order come out in that of the stream."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from shrinkwrap.record.sums import PACKED, UNKNOWN, WIDTH, Sums


def value(ordinal: int) -> bytes:
    return (ordinal + 1).to_bytes(WIDTH, "big")


@pytest.mark.parametrize("batch", [1, 7, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_sums_that_come_in_any_order_and_in_batches_are_read_by_their_place(
    tmp_path: Path, batch: int, shuffled: bool
) -> None:
    ordinals = list(range(1000))
    if shuffled:
        random.Random(1).shuffle(ordinals)
    with Sums(str(tmp_path)) as sums:
        for at in range(0, len(ordinals), batch):
            sums.put_many(b"".join(PACKED.pack(one, value(one)) for one in ordinals[at : at + batch]))
        assert sums.range(0, 1000) == b"".join(map(value, range(1000)))
        assert sums.range(300, 302) == value(300) + value(301)
        assert sums.range(5, 5) == b""
    assert list(tmp_path.iterdir()) == []


def test_sums_that_never_came_are_unknown(tmp_path: Path) -> None:
    with Sums(str(tmp_path)) as sums:
        assert sums.range(0, 2) == UNKNOWN * 2
        sums.put_many(b"")
        sums.put_many(PACKED.pack(3, value(3)) + PACKED.pack(1, value(1)))
        assert sums.range(0, 6) == UNKNOWN + value(1) + UNKNOWN + value(3) + UNKNOWN * 2


def test_of_two_sums_for_a_file_the_later_counts(tmp_path: Path) -> None:
    with Sums(str(tmp_path)) as sums:
        sums.put_many(PACKED.pack(0, value(0)) + PACKED.pack(1, value(1)) + PACKED.pack(0, value(7)))
        sums.put_many(PACKED.pack(1, value(8)))
        assert sums.range(0, 2) == value(7) + value(8)
