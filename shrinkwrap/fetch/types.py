"""The one interface between those who want bytes and those who bring them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from shrinkwrap.errors import ShrinkwrapError


class Body(Protocol):
    """Takes the bytes of one object as they arrive, and judges them.

    ``write`` and ``finish`` raise :class:`~shrinkwrap.errors.CorruptObject` for bytes that are not what was asked for:
    the source then asks once more past all caches, then the next host, calling ``start`` before each attempt. Any
    other exception (a full disk) ends the whole fetch.
    """

    def start(self) -> None:
        """A new attempt begins: forget what came before."""
        ...

    def write(self, data: bytes, /) -> None:
        """The next bytes, in order."""
        ...

    def finish(self) -> None:
        """All bytes have arrived."""
        ...


@dataclass(slots=True)
class Request:
    """One object that is wanted.

    Attributes:
        path: below the repository's URL, e.g. ``data/ab/cdef…P``; of an external file: its path in the repository,
            ``/`` first (FORMAT.md §1.4). Not yet escaped.
        body: takes the bytes.
        limit: most bytes that may arrive; more is corrupt.
        external: to be fetched from the external servers.
        span: offset and length in bytes, for a piece of an external file. The server need not answer with 206: a full
            answer is cut to the span by the source.
        key: the caller's own.
        past_caches: caches on the way are asked to look themselves. For control requests; the fetcher by
            ``http.client`` never gets such.
    """

    path: bytes
    body: Body
    limit: int
    external: bool = False
    span: tuple[int, int] | None = None
    key: Any = None
    past_caches: bool = False


class Outcome(NamedTuple):
    """How a request ended: ``error`` is None, NetworkError, MissingObject or CorruptObject."""

    request: Request
    error: ShrinkwrapError | None
    received: int
    host: str


@dataclass(slots=True)
class FetchStats:
    """Running totals of one source, for progress and the run log. Times in seconds, sizes in bytes."""

    requests: int = 0
    received: int = 0
    retries: int = 0
    failovers: int = 0
    hosts: dict[str, int] = field(default_factory=dict)

    def add(self, other: FetchStats) -> None:
        """Add those of another source of the same repository."""
        self.requests += other.requests
        self.received += other.received
        self.retries += other.retries
        self.failovers += other.failovers
        for host, number in other.hosts.items():
            self.hosts[host] = self.hosts.get(host, 0) + number

    def take(self) -> FetchStats:
        """What there is, and begin anew."""
        taken = FetchStats(self.requests, self.received, self.retries, self.failovers, dict(self.hosts))
        self.requests = self.received = self.retries = self.failovers = 0
        self.hosts.clear()
        return taken


class Source(Protocol):
    """A repository's bytes. Made by :func:`shrinkwrap.fetch.source.open_source` from a picklable configuration."""

    stats: FetchStats

    @property
    def host(self) -> str:
        """The host in use now, for messages (a URL, or a folder)."""
        ...

    def control(self, name: str, limit: int) -> bytes:
        """One small mutable file such as ``.cvmfspublished``, past stale caches where the protocol has a way.

        Raises:
            MissingObject, NetworkError, CorruptObject (larger than ``limit`` bytes).
        """
        ...

    def next_host(self) -> bool:
        """The current host's answers were not worth trusting: go on with the next. False: each was tried."""
        ...

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Many objects, several in flight, outcomes in order of arrival; ``requests`` is drawn lazily."""
        ...

    def close(self) -> None: ...


#: Called with one line of text for things worth telling while fetching goes on (a fail-over, a slow host).
Notice = Callable[[str], None]
