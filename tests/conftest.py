"""Fixtures that many tests share. What they hand out is made in ``support``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import golden, servers
from support.filesystems import Filesystem, filesystem, scratch_folder
from support.processes import nothing_survives


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long runs only with ``CI_LONG=1`` or an own ``-m``; what needs root is skipped without it."""
    if os.environ.get("CI_LONG") != "1" and not config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("long")]
        if left_out:
            items[:] = [item for item in items if not item.get_closest_marker("long")]
            config.hook.pytest_deselected(items=left_out)
    if os.getuid() != 0:
        for item in items:
            if item.get_closest_marker("root"):
                item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session", autouse=True)
def _key_presses_count() -> None:
    """What a shell starts in the background ignores SIGINT, and so would all that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _nothing_survives() -> Iterator[None]:
    """Made first and so ended last: no process that a test or a fixture started may be left then."""
    with nothing_survives():
        yield


@pytest.fixture(scope="session")
def repos() -> Path:
    """The folder with the test repositories; skips without it."""
    return golden.repos()


@pytest.fixture(scope="session")
def repo_server(repos: Path) -> Iterator[servers.RepoServer]:
    """An nginx that serves the test repositories, and variants of them."""
    with servers.serve(repos) as server:
        yield server


@pytest.fixture(scope="session")
def proxy() -> Iterator[servers.Proxy]:
    """A forward proxy."""
    with servers.proxy() as started:
        yield started


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty folder that every user can reach; unlike ``tmp_path`` it is removed at once."""
    with scratch_folder() as folder:
        yield folder


@pytest.fixture
def make_filesystem() -> Iterator[Callable[..., Filesystem]]:
    """Makes file systems of a test's own: ``make_filesystem("tmpfs", size=..., inodes=...)``."""
    with ExitStack() as stack:

        def make(*args: Any, **options: Any) -> Filesystem:
            return stack.enter_context(filesystem(*args, **options))

        yield make


@pytest.fixture(scope="session")
def tmpfs() -> Iterator[Filesystem]:
    """A tmpfs for all tests; take a folder of your own in it."""
    with filesystem("tmpfs", size=256 * 1024**2) as made:
        yield made


@pytest.fixture(scope="session")
def ext4() -> Iterator[Filesystem]:
    """An ext4 for all tests (no reflink); take a folder of your own in it."""
    with filesystem("ext4", size=512 * 1024**2) as made:
        yield made


@pytest.fixture(scope="session")
def xfs() -> Iterator[Filesystem]:
    """An XFS for all tests (with reflink); take a folder of your own in it."""
    with filesystem("xfs", size=512 * 1024**2) as made:
        yield made
