"""The little web server: what it gives out, what it does not, and how it ends."""

from __future__ import annotations

import errno
import http.client
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from support.golden import CHECKOUT
from support.processes import need, running
from support.servers import free_port

from shrinkwrap import Repository
from shrinkwrap.errors import UsageError
from shrinkwrap.publish import http as asked
from shrinkwrap.publish import serve
from shrinkwrap.publish.serve import Server, serving

FQRN = "demo.example.org"
HASH = "ab" + "0123456789abcdef01" * 2 + "23"
OBJECT = f"data/ab/{HASH[2:]}"
CONTENT = bytes(range(256)) * 4
LARGE = f"data/cd/{HASH[2:]}P"
SECRET = b"nobody may read this"


def storage_at(folder: Path, *, claims: str = "") -> Path:
    """A storage as far as a web server can tell; ``claims``: the name in its manifest."""
    (folder / "data" / "ab").mkdir(parents=True)
    (folder / "data" / "cd").mkdir()
    text = f"C{HASH}\nRd41d8cd98f00b204e9800998ecf8427e\nD240\nS1\n" + (f"N{claims}\n" if claims else "")
    (folder / ".cvmfspublished").write_bytes(text.encode() + b"--\n" + HASH.encode() + b"\n\xff\x00")
    (folder / ".cvmfswhitelist").write_bytes(b"a whitelist\n")
    (folder / OBJECT).write_bytes(CONTENT)
    (folder / LARGE).write_bytes(os.urandom(3 * 1024**2 + 17))
    return folder


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return storage_at(tmp_path / "srv" / FQRN)


@pytest.fixture
def server(storage: Path) -> Iterator[Server]:
    with serving([storage]) as running:
        yield running


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes


def read_answer(sock: socket.socket, method: str = "GET") -> Answer:
    response = http.client.HTTPResponse(sock, method=method)
    try:
        response.begin()
        body = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)
    finally:
        response.close()


def connect(server: Server) -> socket.socket:
    return socket.create_connection((server.bind, server.port), timeout=20)


def ask(server: Server, target: str | bytes, *fields: str, method: str = "GET", version: str = "1.1") -> Answer:
    """One request on a connection of its own; the target goes out as it is."""
    raw = target.encode("latin-1") if isinstance(target, str) else target
    lines = "".join(f"{field}\r\n" for field in ("Host: localhost", *fields)).encode("latin-1")
    with connect(server) as sock:
        sock.sendall(method.encode() + b" " + raw + f" HTTP/{version}\r\n".encode() + lines + b"\r\n")
        return read_answer(sock, method)


def of(name: str) -> str:
    return f"/cvmfs/{FQRN}/{name}"


# --------------------------------------------------------------------------------------------------- what is given out


@pytest.mark.parametrize("prefix", [f"/{FQRN}/", f"/cvmfs/{FQRN}/"])
@pytest.mark.parametrize("name", [".cvmfspublished", ".cvmfswhitelist", OBJECT, LARGE])
def test_files_come_as_they_lie_in_the_storage(server: Server, storage: Path, prefix: str, name: str) -> None:
    answer = ask(server, prefix + name)
    assert answer.status == 200
    assert answer.body == (storage / name).read_bytes()
    assert answer.fields["content-length"] == str(len(answer.body))
    assert answer.fields["content-type"] == "application/octet-stream"


def test_a_new_manifest_is_served_at_once(server: Server, storage: Path) -> None:
    before = ask(server, of(".cvmfspublished"))
    (storage / "new").write_bytes(b"the next one")
    os.replace(storage / "new", storage / ".cvmfspublished")
    after = ask(server, of(".cvmfspublished"), f"If-None-Match: {before.fields['etag']}")
    assert (after.status, after.body) == (200, b"the next one")


def test_head_gives_the_header_alone(server: Server) -> None:
    answer = ask(server, of(OBJECT), method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.fields["content-length"] == str(len(CONTENT))
    assert ask(server, of("data/00/nothing"), method="HEAD").body == b""


def test_what_changes_may_be_cached_for_a_minute_and_objects_for_three_days(server: Server, storage: Path) -> None:
    (storage / f".cvmfsalt-{HASH}").symlink_to(OBJECT)
    for name in (".cvmfspublished", ".cvmfswhitelist", f".cvmfsalt-{HASH}"):
        assert ask(server, of(name)).fields["cache-control"] == "max-age=61"
    assert ask(server, of(OBJECT)).fields["cache-control"] == "max-age=259200"


def test_percent_signs_are_decoded_once(server: Server) -> None:
    assert ask(server, of("%2Ecvmfspublishe%64")).status == 200
    assert ask(server, of("%252Ecvmfspublished")).status == 404


def test_a_query_and_the_absolute_form_of_a_url_make_no_difference(server: Server) -> None:
    assert ask(server, of(OBJECT) + "?a=b/../c").body == CONTENT
    assert ask(server, f"http://localhost:{server.port}{of(OBJECT)}").body == CONTENT


@pytest.mark.parametrize(
    ("given", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=1000-", 1000, 1023),
        ("bytes=-24", 1000, 1023),
        ("bytes=-99999", 0, 1023),
        ("bytes=1023-99999", 1023, 1023),
    ],
)
def test_a_range_gives_that_part(server: Server, given: str, first: int, last: int) -> None:
    answer = ask(server, of(OBJECT), f"Range: {given}")
    assert answer.status == 206
    assert answer.body == CONTENT[first : last + 1]
    assert answer.fields["content-range"] == f"bytes {first}-{last}/{len(CONTENT)}"


def test_a_range_of_a_large_file_gives_that_part(server: Server, storage: Path) -> None:
    answer = ask(server, of(LARGE), "Range: bytes=1000001-3000000")
    assert answer.body == (storage / LARGE).read_bytes()[1_000_001:3_000_001]


@pytest.mark.parametrize("given", ["bytes=1024-", "bytes=1024-2000", "bytes=-0"])
def test_a_range_outside_of_the_file_is_refused_with_its_size(server: Server, given: str) -> None:
    answer = ask(server, of(OBJECT), f"Range: {given}")
    assert (answer.status, answer.fields["content-range"]) == (416, f"bytes */{len(CONTENT)}")


@pytest.mark.parametrize("given", ["bytes=9-3", "bytes=-", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes 1-2", ""])
def test_a_range_that_is_none_gives_the_whole_file(server: Server, given: str) -> None:
    answer = ask(server, of(OBJECT), f"Range: {given}")
    assert (answer.status, answer.body) == (200, CONTENT)


def test_a_range_of_an_older_state_gives_the_whole_file(server: Server) -> None:
    now = ask(server, of(OBJECT)).fields
    for known in (now["etag"], now["last-modified"]):
        assert ask(server, of(OBJECT), "Range: bytes=0-9", f"If-Range: {known}").status == 206
    for known in ('"other"', formatdate(0, usegmt=True)):
        assert ask(server, of(OBJECT), "Range: bytes=0-9", f"If-Range: {known}").body == CONTENT


def test_a_client_that_has_the_file_is_told_so(server: Server, storage: Path) -> None:
    now = ask(server, of(OBJECT)).fields
    later = formatdate(os.stat(storage / OBJECT).st_mtime + 10, usegmt=True)
    for field in (
        f"If-None-Match: {now['etag']}",
        f'If-None-Match: "x", W/{now["etag"]}',
        "If-None-Match: *",
        f"If-Modified-Since: {now['last-modified']}",
        f"If-Modified-Since: {later}",
    ):
        answer = ask(server, of(OBJECT), field)
        assert (answer.status, answer.body) == (304, b""), field
        assert answer.fields["etag"] == now["etag"]
    for field in (
        'If-None-Match: "x"',
        "If-None-Match: ",
        f"If-Modified-Since: {formatdate(0, usegmt=True)}",
        "If-Modified-Since: some day",
        "If-Modified-Since: Mon, 99 Jan 99999999999 00:00:00 GMT",
    ):
        assert ask(server, of(OBJECT), field).status == 200, field
    both = ask(server, of(OBJECT), 'If-None-Match: "x"', f"If-Modified-Since: {later}")
    assert both.status == 200, "the tag counts, not the date"


def test_a_shortcut_leads_to_its_object(server: Server, storage: Path) -> None:
    (storage / f".cvmfsalt-{HASH}C").symlink_to(OBJECT)
    (storage / f".cvmfsalt-{HASH}X").write_bytes(b"a copy")
    assert ask(server, of(f".cvmfsalt-{HASH}C")).body == CONTENT
    assert ask(server, of(f".cvmfsalt-{HASH}X")).body == b"a copy"


# ----------------------------------------------------------------------------------------------- what is not given out


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "//",
        "/cvmfs/",
        f"/{FQRN}",
        f"/{FQRN}/",
        f"/cvmfs/{FQRN}/data",
        f"/cvmfs/{FQRN}/data/",
        f"/cvmfs/{FQRN}/data/ab",
        f"/cvmfs/{FQRN}/data/ab/",
        f"/cvmfs/{FQRN}//{OBJECT}",
        f"/cvmfs/{FQRN}/./{OBJECT}",
        f"/cvmfs/{FQRN}/{OBJECT}/",
        f"/cvmfs/{FQRN}/data/ab/../ab/{HASH[2:]}",
        f"/cvmfs/{FQRN}/../keys/{FQRN}.key",
        f"/cvmfs/{FQRN}/%2e%2e/keys/{FQRN}.key",
        f"/cvmfs/{FQRN}/..%2fkeys%2f{FQRN}.key",
        f"/cvmfs/{FQRN}/%252e%252e/keys/{FQRN}.key",
        f"/cvmfs/{FQRN}/..%c0%afkeys/{FQRN}.key",
        f"/cvmfs/{FQRN}/data/../../keys/{FQRN}.key",
        f"/cvmfs/..//keys/{FQRN}.key",
        f"/cvmfs/keys/{FQRN}.key",
        f"/keys/{FQRN}.key",
        f"/cvmfs/{FQRN}/secret",
        f"/cvmfs/{FQRN}/.cvmfspublished%00",
        f"/cvmfs/{FQRN}/.cvmfspublished%0a",
        f"/cvmfs/{FQRN}/.cvmfspublished.old",
        f"/cvmfs/{FQRN}/.cvmfsalt-../secret",
        f"/cvmfs/{FQRN}/data/AB/{HASH[2:]}",
        f"/cvmfs/{FQRN}/{OBJECT}T",
        f"/cvmfs/{FQRN}/data/txn/scratch",
        f"/cvmfs/{FQRN}/.cvmfspublished%zz",
        f"/cvmfs/{FQRN.upper()}/.cvmfspublished",
        "/etc/passwd",
        "*",
        "x",
        "http://",
        "http://localhost",
    ],
)
def test_nothing_but_a_repositorys_files_is_given_out(server: Server, storage: Path, target: str) -> None:
    keys = storage.parent / "keys"
    keys.mkdir()
    for file in (keys / f"{FQRN}.key", storage / "secret", storage / ".cvmfspublished.old"):
        file.write_bytes(SECRET)
    (storage / "data" / "txn").mkdir()
    (storage / "data" / "txn" / "scratch").write_bytes(SECRET)
    answer = ask(server, target)
    assert answer.status == 404
    assert answer.body == b"Not Found\n"


def test_bytes_that_are_no_text_are_just_another_name(server: Server) -> None:
    assert ask(server, b"/cvmfs/\xff\xfe/\x80").status == 404


def test_links_out_of_a_storage_lead_nowhere(server: Server, storage: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / HASH[2:]).write_bytes(SECRET)
    (storage / "data" / "ef").symlink_to(tmp_path / "outside")
    (storage / "data" / "ab" / f"{HASH[2:]}C").symlink_to(tmp_path / "outside" / HASH[2:])
    (storage / ".cvmfsreflog").symlink_to(tmp_path / "outside" / HASH[2:])
    (storage / f".cvmfsalt-{HASH}").symlink_to(f"../../outside/{HASH[2:]}")
    (storage / f".cvmfsalt-{HASH}X").symlink_to(f"data/ef/{HASH[2:]}")
    for name in (f"data/ef/{HASH[2:]}", f"{OBJECT}C", ".cvmfsreflog", f".cvmfsalt-{HASH}", f".cvmfsalt-{HASH}X"):
        assert ask(server, of(name)).status == 404, name


def test_what_is_no_file_is_not_waited_for(server: Server, storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(storage / f"{OBJECT}C")
    (storage / f"{OBJECT}H").mkdir()
    monkeypatch.chdir(storage)  # the path of a socket is short: 107 bytes on Linux
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(".cvmfsreflog")
    for name in (f"{OBJECT}C", f"{OBJECT}H", ".cvmfsreflog"):
        assert ask(server, of(name)).status == 404, name


def test_a_file_that_cannot_be_had_is_not_called_missing(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, status in ((errno.EACCES, 403), (errno.EMFILE, 503), (errno.EIO, 503), (errno.ENOENT, 404)):

        def fail(storage: bytes, name: bytes, error: int = error) -> int:
            raise OSError(error, "no")

        monkeypatch.setattr(asked, "_open", fail)
        assert ask(server, of(OBJECT)).status == status


# ---------------------------------------------------------------------------------------------------------- connections


def test_a_connection_serves_many_requests(server: Server) -> None:
    line = f"GET {of(OBJECT)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with connect(server) as sock:
        for _ in range(3):
            sock.sendall(line)
            assert read_answer(sock).body == CONTENT
        sock.sendall(f"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nPUT {of(OBJECT)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        time.sleep(0.05)
    assert server.counts().connections == 1


def test_requests_sent_in_one_go_are_answered_in_order(server: Server) -> None:
    ranges = [(0, 9), (10, 19), (20, 29)]
    lines = [f"GET {of(OBJECT)} HTTP/1.1\r\nHost: x\r\nRange: bytes={a}-{b}\r\n\r\n" for a, b in ranges]
    with connect(server) as sock:
        sock.sendall("".join(lines).replace("bytes=20-29", "bytes=20-29\r\nConnection: close").encode())
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    assert [part[:10] for part in data.split(b"\r\n\r\n")[1:]] == [CONTENT[a : b + 1] for a, b in ranges]


@pytest.mark.parametrize(
    ("version", "fields", "kept"),
    [
        ("1.1", (), True),
        ("1.1", ("Connection: Foo, Close",), False),
        ("1.0", (), False),
        ("1.0", ("Connection: Keep-Alive",), True),
    ],
)
def test_the_client_says_whether_a_connection_is_kept(
    server: Server, version: str, fields: tuple[str, ...], kept: bool
) -> None:
    answer = ask(server, of(OBJECT), *fields, version=version)
    assert answer.fields["connection"] == ("keep-alive" if kept else "close")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
def test_other_methods_are_refused(server: Server, method: str) -> None:
    answer = ask(server, of(OBJECT), method=method)
    assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n folded: line\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b" " * 16_000 + b"\0\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
    ],
)
def test_what_cannot_be_read_as_a_request_ends_the_connection(server: Server, request_: bytes, status: int) -> None:
    with connect(server) as sock:
        sock.sendall(request_)
        answer = read_answer(sock)
        assert (answer.status, answer.fields["connection"]) == (status, "close")
    assert server.counts().refused == 1


def test_whoever_sends_too_slowly_is_hung_up_on(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PATIENCE", 1.0)
    with serving([storage]) as server, connect(server) as silent, connect(server) as slow:
        gone = False
        while not gone:
            try:
                slow.sendall(b"G")
                slow.settimeout(0.1)
                gone = not slow.recv(1)
            except TimeoutError:
                continue
            except OSError:
                gone = True
        assert silent.recv(1) == b""
        assert server.counts().requests == 0


def test_whoever_takes_nothing_is_hung_up_on(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PATIENCE", 1.0)
    (storage / LARGE).write_bytes(bytes(64 * 1024**2))
    with serving([storage]) as server, connect(server) as sock:
        sock.sendall(f"GET {of(LARGE)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while server.counts().bodies == 0 or server._open:
            time.sleep(0.02)
        with pytest.raises((http.client.IncompleteRead, OSError)):
            read_answer(sock)


@pytest.mark.parametrize("name", [OBJECT, LARGE])
def test_a_file_that_gets_shorter_meanwhile_ends_the_connection(
    server: Server, storage: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    whole = serve.head_of

    def then_shorten(*args: Any) -> bytes:
        os.truncate(storage / name, 100)
        return whole(*args)

    monkeypatch.setattr(serve, "head_of", then_shorten)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(server, of(name))


def test_more_connections_than_threads_are_served_in_turn(storage: Path) -> None:
    with serving([storage], connections=2) as server:
        answers: list[int] = []

        def client() -> None:
            answers.append(ask(server, of(OBJECT), "Connection: close").status)

        threads = [threading.Thread(target=client) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 12


def test_idle_connections_make_room(storage: Path) -> None:
    with serving([storage], connections=2) as server, connect(server) as one, connect(server) as two:
        assert ask(server, of(OBJECT)).status == 200
        one.settimeout(20)
        two.settimeout(20)
        assert (one.recv(1), server.counts().requests) == (b"", 1), "the one that was idle for longer"


def test_stopping_hangs_up_on_everybody_and_frees_the_port(storage: Path) -> None:
    before = threading.active_count()
    server = Server([storage])
    with connect(server) as idle, connect(server) as busy:
        busy.sendall(f"GET {of(LARGE)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        while server.counts().bodies == 0:
            time.sleep(0.005)
        server.stop()
        assert idle.recv(1) == b""
    server.stop()
    assert threading.active_count() == before
    with pytest.raises(OSError, match="refused"):
        connect(server)
    with serving([storage], port=server.port) as again:
        assert ask(again, of(OBJECT)).status == 200


def test_it_counts_what_it_does(server: Server) -> None:
    ask(server, of(OBJECT))
    before = server.counts()
    ask(server, of(OBJECT), "Range: bytes=0-9")
    ask(server, of(OBJECT), method="HEAD")
    ask(server, of("nothing"))
    new = server.counts() - before
    assert (new.connections, new.requests, new.bodies, new.sent, new.refused) == (3, 3, 1, 10, 1)


# --------------------------------------------------------------------------------------------------------- repositories


def test_a_folder_of_repositories_is_served_as_a_whole(tmp_path: Path) -> None:
    for name in ("b.example.org", "a.example.org"):
        storage_at(tmp_path / name)
    (tmp_path / "keys").mkdir()
    (tmp_path / "a file").touch()
    with serving([tmp_path]) as server:
        assert list(server.storages) == ["a.example.org", "b.example.org"]
        for name in server.storages:
            assert server.url(name) == f"http://127.0.0.1:{server.port}/cvmfs/{name}"
            assert ask(server, f"/{name}/{OBJECT}").body == CONTENT
        with pytest.raises(UsageError, match="is not served"):
            server.url("c.example.org")


def test_a_repository_is_called_what_its_manifest_says(tmp_path: Path) -> None:
    storage_at(tmp_path / "copy of it", claims=FQRN)
    with serving([tmp_path / "copy of it"]) as server:
        assert ask(server, f"/{FQRN}/{OBJECT}").status == 200
        assert ask(server, f"/copy%20of%20it/{OBJECT}").status == 404


def test_folders_that_cannot_be_served_are_named(tmp_path: Path) -> None:
    one, two = storage_at(tmp_path / "1" / FQRN), storage_at(tmp_path / "2" / FQRN)
    storage_at(tmp_path / "3" / "not a name")
    (tmp_path / "file").touch()
    for folders, said in (
        ([tmp_path / "missing"], "missing: No such file"),
        ([tmp_path / "file"], "file: Not a directory"),
        ([tmp_path], "no repository"),
        ([one, two], f"two repositories are called {FQRN}"),
        ([tmp_path / "3"], "is not the name of a repository"),
        (["a\0b"], "null byte"),
    ):
        with pytest.raises(UsageError, match=said):
            Server(folders)
    with serving([one, one.parent]) as server:
        assert list(server.storages) == [FQRN], "the same one twice is one"


def test_a_port_that_is_taken_and_an_address_that_is_none_are_named(server: Server, storage: Path) -> None:
    with pytest.raises(UsageError, match="Address already in use"):
        Server([storage], port=server.port)
    with pytest.raises(UsageError, match=r"--bind 300\.1\.1\.1"):
        Server([storage], bind="300.1.1.1")


@pytest.mark.parametrize(("bind", "host"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_other_addresses_than_loopback_can_be_asked_for(storage: Path, bind: str, host: str) -> None:
    try:
        server = Server([storage], bind=bind)
    except UsageError as exc:
        pytest.skip(f"this machine has no {bind}: {exc}")
    with server:
        assert server.address == f"http://{host}:{server.port}"
        connection = http.client.HTTPConnection(host.strip("[]"), server.port, timeout=20)
        connection.request("GET", of(OBJECT))
        assert connection.getresponse().read() == CONTENT
        connection.close()


def test_clients_read_real_repositories_through_it(repos: Path) -> None:
    with serving([repos]) as server:
        for fqrn in ("small.cern.ch", "mixed.cern.ch", "testmigration.cern.ch"):
            with Repository(fqrn, servers=[server.url(fqrn)], keys=[repos / "keys" / f"{fqrn}.pub"]) as repository:
                assert sum(1 for _ in repository.head.entries()) > 10
        assert server.counts().refused == 0


def test_the_nginx_of_the_docs_answers_in_the_same_way(server: Server, storage: Path, tmp_path: Path) -> None:
    nginx = need("nginx")
    text = (CHECKOUT / "docs" / "serving.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    root, home, port = tmp_path / "root", tmp_path / "nginx", free_port()
    (root / "cvmfs").mkdir(parents=True)
    home.mkdir()
    (storage / "secret").write_bytes(SECRET)
    (storage / f".cvmfsalt-{HASH}").symlink_to(OBJECT)
    os.rename(storage, root / "cvmfs" / FQRN)
    storage.symlink_to(root / "cvmfs" / FQRN)
    block = block.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("root /srv;", f"root {root};")
    scratch = "".join(
        f"{kind}_temp_path {home}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.getuid() == 0 else ""
    (home / "nginx.conf").write_text(
        f"{user} daemon off; master_process off; pid {home}/pid; error_log {home}/log; events {{}}"
        f" http {{ access_log off; {scratch} {block} }}"
    )
    with running([nginx, "-e", f"{home}/log", "-c", f"{home}/nginx.conf"], log=home / "out"):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert "emerg" not in (home / "out").read_text()
                time.sleep(0.02)
        for name in (".cvmfspublished", f".cvmfsalt-{HASH}", OBJECT, LARGE, "secret", "data/", ".cvmfsreflog"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", of(name))
            theirs = connection.getresponse()
            body, ours = theirs.read(), ask(server, of(name))
            connection.close()
            assert theirs.status == ours.status, name
            if ours.status == 200:
                assert body == ours.body
                assert theirs.getheader("Cache-Control") == ours.fields["cache-control"]
