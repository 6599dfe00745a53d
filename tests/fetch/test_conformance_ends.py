"""What every fetcher leaves behind when it does not end as planned; each of them runs all of it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from fetch import server as web
from fetch.bodies import GOOD, PATH, URL, Checked, drain, fetch_one, wanted
from fetch.conftest import Opener
from fetch.server import Exchange, Server

from shrinkwrap.errors import CorruptObject, UsageError
from shrinkwrap.fetch.types import Request

# -- ends that were not planned


class DiskFullError(Exception):
    pass


class Full(Checked):
    def write(self, data: bytes, /) -> None:
        raise DiskFullError("no space left")


def test_an_exception_of_a_body_ends_the_fetch_and_leaves_nothing_behind(open_http: Opener, server: Server) -> None:
    server.files.update({f"/data/{n}": GOOD for n in range(50)})
    source = open_http(server.url)

    def requests() -> Iterator[Request]:
        for n in range(50):
            yield Request(b"data/%d" % n, Full(GOOD) if n == 10 else Checked(GOOD), 10_000)

    with pytest.raises(DiskFullError, match="no space left"):
        drain(source, requests())
    # The same source goes on as if nothing had been.
    outcomes = drain(source, [wanted(f"data/{n}", GOOD) for n in range(50)])
    assert all(outcome.error is None for outcome in outcomes.values())


@pytest.mark.parametrize("where", ["start", "finish"])
def test_an_exception_at_either_end_of_a_body_ends_the_fetch_too(
    open_http: Opener, server: Server, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    server.files[URL] = GOOD
    source = open_http(server.url)
    broken = wanted(PATH, GOOD)

    def fail() -> None:
        raise DiskFullError(where)

    setattr(broken.body, where, fail)
    with pytest.raises(DiskFullError, match=where):
        fetch_one(source, broken)
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_a_body_may_call_its_bytes_corrupt_while_they_arrive(open_http: Opener, server: Server) -> None:
    class Picky(Checked):
        def write(self, data: bytes, /) -> None:
            if data.startswith(b"rubbish"):
                raise CorruptObject("that is rubbish")
            super().write(data)

    server.script(URL, web.body(b"rubbish" * 100_000), web.body(GOOD))
    assert fetch_one(open_http(server.url), Request(PATH.encode(), Picky(GOOD), 1 << 20)).error is None


def test_an_exception_of_the_requests_themselves_is_passed_on(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD

    def requests() -> Iterator[Request]:
        yield wanted(PATH, GOOD)
        raise DiskFullError("while walking")

    source = open_http(server.url)
    with pytest.raises(DiskFullError, match="while walking"):
        drain(source, requests())
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_an_abandoned_fetch_lets_go_of_what_was_in_flight(open_http: Opener, server: Server) -> None:
    server.files[URL] = GOOD
    for n in range(3):
        server.script(f"/slow/{n}", web.stall)
    source = open_http(server.url)
    outcomes = source.fetch([wanted(PATH, GOOD), *(wanted(f"slow/{n}") for n in range(3))])
    assert next(outcomes).error is None
    outcomes.close()  # type: ignore[attr-defined]
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_trailers_without_end_are_given_up(open_http: Opener, server: Server, second: Server) -> None:
    def drip(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(GOOD), GOOD))
        while not exchange.server.stopping.wait(0.05):
            exchange.raw(b"X: y\r\n")

    server.script(URL, drip)
    second.files[URL] = GOOD
    source = open_http(server.url, second.url, max_retries=0, timeout_direct=0.3)
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert len(second.seen) == 1


def test_a_key_press_while_bytes_arrive_is_not_swallowed(open_http: Opener, server: Server) -> None:
    class Pressed(Checked):
        def write(self, data: bytes, /) -> None:
            raise KeyboardInterrupt

    server.files[URL] = GOOD
    source = open_http(server.url)
    with pytest.raises(KeyboardInterrupt):
        fetch_one(source, Request(PATH.encode(), Pressed(GOOD), 10_000))
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


@pytest.fixture
def alarm() -> Iterator[Callable[[Callable[..., object]], None]]:
    """Calls a handler from a signal in a moment, and again and again until the test is over."""
    before = signal.getsignal(signal.SIGALRM)

    def ring(handler: Callable[..., object]) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.1)

    yield ring
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def press(number: int, frame: FrameType | None) -> None:
    """The key press of a user. What is raised in the call-back of a weak reference is lost by Python: not there."""
    if frame is None or not frame.f_code.co_filename.endswith("_weakrefset.py"):
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.default_int_handler(number, frame)


def test_a_key_press_while_waiting_ends_the_fetch(
    open_http: Opener, server: Server, alarm: Callable[[Callable[..., object]], None]
) -> None:
    server.files[URL] = GOOD
    server.script("/slow", web.stall)
    source = open_http(server.url, timeout_direct=60)
    alarm(press)
    with pytest.raises(KeyboardInterrupt):
        fetch_one(source, wanted("slow"))
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_a_key_press_in_the_middle_of_the_bytes_ends_the_fetch(
    open_http: Opener, server: Server, alarm: Callable[[Callable[..., object]], None]
) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.keep = False
        exchange.raw(b"HTTP/1.1 200 OK\r\n\r\n")
        while not exchange.server.stopping.is_set():
            exchange.raw(b"x" * 1000)

    class Sink(Checked):
        def write(self, data: bytes, /) -> None:
            self.starts += 1

    server.files[URL] = GOOD
    server.script("/endless", endless)
    source = open_http(server.url)
    alarm(press)
    with pytest.raises(KeyboardInterrupt):
        fetch_one(source, Request(b"endless", Sink(b""), 1 << 50))
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_a_signal_that_is_handled_does_not_disturb_the_fetch(
    open_http: Opener, server: Server, alarm: Callable[[Callable[..., object]], None]
) -> None:
    rung = threading.Event()

    def late(exchange: Exchange) -> None:
        rung.wait(20)
        exchange.answer(200, GOOD)

    server.script(URL, late)
    alarm(lambda *_: rung.set())
    assert fetch_one(open_http(server.url, timeout_direct=60), wanted(PATH, GOOD)).error is None
    assert len(server.seen) == 1


def test_a_closed_source_refuses_to_go_on(open_http: Opener, server: Server) -> None:
    source = open_http(server.url)
    source.close()
    source.close()
    with pytest.raises(UsageError):
        source.fetch([wanted(PATH)])


def test_a_source_may_be_closed_while_it_is_fetching(open_http: Opener, server: Server) -> None:
    server.files.update({f"/data/{n}": GOOD for n in range(10)})
    source = open_http(server.url, transfers=2)
    outcomes = source.fetch([wanted(f"data/{n}", GOOD) for n in range(10)])
    assert next(outcomes).error is None
    source.close()
    assert len(list(outcomes)) < 9


def test_a_slow_consumer_is_not_blamed_on_the_host(open_http: Opener, server: Server, second: Server) -> None:
    """While the consumer holds us up for longer than any window, connections are under way: no host has failed."""

    def once(exchange: Exchange) -> None:
        exchange.answer(200, GOOD)
        exchange.keep = False

    server.default = second.default = once
    source = open_http(server.url, second.url, transfers=3, timeout_direct=0.2, max_retries=0)
    pause = threading.Event()
    for number, outcome in enumerate(source.fetch(wanted(f"data/{n}", GOOD) for n in range(8))):
        assert outcome.error is None
        if number < 2:
            pause.wait(1.2)
    assert second.seen == []
    assert source.stats.failovers == 0


def test_slow_requests_are_not_blamed_on_the_host_either(open_http: Opener, server: Server, second: Server) -> None:
    """Whoever says what is wanted next may have to look at a slow disk first, while connections are under way."""

    def once(exchange: Exchange) -> None:
        exchange.answer(200, GOOD)
        exchange.keep = False

    def slowly() -> Iterator[Request]:
        for number in range(9):
            if number > 3:
                pause.wait(0.3)
            yield wanted(f"data/{number}", GOOD)

    pause = threading.Event()
    server.default = second.default = once
    source = open_http(server.url, second.url, transfers=3, timeout_direct=0.2, max_retries=0)
    assert [outcome.error for outcome in source.fetch(slowly())] == [None] * 9
    assert second.seen == []
    assert source.stats.failovers == 0
