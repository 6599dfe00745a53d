"""Fixtures for tests of publishing."""

from __future__ import annotations

from pathlib import Path

import pytest
from publish.publishing import FQRN, Place

from shrinkwrap.publish import storage
from shrinkwrap.publish.keyring import open_keyring
from shrinkwrap.publish.storage import Storage
from shrinkwrap.tree.base import Base


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(Storage, "sync", lambda self: None)
    monkeypatch.setattr(storage, "fsync", lambda fd: None)
    monkeypatch.setattr(Base, "sync", lambda self: None)


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of the repository: making some takes longer than most tests."""
    folder = tmp_path_factory.mktemp("keys")
    open_keyring(str(folder), FQRN, make=True)
    return folder


@pytest.fixture
def place(tmp_path: Path, keys: Path) -> Place:
    return Place(tmp_path, keys)
