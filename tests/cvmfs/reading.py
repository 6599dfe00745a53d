"""What tests ask of an open catalog."""

from __future__ import annotations

from collections.abc import Callable

from shrinkwrap.cvmfs.catalog import Catalog
from shrinkwrap.cvmfs.entry import Entry

Open = Callable[..., Catalog]


def entries(catalog: Catalog) -> list[Entry]:
    """All of a catalog, by listing its directories."""
    found = [catalog.root()]
    for entry in found:
        if entry.is_dir and entry.path not in catalog.nested:
            found.extend(catalog.children(entry.path))
    return found


def paths(catalog: Catalog) -> list[bytes]:
    return [entry.path for entry in entries(catalog)]


def one(catalog: Catalog, path: bytes) -> Entry:
    entry = catalog.lookup(path)
    assert entry is not None
    return entry
