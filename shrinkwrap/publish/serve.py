"""Repositories over HTTP: for demos, tests and benchmarks; no production server (docs/serving.md).

Of a repository's storage that is served which a client may ask for (:mod:`shrinkwrap.publish.http`), and nothing else:
no listings, no other methods than GET and HEAD, no bodies in requests. Each connection has a thread of its own, their
number is bounded, and whoever sends or takes too slowly is hung up on.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import UsageError
from shrinkwrap.publish.http import (
    RefusedError,
    Request,
    head_of,
    http_date,
    lifetime,
    open_file,
    parse,
    route,
    span_of,
    unchanged,
)
from shrinkwrap.publish.storages import repositories

__all__ = ["Counts", "Server", "serving"]

#: Connections at a time; more wait until one is free.
CONNECTIONS: Final = 128
#: Seconds without a byte from the client, or without one that it takes.
PATIENCE: Final = 15.0
#: A body has this many seconds and then one more for each of so many bytes.
BODY_SECONDS: Final = 60.0
SLOWEST: Final = 4096
#: Seconds that a connection without a request is safe for when others wait for its place.
_IDLE: Final = 1.0
#: Bytes of a request: its first line and its header fields.
_HEAD: Final = 16 * limits.KIB
#: Files up to here go out in one piece with the header, larger ones by sendfile.
_SMALL: Final = 64 * limits.KIB
_PIECE: Final = 1 * limits.MIB
#: Where this machine finds what listens at all of its addresses.
_THIS_MACHINE: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - only if it is asked for


@dataclass(slots=True)
class Counts:
    """What a server has done so far.

    Attributes:
        connections: accepted.
        requests: answered, of whatever kind and outcome.
        bodies: answers with a file or a part of one.
        sent: bytes of these bodies, without header fields.
        refused: answers with a status of 400 and above.
    """

    connections: int = 0
    requests: int = 0
    bodies: int = 0
    sent: int = 0
    refused: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.connections + other.connections,
            self.requests + other.requests,
            self.bodies + other.bodies,
            self.sent + other.sent,
            self.refused + other.refused,
        )

    def __sub__(self, other: Counts) -> Counts:
        """What was added since ``other``."""
        return Counts(
            self.connections - other.connections,
            self.requests - other.requests,
            self.bodies - other.bodies,
            self.sent - other.sent,
            self.refused - other.refused,
        )


# --------------------------------------------------------------------------------------------------- connections


class _Connection:
    """One connection, in a thread of its own.

    Attributes:
        idle: the time (:func:`time.monotonic`) since which no request is being answered; 0 while one is.
    """

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.counts = Counts(connections=1)
        self.idle = time.monotonic()
        self._server = server
        self._sock = sock
        self._rest = b""
        sock.setblocking(True)
        # Not settimeout: that asks the kernel twice for each call.
        patience = struct.pack("@ll", int(PATIENCE), 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        with suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.thread = threading.Thread(target=self._run, name="shrinkwrap-serve", daemon=True)

    def hang_up(self) -> None:
        """Wake the thread, which ends then. From any thread."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        try:
            while self._one():
                self.idle = time.monotonic()
        except OSError:
            return  # the client has gone, or takes too long
        finally:
            self._server._gone(self)
            self._sock.close()

    def _one(self) -> bool:
        """Answer one request; whether there may be another."""
        head = self._head()
        if head is None:
            return False
        self.idle = 0.0
        self.counts.requests += 1
        method, keep = b"GET", False
        try:
            if len(head) > _HEAD:
                raise RefusedError(431, last=True)
            request = parse(head)
            method, keep = request.method, request.keep and not self._server.stopping
            return self._answer(request, keep) and keep
        except RefusedError as refused:
            keep = keep and not refused.last
            self._refuse(refused, method, keep)
            return keep

    def _head(self) -> bytes | None:
        """The lines of the next request; None if none comes. Too many are cut off, but longer than _HEAD."""
        data, deadline = self._rest.lstrip(b"\r\n"), 0.0
        while (end := data.find(b"\r\n\r\n")) < 0 and len(data) <= _HEAD:
            piece = self._sock.recv(_HEAD)
            now = time.monotonic()
            deadline = deadline or now + PATIENCE
            if not piece or now > deadline:
                return None
            data = (data + piece).lstrip(b"\r\n")
        if end < 0:
            return data
        self._rest = data[end + 4 :]
        return data[:end]

    def _refuse(self, refused: RefusedError, method: bytes, keep: bool) -> None:
        self.counts.refused += refused.status >= 400
        words = HTTPStatus(refused.status).phrase.encode()
        body = b"" if refused.status == 304 else words + b"\n"
        fields = [*refused.fields]
        if refused.status != 304:
            fields += [b"Content-Type: text/plain", b"Content-Length: %d" % len(body)]
        self._sock.sendall(head_of(refused.status, keep, fields) + (b"" if method == b"HEAD" else body))

    def _answer(self, request: Request, keep: bool) -> bool:
        """Send a file; False if the connection has to end. Raises RefusedError."""
        if request.method not in (b"GET", b"HEAD"):
            raise RefusedError(405, b"Allow: GET, HEAD")
        storage, name = route(request.target, self._server._storages)
        file = open_file(storage, name)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise RefusedError(404)
            return self._send(request, keep, file, name, found)
        finally:
            os.close(file)

    def _send(self, request: Request, keep: bool, file: int, name: bytes, found: os.stat_result) -> bool:
        mtime, size = int(found.st_mtime), found.st_size
        tag = b'"%x-%x-%x"' % (found.st_mtime_ns, size, found.st_ino)
        changed = http_date(mtime)
        fields = [b"Cache-Control: " + lifetime(name), b"ETag: " + tag, b"Last-Modified: " + changed]
        if unchanged(request, tag, mtime):
            raise RefusedError(304, *fields)
        span = span_of(request, size, tag, changed) if request.method == b"GET" else None
        first, length = (0, size) if span is None else span
        fields += [
            b"Content-Type: application/octet-stream",
            b"Content-Length: %d" % length,
            b"Accept-Ranges: bytes",
        ]
        if span is not None:
            fields.append(b"Content-Range: bytes %d-%d/%d" % (first, first + length - 1, size))
        head = head_of(200 if span is None else 206, keep, fields)
        if request.method == b"HEAD":
            self._sock.sendall(head)
            return True
        self.counts.bodies += 1
        self.counts.sent += length
        if length > _SMALL:
            self._sock.sendall(head, socket.MSG_MORE)
            return self._send_file(file, first, length)
        body = os.pread(file, length, first)
        self._sock.sendall(head + body)
        return len(body) == length

    def _send_file(self, file: int, first: int, length: int) -> bool:
        """Send a part of a file; False if it turns out to be shorter. Raises OSError, also for a slow client."""
        deadline = time.monotonic() + BODY_SECONDS + length / SLOWEST
        while length:
            sent = os.sendfile(self._sock.fileno(), file, first, min(length, _PIECE))
            if not sent:
                return False
            if time.monotonic() > deadline:
                raise TimeoutError
            first += sent
            length -= sent
        return True


# -------------------------------------------------------------------------------------------------------- server


class Server:
    """A running server; made by :func:`serving`, or stopped by :meth:`stop`.

    Args:
        folders: each is a repository's storage, or a folder of such. What lies in them is served as it is at the
            time of the request; repositories that are added later are not found.
        bind: address to listen at, of this machine.
        port: 0 for any that is free.
        connections: at a time; more wait, and those that are idle make room for them.

    Attributes:
        bind, port: where it listens.
        storages: absolute path by name of the repository.

    Raises:
        UsageError: see :func:`repositories`; no such address, or the port is taken.
    """

    def __init__(
        self,
        folders: Iterable[str | os.PathLike[str]],
        *,
        bind: str = "127.0.0.1",
        port: int = 0,
        connections: int = CONNECTIONS,
    ) -> None:
        self.storages = repositories(folders)
        self.bind = bind
        self.stopping = False
        self._storages = {os.fsencode(fqrn): os.fsencode(path) for fqrn, path in self.storages.items()}
        self._most = connections
        self._open: set[_Connection] = set()
        self._before = Counts()
        self._changed = threading.Condition()
        self._listener = _listen(bind, port)
        self.port = int(self._listener.getsockname()[1])
        self._bell, self._ringer = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="shrinkwrap-serve", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """The beginning of all URLs, as this machine can use them: ``http://host:port``."""
        host = _THIS_MACHINE.get(self.bind, self.bind)
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def url(self, fqrn: str) -> str:
        """URL of a repository, for ``--server``. Raises UsageError: it is not among those that are served."""
        if fqrn not in self.storages:
            raise UsageError(f"{fqrn} is not served", hint=f"served are {', '.join(self.storages)}")
        return f"{self.address}/cvmfs/{fqrn}"

    def counts(self) -> Counts:
        """What it has done so far."""
        with self._changed:
            return sum((one.counts for one in self._open), self._before)

    def stop(self) -> None:
        """Hang up on everybody; all threads and sockets are gone afterwards. Idempotent."""
        self.stopping = True
        with self._changed:
            self._changed.notify_all()
        with suppress(OSError):
            self._ringer.send(b"!")
        self._thread.join()
        with self._changed:
            left = list(self._open)
        for one in left:
            one.hang_up()
        for one in left:
            one.thread.join()
        for sock in (self._listener, self._bell, self._ringer):
            sock.close()

    def _accept(self) -> None:
        poll = select.poll()
        for sock in (self._listener, self._bell):
            poll.register(sock, select.POLLIN)
        while not self.stopping:
            if not self._place():
                continue
            poll.poll()
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                continue
            except OSError:
                time.sleep(0.05)  # no more file descriptors, say; or the client was quick to go
                continue
            self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        try:
            connection = _Connection(self, sock)
        except OSError:  # the client has gone already
            sock.close()
            return
        with self._changed:
            self._open.add(connection)
        try:
            connection.thread.start()
        except RuntimeError:  # the system has no more threads for us
            self._gone(connection)
            sock.close()

    def _place(self) -> bool:
        """Wait until one more connection may be open; False: look again."""
        with self._changed:
            if len(self._open) < self._most:
                return True
            idle = min((one for one in self._open if one.idle), key=lambda one: one.idle, default=None)
            if idle is not None and time.monotonic() - idle.idle > _IDLE and self._somebody_waits():
                idle.hang_up()
            self._changed.wait(0.1)
            return False

    def _somebody_waits(self) -> bool:
        return bool(select.select([self._listener], [], [], 0)[0])

    def _gone(self, connection: _Connection) -> None:
        with self._changed:
            self._open.discard(connection)
            self._before += connection.counts
            self._changed.notify_all()


def _listen(bind: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError) as exc:
        raise UsageError(f"--bind {bind}: no address: {exc}", hint="leave it out for the loopback interface") from None
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(128)
        sock.setblocking(False)
    except (OSError, OverflowError) as exc:
        sock.close()
        taken = isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE
        raise UsageError(
            f"cannot listen at {bind} port {port}: {(isinstance(exc, OSError) and exc.strerror) or exc}",
            hint="--port 0 takes one that is free" if taken else "--bind 127.0.0.1 is the loopback interface",
        ) from None
    return sock


@contextmanager
def serving(
    folders: Iterable[str | os.PathLike[str]],
    *,
    bind: str = "127.0.0.1",
    port: int = 0,
    connections: int = CONNECTIONS,
) -> Iterator[Server]:
    """A :class:`Server` that runs as long as the block::

        with serving(["srv"]) as server:
            export(Repository("demo.example.org", servers=[server.url("demo.example.org")], ...), ...)

    Raises:
        UsageError: see :class:`Server`.
    """
    with Server(folders, bind=bind, port=port, connections=connections) as server:
        yield server
