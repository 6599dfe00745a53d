"""Catalogs by digest: kept, fetched, verified, inflated into scratch files, opened."""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from snapshot.walking import matcher, paths
from support.repository import CatalogBuilder, Publisher, flip

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.digest import Digest, digest_of
from shrinkwrap.errors import CatalogError, CorruptObject, MissingObject
from shrinkwrap.snapshot.catalogs import CatalogStore, ObjectKeeper
from shrinkwrap.snapshot.keep import KeepFolder
from shrinkwrap.snapshot.walk import bring_catalogs

CAP = 1 << 20


def builder(publisher: Publisher) -> CatalogBuilder:
    return publisher.tree([b"/a/f", b"/b/f"], [b"/a", b"/b"], store=False)


@contextmanager
def offline(keep: Path, tmp_path: Path) -> Iterator[CatalogStore]:
    """Kept catalogs without a source."""
    work = tmp_path / "offline"
    work.mkdir(exist_ok=True)
    store = CatalogStore(ObjectKeeper(None, KeepFolder(str(keep), str(work))), str(work))
    try:
        yield store
    finally:
        store.close()
        assert list(work.iterdir()) == []


def kept(keep: Path) -> list[Path]:
    return sorted(path for path in keep.glob("*/*"))


# -- keeping -----------------------------------------------------------------------------------------------------


def test_kept_catalogs_are_not_fetched_again_and_need_no_source(publisher: Publisher, tmp_path: Path) -> None:
    root = builder(publisher).ref()
    keep = tmp_path / "keep"
    with publisher.open(keep=keep) as opened:
        everything = paths(opened, root)
        assert len(opened.source.requests) == 3
    with publisher.open(keep=keep) as opened:
        assert paths(opened, root) == everything
        assert bring_catalogs(opened.catalogs, root, matcher(b"/*"))[0] == 3
        assert opened.source.requests == []
    with offline(keep, tmp_path) as store:
        assert bring_catalogs(store, root, matcher(b"/*"))[0] == 3


def test_without_a_source_what_is_not_kept_is_missing(publisher: Publisher, tmp_path: Path) -> None:
    root = builder(publisher).ref()
    with offline(tmp_path / "keep", tmp_path) as store, pytest.raises(MissingObject, match="not among the kept ones"):
        store.open(root)


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "longer", "other"])
def test_a_kept_catalog_that_has_rotted_is_fetched_again(publisher: Publisher, tmp_path: Path, damage: str) -> None:
    root = builder(publisher).ref()
    keep = tmp_path / "keep"
    with publisher.open(keep=keep) as opened:
        everything = paths(opened, root)
    for path in kept(keep):
        good = path.read_bytes()
        if damage == "bit":
            flip(path)
        else:
            other = zlib.compress(b"SQLite format 3\0" + bytes(8000))
            bad = {"cut": good[:-5], "empty": b"", "longer": good + b"x", "other": other}
            path.write_bytes(bad[damage])
    with publisher.open(keep=keep) as opened:
        assert paths(opened, root) == everything
        assert len(opened.source.requests) == 3
    with publisher.open(keep=keep) as opened:
        assert paths(opened, root) == everything
        assert opened.source.requests == []


def test_a_kept_catalog_that_has_rotted_is_not_believed_without_a_source(publisher: Publisher, tmp_path: Path) -> None:
    root = builder(publisher).ref()
    keep = tmp_path / "keep"
    with publisher.open(keep=keep) as opened:
        paths(opened, root)
    for path in kept(keep):
        flip(path)
    with offline(keep, tmp_path) as store, pytest.raises((CorruptObject, MissingObject)):
        store.open(root)


def test_a_catalog_that_arrives_broken_is_not_kept(publisher: Publisher, tmp_path: Path) -> None:
    root = builder(publisher).ref()
    assert root.digest is not None
    publisher.storage.spoil(root.digest, "C")
    keep = tmp_path / "keep"
    with publisher.open(keep=keep) as opened, pytest.raises(CorruptObject, match="has another digest"):
        opened.catalogs.open(root)
    assert kept(keep) == []


def test_the_first_failure_of_many_is_raised_and_what_arrived_is_kept(publisher: Publisher, tmp_path: Path) -> None:
    good = [(publisher.storage.put(b"%d" % number, "C"), "C", CAP) for number in range(3)]
    lost = digest_of(0, b"lost")
    keep = tmp_path / "keep"
    received: list[int] = []
    with publisher.open(keep=keep) as opened, pytest.raises(MissingObject, match=re.escape(lost.object_path("C"))):
        opened.keeper.bring([*good[:2], (lost, "C", CAP), good[2]], received.append)
    assert len(kept(keep)) == len(received) == 2
    assert all(number > 0 for number in received)


def test_an_object_larger_than_its_cap_is_refused(publisher: Publisher) -> None:
    digest = publisher.storage.put_stored(b"x" * 1000, "C")
    with publisher.open() as opened:
        with pytest.raises(CorruptObject, match="more than the 999 bytes"):
            opened.keeper.bring([(digest, "C", 999)])
        opened.keeper.bring([(digest, "C", 1000)])


# -- small objects -----------------------------------------------------------------------------------------------


def test_a_small_object_is_given_as_stored_and_kept(publisher: Publisher, tmp_path: Path) -> None:
    digest = publisher.storage.put_stored(b"stored", "X")
    keep = tmp_path / "keep"
    with publisher.open(keep=keep) as opened:
        assert opened.keeper.stored(digest, "X", 6) == b"stored"
    flip(kept(keep)[0])
    with publisher.open(keep=keep) as opened:
        assert opened.keeper.stored(digest, "X", 6) == b"stored"
        assert len(opened.source.requests) == 1
        assert opened.keeper.stored(digest, "X", 6) == b"stored"
        assert len(opened.source.requests) == 1


def test_an_object_can_lie_at_an_alternative_path(publisher: Publisher) -> None:
    digest = publisher.storage.put_stored(b"stored", "X")
    (publisher.folder / ".cvmfsalt").write_bytes(b"stored")
    publisher.storage.remove(digest, "X")
    with publisher.open() as opened:
        opened.keeper.elsewhere[digest, "X"] = ".cvmfsalt"
        assert opened.keeper.stored(digest, "X", 6) == b"stored"


@pytest.mark.parametrize("longer", [False, True])
def test_inflation_starts_anew_when_what_was_kept_has_rotted(
    publisher: Publisher, tmp_path: Path, longer: bool
) -> None:
    data = os.urandom(3 << 20)
    digest = publisher.storage.put(data, "H")
    keep = tmp_path / "keep"
    with publisher.open(keep=keep) as opened:
        opened.keeper.bring([(digest, "H", 4 << 20)])
        # The front is good and comes out before the damage is seen.
        (path,) = kept(keep)
        path.write_bytes(zlib.compress(data + b"more") if longer else path.read_bytes()[:-100])
        out = io.BytesIO()
        assert opened.keeper.inflate(digest, "H", 4 << 20, 4 << 20, out) == len(data)
    assert out.getvalue() == data


# -- opening -----------------------------------------------------------------------------------------------------


def nested(publisher: Publisher, **registered: Any) -> tuple[NestedRef, Digest]:
    child = publisher.catalog(b"/n")
    root = publisher.catalog()
    root.nest(child, registered=registered)
    ref = root.ref()
    assert child.digest is not None
    return ref, child.digest


@pytest.mark.parametrize("off", [-1, 1, 4096, -4096])
def test_a_catalog_of_another_size_than_its_parent_says_is_refused(publisher: Publisher, off: int) -> None:
    size = publisher.catalog(b"/n").ref().size
    root, digest = nested(publisher, size=size + off)
    with publisher.open() as opened:
        with pytest.raises(CorruptObject, match=str(digest)):
            paths(opened, root)
        assert paths(opened, root, b"/n") == [b"", b"/n"]


def test_a_catalog_of_unknown_size_is_read(publisher: Publisher) -> None:
    root, _ = nested(publisher, size=0)
    with publisher.open() as opened:
        assert paths(opened, root) == [b"", b"/n"]


def test_a_catalog_that_inflates_without_end_is_refused(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = publisher.storage.put(bytes(40 << 20), "C")
    monkeypatch.setattr(limits, "CATALOG", 1 << 20)
    with publisher.open() as opened, pytest.raises(CorruptObject, match=f"{bomb}C: inflates to more than the 1048576"):
        opened.catalogs.open(NestedRef(b"", bomb, 0, False))


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + bytes(100)])
def test_what_is_no_catalog_is_refused_and_fetched_once_only(publisher: Publisher, content: bytes) -> None:
    digest = publisher.storage.put(content, "C")
    with publisher.open() as opened:
        with pytest.raises(CatalogError):
            opened.catalogs.open(NestedRef(b"", digest, 0, False))
        assert len(opened.source.requests) == 1


def test_a_catalog_that_is_stored_without_compression_is_refused(publisher: Publisher) -> None:
    data = publisher.catalog().database()
    digest = publisher.storage.put_stored(data, "C")
    with publisher.open() as opened, pytest.raises(CorruptObject, match="not a valid zlib stream"):
        opened.catalogs.open(NestedRef(b"", digest, 0, False))


def test_an_open_catalog_leaves_no_scratch_file(publisher: Publisher) -> None:
    root = builder(publisher).ref()
    with publisher.open() as opened:
        catalog = opened.catalogs.open(root)
        assert list(opened.work.iterdir()) == []
        assert catalog.root().is_dir
        opened.catalogs.release(catalog)


def test_a_catalog_in_use_is_shared_and_stays_open_until_all_have_given_it_back(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CatalogStore, "MAX_IDLE", 0)
    root = builder(publisher).ref()
    with publisher.open() as opened:
        one, two = opened.catalogs.open(root), opened.catalogs.open(root)
        assert one is two
        opened.catalogs.release(one)
        assert two.root().is_dir
        opened.catalogs.release(two)
        with pytest.raises(CatalogError):
            two.root()
        again = opened.catalogs.open(root)
        assert again is not one
        assert again.root().is_dir
        opened.catalogs.release(again)


@pytest.mark.parametrize("bound", ["MAX_IDLE", "MAX_IDLE_BYTES"])
def test_catalogs_that_nobody_uses_stay_open_within_bounds_the_newest_longest(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    refs = [publisher.tree([name], store=False).ref() for name in (b"/a", b"/b", b"/c")]
    monkeypatch.setattr(CatalogStore, bound, 2 if bound == "MAX_IDLE" else refs[0].size * 2 + 1)
    with publisher.open() as opened:

        def use(ref: NestedRef) -> object:
            catalog = opened.catalogs.open(ref)
            opened.catalogs.release(catalog)
            return catalog

        first, second = use(refs[0]), use(refs[1])
        assert use(refs[0]) is first
        use(refs[2])
        assert use(refs[0]) is first
        assert use(refs[1]) is not second


def test_closing_closes_what_is_in_use_too_and_giving_back_afterwards_is_harmless(publisher: Publisher) -> None:
    root = builder(publisher).ref()
    with publisher.open() as opened:
        catalog = opened.catalogs.open(root)
        opened.catalogs.close()
        with pytest.raises(CatalogError):
            catalog.root()
        opened.catalogs.release(catalog)
        assert opened.catalogs.in_use == 0


def test_open_catalogs_do_not_leak_descriptors(publisher: Publisher) -> None:
    refs = [publisher.tree([b"/%d" % number], store=False).ref() for number in range(60)]
    with publisher.open() as opened:
        before = len(os.listdir("/proc/self/fd"))
        for ref in refs:
            opened.catalogs.release(opened.catalogs.open(ref))
        assert len(os.listdir("/proc/self/fd")) <= before + CatalogStore.MAX_IDLE
        opened.catalogs.close()
        assert len(os.listdir("/proc/self/fd")) == before
