"""How every fetcher gets pieces of external files, and goes through proxies; each of them runs all of it."""

from __future__ import annotations

import socket
import struct

import pytest
from fetch import server as web
from fetch.bodies import GOOD, PATH, URL, body_of, drain, fetch_one, wanted
from fetch.conftest import Opener
from fetch.server import Exchange, Server, dead_url

from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError
from shrinkwrap.fetch.types import Request

# -- pieces of external files


def external(span: tuple[int, int], expected: bytes, limit: int = 1 << 20) -> Request:
    return wanted("/dir/large file", expected, external=True, span=span, limit=limit)


EXTERNAL_URL = "/ext/dir/large%20file"
LARGE = bytes(range(256)) * 1000


def test_a_range_answered_with_206_is_taken_as_it_is(open_http: Opener, server: Server) -> None:
    server.files[EXTERNAL_URL] = LARGE
    source = open_http(dead_url(), external_servers=(f"{server.url}/ext",))
    assert fetch_one(source, external((1000, 500), LARGE[1000:1500])).error is None
    assert server.seen[0].headers["range"] == "bytes=1000-1499"


def test_a_range_answered_with_200_is_cut_out_of_the_whole(open_http: Opener, server: Server) -> None:
    server.script(EXTERNAL_URL, web.body(LARGE))
    source = open_http(dead_url(), external_servers=(f"{server.url}/ext",))
    for span in ((0, 10), (200_000, 5000), (len(LARGE) - 10, 10), (0, len(LARGE))):
        request = external(span, LARGE[span[0] : sum(span)])
        assert fetch_one(source, request).error is None
        assert body_of(request).finished


def test_the_rest_of_a_whole_answer_is_not_waited_for(open_http: Opener, server: Server) -> None:
    server.script(EXTERNAL_URL, web.stall_after(LARGE))
    source = open_http(dead_url(), external_servers=(f"{server.url}/ext",), timeout_direct=60)
    assert fetch_one(source, external((100, 50), LARGE[100:150])).error is None
    assert len(server.seen) == 1


def test_ranges_and_whole_objects_may_follow_each_other(open_http: Opener, server: Server) -> None:
    server.files[EXTERNAL_URL] = LARGE
    server.files[URL] = GOOD
    source = open_http(server.url, external_servers=(f"{server.url}/ext",), transfers=1)
    for _ in range(2):
        assert fetch_one(source, external((7, 9), LARGE[7:16])).error is None
        assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert [("range" in exchange.headers) for exchange in server.seen] == [True, False, True, False]


@pytest.mark.parametrize("reply", [web.serve_file, web.body(LARGE)])
def test_a_piece_beyond_the_end_of_the_file_is_corrupt(open_http: Opener, server: Server, reply: web.Reply) -> None:
    server.files[EXTERNAL_URL] = LARGE
    server.script(EXTERNAL_URL, reply)
    source = open_http(dead_url(), external_servers=(f"{server.url}/ext",))
    assert isinstance(fetch_one(source, external((len(LARGE) - 5, 10), b"")).error, CorruptObject)
    assert isinstance(fetch_one(source, external((len(LARGE), 10), b"")).error, CorruptObject)


def test_a_206_with_more_than_the_piece_is_corrupt(open_http: Opener, server: Server) -> None:
    server.script(EXTERNAL_URL, lambda exchange: exchange.answer(206, LARGE))
    source = open_http(dead_url(), external_servers=(f"{server.url}/ext",))
    assert isinstance(fetch_one(source, external((0, 10), LARGE[:10])).error, CorruptObject)


@pytest.mark.parametrize("span", [(-1, 5), (0, 0), (5, -5)])
def test_a_piece_that_cannot_be_is_corrupt_without_asking(
    open_http: Opener, server: Server, span: tuple[int, int]
) -> None:
    source = open_http(dead_url(), external_servers=(server.url,))
    assert isinstance(fetch_one(source, external(span, b"")).error, CorruptObject)
    assert server.seen == []


def test_an_external_file_without_external_servers_is_an_error_that_says_so(open_http: Opener, server: Server) -> None:
    error = fetch_one(open_http(server.url), wanted("/f", external=True)).error
    assert isinstance(error, NetworkError)
    assert "CVMFS_EXTERNAL_URL" in error.hint


# -- proxies


def test_a_proxy_is_asked_with_the_absolute_url(open_http: Opener, server: Server) -> None:
    server.files["/cvmfs" + URL] = GOOD
    source = open_http("http://origin.invalid/cvmfs", proxies=server.url)
    outcome = fetch_one(source, wanted(PATH, GOOD))
    assert outcome.error is None
    assert outcome.host == "http://origin.invalid/cvmfs"
    (seen,) = server.seen
    assert seen.target == "http://origin.invalid/cvmfs" + URL
    assert seen.headers["host"] == "origin.invalid"


def test_a_proxy_gets_its_password_and_the_server_does_not(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD
    proxy = server.url.replace("http://", "http://user:secret@")
    assert fetch_one(open_http("http://origin.invalid", proxies=proxy), wanted(PATH, GOOD)).error is None
    assert server.seen[0].headers["proxy-authorization"] == "Basic dXNlcjpzZWNyZXQ="


def test_proxies_of_the_environment_are_not_used(
    open_http: Opener, server: Server, second: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, second.url)
    server.files[URL] = GOOD
    assert fetch_one(open_http(server.url), wanted(PATH, GOOD)).error is None
    assert second.seen == []


def test_exceptions_from_proxies_in_the_environment_do_not_count(
    open_http: Opener, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    server.files[URL] = GOOD
    source = open_http("http://origin.invalid", proxies=server.url)
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_a_group_of_proxies_fails_over_to_the_next_group(open_http: Opener, server: Server) -> None:
    told: list[str] = []
    server.files.update({f"/data/{n}": GOOD for n in range(20)})
    source = open_http(
        "http://origin.invalid",
        proxies=f"{dead_url()}|{dead_url()};{server.url}",
        notice=told.append,
    )
    outcomes = drain(source, [wanted(f"data/{n}", GOOD) for n in range(20)])
    assert all(outcome.error is None for outcome in outcomes.values())
    assert source.stats.failovers == 2
    assert len(told) == 2


def test_direct_is_the_last_resort_when_it_is_named(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD
    source = open_http(server.url, proxies=f"{dead_url()};DIRECT")
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert server.seen[0].target == URL


def test_direct_is_never_used_when_it_is_not_named(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD
    assert isinstance(fetch_one(open_http(server.url, proxies=dead_url()), wanted(PATH, GOOD)).error, NetworkError)
    assert server.seen == []


@pytest.mark.parametrize(
    "headers",
    [{"X_Squid_Error": "ERR_CONNECT_FAIL 111"}, {"Proxy_Status": "squid; error=connection_refused"}],
)
@pytest.mark.parametrize("code", [404, 503])
def test_an_error_page_of_the_proxy_itself_is_the_proxys_failure(
    open_http: Opener, server: Server, second: Server, headers: dict[str, str], code: int
) -> None:
    server.script(URL, web.status(code, **headers))
    second.files[URL] = GOOD
    source = open_http("http://origin.invalid", proxies=f"{server.url};{second.url}")
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert [exchange.target for exchange in second.seen] == ["http://origin.invalid" + URL]


def test_missing_through_a_proxy_is_missing(open_http: Opener, server: Server, second: Server) -> None:
    source = open_http("http://origin.invalid", proxies=f"{server.url};{second.url}")
    assert isinstance(fetch_one(source, wanted(PATH)).error, MissingObject)
    assert second.seen == []


def test_external_files_go_by_their_own_proxies(open_http: Opener, server: Server, second: Server) -> None:
    server.files["/ext/f"] = GOOD
    second.files[URL] = GOOD
    source = open_http(
        "http://origin.invalid",
        proxies=second.url,
        external_servers=(f"{server.url}/ext",),
        external_proxies="DIRECT",
    )
    outcomes = drain(source, [wanted("/f", GOOD, external=True), wanted(PATH, GOOD)])
    assert all(outcome.error is None for outcome in outcomes.values())
    assert [exchange.target for exchange in server.seen] == ["/ext/f"]
    assert [exchange.target for exchange in second.seen] == ["http://origin.invalid" + URL]


def test_kept_connections_that_the_other_side_has_given_up_cost_no_retry(open_http: Opener, server: Server) -> None:
    """Some proxies promise to keep connections and close them all the same, just when the next request comes."""
    served: set[int] = set()

    def once(exchange: Exchange) -> None:
        if id(exchange.sock) in served:
            # The reset may come while the client sends, or while it waits for an answer.
            exchange.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            exchange.keep = False
            return
        served.add(id(exchange.sock))
        sockets.append(exchange.sock)  # so that no id comes twice
        web.serve_file(exchange)

    sockets: list[socket.socket] = []
    server.default = once
    server.files.update({f"/data/{n}": GOOD for n in range(60)})
    source = open_http(server.url, transfers=16, max_retries=0)
    for _ in range(3):
        outcomes = drain(source, [wanted(f"data/{n}", GOOD) for n in range(60)])
        assert [outcome.error for outcome in outcomes.values() if outcome.error is not None] == []
