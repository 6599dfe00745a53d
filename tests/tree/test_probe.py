"""What a file system can do is found out, and what it cannot hold is foreseen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.filesystems import Filesystem
from support.listing import probe as seen_by_tests

from shrinkwrap.tree.base import Base
from shrinkwrap.tree.probe import Abilities, probe

NS = 10**9
OLD = Abilities(True, False, True, -(1 << 31), (1 << 31) - 1, NS)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        (0, 0),
        (1_600_000_000 * NS + 999_999_999, 1_600_000_000 * NS),
        (-NS - 1, -2 * NS),
        (4_000_000_000 * NS + 5, ((1 << 31) - 1) * NS),
        (-9_000_000_000 * NS, -(1 << 31) * NS),
        (((1 << 31) - 1) * NS + 1, ((1 << 31) - 1) * NS),
    ],
)
def test_times_are_foreseen_as_a_file_system_of_whole_seconds_until_2038_shows_them(wanted: int, held: int) -> None:
    assert OLD.time(wanted) == held


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "xfs", "xfs-noreflink"])
def test_each_file_system_is_seen_as_it_is(kind: str, make_filesystem: Callable[..., Filesystem]) -> None:
    folder = make_filesystem(kind).folder("base")
    base = Base(str(folder))
    try:
        found, known = probe(base), seen_by_tests(folder)
        assert (found.hardlinks, found.reflinks, found.xattrs) == (True, known.reflink, known.xattrs)
        assert (found.granularity == 1) == known.nanoseconds
        assert os.listdir(base.scratch) == []
        file = folder / "file"
        file.touch()
        for seconds in (-(1 << 39), -(1 << 31), -1, 0, 1, (1 << 31) - 1, 1 << 31, 15032385535, 1 << 34, 1 << 39):
            wanted = seconds * NS + 123_456_789
            os.utime(file, ns=(wanted, wanted))
            assert file.stat().st_mtime_ns == found.time(wanted)
    finally:
        base.close()


def test_what_was_found_is_one_line_for_people(tmp_path: Path) -> None:
    base = Base(str(tmp_path))
    assert probe(base).line().count("\n") == 0
    base.close()
    assert (
        OLD.line() == "hard links, no reflinks, user xattrs, times -2147483648..2147483647 s in steps of 1000000000 ns"
    )
