"""Servers on the loopback interface: nginx for storages, and a relay that makes it far away."""

from __future__ import annotations

import getpass
import hashlib
import http.client
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from measure import cpu_of, family

_HERE = os.path.dirname(os.path.abspath(__file__))
_CONFIG = """\
{user}
daemon off;
worker_processes auto;
pid {home}/pid;
error_log {home}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    default_type application/octet-stream;
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 30s;
    keepalive_requests 10000000;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 127.0.0.1:{port} reuseport;
        root {root};
    }}
}}
"""


@dataclass(frozen=True)
class Server:
    """An nginx."""

    port: int
    pid: int

    def cpu(self) -> float:
        """CPU seconds of its processes so far."""
        return cpu_of(family(self.pid))


def find_nginx() -> str | None:
    """Debian has it where only root's PATH leads to."""
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@contextmanager
def serving(root: str) -> Iterator[Server]:
    """Serve a folder; what is in it has to be readable for us only."""
    program = find_nginx()
    if program is None:
        raise SystemExit("no nginx on the PATH")
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as home:
        port = free_port()
        path = os.path.join(home, "nginx.conf")
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
        with open(path, "w", encoding="utf-8") as file:
            file.write(_CONFIG.format(user=user, home=home, port=port, root=root))
        process = subprocess.Popen([program, "-e", f"{home}/error.log", "-p", home, "-c", path])
        try:
            _wait_for(port, process)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait()


@contextmanager
def far(port: int, seconds: float, cache: str) -> Iterator[tuple[int, int]]:
    """A port of the same server behind a network whose round trips take so long; the process that makes it so."""
    program = compiled("relay", cache)
    if program is None:
        raise SystemExit("no C compiler for the relay that delays")
    process = subprocess.Popen([program, str(port), str(round(seconds * 1e6))], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        with process.stdout as told:
            yield int(told.readline()), process.pid
    finally:
        process.terminate()
        process.wait()


def round_trip(port: int, path: str, times: int = 9) -> float:
    """Seconds from a request on a kept connection to its answer, as the median of some."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    spans = []
    try:
        for _ in range(times + 1):
            start = time.perf_counter()
            connection.request("HEAD", path)
            connection.getresponse().read()
            spans.append(time.perf_counter() - start)
    finally:
        connection.close()
    return statistics.median(spans[1:])


def compiled(name: str, cache: str, *libraries: str) -> str | None:
    """A C program of this folder; None without a compiler, or without its libraries."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    source = os.path.join(_HERE, f"{name}.c")
    with open(source, "rb") as file:
        key = hashlib.sha256(file.read()).hexdigest()[:12]
    program = os.path.join(cache, f"{name}-{key}")
    if not os.path.exists(program):
        os.makedirs(cache, mode=0o700, exist_ok=True)
        made = f"{program}.{os.getpid()}"
        command = [compiler, "-O2", "-o", made, source, *(f"-l{library}" for library in libraries)]
        if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode:
            return None
        os.rename(made, program)
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise SystemExit("nginx does not start")
