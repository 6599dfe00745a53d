"""Objects sorted into batches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.engine import batches as module
from shrinkwrap.engine.batches import Batcher, folder_of
from shrinkwrap.engine.work import Item
from shrinkwrap.snapshot.view import Content


def item(name: str, size: int = 1, payload: Any = ()) -> Item:
    return Item(name, Content(Digest(0, bytes(20)), "z", size, (), None), b"/p", payload)


def join(one: Item, two: Item) -> Item:
    return one._replace(payload=one.payload + two.payload)


class Batches(list[list[Item]]):
    """What was emitted, and the batcher that did it. Whatever goes out is in order, and says its folders.

    Attributes:
        busy: folders that somebody is at, for whom more may come; None: nobody is idle.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lanes: list[set[int]] = []
        self.busy: set[int] | None = None
        self.batcher = Batcher(self._emit, join, lambda: self.busy)

    def _emit(self, batch: list[Item], folders: frozenset[int]) -> None:
        assert folders == {folder_of(one.name) for one in batch}
        names = [one.name for one in batch]
        assert names == sorted(names)
        self.append(batch)
        self.lanes.append({folder // 8 for folder in folders})

    def names(self) -> list[list[str]]:
        return [[one.name for one in batch] for batch in self]


names = st.builds(
    lambda folder, rest: f"{folder}/{rest}", st.sampled_from(["00", "07", "08", "0a", "f8", "ff"]), st.integers(0, 9)
)


@given(
    st.lists(st.tuples(names, st.integers(0, 12)), max_size=80),
    st.integers(1, 6),
    st.integers(1, 30),
    st.integers(1, 9),
)
def test_every_object_goes_out_in_bounded_batches_of_one_lane_with_all_that_want_it(
    wanted: list[tuple[str, int]], most_items: int, most_bytes: int, most_waiting: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BATCH_ITEMS", most_items)
        patch.setattr(module, "BATCH_BYTES", most_bytes)
        patch.setattr(module, "WAITING", most_waiting)
        out = Batches()
        waiting: set[str] = set()
        for number, (name, size) in enumerate(wanted):
            before = len(out)
            assert out.batcher.add(item(name, size, (number,))) == (name not in waiting)
            waiting.add(name)
            for batch, lanes in zip(out[before:], out.lanes[before:], strict=True):
                assert len(lanes) == 1
                waiting -= {one.name for one in batch}
            assert len(out) <= before + 1
            # Each path that wants an object takes memory, also of one that waits already.
            gone = sum(len(one.payload) for batch in out for one in batch)
            assert number + 1 - gone < most_waiting
        out.batcher.finish()
    for batch in out:
        assert batch
        assert len({one.name for one in batch}) == len(batch)
        # A lane is below both bounds before its last object comes; what is left at the end goes out lane by lane.
        assert len(batch) < 2 * most_items
    payloads = sorted(number for batch in out for one in batch for number in one.payload)
    assert payloads == list(range(len(wanted)))
    for batch in out:
        for one in batch:
            assert all(wanted[number][0] == one.name for number in one.payload)


def test_a_folder_is_what_a_name_begins_with() -> None:
    assert [folder_of(f"{folder:02x}/x") for folder in range(256)] == list(range(256))


def test_whoever_has_nothing_to_do_gets_lanes_that_nobody_is_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_BATCH", 4)
    out = Batches()
    for name in ("a0/1", "b0/1", "a1/2", "c0/1", "c0/2"):
        out.batcher.add(item(name))
    assert out == []
    # Asked after every second object from here on.
    out.busy = {0xA7}
    out.batcher.add(item("c0/3"))
    assert out.names() == [["b0/1", "c0/1", "c0/2", "c0/3"]]
    # Too little that nobody is at.
    for name in ("d0/1", "d0/2", "a0/5", "a0/6", "d0/3", "a0/7"):
        out.batcher.add(item(name))
    assert len(out) == 1
    out.busy = None
    out.batcher.add(item("d0/4"))
    out.batcher.add(item("d0/5"))
    assert len(out) == 1
    out.busy = set()
    out.batcher.add(item("e0/1"))
    out.batcher.add(item("e0/2"))
    assert len(out) == 2
    # The fullest first.
    assert out.names()[1] == ["a0/1", "a0/5", "a0/6", "a0/7", "a1/2"]


def test_what_is_left_at_the_end_is_shared_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SMALL_BATCH", 10)
    out = Batches()
    for folder in range(256):
        for number in range(3):
            out.batcher.add(item(f"{folder:02x}/{number}"))
    assert out == []
    out.batcher.finish()
    assert 10 <= len(out) <= 13
    # No folder is in two batches: two workers may be at them at a time.
    folders = [name[:2] for batch in out for name in {one.name[:2] for one in batch}]
    assert sorted(folders) == [f"{folder:02x}" for folder in range(256)]


def test_a_full_lane_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ITEMS", 3)
    out = Batches()
    for name in ("07/1", "1b/1", "00/2", "1b/2", "03/3"):
        out.batcher.add(item(name))
    assert out.names() == [["00/2", "03/3", "07/1"]]
    assert out.lanes == [{0}]
    out.batcher.finish()
    assert out.names()[1:] == [["1b/1", "1b/2"]]
    assert out.lanes[1:] == [{3}]


def test_a_lane_with_many_bytes_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_BYTES", 100)
    out = Batches()
    for name, size in (("a0/1", 99), ("b0/1", 100), ("a0/2", 1)):
        out.batcher.add(item(name, size))
    assert out.names() == [["b0/1"], ["a0/1", "a0/2"]]


def test_when_too_much_waits_the_fullest_lane_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 5)
    out = Batches()
    for name in ("a0/1", "b0/1", "b7/2", "c0/1", "c8/2"):
        out.batcher.add(item(name))
    assert out.names() == [["b0/1", "b7/2"]]
    out.batcher.add(item("a0/2"))
    assert len(out) == 1
    out.batcher.add(item("a0/3"))
    assert out.names()[1:] == [["a0/1", "a0/2", "a0/3"]]


def test_at_the_end_small_lanes_go_out_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH_ITEMS", 4)
    monkeypatch.setattr(module, "SMALL_BATCH", 4)
    out = Batches()
    for name in ("c0/1", "a0/1", "b0/1", "b0/2", "d0/1", "a0/2"):
        out.batcher.add(item(name))
    assert out == []
    out.batcher.finish()
    assert out.names() == [["a0/1", "a0/2", "b0/1", "b0/2"], ["c0/1", "d0/1"]]
    assert out.lanes == [{20, 22}, {24, 26}]


def test_an_object_that_is_wanted_again_after_its_batch_went_out_goes_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BATCH_ITEMS", 1)
    out = Batches()
    assert out.batcher.add(item("a0/1"))
    assert out.batcher.add(item("a0/1"))
    assert out.names() == [["a0/1"], ["a0/1"]]


def test_after_the_end_a_batcher_begins_anew() -> None:
    out = Batches()
    out.batcher.add(item("a0/1"))
    out.batcher.finish()
    out.batcher.finish()
    assert out.batcher.add(item("a0/1"))
    out.batcher.finish()
    assert out.names() == [["a0/1"], ["a0/1"]]


def test_an_object_that_very_many_want_goes_out_in_between() -> None:
    most = module.JOINED_ITEMS
    out = Batches()
    out.batcher.add(item("00/other"))
    for number in range(3 * most):
        out.batcher.add(item("00/empty", payload=(number,)))
    out.batcher.finish()
    payloads = [one.payload for batch in out for one in batch if one.name == "00/empty"]
    assert sum(payloads, ()) == tuple(range(3 * most))
    assert max(map(len, payloads)) == most + 1
    assert [one.name for batch in out for one in batch].count("00/other") == 1
