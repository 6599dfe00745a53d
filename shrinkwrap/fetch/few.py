"""Control requests (few, small, mutable files such as the manifest and the whitelist) by what brings bulk objects."""

from __future__ import annotations

from shrinkwrap.fetch.http import Transfers
from shrinkwrap.fetch.types import Request


class TransferredControl:
    """Fetches control files as objects that no digest names; see :class:`shrinkwrap.fetch.http.Control`.

    Args:
        transfers: stay the caller's.
    """

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    def get(self, name: str, limit: int, *, past_caches: bool = False) -> bytes:
        """See :meth:`shrinkwrap.fetch.http.Control.get`."""
        file = _File()
        request = Request(name.encode("utf-8", "surrogateescape"), file, limit, past_caches=past_caches)
        for outcome in self._transfers.fetch([request]):
            if outcome.error is not None:
                raise outcome.error
        return b"".join(file.pieces)

    def close(self) -> None:
        """Nothing is held."""


class _File:
    """The body of a control file. Whether it is to be trusted is for others to say."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def start(self) -> None:
        self.pieces.clear()

    def write(self, data: bytes, /) -> None:
        self.pieces.append(data)

    def finish(self) -> None:
        """Whatever has arrived is all."""
