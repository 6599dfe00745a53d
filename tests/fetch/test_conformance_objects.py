"""What every fetcher does with objects that are there, missing or corrupt; each of them runs all of it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fetch import server as web
from fetch.bodies import GOOD, PATH, URL, Checked, body_of, drain, fetch_one, wanted
from fetch.conftest import Opener
from fetch.server import Exchange, Server, dead_url

from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError
from shrinkwrap.fetch.types import Request

# -- what goes well


def test_an_object_arrives_whole(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD
    source = open_http(server.url)
    request = wanted(PATH, GOOD, key="mine")
    outcome = fetch_one(source, request)
    assert outcome.error is None
    assert outcome.received == len(GOOD)
    assert outcome.host == server.url
    assert body_of(request).data == GOOD
    assert source.stats.requests == 1
    assert source.stats.received == len(GOOD)
    assert source.stats.hosts == {server.url: 1}


def test_a_large_object_arrives_in_pieces_and_in_order(open_http: Opener, server: Server) -> None:
    large = b"".join(hashlib.sha256(str(n).encode()).digest() for n in range(100_000))
    server.files[URL] = large
    outcome = fetch_one(open_http(server.url), wanted(PATH, large, limit=len(large)))
    assert outcome.error is None
    assert outcome.received == len(large)


def test_an_empty_object_is_an_object(open_http: Opener, server: Server) -> None:
    server.files[URL] = b""
    assert fetch_one(open_http(server.url), wanted(PATH, b"")).error is None


def test_an_answer_in_chunks_without_a_length_is_read(open_http: Opener, server: Server) -> None:
    def chunked(exchange: Exchange) -> None:
        exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, len(GOOD), 100):
            piece = GOOD[start : start + 100]
            exchange.raw(b"%x\r\n%b\r\n" % (len(piece), piece))
        exchange.raw(b"0\r\n\r\n")

    server.script(URL, chunked)
    assert fetch_one(open_http(server.url), wanted(PATH, GOOD)).error is None


def test_five_hundred_objects_are_drawn_lazily_and_over_few_connections(open_http: Opener, server: Server) -> None:
    contents = {f"data/{n:03d}": b"content %d" % n for n in range(500)}
    server.files.update({f"/{path}": data for path, data in contents.items()})
    drawn = 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        for path, data in contents.items():
            drawn += 1
            yield wanted(path, data)

    source = open_http(server.url, transfers=4)
    ended = set()
    furthest = 0
    for outcome in source.fetch(requests()):
        furthest = max(furthest, drawn - len(ended))
        assert outcome.error is None
        ended.add(outcome.request.path.decode())
    assert ended == set(contents)
    assert furthest <= 2 * 4
    assert server.connections <= 4
    assert source.stats.requests == 500


def test_connections_are_kept_from_one_fetch_to_the_next(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD
    source = open_http(server.url)
    for _ in range(5):
        assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert server.connections == 1


def test_a_kept_connection_that_the_server_has_closed_is_no_failure(open_http: Opener, server: Server) -> None:
    def once(exchange: Exchange) -> None:
        exchange.answer(200, GOOD)
        exchange.keep = False

    server.script(URL, once)
    source = open_http(server.url, max_retries=0)
    for _ in range(3):
        assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_no_more_transfers_are_in_flight_than_asked_for(open_http: Opener, server: Server) -> None:
    gate = threading.Semaphore(0)
    lock = threading.Lock()
    now = most = 0

    def counted(exchange: Exchange) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
            if now == 3:
                gate.release(100)
        gate.acquire(timeout=0.2)
        with lock:
            now -= 1
        exchange.answer(200, GOOD)

    server.default = counted
    outcomes = drain(open_http(server.url, transfers=3), [wanted(f"data/{n}", GOOD) for n in range(12)])
    assert all(outcome.error is None for outcome in outcomes.values())
    assert most == 3


def test_fetches_may_be_nested(open_http: Opener, server: Server) -> None:
    server.files.update({f"/outer/{n}": GOOD for n in range(8)})
    server.files.update({f"/inner/{n}": GOOD for n in range(8)})
    source = open_http(server.url)
    seen = 0
    for number, outcome in enumerate(source.fetch(wanted(f"outer/{n}", GOOD) for n in range(8))):
        assert outcome.error is None
        assert fetch_one(source, wanted(f"inner/{number}", GOOD)).error is None
        seen += 1
    assert seen == 8


def test_odd_names_are_escaped_byte_by_byte(open_http: Opener, server: Server) -> None:
    source = open_http(server.url, external_servers=(f"{server.url}/ext",))
    path = b"/a b/100%/plus+/q?x#y/\xff\xc3\xa9/@:-_~[],;=&'()*!$"
    escaped = "/ext/a%20b/100%25/plus+/q%3Fx%23y/%FF%C3%A9/@:-_~[],%3B%3D%26%27%28%29%2A%21%24"
    server.files[escaped] = GOOD
    assert fetch_one(source, wanted(path, GOOD, external=True)).error is None
    assert [exchange.target for exchange in server.seen] == [escaped]


@pytest.mark.parametrize("path", [b"data/../../secret", b"..", b"data/a\0b"])
def test_a_path_that_leads_elsewhere_is_never_asked_for(open_http: Opener, server: Server, path: bytes) -> None:
    assert isinstance(fetch_one(open_http(server.url), wanted(path)).error, CorruptObject)
    assert server.seen == []


def test_the_client_says_who_it_is_and_accepts_no_encoding(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD
    fetch_one(open_http(server.url, user_agent="shrinkwrap/test"), wanted(PATH, GOOD))
    headers = server.seen[0].headers
    assert headers["user-agent"] == "shrinkwrap/test"
    assert headers.get("accept-encoding", "identity") == "identity"
    assert "cache-control" not in headers


# -- missing, corrupt


def test_missing_on_all_hosts_is_missing(open_http: Opener, server: Server, second: Server) -> None:
    outcome = fetch_one(open_http(server.url, second.url), wanted(PATH))
    assert isinstance(outcome.error, MissingObject)
    assert PATH in outcome.error.message
    assert server.url in outcome.error.message
    assert second.url in outcome.error.message


def test_missing_on_one_host_is_found_on_the_next(open_http: Opener, server: Server, second: Server) -> None:
    second.files[URL] = GOOD
    outcome = fetch_one(open_http(server.url, second.url), wanted(PATH, GOOD))
    assert outcome.error is None
    assert outcome.host == second.url


def test_a_host_that_lacks_what_another_has_is_left(open_http: Opener, server: Server, second: Server) -> None:
    second.files.update({f"/data/{n}": GOOD for n in range(20)})
    source = open_http(server.url, second.url, transfers=1)
    outcomes = drain(source, [wanted(f"data/{n}", GOOD) for n in range(20)])
    assert all(outcome.error is None for outcome in outcomes.values())
    assert len(server.seen) == 1
    assert source.host == second.url


def test_missing_is_not_said_when_a_host_could_not_be_asked(open_http: Opener, server: Server) -> None:
    error = fetch_one(open_http(server.url, dead_url()), wanted(PATH)).error
    assert isinstance(error, NetworkError)
    assert "not every host could be asked" in error.message


def test_no_byte_of_an_error_page_reaches_a_body(open_http: Opener, server: Server) -> None:
    taken: list[bytes] = []

    class Witness(Checked):
        def write(self, data: bytes, /) -> None:
            taken.append(data)

    for code in (404, 403, 500):
        server.script(URL, web.status(code))
        outcome = fetch_one(open_http(server.url), Request(PATH.encode(), Witness(GOOD), 10_000))
        assert outcome.error is not None
    assert taken == []


def test_a_missing_object_leaves_the_others_alone(open_http: Opener, server: Server) -> None:
    server.files.update({f"/data/{n}": GOOD for n in range(10)})
    outcomes = drain(open_http(server.url), [wanted(f"data/{n}", GOOD) for n in range(11)])
    assert isinstance(outcomes.pop(b"data/10").error, MissingObject)
    assert all(outcome.error is None for outcome in outcomes.values())


def test_a_corrupt_object_is_asked_for_once_more_past_all_caches(open_http: Opener, server: Server) -> None:
    server.script(URL, web.body(b"rubbish"), web.body(GOOD))
    request = wanted(PATH, GOOD)
    source = open_http(server.url)
    assert fetch_one(source, request).error is None
    assert body_of(request).starts == 2
    first, again = server.requests(URL)
    assert "cache-control" not in first.headers
    assert again.headers["cache-control"] == again.headers["pragma"] == "no-cache"
    assert source.stats.retries == 1
    fetch_one(source, wanted(PATH, GOOD))
    assert "cache-control" not in server.requests(URL)[2].headers


def test_corrupt_on_one_host_and_good_on_the_next(open_http: Opener, server: Server, second: Server) -> None:
    server.script(URL, web.body(b"<html>a captive portal</html>"))
    second.files[URL] = GOOD
    outcome = fetch_one(open_http(server.url, second.url), wanted(PATH, GOOD))
    assert outcome.error is None
    assert outcome.host == second.url
    assert len(server.requests(URL)) == 2


def test_corrupt_on_all_hosts_is_corrupt(open_http: Opener, server: Server, second: Server) -> None:
    server.script(URL, web.body(b"rubbish"))
    second.script(URL, web.body(b"other rubbish"))
    error = fetch_one(open_http(server.url, second.url), wanted(PATH, GOOD)).error
    assert isinstance(error, CorruptObject)
    assert "the digest is another" in error.message
    assert len(server.requests(URL)) == len(second.requests(URL)) == 2


def test_a_body_that_is_too_large_is_cut_off_and_corrupt(open_http: Opener, server: Server) -> None:
    server.script(URL, web.body(b"x" * 3_000_000))
    request = wanted(PATH, GOOD, limit=1000)
    outcome = fetch_one(open_http(server.url), request)
    assert isinstance(outcome.error, CorruptObject)
    assert "1000 bytes" in outcome.error.message
    assert len(body_of(request).data) <= 1000
    assert outcome.received < 3_000_000


def test_an_endless_answer_without_a_length_is_cut_off(open_http: Opener, server: Server) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"HTTP/1.1 200 OK\r\n\r\n")
        while not exchange.server.stopping.is_set():
            exchange.raw(b"x" * 65536)

    server.script(URL, endless)
    error = fetch_one(open_http(server.url), wanted(PATH, GOOD, limit=100_000)).error
    assert isinstance(error, CorruptObject)


def test_a_length_that_promises_too_little_is_corrupt(open_http: Opener, server: Server) -> None:
    server.script(URL, web.body(GOOD, len(GOOD) - 5))
    assert isinstance(fetch_one(open_http(server.url), wanted(PATH, GOOD)).error, CorruptObject)


def test_what_follows_a_short_answer_is_not_taken_for_the_next_one(open_http: Opener, server: Server) -> None:
    smuggled = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    server.script(URL, web.body(GOOD + smuggled, len(GOOD)))
    server.files["/data/next"] = b"next"
    source = open_http(server.url, transfers=1)
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert fetch_one(source, wanted("data/next", b"next")).error is None


@pytest.mark.parametrize(("wish", "most"), [(0, 2), (7, 7)])
def test_more_transfers_are_in_flight_when_the_network_is_slow_and_they_may_be(
    wish: int, most: int, open_http: Opener, server: Server, fetcher: str
) -> None:
    if fetcher != "pycurl":
        pytest.skip("the fetcher without libcurl keeps the number that it begins with")
    lock = threading.Lock()
    now = seen = 0

    def slow(exchange: Exchange) -> None:
        nonlocal now, seen
        with lock:
            now += 1
            seen = max(seen, now)
        time.sleep(0.06)
        with lock:
            now -= 1
        exchange.answer(200, GOOD)

    paths = [f"data/{number}" for number in range(80)]
    for path in paths:
        server.script(f"/{path}", slow)
    source = open_http(server.url, transfers=2, most_transfers=wish)
    assert [outcome.error for outcome in source.fetch([wanted(path, GOOD) for path in paths])] == [None] * len(paths)
    assert seen == most


@pytest.mark.parametrize("first", [web.status(404), web.truncated(GOOD[:9])], ids=["missing", "cut-short"])
def test_who_is_to_be_asked_again_waits_for_room_asleep(
    first: web.Reply,
    open_http: Opener,
    server: Server,
    second: Server,
    fetcher: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if fetcher != "pycurl":
        pytest.skip("the fetcher without libcurl has a thread for each transfer")
    import pycurl

    looks = 0

    class Counted(pycurl.CurlMulti):  # type: ignore[misc]
        def perform(self) -> Any:
            nonlocal looks
            looks += 1
            return super().perform()

    def slow(exchange: Exchange) -> None:
        time.sleep(0.3)
        exchange.answer(200, GOOD)

    monkeypatch.setattr(pycurl, "CurlMulti", Counted)
    server.script(URL, first, web.body(GOOD))
    second.script(URL, web.body(GOOD))
    for name in ("/data/b", "/data/c"):
        server.script(name, slow)
    requests = [wanted(PATH, GOOD), wanted("data/b", GOOD), wanted("data/c", GOOD)]
    outcomes = drain(open_http(server.url, second.url, transfers=2), requests)
    assert [outcome.error for outcome in outcomes.values()] == [None] * 3
    # Each of them moves a few times; who does not sleep looks ten thousand times meanwhile.
    assert 0 < looks < 500
