"""A repository opened for reading."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.repository import HIDDEN, NESTED, Opened, Publisher

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.errors import CatalogError, DestinationError, MissingObject, UsageError
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.snapshot.session import Session, open_session


@contextmanager
def session(publisher: Publisher, cache: Path | None = None) -> Iterator[Session]:
    with open_session(publisher.config(), publisher.keys, cache=None if cache is None else str(cache)) as opened:
        yield opened


def find(opened: Opened, root: NestedRef, path: bytes) -> tuple[bytes, bytes] | None:
    """Mount of the catalog and path of the entry that were found."""
    found = opened.session.find(root, path)
    if found is None:
        return None
    catalog, entry = found
    opened.catalogs.release(catalog)
    return catalog.mount, entry.path


# -- finding -----------------------------------------------------------------------------------------------------


def repository(publisher: Publisher) -> NestedRef:
    old = publisher.tree([b"/lib/old"], [b"/lib"], store=False)
    old.write()
    virtual = publisher.catalog(b"/.cvmfs")
    virtual.nest(old, at=b"/.cvmfs/v1", bind=True)
    root = publisher.tree([b"/a/b/f", b"/a/bc/f", b"/a/g"], [b"/a", b"/a/b"], store=False)
    root.link(b"/l", b"a")
    root.nest(virtual, flags=1 | NESTED | HIDDEN)
    return root.ref()


@pytest.mark.parametrize(
    ("path", "mount", "requests"),
    [
        (b"", b"", 1),
        (b"/l", b"", 1),
        # A mount is found in the catalog that lists it.
        (b"/a", b"/a", 2),
        (b"/a/g", b"/a", 2),
        (b"/a/b", b"/a/b", 3),
        (b"/a/b/f", b"/a/b", 3),
        # Not by prefixes of names.
        (b"/a/bc/f", b"/a", 2),
        (b"/.cvmfs", b"/.cvmfs", 2),
        (b"/.cvmfs/v1", b"/.cvmfs/v1", 3),
        (b"/.cvmfs/v1/lib/old", b"/.cvmfs/v1/lib", 4),
    ],
)
def test_a_path_is_found_in_the_catalog_it_belongs_to(
    publisher: Publisher, path: bytes, mount: bytes, requests: int
) -> None:
    root = repository(publisher)
    with publisher.open() as opened:
        assert find(opened, root, path) == (mount, path)
        assert len(opened.source.requests) == requests
        assert opened.catalogs.in_use == 0


@pytest.mark.parametrize(
    "path", [b"/x", b"/a/x", b"/a/b/f/x", b"/l/g", b"/a/", b"//a", b"/a/../l", b"/.cvmfs/v2", b"x"]
)
def test_what_is_not_there_is_not_found(publisher: Publisher, path: bytes) -> None:
    root = repository(publisher)
    with publisher.open() as opened:
        assert find(opened, root, path) is None
        assert opened.catalogs.in_use == 0


def test_a_bad_row_or_a_missing_catalog_on_the_way_leaves_no_catalog_in_use(publisher: Publisher) -> None:
    builder = publisher.tree([b"/a/f", b"/n/f"], [b"/n"], store=False)
    builder.change(b"/a/f", size=-1)
    child = builder.children[0].child
    root = builder.ref()
    assert child.digest is not None
    publisher.storage.remove(child.digest, "C")
    with publisher.open() as opened:
        with pytest.raises(CatalogError, match="/a/f"):
            opened.session.find(root, b"/a/f")
        with pytest.raises(MissingObject):
            opened.session.find(root, b"/n/f")
        assert opened.catalogs.in_use == 0


# -- opening -----------------------------------------------------------------------------------------------------


def publish(publisher: Publisher) -> None:
    publisher.publish(publisher.tree([b"/f"], store=False), tags=["v1"])
    # Sessions look at the clock.
    publisher.write_whitelist(expires="29991231000000")


def test_a_session_leaves_nothing_behind(publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(publisher)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    before = len(os.listdir("/proc/self/fd"))
    with session(publisher) as opened:
        root = opened.repository.resolve(Pin(tag="v1")).root
        opened.catalogs.open(root)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_session_that_fails_leaves_nothing_behind(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(publisher)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    nowhere = SourceConfig(publisher.fqrn)
    with pytest.raises(UsageError, match="no server"), open_session(nowhere, publisher.keys):
        raise AssertionError("it cannot be opened")
    with pytest.raises(UsageError, match="no tag"), session(publisher) as opened:
        opened.repository.resolve(Pin(tag="v2"))
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_cache_keeps_objects_and_nothing_else(publisher: Publisher, tmp_path: Path) -> None:
    publish(publisher)
    cache = tmp_path / "not" / "there"
    for expected in (3, 0):
        with session(publisher, cache) as opened:
            opened.catalogs.open(opened.repository.resolve(Pin(tag="v1")).root)
            assert opened.source.stats.requests == 2 + expected
    assert [path.name for path in cache.iterdir()] == ["objects"]
    assert sorted(path.name[-1] for path in cache.glob("objects/*/*")) == ["C", "H", "X"]


def test_a_cache_that_cannot_be_made_is_an_error_that_names_it(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DestinationError, match="file/cache"), session(publisher, tmp_path / "file" / "cache"):
        raise AssertionError("it cannot be opened")
