"""Lists in a file come back as they were, in either direction."""

from __future__ import annotations

import os
from pathlib import Path

from shrinkwrap.tree.spill import Spill


def test_records_come_back_forwards_and_backwards_again_and_again(tmp_path: Path) -> None:
    records = [(b"/p\xff" * (number % 700), number, None, ((b"k", b"v"),), -(1 << 70), "f") for number in range(3000)]
    spill = Spill(str(tmp_path))
    for record in records:
        spill.append(record)
    for _ in range(2):
        assert list(spill) == records
        assert list(reversed(spill)) == records[::-1]
    assert spill.count == len(records)
    spill.close()


def test_an_empty_list_is_empty_in_both_directions(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path))
    assert list(spill) == list(reversed(spill)) == []
    spill.close()


def test_nothing_of_a_list_is_to_be_seen(tmp_path: Path) -> None:
    spill = Spill(str(tmp_path))
    spill.append((b"x" * (1 << 20),))
    assert os.listdir(tmp_path) == []
    spill.close()
