"""Easy handles of libcurl, and what they are set to.

Most of a transfer's CPU time is spent in libcurl, which is why handles are made once and only what differs is set for
each request, and why Python sees no headers unless a proxy or a span makes them matter.
"""

from __future__ import annotations

from typing import Any, Final

import pycurl

from shrinkwrap.fetch.http import MAX_REDIRECTS, NO_CACHE, Network, ca_bundle, says_proxy_error, user_agent
from shrinkwrap.fetch.intake import NO_REQUEST, Intake
from shrinkwrap.fetch.mirrors import Mirrors, Route, Trip
from shrinkwrap.fetch.urls import escape_path

#: Bytes that libcurl takes from a socket at a time.
_BUFFER: Final = 128 * 1024


class Slot:
    """One easy handle and the request that it works for.

    Attributes:
        mirrors, route: by which the request goes; trip: what was tried for it, once something failed.
        anew: the next attempt is to be made by a new connection.
        failure: how the last attempt ended, if libcurl was not content: its code and text, and whether a pause of our
            own may have been the reason.
        proxy_error: the proxy says that the failure is its own.
    """

    __slots__ = (
        "anew",
        "curl",
        "failure",
        "fresh",
        "intake",
        "mirrors",
        "no_cache",
        "proxy",
        "proxy_error",
        "request",
        "route",
        "spans",
        "trip",
    )

    mirrors: Mirrors
    route: Route

    def __init__(self, curl: Any) -> None:
        self.curl = curl
        self.intake = Intake()
        self.request = NO_REQUEST
        self.trip: Trip | None = None
        #: How the handle is set now: the proxy, no-cache headers, a range, a connection of its own.
        self.proxy: str | None = None
        self.no_cache = False
        self.spans = False
        self.fresh = False
        self.anew = False
        self.failure: tuple[int, str, bool] | None = None
        self.proxy_error = False
        curl.slot = self
        curl.setopt(pycurl.WRITEFUNCTION, self.intake.write)

    def forget(self) -> None:
        """Let go of the request."""
        self.request = NO_REQUEST
        self.trip = None
        self.intake.forget()

    def header(self, line: bytes) -> None:
        """Called for each header line, only where proxies or spans make it matter."""
        if line.startswith(b"HTTP/"):
            self.proxy_error = False
            self.intake.partial = line[8:14].split()[:1] == [b"206"]
            return
        name, _, value = line.decode("latin-1").partition(":")
        if says_proxy_error(name, value):
            self.proxy_error = True


class Workshop:
    """Makes handles, and sets them for requests."""

    def __init__(self, network: Network) -> None:
        self._config = network.config
        self._agent = user_agent(network.config)
        self._bundle = ca_bundle() if network.uses_tls else ""
        self._no_cache = [f"{name}: {value}" for name, value in NO_CACHE.items()]

    def set(self, slot: Slot) -> None:
        """Set a handle for one attempt of its request, by its route. Raises CorruptObject for an impossible path."""
        request, route, trip, curl = slot.request, slot.route, slot.trip, slot.curl
        path = escape_path(request.path)
        curl.setopt(pycurl.URL, route.prefix + path if path[:1] == b"/" else b"%b/%b" % (route.prefix, path))
        no_cache = request.past_caches or (trip is not None and trip.no_cache)
        if route.proxy != slot.proxy or no_cache != slot.no_cache or request.span is not None or slot.spans:
            self._adjust(slot, route.proxy, no_cache)
        if slot.anew != slot.fresh:
            slot.fresh = slot.anew
            curl.setopt(pycurl.FRESH_CONNECT, int(slot.fresh))
        slot.anew = False

    def _adjust(self, slot: Slot, proxy: str, no_cache: bool) -> None:
        """Set what seldom changes from one request to the next."""
        curl = slot.curl
        span = slot.request.span
        patience = self._config.patience(proxy)
        # An empty text keeps libcurl from looking for proxies in the environment.
        curl.setopt(pycurl.PROXY, proxy)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, max(1, int(patience * 1000)))
        curl.setopt(pycurl.LOW_SPEED_TIME, max(1, round(patience)))
        # pycurl ignores an empty list; an emptied header is none.
        curl.setopt(pycurl.HTTPHEADER, self._no_cache if no_cache else ["Pragma:"])
        if span is not None:
            curl.setopt(pycurl.RANGE, f"{span[0]}-{span[0] + span[1] - 1}")
        elif slot.spans:
            curl.unsetopt(pycurl.RANGE)
        if proxy or span is not None:
            curl.setopt(pycurl.HEADERFUNCTION, slot.header)
        else:
            curl.unsetopt(pycurl.HEADERFUNCTION)
        slot.proxy = proxy
        slot.no_cache = no_cache
        slot.spans = span is not None
        slot.proxy_error = False

    def make(self) -> Slot:
        """A new handle."""
        config = self._config
        curl = pycurl.Curl()
        slot = Slot(curl)
        # Where nothing is encrypted, the choice of a version per transfer is only CPU.
        version = pycurl.CURL_HTTP_VERSION_2TLS if self._bundle else pycurl.CURL_HTTP_VERSION_1_1
        web = pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS
        for option, value in (
            (pycurl.NOSIGNAL, 1),
            (pycurl.PROTOCOLS, web),
            (pycurl.REDIR_PROTOCOLS, web),
            (pycurl.FOLLOWLOCATION, int(config.follow_redirects)),
            (pycurl.MAXREDIRS, MAX_REDIRECTS),
            (pycurl.NETRC, pycurl.NETRC_IGNORED),
            (pycurl.NOPROXY, ""),
            (pycurl.PATH_AS_IS, 1),
            (pycurl.USERAGENT, self._agent),
            # No body of an error page ever reaches us, and the connection that it came by is given up.
            (pycurl.FAILONERROR, 1),
            # Most objects come in one piece; the larger ones in few.
            (pycurl.BUFFERSIZE, _BUFFER),
            (pycurl.LOW_SPEED_LIMIT, config.low_speed_limit),
            (pycurl.TCP_KEEPALIVE, 1),
            (pycurl.HTTP_VERSION, version),
        ):
            curl.setopt(option, value)
        if self._bundle:
            curl.setopt(pycurl.CAINFO, self._bundle)
            if hasattr(pycurl, "PROXY_CAINFO"):
                curl.setopt(pycurl.PROXY_CAINFO, self._bundle)
        return slot
