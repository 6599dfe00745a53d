"""Encrypted connections: which certificates are trusted, and tunnels through proxies."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fetch import server as web
from fetch.bodies import GOOD, PATH, URL, fetch_one, wanted
from fetch.conftest import Opener
from fetch.server import Server

from shrinkwrap.errors import NetworkError
from shrinkwrap.fetch.http import ca_bundle


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


@pytest.fixture
def secure(certificate: Path, new_server: Callable[[], Server]) -> Server:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = new_server()
    server.context = context
    server.files[URL] = GOOD
    server.files["/.cvmfspublished"] = b"manifest"
    return server


def test_a_server_is_trusted_by_the_certificates_of_the_environment(
    open_http: Opener, secure: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    source = open_http(secure.url)
    assert source.control(".cvmfspublished", 100) == b"manifest"
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_a_server_with_an_unknown_certificate_is_refused(open_http: Opener, secure: Server) -> None:
    source = open_http(secure.url)
    error = fetch_one(source, wanted(PATH, GOOD)).error
    assert isinstance(error, NetworkError)
    assert "certificate" in error.message
    with pytest.raises(NetworkError):
        source.control(".cvmfspublished", 100)
    assert secure.seen == []


def test_an_encrypted_server_behind_a_proxy_is_reached_by_a_tunnel(
    open_http: Opener, secure: Server, server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    where = secure.url.removeprefix("https://")
    server.script(where, web.tunnel)
    source = open_http(secure.url, proxies=server.url)
    assert source.control(".cvmfspublished", 100) == b"manifest"
    assert fetch_one(source, wanted(PATH, GOOD)).error is None
    assert {exchange.target for exchange in server.seen} == {where}
    assert [exchange.target for exchange in secure.seen] == ["/.cvmfspublished", URL]


def test_a_proxy_that_refuses_a_tunnel_is_left_for_the_next(
    open_http: Opener,
    secure: Server,
    new_server: Callable[[], Server],
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    where = secure.url.removeprefix("https://")
    refusing, willing = new_server(), new_server()
    refusing.script(where, web.status(403))
    willing.script(where, web.tunnel)
    for ask in ("bulk", "control"):
        source = open_http(secure.url, proxies=f"{refusing.url};{willing.url}")
        if ask == "bulk":
            assert fetch_one(source, wanted(PATH, GOOD)).error is None
        else:
            assert source.control(".cvmfspublished", 100) == b"manifest"
        assert source.stats.failovers == 1


def test_the_file_with_trusted_certificates_may_be_named(
    certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert ca_bundle() == str(certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))
    assert Path(ca_bundle()).is_file()
