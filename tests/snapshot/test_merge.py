"""Two ordered streams side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from snapshot.walking import components, walk
from support.repository import Publisher

from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.snapshot.merge import merge


class Thing(NamedTuple):
    path: bytes
    side: str


names = st.sampled_from([b"a", b"a-b", b"a!", b"ab", b"b", b"\xff", b"\x01", b" "])
streams = st.sets(st.lists(names, max_size=4).map(lambda way: b"".join(b"/" + name for name in way)), max_size=20)


def stream(paths: set[bytes], side: str) -> list[Thing]:
    return [Thing(path, side) for path in sorted(paths, key=components)]


@given(streams, streams)
def test_a_merge_pairs_what_stands_at_a_path_and_keeps_the_order(old: set[bytes], new: set[bytes]) -> None:
    expected = [
        (Thing(path, "old") if path in old else None, Thing(path, "new") if path in new else None)
        for path in sorted(old | new, key=components)
    ]
    assert list(merge(stream(old, "old"), stream(new, "new"))) == expected


@given(streams, streams)
def test_a_side_is_advanced_only_after_its_pair_was_dealt_with(old: set[bytes], new: set[bytes]) -> None:
    drawn: dict[str, bytes] = {}

    def watched(paths: set[bytes], side: str) -> Iterator[Thing]:
        for thing in stream(paths, side):
            drawn[side] = thing.path
            yield thing

    for before, after in merge(watched(old, "old"), watched(new, "new")):
        if before is not None:
            assert drawn["old"] == before.path
        if after is not None:
            assert drawn["new"] == after.path


def test_a_name_that_sorts_between_a_directory_and_what_is_below_it_deletes_nothing() -> None:
    paths = {b"", b"/a", b"/a/b", b"/a-b", b"/a!"}
    assert all(before and after for before, after in merge(stream(paths, "old"), stream(paths, "new")))


def pairs_of(publisher: Publisher, prune: bytes) -> list[tuple[bytes | None, bytes | None]]:
    """Merge two snapshots, and prune the old one below a path."""
    before = publisher.tree([b"/a/x/f", b"/a/y", b"/b"], [b"/a"], store=False).ref()
    after = publisher.tree([b"/a-b", b"/a/x/g", b"/b"], [b"/a/x"], store=False).ref()
    found: list[tuple[bytes | None, bytes | None]] = []

    def path(entry: Entry | None) -> bytes | None:
        return None if entry is None else entry.path

    with publisher.open() as opened:
        old, new = walk(opened, before), walk(opened, after)
        for one, two in merge(old, new):
            found.append((path(one), path(two)))
            if one is not None and one.path == prune:
                old.prune()
        assert opened.catalogs.in_use == 0
    return found


def test_two_snapshots_are_merged_like_two_trees(publisher: Publisher) -> None:
    assert pairs_of(publisher, b"/nowhere") == [
        (b"", b""),
        (b"/a", b"/a"),
        (b"/a/x", b"/a/x"),
        (b"/a/x/f", None),
        (None, b"/a/x/g"),
        (b"/a/y", None),
        (None, b"/a-b"),
        (b"/b", b"/b"),
    ]


def test_one_side_can_be_pruned_while_it_is_merged(publisher: Publisher) -> None:
    assert pairs_of(publisher, b"/a") == [
        (b"", b""),
        (b"/a", b"/a"),
        (None, b"/a/x"),
        (None, b"/a/x/g"),
        (None, b"/a-b"),
        (b"/b", b"/b"),
    ]
