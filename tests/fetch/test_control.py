"""Control requests: small mutable files, by libcurl and by httpx."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fetch import server as web
from fetch.conftest import QUICK
from fetch.server import Exchange, Server, dead_url

from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError
from shrinkwrap.fetch.control import HttpxControl
from shrinkwrap.fetch.http import network_of
from shrinkwrap.fetch.source import FETCHER_VARIABLE, open_source
from shrinkwrap.fetch.types import FetchStats, Source

NAME = ".cvmfspublished"
URL = "/.cvmfspublished"
TEXT = b"Crootthash\nNsmall.cern.ch\n--\nsignature\x00\xff"


@pytest.fixture(params=["pycurl", "http.client"])
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Source]]:
    """Opens sources with each way to make control requests: without libcurl they go through httpx."""
    monkeypatch.setenv(FETCHER_VARIABLE, request.param)
    sources: list[Source] = []

    def opener(*servers: str, **more: Any) -> Source:
        sources.append(open_source(replace(QUICK, servers=servers, **more)))
        return sources[-1]

    yield opener
    for source in sources:
        source.close()


Opened = Callable[..., Source]


def mocked(answer: Callable[[httpx.Request], httpx.Response], *hosts: str, **more: Any) -> HttpxControl:
    config = replace(QUICK, servers=hosts or ("http://one", "http://two"), **more)
    return HttpxControl(network_of(config, FetchStats(), None), transport=httpx.MockTransport(answer))


def test_a_control_file_arrives_as_it_is(opened: Opened, server: Server) -> None:
    server.files[URL] = TEXT
    source = opened(server.url)
    assert source.control(NAME, 1000) == TEXT
    assert source.control(NAME, len(TEXT)) == TEXT
    assert server.connections == 1
    assert server.seen[0].headers.get("accept-encoding", "identity") == "identity"
    assert source.stats.hosts == {server.url: 2}


def test_a_file_above_its_cap_is_corrupt_whatever_its_length_says(opened: Opened, server: Server) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"HTTP/1.1 200 OK\r\n\r\n")
        while not exchange.server.stopping.is_set():
            exchange.raw(b"x" * 65536)

    server.script(URL, endless)
    with pytest.raises(CorruptObject, match="1000 bytes"):
        opened(server.url).control(NAME, 1000)


def test_a_compressed_bomb_is_not_inflated(opened: Opened, server: Server) -> None:
    import gzip

    bomb = gzip.compress(b"\0" * 10_000_000)
    server.script(URL, lambda exchange: exchange.answer(200, bomb, Content_Encoding="gzip"))
    assert opened(server.url).control(NAME, 100_000) == bomb


def test_a_retry_after_a_corrupt_answer_goes_past_caches(opened: Opened, server: Server) -> None:
    server.script(URL, web.body(b"x" * 5000), web.body(TEXT))
    assert opened(server.url).control(NAME, 1000) == TEXT
    first, again = server.requests(URL)
    assert "cache-control" not in first.headers
    assert again.headers["cache-control"] == again.headers["pragma"] == "no-cache"


def test_after_distrust_caches_are_passed_by(opened: Opened, server: Server, second: Server) -> None:
    server.files[URL] = b"forged"
    second.files[URL] = TEXT
    source = opened(server.url, second.url)
    assert source.control(NAME, 1000) == b"forged"
    assert source.next_host()
    assert source.host == second.url
    assert source.control(NAME, 1000) == TEXT
    assert second.seen[0].headers["cache-control"] == "no-cache"
    assert not source.next_host()


def test_missing_everywhere_is_missing(opened: Opened, server: Server, second: Server) -> None:
    with pytest.raises(MissingObject, match=NAME):
        opened(server.url, second.url).control(NAME, 1000)
    assert len(server.seen) == len(second.seen) == 1


def test_missing_here_and_unreachable_there_is_a_network_error(opened: Opened, server: Server) -> None:
    with pytest.raises(NetworkError, match="not every host"):
        opened(dead_url(), server.url).control(NAME, 1000)


def test_the_next_host_is_asked_when_one_is_down(opened: Opened, server: Server) -> None:
    server.files[URL] = TEXT
    source = opened(dead_url(), server.url)
    assert source.control(NAME, 1000) == TEXT
    assert source.host == server.url


@pytest.mark.parametrize(
    "reply", [web.stall, web.stall_after(b"a few"), web.truncated(TEXT), web.hang_up, web.status(503)]
)
def test_the_next_host_is_asked_when_one_does_not_answer_properly(
    opened: Opened, server: Server, second: Server, reply: web.Reply
) -> None:
    server.script(URL, reply)
    second.files[URL] = TEXT
    source = opened(server.url, second.url, max_retries=0, timeout_direct=0.3)
    assert source.control(NAME, 1000) == TEXT


def test_a_file_that_drips_is_given_up(opened: Opened, server: Server, second: Server) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not exchange.server.stopping.wait(0.05):
            exchange.raw(b"d")

    server.script(URL, drip)
    second.files[URL] = TEXT
    source = opened(server.url, second.url, max_retries=0, timeout_direct=0.3)
    assert source.control(NAME, 1000) == TEXT


@pytest.mark.parametrize("piece", [b"d", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_head_that_never_ends_is_given_up(opened: Opened, server: Server, second: Server, piece: bytes) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"HTTP/1.1 200 OK\r\nX: " if piece == b"d" else piece)
        while not exchange.server.stopping.wait(0.05):
            exchange.raw(piece)

    server.files[URL] = TEXT
    second.files[URL] = TEXT
    source = opened(server.url, second.url, max_retries=0, timeout_direct=0.3)
    assert source.control(NAME, 1000) == TEXT
    server.script(URL, drip)  # on the connection that was kept
    assert source.control(NAME, 1000) == TEXT
    assert len(second.seen) == 1
    left = [thread for thread in threading.enumerate() if thread.name == "shrinkwrap-watch"]
    assert left == []


def test_a_redirect_is_refused_unless_asked_for(opened: Opened, server: Server, second: Server) -> None:
    second.files[URL] = TEXT
    server.script(URL, web.redirect(second.url + URL))
    with pytest.raises(NetworkError, match="redirect"):
        opened(server.url).control(NAME, 1000)
    assert second.seen == []
    assert opened(server.url, follow_redirects=True).control(NAME, 1000) == TEXT


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[bad"])
def test_a_redirect_to_elsewhere_is_never_followed(opened: Opened, server: Server, target: str) -> None:
    server.script(URL, web.redirect(target))
    with pytest.raises(NetworkError):
        opened(server.url, follow_redirects=True).control(NAME, 1_000_000)


def test_redirects_end_after_four(opened: Opened, server: Server) -> None:
    server.script(URL, web.redirect(URL))
    with pytest.raises(NetworkError):
        opened(server.url, follow_redirects=True).control(NAME, 1000)
    assert len(server.seen) == 5


def test_a_proxy_is_asked_with_the_absolute_url_and_its_own_errors_are_its_own(
    opened: Opened, server: Server, second: Server
) -> None:
    server.script(URL, web.status(503, X_Squid_Error="ERR_DNS_FAIL 0"))
    second.files[URL] = TEXT
    source = opened("http://origin.invalid", proxies=f"{dead_url()};{server.url};{second.url}")
    assert source.control(NAME, 1000) == TEXT
    assert [exchange.target for exchange in second.seen] == ["http://origin.invalid" + URL]


def test_proxies_of_the_environment_are_not_used(
    opened: Opened, server: Server, second: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", second.url)
    monkeypatch.setenv("ALL_PROXY", second.url)
    server.files[URL] = TEXT
    assert opened(server.url).control(NAME, 1000) == TEXT
    assert second.seen == []


def test_a_transport_may_stand_in_for_the_network() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(404) if request.url.host == "one" else httpx.Response(200, content=TEXT)

    control = mocked(answer, "http://one/cvmfs", "http://two/cvmfs", proxies="http://proxy:3128")
    assert control.get(NAME, 1000) == TEXT
    assert asked == ["http://one/cvmfs/.cvmfspublished", "http://two/cvmfs/.cvmfspublished"]
    control.close()


def test_a_failure_inside_the_library_is_a_network_error() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("broken", request=request)

    with pytest.raises(NetworkError, match="broken"):
        mocked(answer).get(NAME, 1000)
