"""Bulk objects without libcurl: ``http.client`` and a few threads.

Used where pycurl cannot be imported, or when the environment says ``SHRINKWRAP_FETCHER=http.client``. It
behaves like :mod:`shrinkwrap.fetch.bulk` and costs several times its CPU. What it lacks: HTTP/2, and https
servers behind https proxies.

The threads talk to servers only; bodies are written to, and all decisions are made, in the thread that
fetches.
"""

from __future__ import annotations

import base64
import heapq
import http.client
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from shrinkwrap.errors import CorruptObject, ShrinkwrapError
from shrinkwrap.fetch.http import (
    MAX_REDIRECTS,
    NO_CACHE,
    Network,
    SlowError,
    SpeedCheck,
    describe_status,
    judge_status,
    says_proxy_error,
    tls_context,
    user_agent,
)
from shrinkwrap.fetch.intake import Intake, bad_span, name_of, no_external
from shrinkwrap.fetch.mirrors import Failure, Mirrors, Route, Trip
from shrinkwrap.fetch.types import Outcome, Request
from shrinkwrap.fetch.urls import escape_path

_STEP: Final = 128 * 1024
_REDIRECTS: Final = (301, 302, 303, 307, 308)
#: Seconds between looks at requests that wait for an answer.
_GLANCE: Final = 0.5


class PlainTransfers:
    """The fetcher of one source. Belongs to one thread; fetches may be nested."""

    passes_caches: Final = False

    def __init__(self, network: Network) -> None:
        self._network = network
        self._idle: list[_Crew] = []
        self._busy: set[_Crew] = set()

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """See :meth:`shrinkwrap.fetch.types.Source.fetch`."""
        crew = self._idle.pop() if self._idle else _Crew(self._network)
        self._busy.add(crew)
        try:
            yield from crew.run(requests)
        finally:
            crew.abandon()
            if crew in self._busy:
                self._busy.discard(crew)
                self._idle.append(crew)

    def close(self) -> None:
        """End everything, also fetches that are under way, and wait for the threads."""
        for crew in (*self._idle, *self._busy):
            crew.close()
        self._idle.clear()
        self._busy.clear()


class _Job:
    """One request, and its attempt that is under way."""

    __slots__ = ("asked", "cancelled", "connection", "intake", "mirrors", "request", "route", "trip", "url")

    route: Route
    url: str

    def __init__(self, request: Request, mirrors: Mirrors) -> None:
        self.request = request
        self.mirrors = mirrors
        self.trip: Trip | None = None
        self.intake = Intake()
        self.cancelled = False
        #: Set by the thread while it waits for the head of an answer.
        self.asked: float | None = None
        self.connection: http.client.HTTPConnection | None = None

    def cut(self) -> None:
        """Break the connection off, so that the thread wakes up."""
        self.cancelled = True
        connection = self.connection
        sock = connection.sock if connection is not None else None
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class _Head(NamedTuple):
    """An answer that is worth reading has begun."""

    partial: bool


class _End(NamedTuple):
    """An attempt is over."""

    failure: Failure | None = None
    reason: str = ""
    raised: BaseException | None = None


_Event = tuple[_Job, "_Head | bytes | _End"]


class _Crew:
    """Threads and their queues: what one call of ``fetch`` works with."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._hand = _Hand(network)
        self._orders: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        # Bounded, so that a slow consumer holds the threads up instead of filling the memory.
        self._events: queue.Queue[_Event] = queue.Queue(2 * network.config.transfers)
        self._threads: list[threading.Thread] = []
        self._flying: set[_Job] = set()
        self._waiting: list[tuple[float, int, _Job]] = []
        self._numbers = count()
        self._looked = 0.0
        self._closed = False

    def run(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Draw requests as threads become free, and yield what became of them."""
        iterator = iter(requests)
        exhausted = False
        ready: list[Outcome] = []
        transfers = self._network.config.transfers
        flying, waiting = self._flying, self._waiting
        while True:
            now = time.monotonic()
            for mirrors in (self._network.mirrors, self._network.external):
                if mirrors is not None and now >= mirrors.reset_at:
                    mirrors.tick(now)
            while waiting and waiting[0][0] <= now:
                job = heapq.heappop(waiting)[2]
                if job.trip is not None and job.mirrors.resume(job.trip, now):
                    self._start(job)
                else:
                    ready.append(self._lost(job))
            while not exhausted and not ready and len(flying) + len(waiting) < transfers:
                request = next(iterator, None)
                if request is None:
                    exhausted = True
                    break
                outcome = self._begin(request)
                if outcome is not None:
                    ready.append(outcome)
            for outcome in ready:
                yield outcome
                if self._closed:
                    return
            ready.clear()
            if not exhausted and len(flying) + len(waiting) < transfers:
                continue
            if not flying and not waiting:
                return
            outcome = self._next_event()
            if outcome is not None:
                ready.append(outcome)

    def abandon(self) -> None:
        """Break off what is under way, and wait until the threads have let go of it."""
        for job in self._flying:
            job.cut()
        while self._flying:
            job, event = self._events.get()
            if isinstance(event, _End):
                self._flying.discard(job)
            else:
                job.cut()
        self._waiting.clear()

    def close(self) -> None:
        if self._closed:
            return
        self.abandon()
        self._closed = True
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _begin(self, request: Request) -> Outcome | None:
        """Start a fresh request, or refuse it at once."""
        mirrors = self._network.mirrors_for(request)
        if mirrors is None:
            return Outcome(request, no_external(request), 0, "")
        error = bad_span(request)
        if error is not None:
            return Outcome(request, error, 0, "")
        try:
            self._start(_Job(request, mirrors))
        except CorruptObject as exc:
            return Outcome(request, exc, 0, "")
        return None

    def _start(self, job: _Job) -> None:
        """One attempt, by the route of the request's trip or by the one in use."""
        job.route = job.mirrors.current if job.trip is None else job.trip.route
        path = escape_path(job.request.path).decode("ascii")
        job.url = job.route.url + path if path[:1] == "/" else f"{job.route.url}/{path}"
        job.intake.begin(job.request)
        job.cancelled = False
        job.asked = None
        self._network.stats.requests += 1
        self._flying.add(job)
        if len(self._threads) < len(self._flying):
            thread = threading.Thread(
                target=self._hand.work,
                args=(self._orders, self._events),
                name="shrinkwrap-fetch",
                daemon=True,
            )
            thread.start()
            self._threads.append(thread)
        self._orders.put(job)

    def _next_event(self) -> Outcome | None:
        """Wait for the next thing to happen; the outcome if it ends a request."""
        seconds = _GLANCE
        if self._waiting:
            seconds = min(seconds, max(0.0, self._waiting[0][0] - time.monotonic()))
        try:
            job, event = self._events.get(timeout=seconds)
        except queue.Empty:
            self._look()
            return None
        if isinstance(event, _Head):
            job.intake.partial = event.partial
        elif isinstance(event, bytes):
            if not job.cancelled and job.intake.write(event) is not None:
                job.cut()
        else:
            self._flying.discard(job)
            return self._ended(job, event)
        if time.monotonic() - self._looked > _GLANCE:
            self._look()
        return None

    def _look(self) -> None:
        """Break off requests without an answer: a head that comes byte by byte meets any timeout."""
        now = self._looked = time.monotonic()
        for job in self._flying:
            asked = job.asked
            if asked is not None and now - asked > 2 * self._network.config.patience(job.route.proxy):
                job.cut()

    def _ended(self, job: _Job, end: _End) -> Outcome | None:
        """An attempt is over. None if there is another one."""
        intake = job.intake
        raised = intake.raised or end.raised
        if isinstance(raised, CorruptObject):
            return self._judge(job, Failure.CORRUPT, raised.message)
        if raised is not None:
            raise raised
        if not intake.satisfied:
            if end.failure is not None:
                return self._judge(job, end.failure, end.reason)
            if job.cancelled:
                return self._judge(job, Failure.TRANSFER, "no answer in time")
        try:
            intake.finish()
        except CorruptObject as exc:
            return self._judge(job, Failure.CORRUPT, exc.message)
        stats = self._network.stats
        url = job.route.url
        stats.received += intake.received
        stats.hosts[url] = stats.hosts.get(url, 0) + 1
        if job.trip is not None:
            job.mirrors.succeeded(job.trip)
        return Outcome(job.request, None, intake.received, url)

    def _judge(self, job: _Job, failure: Failure, reason: str) -> Outcome | None:
        """Ask the mirrors what follows, and do it. None if there is another attempt, now or later."""
        stats = self._network.stats
        stats.received += job.intake.received
        trip = job.trip = job.trip or Trip(job.route)
        now = time.monotonic()
        wait = job.mirrors.failed(trip, failure, reason, now)
        if wait is None:
            return self._lost(job)
        stats.retries += trip.route == job.route
        if wait == 0.0:
            self._start(job)
        else:
            heapq.heappush(self._waiting, (now + wait, next(self._numbers), job))
        return None

    def _lost(self, job: _Job) -> Outcome:
        trip = job.trip or Trip(job.route)
        error: ShrinkwrapError = job.mirrors.verdict(trip, name_of(job.request))
        return Outcome(job.request, error, job.intake.received, job.route.url)


_Connections = dict[tuple[str, str, str], http.client.HTTPConnection]


class _Hand:
    """What the threads do. Holds nothing that changes."""

    def __init__(self, network: Network) -> None:
        self._config = network.config
        self._agent = user_agent(network.config)
        self._context = tls_context(network)

    def work(self, orders: queue.SimpleQueue[_Job | None], events: queue.Queue[_Event]) -> None:
        """A thread's life: attempt after attempt, over connections of its own."""
        connections: _Connections = {}
        while (job := orders.get()) is not None:
            try:
                end = self._attempt(job, events, connections)
            except (SlowError, TimeoutError) as exc:
                end = _End(Failure.TRANSFER, f"too slow, or no answer in time ({exc})")
            except ssl.SSLCertVerificationError as exc:
                end = _End(Failure.HOST, f"its certificate was not accepted: {exc.verify_message}")
            except socket.gaierror:
                end = _End(Failure.PROXY if job.route.proxy else Failure.HOST, "its name cannot be resolved")
            except (http.client.HTTPException, OSError, ValueError) as exc:
                end = _End(Failure.TRANSFER, (str(exc) or type(exc).__name__)[:200])
            except BaseException as exc:  # noqa: BLE001 - raised again by the thread that fetches
                end = _End(raised=exc)
            broken = end.failure is not None or end.raised is not None or job.cancelled
            if broken and job.connection is not None:
                # Half an answer may still be on its way there.
                job.connection.close()
            job.connection = None
            job.asked = None
            events.put((job, end))
        for connection in connections.values():
            connection.close()

    def _attempt(self, job: _Job, events: queue.Queue[_Event], connections: _Connections) -> _End:
        """Ask once, following redirects where that is allowed, and pass the answer on."""
        url = job.url
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._ask(job, urlsplit(url), connections)
            location = answer.getheader("Location")
            if not (self._config.follow_redirects and answer.status in _REDIRECTS and location):
                break
            if job.connection is not None:
                job.connection.close()
            url = urljoin(url, location)
            if urlsplit(url).scheme not in ("http", "https"):
                return _End(Failure.HOST, "a redirect to something that is not http or https")
        failure = judge_status(
            answer.status,
            proxied=bool(job.route.proxy),
            proxy_error=any(says_proxy_error(*item) for item in answer.getheaders()),
        )
        if failure is not None:
            return _End(failure, describe_status(answer.status))
        events.put((job, _Head(answer.status == 206)))
        speed = SpeedCheck(self._config.low_speed_limit, self._config.patience(job.route.proxy))
        while not job.cancelled:
            # Looked after here too: the trailers after a body may come one by one, without end.
            since = job.asked = time.monotonic()
            data = answer.read1(_STEP)
            job.asked = None
            speed.add(len(data), time.monotonic() - since)
            if not data:
                break
            events.put((job, data))
        else:
            return _End()
        if answer.length:
            return _End(Failure.TRANSFER, f"the answer was cut short by {answer.length} bytes")
        if answer.will_close and job.connection is not None:
            job.connection.close()
        answer.close()
        return _End()

    def _ask(self, job: _Job, url: SplitResult, connections: _Connections) -> http.client.HTTPResponse:
        """Send one request and read the head of its answer."""
        proxy = job.route.proxy
        key = (url.scheme, url.netloc, proxy)
        headers = {"User-Agent": self._agent, "Accept": "*/*"}
        if job.trip is not None and job.trip.no_cache:
            headers |= NO_CACHE
        if job.request.span is not None:
            offset, length = job.request.span
            headers["Range"] = f"bytes={offset}-{offset + length - 1}"
        headers |= _credentials("Authorization", url)
        target = url.path or "/"
        if url.query:
            target += "?" + url.query
        if proxy and url.scheme == "http":
            target = f"{url.scheme}://{url.netloc.rpartition('@')[2]}{target}"
            headers |= _credentials("Proxy-Authorization", urlsplit(proxy))
        while True:
            connection = connections.get(key)
            if connection is None:
                connection = connections[key] = self._connect(url, proxy)
            job.connection = connection
            kept = connection.sock is not None
            if not kept:
                connection.connect()
            # Whoever sets this looks for a socket to shut down afterwards: one of the two sees the other.
            if job.cancelled:
                raise ConnectionAbortedError("given up")
            job.asked = time.monotonic()
            try:
                connection.request("GET", target, headers=headers)
                return connection.getresponse()
            except TimeoutError:
                raise
            except (http.client.HTTPException, OSError):
                connection.close()
                # The server may have closed a connection that was kept, just when it was to be used again.
                if not kept or job.cancelled:
                    raise
            finally:
                job.asked = None

    def _connect(self, url: SplitResult, proxy: str) -> http.client.HTTPConnection:
        """A connection to the host, or to the proxy in its stead; not open yet."""
        end = urlsplit(proxy) if proxy else url
        if proxy and end.scheme == url.scheme == "https":
            raise OSError("https servers behind an https proxy need pycurl")
        timeout = self._config.patience(proxy)
        if "https" not in (end.scheme, url.scheme):
            return http.client.HTTPConnection(end.hostname or "", end.port, timeout=timeout)
        port = end.port or (443 if end.scheme == "https" else 80)
        secure = http.client.HTTPSConnection(end.hostname or "", port, timeout=timeout, context=self._context)
        if proxy and url.scheme == "https":
            secure.set_tunnel(url.hostname or "", url.port or 443, _credentials("Proxy-Authorization", end))
        return secure


def _credentials(header: str, url: SplitResult) -> dict[str, str]:
    """A header with the user name and password that ``url`` brings along, if it does."""
    if url.username is None:
        return {}
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
    return {header: "Basic " + base64.b64encode(pair).decode("ascii")}
