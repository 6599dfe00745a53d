"""Fixtures of the tests of trees on disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.forking import Forks, forks


@pytest.fixture(scope="session")
def cli() -> Iterator[Forks]:
    """The command line, without the start of Python and its imports."""
    with forks() as made:
        yield made
