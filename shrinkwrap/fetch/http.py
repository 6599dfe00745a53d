"""What all requests over HTTP have in common, and the source that is made of them."""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from shrinkwrap.errors import NetworkError, UsageError
from shrinkwrap.fetch.mirrors import Failure, Mirrors, parse_proxies
from shrinkwrap.fetch.source import FETCHER_VARIABLE, SourceConfig
from shrinkwrap.fetch.types import FetchStats, Notice, Outcome, Request
from shrinkwrap.fetch.urls import shown

#: Redirects that are followed for one request, if any are (FORMAT.md §1.5).
MAX_REDIRECTS: Final = 4

NO_CACHE: Final = {"Cache-Control": "no-cache", "Pragma": "no-cache"}

_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)


class SlowError(Exception):
    """A transfer fell below the lowest speed that is allowed."""


@dataclass(slots=True)
class Network:
    """What the control requests and bulk transfers of one source share."""

    config: SourceConfig
    mirrors: Mirrors
    external: Mirrors | None
    stats: FetchStats

    def mirrors_for(self, request: Request) -> Mirrors | None:
        return self.external if request.external else self.mirrors

    @property
    def uses_tls(self) -> bool:
        """Can a connection of this source be encrypted at all?"""
        config = self.config
        text = " ".join((*config.servers, *config.external_servers, config.proxies, config.external_proxies))
        return config.follow_redirects or "https:" in text.lower()


class Transfers(Protocol):
    """Fetches bulk objects; one of :mod:`shrinkwrap.fetch.bulk` and :mod:`shrinkwrap.fetch.plain`.

    Attributes:
        passes_caches: it heeds :attr:`Request.past_caches`.
    """

    @property
    def passes_caches(self) -> bool: ...

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]: ...
    def close(self) -> None: ...


class Control(Protocol):
    """Fetches control files; one of :mod:`shrinkwrap.fetch.few` and :mod:`shrinkwrap.fetch.control`."""

    def get(self, name: str, limit: int, *, past_caches: bool = False) -> bytes:
        """The file ``name`` below the repository's URL, of at most ``limit`` bytes.

        Args:
            past_caches: an answer was not to be trusted: caches are asked to look themselves.

        Raises:
            MissingObject: every host says that it has no such file.
            NetworkError: no host could be asked.
            CorruptObject: larger than ``limit``, wherever it was found.
        """
        ...

    def close(self) -> None: ...


class HttpSource:
    """A repository on web servers. Belongs to one thread."""

    def __init__(self, config: SourceConfig, notice: Notice | None = None, stats: FetchStats | None = None) -> None:
        self.stats = FetchStats() if stats is None else stats
        self._network = network_of(config, self.stats, notice)
        self._control: Control | None = None
        self._transfers: Transfers | None = None
        self._past_caches = config.past_caches
        self._closed = False

    @property
    def host(self) -> str:
        return shown(self._network.mirrors.current.url)

    def control(self, name: str, limit: int) -> bytes:
        if self._control is None:
            self._control = open_control(self._network, self._open())
        return self._control.get(name, limit, past_caches=self._past_caches)

    def next_host(self) -> bool:
        self._past_caches = True
        return self._network.mirrors.next_host()

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        if self._closed:
            raise UsageError("this source has been closed")
        return self._open().fetch(requests)

    def _open(self) -> Transfers:
        if self._transfers is None:
            self._transfers = open_transfers(self._network)
        return self._transfers

    def close(self) -> None:
        self._closed = True
        if self._control is not None:
            self._control.close()
        if self._transfers is not None:
            self._transfers.close()


def network_of(config: SourceConfig, stats: FetchStats, notice: Notice | None) -> Network:
    """The mirrors of ``config``, main and external."""

    def mirrors(servers: tuple[str, ...], proxies: str) -> Mirrors:
        return Mirrors(
            servers,
            parse_proxies(proxies),
            rng=random.Random(),  # noqa: S311 - spreads load, guards nothing
            max_retries=config.max_retries,
            backoff_init=config.backoff_init,
            backoff_max=config.backoff_max,
            proxy_reset_after=config.proxy_reset_after,
            host_reset_after=config.host_reset_after,
            notice=notice,
            stats=stats,
        )

    external = mirrors(config.external_servers, config.external_proxies) if config.external_servers else None
    return Network(config, mirrors(config.servers, config.proxies), external, stats)


def open_transfers(network: Network) -> Transfers:
    """Bulk transfers by libcurl, or by ``http.client`` where there is none or the environment says so."""
    choice = os.environ.get(FETCHER_VARIABLE, "")
    if choice not in ("", "pycurl", "http.client"):
        raise UsageError(f"{FETCHER_VARIABLE} is {choice!r}; known are pycurl and http.client")
    if choice != "http.client":
        try:
            from shrinkwrap.fetch.bulk import CurlTransfers
        except ImportError as exc:
            if choice == "pycurl":
                raise UsageError(f"pycurl cannot be imported: {exc}", hint=f"unset {FETCHER_VARIABLE}") from None
        else:
            return CurlTransfers(network)
    from shrinkwrap.fetch.plain import PlainTransfers

    return PlainTransfers(network)


def open_control(network: Network, transfers: Transfers) -> Control:
    """Control requests by libcurl, which is there for the objects anyway; by httpx where it is not.

    httpx takes a quarter of a second to import: longer than all else that a run does which finds nothing new.
    """
    if transfers.passes_caches:
        from shrinkwrap.fetch.few import TransferredControl

        return TransferredControl(transfers)
    from shrinkwrap.fetch.control import HttpxControl

    return HttpxControl(network)


def judge_status(status: int, *, proxied: bool, proxy_error: bool) -> Failure | None:
    """What an HTTP status says; None for success (FORMAT.md §1.5).

    Args:
        proxied: the request went through a proxy.
        proxy_error: the proxy's headers say that the failure is its own.
    """
    if 200 <= status < 300:
        return None
    if proxied and (proxy_error or status == 407):
        return Failure.PROXY
    if status in (404, 410):
        return Failure.MISSING
    if status == 416:
        return Failure.CORRUPT
    if status == 429:
        return Failure.TRANSFER
    if 300 <= status < 400 or status == 400 or status >= 500:
        return Failure.HOST
    return Failure.PROXY if proxied else Failure.HOST


def describe_status(status: int) -> str:
    """A status for people."""
    if 300 <= status < 400:
        return f"HTTP {status}, a redirect (they are followed only with CVMFS_FOLLOW_REDIRECTS, at most four)"
    return f"HTTP {status}"


def says_proxy_error(name: str, value: str) -> bool:
    """Does this header say that a proxy, not the host, failed?"""
    name = name.lower()
    return name == "x-squid-error" or (name == "proxy-status" and "error=" in value.lower())


def user_agent(config: SourceConfig) -> str:
    if config.user_agent:
        return config.user_agent
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"shrinkwrap/{version('shrinkwrap')}"
    except PackageNotFoundError:  # a checkout that is not installed
        return "shrinkwrap/0"


def ca_bundle() -> str:
    """The file with the certificates that are trusted: ``SSL_CERT_FILE``, else the system's, else certifi's.

    Wheels of pycurl bring a TLS library that knows no such file by itself. The system's comes before
    certifi's for the sake of sites that have an authority of their own.
    """
    for path in (os.environ.get("SSL_CERT_FILE", ""), *_SYSTEM_BUNDLES):
        if path and os.path.isfile(path):
            return path
    try:
        import certifi
    except ImportError:
        raise NetworkError(
            "no file with trusted certificates was found", hint="name one with the variable SSL_CERT_FILE"
        ) from None
    return certifi.where()


def tls_context(network: Network) -> ssl.SSLContext:
    """For connections made by Python itself. Trusts nobody where none can be encrypted (that is quick)."""
    if not network.uses_tls:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=ca_bundle())
    except (OSError, ssl.SSLError) as exc:
        raise NetworkError(f"the trusted certificates cannot be read: {exc}") from None


class SpeedCheck:
    """Breaks off transfers that bring fewer than ``limit`` bytes a second over ``window`` seconds."""

    __slots__ = ("_brought", "_limit", "_spent", "_window")

    def __init__(self, limit: int, window: float) -> None:
        self._limit = limit
        self._window = window
        self._spent = 0.0
        self._brought = 0

    def add(self, size: int, seconds: float) -> None:
        """``size`` bytes have come after waiting ``seconds`` for them. Raises SlowError."""
        self._brought += size
        self._spent += seconds
        if self._spent >= self._window:
            if self._brought < self._limit * self._window:
                raise SlowError(f"only {self._brought} bytes in {self._spent:.0f} s")
            self._spent = 0.0
            self._brought = 0
