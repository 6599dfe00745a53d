"""Fixtures for tests that write catalogs and read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cvmfs.reading import Open
from support.repository import CatalogBuilder, Publisher

from shrinkwrap.cvmfs.catalog import Catalog, NestedRef
from shrinkwrap.cvmfs.digest import Digest


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "storage")


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Open]:
    """Opens what a builder writes."""
    opened: list[Catalog] = []

    def open_catalog(builder: CatalogBuilder, mount: bytes | None = None, *, bind: bool = False) -> Catalog:
        file = tmp_path / f"catalog{len(opened)}"
        file.unlink(missing_ok=True)
        builder.mount_all()
        file.write_bytes(builder.database())
        where = builder.mount if mount is None else mount
        catalog = Catalog(str(file), NestedRef(where, Digest(0, b"d" * 20), 0, bind))
        opened.append(catalog)
        return catalog

    yield open_catalog
    for catalog in opened:
        catalog.close()
