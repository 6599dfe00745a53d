"""Fixtures of the tests of trees on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forking import Forks, forks
from tree.collecting import make_repositories


@pytest.fixture(scope="session")
def cli() -> Iterator[Forks]:
    """The command line, without the start of Python and its imports."""
    with forks() as made:
        yield made


@pytest.fixture(scope="session")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small repositories of :mod:`tree.collecting`."""
    folder = tmp_path_factory.mktemp("repositories")
    make_repositories(folder)
    return folder
