"""Web servers and proxies on this machine: repositories as they are served, and spoiled ones.

One nginx serves the folder of test repositories as it is, and any number of *variants* of it: folders of
replaced files and of answers, laid over the repositories, each under a URL of its own. A variant costs a few
small files, and can be changed while it is served.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread

from support.processes import need, running

#: Answers that a variant can give instead of a file.
STATUSES = (403, 404, 410, 500, 502, 503, 504)

_ADDRESS = "127.0.0.1"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses just now."""
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        return int(probe.getsockname()[1])


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(_ADDRESS, port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass(slots=True, frozen=True)
class Logged:
    """One request as the server saw it.

    Attributes:
        path: decoded, below the URL of the server or variant that was asked about it; without a query.
        sent: bytes of the answer's body.
        range, agent: the request's headers ``Range`` and ``User-Agent``, empty if there were none.
    """

    method: str
    path: str
    status: int
    sent: int
    range: str
    agent: str


# -------------------------------------------------------------------------------------------------- nginx


_CONFIG = """\
{user}
daemon off;
# One process alone: when it is killed nothing stays behind.
master_process off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 512; }}
http {{
    default_type application/octet-stream;
    sendfile on;
    keepalive_timeout 30s;
    keepalive_requests 100000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    log_format tests escape=json
        '["$request_method","$request_uri",$status,$body_bytes_sent,"$http_range","$http_user_agent"]';
    access_log {home}/access.log tests;
    server {{
        listen {address}:{port};
        root {root};
        location /.mark/ {{ return 200 "{token}"; }}
        location ~ "(?s)^/[.]variant/(?<variant>[0-9]+)/(?<rest>.*)$" {{
            root {home};
{answers}
            try_files /replaced/$variant/$rest /below/$rest =404;
        }}
    }}
}}
"""


class RepoServer:
    """An nginx that serves a folder with repositories. Made by :func:`serve`.

    Attributes:
        url: where the folder as it is can be reached, e.g. ``http://127.0.0.1:40123``, without a final slash.
    """

    def __init__(self, home: Path, root: Path, port: int) -> None:
        self.home = home
        self.root = root
        self.port = port
        self.url = f"http://{_ADDRESS}:{port}"
        self._numbers = itertools.count(1)

    def repo(self, fqrn: str) -> str:
        """URL of a repository, for ``--server``."""
        return f"{self.url}/{fqrn}"

    def external(self, fqrn: str) -> str:
        """URL of a repository's external files, for ``--external-server``."""
        return f"{self.url}/external-data/{fqrn}"

    def with_files(
        self,
        files: Mapping[str, bytes] | None = None,
        missing: Iterable[str] = (),
        answers: Mapping[str, int] | None = None,
    ) -> Variant:
        """The same folder under another URL, with some files replaced, added, missing or answered by an
        error.

        Paths are below the folder, e.g. ``small.cern.ch/.cvmfspublished``; ``answers`` gives one of
        ``STATUSES``.
        """
        variant = Variant(self, next(self._numbers))
        for path, data in (files or {}).items():
            variant.write(path, data)
        for path in missing:
            variant.answer(path, 404)
        for path, status in (answers or {}).items():
            variant.answer(path, status)
        return variant

    def requests(self, below: str = "/") -> list[Logged]:
        """All requests so far for paths that begin with ``below``, in order of completion.

        The paths come without ``below``. Requests to variants are under ``/.variant/``.
        """
        # nginx logs a request after answering it; when it answers this one, those before it are in the log.
        mark = f"/.mark/{time.monotonic_ns()}"
        _get(self.port, mark)
        lines: list[list[str | int]] = []
        end = time.monotonic() + 10
        while not any(line[1] == mark for line in lines):
            assert time.monotonic() < end, "nginx does not write its log"
            lines = _json_lines(self.home / "access.log")
        seen = []
        for method, url, status, sent, span, agent in lines:
            path = urllib.parse.unquote(str(url).partition("?")[0], errors="surrogateescape")
            if path.startswith(below) and not path.startswith("/.mark/"):
                path = path.removeprefix(below)
                seen.append(Logged(str(method), path, int(status), int(sent), str(span), str(agent)))
        return seen


def _json_lines(file: Path) -> list[list[str | int]]:
    complete, _, _ = file.read_bytes().rpartition(b"\n")
    return [json.loads(line.decode(errors="surrogateescape")) for line in complete.splitlines()]


class Variant:
    """Repositories with some things changed; made by :meth:`RepoServer.with_files`. Changes take effect at
    once.
    """

    def __init__(self, server: RepoServer, number: int) -> None:
        self._server = server
        self._prefix = f"/.variant/{number}"
        self._replaced = server.home / "replaced" / str(number)
        self._answers = server.home / "answers"
        self._number = str(number)
        self.url = server.url + self._prefix

    def repo(self, fqrn: str) -> str:
        """URL of a repository, for ``--server``."""
        return f"{self.url}/{fqrn}"

    def external(self, fqrn: str) -> str:
        """URL of a repository's external files, for ``--external-server``."""
        return f"{self.url}/external-data/{fqrn}"

    def read(self, path: str) -> bytes:
        """What is served at a path now, answers aside."""
        replaced = self._replaced / path
        return (replaced if replaced.exists() else self._server.root / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Serve these bytes at a path."""
        self.restore(path)
        _put(self._replaced / path, data)

    def flip(self, path: str, offset: int = -1, mask: int = 0x01) -> None:
        """Serve a path with one byte changed (negative: from the end), its length the same."""
        data = bytearray(self.read(path))
        data[offset] ^= mask
        self.write(path, bytes(data))

    def cut(self, path: str, size: int) -> None:
        """Serve only the first ``size`` bytes of a path, as if that were all."""
        self.write(path, self.read(path)[:size])

    def answer(self, path: str, status: int) -> None:
        """Answer requests for a path with one of ``STATUSES``."""
        if status not in STATUSES:
            raise ValueError(f"status {status}: only {STATUSES} are set up")
        self.restore(path)
        _put(self._answers / str(status) / self._number / path, b"")

    def restore(self, path: str) -> None:
        """Serve a path as it is in the repositories again."""
        for file in (
            self._replaced / path,
            *(self._answers / str(one) / self._number / path for one in STATUSES),
        ):
            with suppress(FileNotFoundError, NotADirectoryError):
                file.unlink()

    def requests(self) -> list[Logged]:
        """All requests to this variant so far; paths as in ``small.cern.ch/.cvmfspublished``."""
        return self._server.requests(self._prefix + "/")


def _put(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place, so that a client never gets half of it.
    temporary = file.with_name(f".{file.name[:200]}.new")
    temporary.write_bytes(data)
    temporary.replace(file)


def _answers(process: subprocess.Popen[bytes], port: int, path: str, wanted: bytes) -> bool:
    """Wait until the service answers as wanted, which tells it from another on the same port."""
    end = time.monotonic() + 15
    while process.poll() is None and time.monotonic() < end:
        with suppress(OSError, http.client.HTTPException):
            if _get(port, path)[1] == wanted:
                return True
        time.sleep(0.01)
    return False


@contextmanager
def serve(root: Path) -> Iterator[RepoServer]:
    """Serve a folder by nginx on a free port of the loopback interface, as long as the block runs.

    The test is skipped where nginx is not installed.
    """
    nginx = need("nginx")
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkwrap-nginx-")))
        (home / "below").symlink_to(root)
        token = home.name
        for _ in range(10):  # somebody else may take the port before nginx does
            port = free_port()
            answers = "\n".join(
                f"            if (-e {home}/answers/{status}/$variant/$rest) {{ return {status}; }}"
                for status in STATUSES
            )
            (home / "nginx.conf").write_text(
                _CONFIG.format(
                    user="user root;" if os.getuid() == 0 else "",
                    home=home,
                    root=root,
                    address=_ADDRESS,
                    port=port,
                    token=token,
                    answers=answers,
                )
            )
            with ExitStack() as attempt:
                process = attempt.enter_context(
                    running(
                        [
                            nginx,
                            "-p",
                            str(home),
                            "-c",
                            str(home / "nginx.conf"),
                            "-e",
                            str(home / "error.log"),
                        ],
                        log=home / "output.log",
                    )
                )
                if _answers(process, port, "/.mark/ready", token.encode()):
                    stack.push(attempt.pop_all())
                    yield RepoServer(home, root, port)
                    return
        raise RuntimeError("nginx does not start: " + (home / "error.log").read_text(errors="replace")[-2000:])


# ------------------------------------------------------------------------------------------------- proxies


class Proxy:
    """A forward proxy for http. Made by :func:`proxy`. ``url`` is for ``--proxy``."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://{_ADDRESS}:{port}"

    def urls(self) -> list[str]:
        """The URLs that were asked for through it so far."""
        raise NotImplementedError


class _Tinyproxy(Proxy):
    def __init__(self, port: int, log: Path) -> None:
        super().__init__(port)
        self._log = log

    def urls(self) -> list[str]:
        # CONNECT … Request (file descriptor 7): GET http://127.0.0.1:80/x HTTP/1.1
        lines = self._log.read_text(errors="replace").splitlines()
        return [line.split()[-2] for line in lines if "): GET http://" in line]


class _OwnProxy(Proxy):
    def __init__(self, port: int, seen: list[str]) -> None:
        super().__init__(port)
        self._seen = seen

    def urls(self) -> list[str]:
        return list(self._seen)


_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade"}
)


@contextmanager
def own_proxy() -> Iterator[Proxy]:
    """A small forward proxy in threads of this process, for machines without tinyproxy."""
    seen: list[str] = []
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with lock:
                seen.append(self.path)
            url = urllib.parse.urlsplit(self.path)
            if url.scheme != "http" or not url.hostname:
                self.send_error(400, "not a request for a proxy")
                return
            connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=30)
            try:
                target = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
                connection.request("GET", target, headers=headers)
                answer = connection.getresponse()
                body = answer.read()
            except OSError as error:
                self.send_error(502, f"no answer: {error}")
                return
            finally:
                connection.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _HOP_BY_HOP and name.lower() not in (
                    "content-length",
                    "server",
                    "date",
                ):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on the test's standard error."""

    server = ThreadingHTTPServer((_ADDRESS, 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield _OwnProxy(server.server_address[1], seen)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def _tinyproxy(program: str) -> Iterator[Proxy]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkwrap-proxy-")))
        log = home / "proxy.log"
        for _ in range(10):
            port = free_port()
            (home / "proxy.conf").write_text(
                f"Port {port}\nListen {_ADDRESS}\nAllow {_ADDRESS}\nTimeout 60\nMaxClients 100\n"
                f'LogLevel Connect\nLogFile "{log}"\nPidFile "{home}/proxy.pid"\n'
            )
            with ExitStack() as attempt:
                process = attempt.enter_context(
                    running([program, "-d", "-c", str(home / "proxy.conf")], log=home / "output.log")
                )
                end = time.monotonic() + 15
                while time.monotonic() < end and process.poll() is None:
                    # Listening is not enough, another process may: the log must have grown by our connection.
                    with suppress(OSError), socket.create_connection((_ADDRESS, port), 1):
                        time.sleep(0.02)
                    if log.exists() and "Connect (file descriptor" in log.read_text(errors="replace"):
                        stack.push(attempt.pop_all())
                        yield _Tinyproxy(port, log)
                        return
        raise RuntimeError("tinyproxy does not start: " + (home / "output.log").read_text(errors="replace")[-2000:])


@contextmanager
def proxy() -> Iterator[Proxy]:
    """A forward proxy on a free port of the loopback interface: tinyproxy where it is installed, else our
    own.
    """
    program = shutil.which("tinyproxy", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")
    with _tinyproxy(program) if program else own_proxy() as started:
        yield started
