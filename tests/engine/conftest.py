"""Fixtures for tests of batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.repository import Publisher
from support.sinks import FolderSink


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "storage")


@pytest.fixture
def sink(tmp_path: Path) -> FolderSink:
    (tmp_path / "objects").mkdir()
    return FolderSink(tmp_path / "objects")
