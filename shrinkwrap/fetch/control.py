"""Control requests by httpx: few, small, mutable files such as the manifest and the whitelist."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from shrinkwrap.errors import CorruptObject
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
from shrinkwrap.fetch.mirrors import Failure, Route, Trip
from shrinkwrap.fetch.urls import escape_path

if TYPE_CHECKING:
    import ssl

    import httpx


class HttpxControl:
    """Fetches control files over HTTP, going from host to host as the source's mirrors say.

    See :class:`shrinkwrap.fetch.http.Control`.

    Args:
        transport: answers instead of the network, a seam for tests (``httpx.MockTransport``).
    """

    def __init__(self, network: Network, *, transport: httpx.BaseTransport | None = None) -> None:
        self._network = network
        self._transport = transport
        self._clients: dict[str, httpx.Client] = {}
        #: Connections of each client, perhaps closed by now.
        self._sockets: dict[str, list[socket.socket]] = {}
        self._context: ssl.SSLContext | None = None

    def get(self, name: str, limit: int, *, past_caches: bool = False) -> bytes:
        """See :meth:`shrinkwrap.fetch.http.Control.get`."""
        mirrors = self._network.mirrors
        stats = self._network.stats
        path = escape_path(name.encode("utf-8", "surrogateescape")).decode("ascii")
        now = time.monotonic()
        if now >= mirrors.reset_at:
            mirrors.tick(now)
        trip = Trip(mirrors.current)
        while True:
            route = trip.route
            found = self._attempt(route, path, limit, no_cache=trip.no_cache or past_caches)
            stats.requests += 1
            if isinstance(found, bytes):
                stats.received += len(found)
                stats.hosts[route.url] = stats.hosts.get(route.url, 0) + 1
                mirrors.succeeded(trip)
                return found
            wait = mirrors.failed(trip, *found, time.monotonic())
            if wait:
                time.sleep(wait)
                if not mirrors.resume(trip, time.monotonic()):
                    wait = None
            if wait is None:
                raise mirrors.verdict(trip, name)
            stats.retries += trip.route == route

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _attempt(self, route: Route, path: str, limit: int, *, no_cache: bool) -> bytes | tuple[Failure, str]:
        """The file, or the class of the failure and a few words about it."""
        import httpx

        client = self._client(route.proxy)
        patience = self._network.config.patience(route.proxy)
        speed = SpeedCheck(self._network.config.low_speed_limit, patience)
        watch = _Watch(2 * patience, self._sockets.setdefault(route.proxy, []))
        try:
            url = httpx.URL(f"{route.url}/{path}")
            headers = NO_CACHE if no_cache else None
            with watch, client.stream("GET", url, headers=headers, extensions={"trace": watch.trace}) as answer:
                failure = judge_status(
                    answer.status_code,
                    proxied=bool(route.proxy),
                    proxy_error=any(says_proxy_error(*item) for item in answer.headers.items()),
                )
                if failure is not None:
                    return failure, describe_status(answer.status_code)
                return self._read(answer, limit, speed, watch)
        except CorruptObject as exc:
            return Failure.CORRUPT, exc.message
        except (httpx.ProxyError, httpx.UnsupportedProtocol, httpx.TooManyRedirects, httpx.InvalidURL) as exc:
            # Neither of the last three is the proxy's doing: the host sends us somewhere strange.
            return Failure.PROXY if isinstance(exc, httpx.ProxyError) else Failure.HOST, _words(exc)
        except (httpx.HTTPError, SlowError, OSError) as exc:
            return Failure.TRANSFER, "no answer in time" if watch.fired else _words(exc)

    def _read(self, answer: httpx.Response, limit: int, speed: SpeedCheck, watch: _Watch) -> bytes:
        """The body as it is sent, whatever its headers say about its length or encoding."""
        pieces: list[bytes] = []
        size = 0
        asked = time.monotonic()
        # Pieces as they arrive, or the speed could not be told. A transport that stands in has read them already.
        for piece in [answer.content] if answer.is_stream_consumed else answer.iter_raw():
            size += len(piece)
            if size > limit:
                raise CorruptObject(f"larger than the {limit} bytes that are allowed")
            pieces.append(piece)
            watch.restart()
            came = time.monotonic()
            speed.add(len(piece), came - asked)
            asked = came
        return b"".join(pieces)

    def _client(self, proxy: str) -> httpx.Client:
        client = self._clients.get(proxy)
        if client is None:
            import httpx

            config = self._network.config
            if self._context is None:
                self._context = tls_context(self._network)
            via = None
            if proxy and self._transport is None:
                via = httpx.Proxy(proxy, ssl_context=self._context if proxy.startswith("https:") else None)
            client = httpx.Client(
                transport=self._transport,
                proxy=via,
                verify=self._context,
                trust_env=False,
                follow_redirects=config.follow_redirects,
                max_redirects=MAX_REDIRECTS,
                timeout=config.patience(proxy),
                headers={"User-Agent": user_agent(config), "Accept": "*/*", "Accept-Encoding": "identity"},
            )
            self._clients[proxy] = client
        return client


class _Watch:
    """Breaks off a connection on which nothing of use arrives.

    The time-outs of httpx hold for each read: a head, or a trailer, that comes byte by byte would go on for days.

    Args:
        seconds: that a head, or the next piece of a body, may take.
        sockets: connections of the client, of which one at a time is in use; new ones are added.

    Attributes:
        fired: the connection was broken off.
    """

    def __init__(self, seconds: float, sockets: list[socket.socket]) -> None:
        self._seconds = seconds
        self._sockets = sockets
        self._due = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.fired = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Told by httpx of what it does: takes note of each new connection, and begins with each request."""
        ask = getattr(info.get("return_value"), "get_extra_info", None)
        found = None if ask is None else ask("socket")
        if isinstance(found, socket.socket):
            self._sockets[:] = [*(one for one in self._sockets if one.fileno() >= 0), found]
        elif event.endswith(".send_request_headers.started"):
            self.restart()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shrinkwrap-watch", daemon=True)
                self._thread.start()

    def restart(self) -> None:
        """Something of use has arrived."""
        self._due = time.monotonic() + self._seconds

    def _run(self) -> None:
        while not self._over.wait(max(0.0, self._due - time.monotonic())):
            if time.monotonic() >= self._due:
                self.fired = True
                for one in self._sockets:
                    # Not the method of a TLS socket, which would change what the other thread is reading from.
                    with suppress(OSError):
                        socket.socket.shutdown(one, socket.SHUT_RDWR)
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()


def _words(exc: Exception) -> str:
    return str(exc)[:200] or type(exc).__name__
