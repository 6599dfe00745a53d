from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from fetch.server import Server

from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.fetch.types import Source

QUICK = SourceConfig(
    "small.cern.ch",
    transfers=4,
    timeout_direct=1.0,
    timeout_proxy=1.0,
    backoff_init=0.01,
    backoff_max=0.02,
)


@pytest.fixture
def new_server() -> Iterator[Callable[[], Server]]:
    """Makes servers; all of them end with the test, and none of their handlers may have failed."""
    servers: list[Server] = []

    def make() -> Server:
        servers.append(Server())
        return servers[-1]

    yield make
    for server in servers:
        server.stop()
    assert not any(server.broken for server in servers)


@pytest.fixture
def server(new_server: Callable[[], Server]) -> Server:
    return new_server()


@pytest.fixture
def second(new_server: Callable[[], Server]) -> Server:
    return new_server()


@pytest.fixture(params=["pycurl", "http.client"])
def fetcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pycurl":
        pytest.importorskip("pycurl", reason="pycurl is not installed")
    monkeypatch.setenv("SHRINKWRAP_FETCHER", request.param)
    return str(request.param)


Opener = Callable[..., Source]


@pytest.fixture
def open_http(fetcher: str) -> Iterator[Opener]:
    """Opens sources by one fetcher or the other; they are closed, and leave no thread behind."""
    before = set(threading.enumerate())
    with ExitStack() as stack:

        def opener(*servers: str, notice: Callable[[str], None] | None = None, **more: Any) -> Source:
            source = open_source(replace(QUICK, servers=servers, **more), notice)
            stack.callback(source.close)
            return source

        yield opener
    left = [thread for thread in set(threading.enumerate()) - before if thread.name == "shrinkwrap-fetch"]
    assert left == []
