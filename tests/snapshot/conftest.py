"""Fixtures for tests that read repositories of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.repository import Publisher


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "storage")
