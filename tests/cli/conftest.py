"""Fixtures for tests of the command line."""

from __future__ import annotations

import pytest

from shrinkwrap.tree.base import Base


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts: exports in this process do not wait until a busy disk has all."""
    monkeypatch.setattr(Base, "sync", lambda self: None)
