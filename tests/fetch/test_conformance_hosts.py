"""What every fetcher does about hosts that fail or redirect; each of them runs all of it."""

from __future__ import annotations

import pytest
from fetch import server as web
from fetch.bodies import GOOD, PATH, URL, body_of, drain, fetch_one, wanted
from fetch.conftest import Opener
from fetch.server import Exchange, Server, dead_url

from shrinkwrap.errors import NetworkError

# -- hosts that fail


def test_a_truncated_body_is_asked_for_again(open_http: Opener, server: Server) -> None:
    server.script(URL, web.truncated(GOOD[:100]), web.body(GOOD))
    request = wanted(PATH, GOOD)
    assert fetch_one(open_http(server.url), request).error is None
    assert body_of(request).data == GOOD


def test_a_body_that_is_always_truncated_is_a_network_error(open_http: Opener, server: Server) -> None:
    server.script(URL, web.truncated(GOOD[:100]))
    assert isinstance(fetch_one(open_http(server.url), wanted(PATH, GOOD)).error, NetworkError)
    assert len(server.requests(URL)) == 2


def test_a_host_that_is_down_is_left_once_for_all(open_http: Opener, server: Server) -> None:
    told: list[str] = []
    server.files.update({f"/data/{n}": GOOD for n in range(40)})
    source = open_http(dead_url(), server.url, notice=told.append)
    outcomes = drain(source, [wanted(f"data/{n}", GOOD) for n in range(40)])
    assert all(outcome.error is None for outcome in outcomes.values())
    assert source.stats.failovers == 1
    assert source.host == server.url
    assert len(told) == 1
    assert server.url in told[0]


def test_all_hosts_down_is_a_network_error_for_each(open_http: Opener) -> None:
    one, two = dead_url(), dead_url()
    outcomes = drain(open_http(one, two), [wanted(f"data/{n}") for n in range(10)])
    assert len(outcomes) == 10
    for outcome in outcomes.values():
        assert isinstance(outcome.error, NetworkError)
        assert one in outcome.error.message
        assert two in outcome.error.message


@pytest.mark.parametrize("reply", [web.stall, web.stall_after(b"a few bytes")])
def test_a_stalled_host_is_left_after_the_low_speed_window(
    open_http: Opener, server: Server, second: Server, reply: web.Reply
) -> None:
    server.script(URL, reply)
    second.files[URL] = GOOD
    outcome = fetch_one(open_http(server.url, second.url, max_retries=0), wanted(PATH, GOOD))
    assert outcome.error is None
    assert outcome.host == second.url


def test_a_head_that_comes_byte_by_byte_does_not_hold_a_transfer_for_ever(
    open_http: Opener, server: Server, second: Server
) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while not exchange.server.stopping.wait(0.1):
            exchange.raw(b"d")

    server.script(URL, drip)
    second.files[URL] = GOOD
    outcome = fetch_one(open_http(server.url, second.url, max_retries=0), wanted(PATH, GOOD))
    assert outcome.error is None
    assert outcome.host == second.url


@pytest.mark.parametrize("code", [400, 403, 500, 502, 503])
def test_an_error_status_leaves_the_host(open_http: Opener, server: Server, second: Server, code: int) -> None:
    server.script(URL, web.status(code))
    second.files[URL] = GOOD
    outcome = fetch_one(open_http(server.url, second.url), wanted(PATH, GOOD))
    assert outcome.error is None
    assert outcome.host == second.url
    assert len(server.requests(URL)) == 1


def test_too_many_requests_is_waited_out(open_http: Opener, server: Server) -> None:
    server.script(URL, web.status(429), web.body(GOOD))
    assert fetch_one(open_http(server.url), wanted(PATH, GOOD)).error is None


def test_a_connection_closed_without_a_word_is_tried_again(open_http: Opener, server: Server) -> None:
    server.script(URL, web.hang_up, web.body(GOOD))
    assert fetch_one(open_http(server.url), wanted(PATH, GOOD)).error is None


def test_an_answer_that_is_not_http_is_a_network_error(open_http: Opener, server: Server) -> None:
    def gopher(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"iWelcome to another protocol\r\n.\r\n")

    server.script(URL, gopher)
    assert isinstance(fetch_one(open_http(server.url), wanted(PATH, GOOD)).error, NetworkError)


# -- redirects


def test_a_redirect_is_refused_unless_asked_for(open_http: Opener, server: Server, second: Server) -> None:
    second.files[URL] = GOOD
    server.script(URL, web.redirect(second.url + URL))
    error = fetch_one(open_http(server.url), wanted(PATH, GOOD)).error
    assert isinstance(error, NetworkError)
    assert "redirect" in error.message
    assert second.seen == []


@pytest.mark.parametrize("code", [301, 302, 303, 307])
def test_a_redirect_is_followed_when_asked_for(open_http: Opener, server: Server, second: Server, code: int) -> None:
    second.files[URL] = GOOD
    server.script(URL, web.redirect(second.url + URL, code))
    source = open_http(server.url, follow_redirects=True)
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_redirects_end_after_four(open_http: Opener, server: Server) -> None:
    for hop in range(6):
        server.script(f"/hop{hop}", web.redirect(f"/hop{hop + 1}"))
    server.script("/hop1/then", web.redirect("/hop1"))
    server.files["/hop6"] = GOOD
    source = open_http(server.url, follow_redirects=True)
    assert isinstance(fetch_one(source, wanted("hop0", GOOD)).error, NetworkError)
    assert len(server.seen) == 5
    assert fetch_one(source, wanted("hop2", GOOD)).error is None


@pytest.mark.parametrize("scheme", ["file", "ftp", "gopher", "dict", "telnet"])
def test_a_redirect_to_another_protocol_is_never_followed(
    open_http: Opener, server: Server, second: Server, scheme: str
) -> None:
    where = "/etc/passwd" if scheme == "file" else second.url.removeprefix("http://") + "/x"
    server.script(URL, web.redirect(f"{scheme}://{where}"))
    request = wanted(PATH, GOOD)
    error = fetch_one(open_http(server.url, follow_redirects=True, max_retries=0), request).error
    assert isinstance(error, NetworkError)
    assert body_of(request).data == b""
    assert second.connections == 0
