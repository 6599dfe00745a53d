"""A small web server, or proxy, that misbehaves on demand. Real sockets on 127.0.0.1."""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Exchange:
    """One request, and the means to answer it in any way."""

    server: Server
    sock: socket.socket
    target: str
    headers: dict[str, str]
    keep: bool = True

    @property
    def path(self) -> str:
        return urlsplit(self.target).path if "/" in self.target else self.target

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def answer(self, status: int = 200, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        """An answer; ``length`` may lie. Underscores in names of headers become dashes."""
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body) if length is None else length}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def hang(self) -> None:
        """Say nothing more until the client has gone, or the server is stopped."""
        self.keep = False
        self.sock.settimeout(0.05)
        while not self.server.stopping.is_set():
            try:
                if not self.sock.recv(1024):
                    return
            except TimeoutError:
                continue
            except OSError:
                return


Reply = Callable[[Exchange], None]


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server: Server = self.server.owner  # type: ignore[attr-defined]
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with server.lock:
            server.connections += 1
            server.sockets.add(self.connection)
        try:
            while self._one(server):
                continue
        except OSError:
            return  # the client is free to go at any time
        finally:
            with server.lock:
                server.sockets.discard(self.connection)

    def _one(self, server: Server) -> bool:
        first = self.rfile.readline(65536)
        if not first.strip():
            return False
        headers: dict[str, str] = {}
        while (line := self.rfile.readline(65536)) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        exchange = Exchange(server, self.connection, first.split()[1].decode("latin-1"), headers)
        with server.lock:
            server.seen.append(exchange)
            replies = server.scripts.get(exchange.path)
            reply = server.default if not replies else replies.pop(0) if len(replies) > 1 else replies[0]
        reply(exchange)
        return exchange.keep and not server.stopping.is_set()


class _Sockets(socketserver.ThreadingTCPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128
    owner: Server

    def get_request(self) -> tuple[socket.socket, object]:
        sock, address = super().get_request()
        if self.owner.context is not None:
            # The handshake comes with the first byte that is read, in the thread of the connection.
            sock = self.owner.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return sock, address

    def handle_error(self, request: object, client_address: object) -> None:
        self.owner.broken = True


@dataclass
class Server:
    """Serves ``files`` by path; ``scripts`` has what shall happen instead, one reply after the other.

    The last reply of a script is for all further requests.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    scripts: dict[str, list[Reply]] = field(default_factory=dict)
    seen: list[Exchange] = field(default_factory=list)
    connections: int = 0
    broken: bool = False
    context: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.sockets: set[socket.socket] = set()
        self.default: Reply = serve_file
        self._server = _Sockets(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{'http' if self.context is None else 'https'}://127.0.0.1:{self._server.server_address[1]}"

    def script(self, path: str, *replies: Reply) -> None:
        self.scripts[path] = list(replies)

    def requests(self, path: str) -> list[Exchange]:
        """The requests for ``path``, in order."""
        with self.lock:
            return [exchange for exchange in self.seen if exchange.path == path]

    def stop(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        with self.lock:
            for sock in self.sockets:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        self._server.server_close()


def serve_file(exchange: Exchange) -> None:
    """The file, by a range of it if one is asked for; 404 if there is none."""
    body = exchange.server.files.get(exchange.path)
    if body is None:
        exchange.answer(404, b"<html>no such file</html>")
        return
    span = exchange.headers.get("range", "")
    if span.startswith("bytes="):
        first, last = (int(word) for word in span[6:].split("-"))
        if first >= len(body):
            exchange.answer(416)
            return
        piece = body[first : last + 1]
        exchange.answer(206, piece, Content_Range=f"bytes {first}-{first + len(piece) - 1}/{len(body)}")
        return
    exchange.answer(200, body)


def status(code: int, **headers: str) -> Reply:
    """Answer with a status and an error page."""
    return lambda exchange: exchange.answer(code, b"<html>an error page</html>", **headers)


def body(data: bytes, length: int | None = None) -> Reply:
    """Answer 200 with these bytes, whatever was asked for."""
    return lambda exchange: exchange.answer(200, data, length)


def truncated(data: bytes) -> Reply:
    """Promise ten bytes more than are sent, then hang up."""

    def reply(exchange: Exchange) -> None:
        exchange.answer(200, data, len(data) + 10)
        exchange.keep = False

    return reply


def hang_up(exchange: Exchange) -> None:
    """Close the connection without a word."""
    exchange.keep = False


def stall(exchange: Exchange) -> None:
    """Never answer."""
    exchange.hang()


def stall_after(data: bytes) -> Reply:
    """Begin to answer, then send nothing more."""

    def reply(exchange: Exchange) -> None:
        exchange.answer(200, data, len(data) + 1000)
        exchange.hang()

    return reply


def tunnel(exchange: Exchange) -> None:
    """What a proxy does when it is asked to CONNECT."""
    exchange.keep = False
    host, _, port = exchange.target.partition(":")
    with socket.create_connection((host, int(port))) as far:
        exchange.raw(b"HTTP/1.1 200 Connected\r\n\r\n")
        other = {exchange.sock: far, far: exchange.sock}
        while not exchange.server.stopping.is_set():
            for sock in select.select(list(other), [], [], 0.05)[0]:
                data = sock.recv(65536)
                if not data:
                    return
                other[sock].sendall(data)


def redirect(location: str, code: int = 302) -> Reply:
    return status(code, Location=location)


def dead_url() -> str:
    """The URL of a port where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"
