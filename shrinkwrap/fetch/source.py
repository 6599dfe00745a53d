"""How a repository's bytes are got: a picklable configuration, and the source made from it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Final

from shrinkwrap.errors import UsageError
from shrinkwrap.fetch.mirrors import HOST_RESET_AFTER, NO_PROXY, PROXY_RESET_AFTER, parse_proxies
from shrinkwrap.fetch.types import FetchStats, Notice, Source
from shrinkwrap.fetch.urls import check_server, expand, folder_of, production_stratum1, stratum1_warning

__all__ = [
    "MAX_TRANSFERS_PER_HOST",
    "SourceConfig",
    "open_source",
    "production_stratum1",
    "stratum1_warning",
]

#: Most transfers that one source has in flight. Connections go to one host at a time, so this is also the
#: most that a server or proxy sees from one process: six times what a browser opens, and little enough for a
#: site's squid.
MAX_TRANSFERS_PER_HOST: Final = 32

#: Chooses the fetcher of bulk objects: ``http.client`` for the one without libcurl.
FETCHER_VARIABLE: Final = "SHRINKWRAP_FETCHER"


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where a repository's bytes come from. Picklable, so that each worker opens a source of its own.

    Attributes:
        fqrn: the repository's name, for ``@fqrn@`` and ``@org@`` in URLs.
        servers: repository URLs in order of preference; ``http``, ``https``, or ``file`` (then all of them).
        storage: a folder with the repository's storage (``.cvmfspublished``, ``data/``), instead of
            ``servers``.
        proxies: groups of proxies, see :func:`shrinkwrap.fetch.mirrors.parse_proxies`.
        external_servers: URL prefixes for external files (FORMAT.md §1.4).
        external_proxies: the proxies to those.
        transfers: in flight at a time; at most :data:`MAX_TRANSFERS_PER_HOST`.
        most_transfers: up to which their number grows while the network is what everybody waits for; a number below
            ``transfers``: it does not grow.
        timeout_direct, timeout_proxy: seconds without and with a proxy: time to connect, and the window in
            which fewer than ``low_speed_limit`` bytes a second break a transfer off (FORMAT.md §8.3).
        low_speed_limit: bytes per second.
        max_retries: repetitions on one route after transfer errors.
        backoff_init, backoff_max: the wait before those, in seconds.
        proxy_reset_after, host_reset_after: seconds until one that failed gets another chance; 0: never.
        follow_redirects: accept up to four redirects to other http or https URLs.
        user_agent: of all requests; ``shrinkwrap/<version>`` if empty.
        past_caches: caches are asked to look themselves for control files, from the first on.
    """

    fqrn: str
    servers: tuple[str, ...] = ()
    storage: str | None = None
    proxies: str = "DIRECT"
    external_servers: tuple[str, ...] = ()
    external_proxies: str = "DIRECT"
    transfers: int = 16
    most_transfers: int = 0
    timeout_direct: float = 10.0
    timeout_proxy: float = 5.0
    low_speed_limit: int = 1024
    max_retries: int = 1
    backoff_init: float = 2.0
    backoff_max: float = 10.0
    proxy_reset_after: float = PROXY_RESET_AFTER
    host_reset_after: float = HOST_RESET_AFTER
    follow_redirects: bool = False
    user_agent: str = ""
    past_caches: bool = False

    def patience(self, proxy: str) -> float:
        """Seconds to wait on a route."""
        return self.timeout_proxy if proxy else self.timeout_direct


def open_source(config: SourceConfig, notice: Notice | None = None) -> Source:
    """The source that ``config`` describes. Nothing is asked for yet.

    ``file://`` servers and ``storage`` are read from disk; for http, bulk objects go through libcurl, or
    through ``http.client`` where pycurl cannot be imported or the environment says
    ``SHRINKWRAP_FETCHER=http.client``.

    Args:
        notice: told of changes of host and proxy, of a clamped number of transfers, and of production servers
            that are about to be asked directly.

    Raises:
        UsageError: no servers, or a URL, proxy or number that makes no sense.
    """
    from shrinkwrap.fetch.http import HttpSource
    from shrinkwrap.fetch.storage import RoutedSource, StorageSource

    stats = FetchStats()
    config = _checked(config, notice)
    if config.storage is not None:
        folders = [os.fsencode(config.storage)]
    else:
        folders = _folders(config.servers)
    external_folders = _folders(config.external_servers)
    if not folders:
        if not config.servers:
            raise UsageError(
                f"no server is configured for {config.fqrn}",
                hint="set CVMFS_SERVER_URL, or name a storage folder",
            )
        if any(NO_PROXY in group for group in parse_proxies(config.proxies)[:1]):
            warning = stratum1_warning(config.servers)
            if warning and notice is not None:
                notice(warning)
        if not external_folders:
            return HttpSource(config, notice, stats)
        main: Source = HttpSource(replace(config, external_servers=()), notice, stats)
    else:
        main = StorageSource(folders, stats=stats)
    if external_folders:
        return RoutedSource(main, StorageSource(external_folders, external=True, stats=stats))
    if config.external_servers:
        # Only its external side is ever asked; those servers stand in for the main ones that there are none
        # of.
        return RoutedSource(main, HttpSource(replace(config, servers=config.external_servers), notice, stats))
    return main


def _folders(urls: tuple[str, ...]) -> list[bytes]:
    """The folders that ``urls`` name, if they are ``file://`` URLs."""
    local = [url for url in urls if url.lower().startswith("file:")]
    if local and len(local) != len(urls):
        raise UsageError(
            f"the servers {', '.join(urls)} are folders and web servers mixed",
            hint="name only one kind of them",
        )
    return [folder_of(url) for url in local]


def _checked(config: SourceConfig, notice: Notice | None) -> SourceConfig:
    """``config`` with its templates filled in and its numbers in range."""
    for what in ("timeout_direct", "timeout_proxy"):
        if not 0 < getattr(config, what) < math.inf:
            raise UsageError(f"{what} is {getattr(config, what)!r}; a number of seconds above 0 is needed")
    for what in (
        "low_speed_limit",
        "max_retries",
        "backoff_init",
        "backoff_max",
        "proxy_reset_after",
        "host_reset_after",
    ):
        if not 0 <= getattr(config, what) < math.inf:
            raise UsageError(f"{what} is {getattr(config, what)!r}; it must not be negative")
    if config.transfers < 1:
        raise UsageError(f"{config.transfers} transfers in flight make no sense; 1 or more are needed")
    transfers = min(config.transfers, MAX_TRANSFERS_PER_HOST)
    if transfers < config.transfers and notice is not None:
        notice(f"{transfers} transfers in flight instead of {config.transfers}: servers and proxies are shared")
    parse_proxies(config.proxies)
    parse_proxies(config.external_proxies)
    return replace(
        config,
        servers=tuple(check_server(expand(url, config.fqrn)) for url in config.servers),
        external_servers=tuple(check_server(expand(url, config.fqrn)) for url in config.external_servers),
        transfers=transfers,
        most_transfers=min(max(transfers, config.most_transfers), MAX_TRANSFERS_PER_HOST),
    )
