"""Which host is asked through which proxy, and what follows from a failure: a state machine without I/O.

One :class:`Mirrors` is shared by all requests of a source. It knows the route in use
(:attr:`Mirrors.current`); a request takes that and has no state of its own here until something fails. From
its first failure on, a :class:`Trip` remembers what was tried for it. Randomness and time are handed in.

The rules (FORMAT.md §1.5), by class of failure:

==========  ==============================================================================================
TRANSFER    the same route again, ``max_retries`` times, after a random and then doubling wait; then the proxy
            has failed, or the host if there is none. Without any wait if others have left the route
            meanwhile.
PROXY       the next proxy of the group, then of the next group. When all failed for a host: the next host.
HOST        the next host.
CORRUPT     the same route again past all caches, once; then the next host.
MISSING     the next host.
==========  ==============================================================================================

A host or proxy that failed is left by everybody, once, however many requests find out. That an object is
missing or corrupt says little about the rest of the host: only the request moves on, until another host is
found to do better.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, ShrinkwrapError, UsageError
from shrinkwrap.fetch.types import FetchStats, Notice
from shrinkwrap.fetch.urls import check_proxy, shown

#: Seconds after which proxies and hosts that failed are given another chance (values of the client's
#: default.conf).
PROXY_RESET_AFTER: Final = 300.0
HOST_RESET_AFTER: Final = 1800.0

#: Stands for "no proxy" in a chain of proxies.
NO_PROXY: Final = ""


class Failure(Enum):
    """How an attempt failed."""

    TRANSFER = "transfer"
    PROXY = "proxy"
    HOST = "host"
    CORRUPT = "corrupt"
    MISSING = "missing"


class Route(NamedTuple):
    """Number and URL of a host, and the proxy on the way (:data:`NO_PROXY` for none)."""

    host: int
    url: str
    prefix: bytes
    proxy: str

    def __str__(self) -> str:
        return shown(self.url) + (f" through {shown(self.proxy)}" if self.proxy else "")


@dataclass(slots=True)
class Trip:
    """What was tried for one request that has failed at least once."""

    route: Route
    #: The next attempt has to go past all caches.
    no_cache: bool = False
    #: Repetitions on this route after transfer errors, and the wait before the last of them in seconds.
    retries: int = 0
    wait: float = 0.0
    #: Proxies that failed for this host.
    proxies: set[str] = field(default_factory=set)
    #: What became of each host that is done with.
    verdicts: dict[int, tuple[Failure, str]] = field(default_factory=dict)
    last: str = ""
    #: Attempts that were cut off by a pause of our own and do not count.
    excused: int = 0

    def go(self, route: Route) -> None:
        self.route = route
        self.no_cache = False
        self.retries = 0
        self.wait = 0.0


def parse_proxies(text: str) -> tuple[tuple[str, ...], ...]:
    """Groups of proxies from the text of ``CVMFS_HTTP_PROXY`` (FORMAT.md §8.3).

    Groups are separated by ``;`` (fail-over), the members of a group by ``|`` (load balancing). ``DIRECT``
    becomes :data:`NO_PROXY`. A proxy that occurs twice counts where it stands first.

    Raises:
        UsageError: nothing in it, something that is not a proxy, or ``auto``.
    """
    seen: set[str] = set()
    groups: list[tuple[str, ...]] = []
    for part in text.split(";"):
        members: list[str] = []
        for raw in part.split("|"):
            word = raw.strip()
            if not word:
                continue
            if word.lower() == "auto":
                raise UsageError(
                    "proxy 'auto' (discovery by PAC file) is not supported",
                    hint="name the proxies of the site, or DIRECT",
                )
            proxy = NO_PROXY if word == "DIRECT" else check_proxy(word)
            if proxy not in seen:
                seen.add(proxy)
                members.append(proxy)
        if members:
            groups.append(tuple(members))
    if not groups:
        raise UsageError("no proxy is configured", hint="name the proxies of the site, or DIRECT to use none")
    return tuple(groups)


class Mirrors:
    """The hosts of a repository and the proxies to them, with what is known about them.

    Args:
        hosts: base URLs without a trailing slash, in order of preference.
        groups: of proxies, see :func:`parse_proxies`.
        rng: for the start in a group and for waits.
        max_retries: repetitions on one route after transfer errors.
        backoff_init, backoff_max: seconds.
        proxy_reset_after, host_reset_after: seconds until one that failed gets another chance; 0: never.
        notice: told of each change of host or proxy (a given one once).
        stats: its ``failovers`` are counted here.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        groups: Sequence[Sequence[str]],
        *,
        rng: random.Random,
        max_retries: int = 1,
        backoff_init: float = 2.0,
        backoff_max: float = 10.0,
        proxy_reset_after: float = PROXY_RESET_AFTER,
        host_reset_after: float = HOST_RESET_AFTER,
        notice: Notice | None = None,
        stats: FetchStats | None = None,
    ) -> None:
        if not hosts:
            raise UsageError("no server is configured", hint="set CVMFS_SERVER_URL")
        self._hosts = tuple(hosts)
        self._prefixes = tuple(host.encode("ascii", "replace") for host in hosts)
        self._groups = tuple(tuple(group) for group in groups)
        self._rng = rng
        self._max_retries = max_retries
        self._backoff_init = backoff_init
        self._backoff_max = backoff_max
        # "Never" is later than any time.
        self._proxy_reset_after = proxy_reset_after or float("inf")
        self._host_reset_after = host_reset_after or float("inf")
        self._notice = notice
        self._stats = stats if stats is not None else FetchStats()
        self._told: set[tuple[str, str, str]] = set()
        self._home = 0
        self._distrusted: set[int] = set()
        self._down: set[int] = set()
        self._burnt: set[str] = set()
        self._hosts_reset_at = self._proxies_reset_at = float("inf")
        #: The earliest time at which :meth:`tick` has something to do.
        self.reset_at = float("inf")
        self._chain: tuple[str, ...] = ()
        self._shuffle()
        #: The route that new requests take.
        self.current: Route = self._route(self._home)

    def tick(self, now: float) -> None:
        """Give hosts and proxies that failed another chance when their time has come."""
        if now >= self._proxies_reset_at:
            self._burnt.clear()
            self._shuffle()
            self._proxies_reset_at = float("inf")
        if now >= self._hosts_reset_at:
            self._down.clear()
            self._hosts_reset_at = float("inf")
        self._settle()

    def next_host(self) -> bool:
        """The answers of the host in use are not to be trusted; False if that is so of each host."""
        self._distrusted.add(self.current.host)
        for host in self._order():
            if host not in self._distrusted:
                before = self.current
                self._home = host
                self._down.discard(host)
                self._settle()
                self._tell("host", before.url, self.current.url, "its answers cannot be trusted")
                return True
        return False

    def failed(self, trip: Trip, failure: Failure, reason: str, now: float) -> float | None:
        """Decide what follows from a failure of ``trip.route``, and set the trip's next route.

        Args:
            reason: a few words for people.
            now: seconds of a monotonic clock.

        Returns:
            Seconds to wait before the next attempt (then call :meth:`resume`), or None when nothing is left
            to try.
        """
        route = trip.route
        trip.last = reason
        if failure is Failure.CORRUPT and not trip.no_cache:
            trip.no_cache = True
            return 0.0
        if failure is Failure.TRANSFER:
            if not trip.no_cache and trip.retries < self._max_retries and self._alive(route):
                trip.retries += 1
                if trip.retries == 1:
                    trip.wait = self._rng.uniform(0.0, self._backoff_init)
                else:
                    trip.wait = min(2.0 * trip.wait, self._backoff_max)
                return min(trip.wait, self._backoff_max)
            # A connection that does not come about without proxy may do so through one, if there is any.
            failure = Failure.PROXY if route.proxy or len(self._chain) > 1 else Failure.HOST
        elif failure is Failure.PROXY and not route.proxy:
            failure = Failure.HOST
        return self._leave(trip, failure, reason, now)

    def resume(self, trip: Trip, now: float) -> bool:
        """After a wait: go by the trip's route if it still stands, by another if it was given up meanwhile.

        Returns False when nothing is left to try.
        """
        if self._alive(trip.route):
            return True
        failure = Failure.HOST if trip.route.host in self._down else Failure.PROXY
        return self._leave(trip, failure, trip.last, now) is not None

    def succeeded(self, trip: Trip) -> None:
        """A request was answered after failures. If that host does better than the current, all go there."""
        at_home = trip.verdicts.get(self.current.host)
        if at_home is not None and at_home[0] in (Failure.MISSING, Failure.CORRUPT):
            before = self.current
            self._home = trip.route.host
            self._settle()
            if self.current.host != before.host:
                self._stats.failovers += 1
                self._tell("host", before.url, self.current.url, at_home[1])

    def verdict(self, trip: Trip, name: str) -> ShrinkwrapError:
        """The error for a request that ended without success.

        "Missing" has to be certain, so it is only said when each host was asked and said so.
        """
        found = {failure for failure, _ in trip.verdicts.values()}
        details = "; ".join(
            f"{shown(self._hosts[host])}: {reason}" for host, (_, reason) in sorted(trip.verdicts.items())
        )
        if Failure.CORRUPT in found:
            return CorruptObject(
                f"{name}: no host has it intact ({details})",
                hint="a cache on the way may be damaged, or the replica; try another host, or no proxy",
            )
        if found == {Failure.MISSING}:
            return MissingObject(
                f"{name}: not on any host ({details})",
                hint="it may be garbage collected with an old revision; ask the owner of the repository",
            )
        if Failure.MISSING in found:
            return NetworkError(
                f"{name}: missing where it could be asked for, but not every host could be asked ({details})",
                hint="try again when all hosts can be reached, or name only those that can",
            )
        return NetworkError(
            f"{name}: no host could be reached ({details})",
            hint="check the network, CVMFS_SERVER_URL and CVMFS_HTTP_PROXY; then start again",
        )

    def _leave(self, trip: Trip, failure: Failure, reason: str, now: float) -> float | None:
        """Give up the trip's route, for the trip and as far as it follows for everybody."""
        route = trip.route
        if failure is Failure.PROXY:
            trip.proxies.add(route.proxy)
            # If others have left the host already, nobody can tell any more which of the two it was.
            if route.host not in self._down:
                self._burn(route.proxy, reason, now)
            untried = self._proxy_for(trip)
            if untried is not None:
                trip.go(self._route(route.host, untried))
                return 0.0
            failure = Failure.HOST
        trip.verdicts[route.host] = (
            failure,
            reason + (f" through {shown(route.proxy)}" if route.proxy else ""),
        )
        if failure is Failure.HOST:
            self._give_up_host(route.host, reason, now)
        for host in self._order():
            if host not in trip.verdicts:
                trip.proxies.clear()
                trip.go(self._route(host))
                return 0.0
        return None

    def _order(self) -> Iterator[int]:
        """Hosts from the preferred one on; those that are down last, for "missing" must be certain."""
        count = len(self._hosts)
        ring = [(self._home + step) % count for step in range(count)]
        yield from (host for host in ring if host not in self._down)
        yield from (host for host in ring if host in self._down)

    def _route(self, host: int, proxy: str | None = None) -> Route:
        if proxy is None:
            proxy = next((member for member in self._chain if member not in self._burnt), self._chain[0])
        return Route(host, self._hosts[host], self._prefixes[host], proxy)

    def _proxy_for(self, trip: Trip) -> str | None:
        untried = [member for member in self._chain if member not in trip.proxies]
        return next((member for member in untried if member not in self._burnt), untried[0] if untried else None)

    def _alive(self, route: Route) -> bool:
        return route.host not in self._down and route.proxy not in self._burnt

    def _give_up_host(self, host: int, reason: str, now: float) -> None:
        if len(self._hosts) == 1 or host in self._down:
            return
        before = self.current
        self._down.add(host)
        if len(self._down) == len(self._hosts):
            self._down = {host}
        self._hosts_reset_at = now + self._host_reset_after
        self._settle()
        if self.current.host != before.host:
            self._stats.failovers += 1
            self._tell("host", before.url, self.current.url, reason)

    def _burn(self, proxy: str, reason: str, now: float) -> None:
        if len(self._chain) == 1 or proxy in self._burnt:
            return
        before = self.current
        self._burnt.add(proxy)
        if len(self._burnt) == len(self._chain):
            # All failed, so it is rather the host: start again with all of them (FORMAT.md §1.5).
            self._burnt.clear()
            self._shuffle()
        self._proxies_reset_at = now + self._proxy_reset_after
        self._settle()
        if self.current.proxy != before.proxy:
            self._stats.failovers += 1
            self._tell("proxy", before.proxy, self.current.proxy, reason)

    def _shuffle(self) -> None:
        """Each group from a member of its own choosing, so that many clients share the load."""
        chain: list[str] = []
        for group in self._groups:
            start = self._rng.randrange(len(group))
            chain += group[start:] + group[:start]
        self._chain = tuple(chain)

    def _settle(self) -> None:
        self.reset_at = min(self._hosts_reset_at, self._proxies_reset_at)
        self.current = self._route(next(self._order()))

    def _tell(self, kind: str, before: str, after: str, reason: str) -> None:
        if self._notice is not None and (kind, before, after) not in self._told:
            self._told.add((kind, before, after))
            self._notice(f"{kind} {shown(before) or 'DIRECT'}: {reason}; going on with {shown(after) or 'DIRECT'}")
