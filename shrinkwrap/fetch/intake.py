"""Between the wire and a body: counts, caps and cuts what arrives, and keeps what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from shrinkwrap.errors import CorruptObject, NetworkError
from shrinkwrap.fetch.types import Request


def bad_span(request: Request) -> CorruptObject | None:
    """An error for a span that cannot be asked for."""
    if request.span is not None and (request.span[0] < 0 or request.span[1] <= 0):
        offset, length = request.span
        return CorruptObject(f"{name_of(request)}: no such piece of a file: {length} bytes at offset {offset}")
    return None


def name_of(request: Request) -> str:
    """The request's path for messages."""
    return request.path[:400].decode("utf-8", "backslashreplace")


def no_external(request: Request) -> NetworkError:
    """The error for an external file where nobody said from where."""
    return NetworkError(
        f"{name_of(request)}: an external file, but no server for external files is configured",
        hint="set CVMFS_EXTERNAL_URL",
    )


class _Nobody:
    """The body between two requests."""

    def start(self) -> None:
        """Nothing to forget."""

    def write(self, data: bytes, /) -> None:
        raise CorruptObject(f"{len(data)} bytes that nobody asked for")

    def finish(self) -> None:
        raise CorruptObject("an answer that nobody asked for")


#: The request between two requests.
NO_REQUEST: Final = Request(b"", _Nobody(), 0)


class Intake:
    """Takes the answers for one request after the other; made once for each connection.

    Attributes:
        received: bytes that arrived in this attempt.
        raised: what the body raised, or the complaint about too many bytes.
        satisfied: the span is complete; the rest of the answer is not wanted.
        partial: the server said that it sends the span only (status 206). To be set before the first write.
    """

    __slots__ = (
        "_body_write",
        "_left",
        "_limit",
        "_request",
        "_skip",
        "partial",
        "raised",
        "received",
        "satisfied",
    )

    def __init__(self) -> None:
        self._request = NO_REQUEST
        self._body_write: Callable[[bytes], None] = NO_REQUEST.body.write
        self.received = 0
        self.raised: BaseException | None = None
        self.satisfied = False
        self.partial = False
        self._limit = 0
        #: Bytes still to be dropped and taken; None before the first write of a span.
        self._skip = 0
        self._left: int | None = None

    def begin(self, request: Request) -> None:
        """A new attempt. What ``body.start`` raises goes through."""
        self._request = request
        body = request.body
        self._body_write = body.write
        self._limit = request.limit
        self.received = 0
        self.raised = None
        self.satisfied = False
        self.partial = False
        self._left = None
        body.start()

    def write(self, data: bytes) -> int | None:
        """Pass ``data`` on. Returns None, or -1 when the transfer is to be broken off. Never raises."""
        try:
            self.received += len(data)
            if self._request.span is not None:
                data = self._cut(data, self._request.span)
            elif self.received > self._limit:
                raise CorruptObject(f"more than the {self._limit} bytes that are allowed")
            self._body_write(data)
        except BaseException as exc:  # noqa: BLE001 - kept and raised again outside of libcurl's C code
            self.raised = exc
            return -1
        return -1 if self.satisfied else None

    def finish(self) -> None:
        """The answer is complete. Raises CorruptObject, or whatever the body raises."""
        if self._request.span is not None:
            left = self._request.span[1] if self._left is None else self._left
            if left:
                raise CorruptObject(f"{left} bytes short of the {self._request.span[1]} that were asked for")
        self._request.body.finish()

    def forget(self) -> None:
        """Let go of the request and of what it raised."""
        self._request = NO_REQUEST
        self._body_write = NO_REQUEST.body.write
        self.raised = None

    def _cut(self, data: bytes, span: tuple[int, int]) -> bytes:
        if self._left is None:
            self._skip = 0 if self.partial else span[0]
            self._left = span[1]
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = data[dropped:]
        if len(data) > self._left:
            if self.partial:
                raise CorruptObject(f"more than the {span[1]} bytes that were asked for")
            data = data[: self._left]
        if len(data) > self._limit:
            raise CorruptObject(f"more than the {self._limit} bytes that are allowed")
        self._left -= len(data)
        self.satisfied = self._left == 0 and not self.partial
        return data
