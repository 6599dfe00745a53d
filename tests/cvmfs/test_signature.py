"""RSA signatures, each attack with a *valid* private-key operation where there is one; and certificates."""

from __future__ import annotations

import datetime
import hashlib
import itertools
import warnings
import zlib
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from cvmfs import real, signing
from cvmfs.signing import SHA1_INFO
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, digest_of
from shrinkwrap.cvmfs.manifest import parse_manifest
from shrinkwrap.cvmfs.signature import (
    RsaKey,
    format_fingerprint,
    parse_certificate,
    parse_fingerprint,
    rsa_key,
    verify_raw,
    verify_sha1,
)
from shrinkwrap.errors import CorruptObject, TrustError

KEY = signing.publisher()
TEXT = b"b4da75203cf1aca4a57b2f33fd316dd036dc6fb2"
DIGEST = hashlib.sha1(TEXT).digest()


def block(payload: bytes, *, head: bytes = b"\x00\x01", padding: int | None = None, filler: int = 0xFF) -> bytes:
    """A block with this payload; what is missing at its end is filled with zeros."""
    size = KEY.rsa.size
    if padding is None:
        padding = size - len(head) - 1 - len(payload)
    made = head + bytes([filler]) * padding + b"\x00" + payload
    return made + bytes(size - len(made))


def test_right_signatures_are_accepted() -> None:
    assert verify_raw(KEY.rsa, KEY.sign_raw(TEXT), TEXT)
    assert verify_sha1(KEY.rsa, KEY.sign_sha1(TEXT), TEXT)


def test_a_signature_is_bound_to_key_text_and_kind() -> None:
    other = signing.stranger()
    assert not verify_raw(other.rsa, KEY.sign_raw(TEXT), TEXT)
    assert not verify_sha1(other.rsa, KEY.sign_sha1(TEXT), TEXT)
    assert not verify_raw(KEY.rsa, KEY.sign_raw(TEXT), TEXT[:-1])
    assert not verify_sha1(KEY.rsa, KEY.sign_sha1(TEXT), TEXT + b"\n")
    assert not verify_raw(KEY.rsa, KEY.sign_sha1(TEXT), TEXT)
    assert not verify_sha1(KEY.rsa, KEY.sign_raw(TEXT), TEXT)


def test_the_library_agrees_on_signatures_of_the_manifest_kind() -> None:
    from cryptography.hazmat.primitives.asymmetric import padding

    made = KEY.private.sign(TEXT, padding.PKCS1v15(), hashes.SHA1())
    assert made == KEY.sign_sha1(TEXT)
    assert verify_sha1(KEY.rsa, made, TEXT)


@pytest.mark.parametrize(
    "forged",
    [
        block(SHA1_INFO + DIGEST, padding=8),
        block(SHA1_INFO + DIGEST + b"garbage", padding=8),
        block(SHA1_INFO + DIGEST + b"\x00"),
        block(b"garbage" + SHA1_INFO + DIGEST),
        block(SHA1_INFO + DIGEST, padding=7),
        block(SHA1_INFO + DIGEST, padding=0),
        block(SHA1_INFO + DIGEST, head=b"\x00\x02"),
        block(SHA1_INFO + DIGEST, head=b"\x00\x00"),
        block(SHA1_INFO + DIGEST, filler=0xFE),
        block(SHA1_INFO + DIGEST, filler=0x00),
        block(bytes.fromhex("301f300706052b0e03021a0414") + DIGEST),
        block(bytes.fromhex("3023300b06052b0e03021a050205000414") + DIGEST),
        block(bytes.fromhex("3020300c06082a864886f70d020505000410") + hashlib.md5(TEXT).digest()),
        block(bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(TEXT).digest()),
        block(DIGEST),
        block(TEXT),
        block(SHA1_INFO + hashlib.sha1(TEXT + b"\n").digest()),
        b"\x00" * 255 + b"\x01",
        b"\x00" * 256,
    ],
    ids=[
        "short padding, zeros after",
        "garbage after the digest",
        "a byte after the digest",
        "garbage before the info",
        "seven bytes of padding",
        "no padding",
        "block type 2",
        "block type 0",
        "padding of FE",
        "padding of zeros",
        "info without NULL",
        "info with odd parameters",
        "MD5",
        "SHA-256",
        "digest alone",
        "text alone",
        "newline signed too",
        "one",
        "zero",
    ],
)
def test_a_validly_signed_block_of_another_shape_is_refused(forged: bytes) -> None:
    assert not verify_sha1(KEY.rsa, KEY.sign_block(forged), TEXT)


@pytest.mark.parametrize(
    "forged",
    [
        block(TEXT, padding=8),
        block(TEXT + b"\x00"),
        block(b"\x00" + TEXT),
        block(TEXT + b"x"),
        block(TEXT, head=b"\x00\x02"),
        block(TEXT, filler=0),
        block(SHA1_INFO + DIGEST),
        block(b""),
    ],
)
def test_a_validly_signed_block_of_another_shape_is_refused_for_whitelists(forged: bytes) -> None:
    assert not verify_raw(KEY.rsa, KEY.sign_block(forged), TEXT)


def test_a_cube_root_forgery_against_a_small_exponent_is_refused() -> None:
    """Bleichenbacher's forgery of 2006: with exponent 3 no private key is needed for a lax parser's blessing."""
    modulus = KEY.rsa.modulus
    weak = RsaKey(modulus, 3)
    prefix = b"\x00\x01" + b"\xff" * 8 + b"\x00" + SHA1_INFO + DIGEST
    target = int.from_bytes(prefix + b"\xff" * (weak.size - len(prefix)), "big")
    low, high = 0, 1 << (8 * weak.size // 3 + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**3 <= target else (low, middle - 1)
    forged = low.to_bytes(weak.size, "big")
    assert pow(low, 3, modulus).to_bytes(weak.size, "big").startswith(prefix)
    assert not verify_sha1(weak, forged, TEXT)


def test_a_signature_of_another_length_is_refused() -> None:
    for sign, verify in ((KEY.sign_sha1, verify_sha1), (KEY.sign_raw, verify_raw)):
        good = sign(TEXT)
        for bad in (
            b"",
            good[:-1],
            good[1:],
            b"\x00" + good,
            good + b"\x00",
            good + b"\n",
            good * 2,
            bytes(1 << 20),
        ):
            assert not verify(KEY.rsa, bad, TEXT)


def test_a_short_signature_is_not_padded_with_zeros() -> None:
    """A signature whose number is small enough for a byte less must still have all bytes."""
    small = signing.key("small", 1024)
    for number in itertools.count():
        text = b"%d" % number
        good = small.sign_raw(text)
        if good[0] == 0:
            break
    assert verify_raw(small.rsa, good, text)
    assert not verify_raw(small.rsa, good[1:], text)


def test_a_signature_not_smaller_than_the_modulus_is_refused() -> None:
    """Signature plus modulus is the same residue: a second form of one signature."""
    for number in itertools.count():
        text = b"%d" % number
        shifted = int.from_bytes(KEY.sign_raw(text), "big") + KEY.rsa.modulus
        if shifted.bit_length() <= 8 * KEY.rsa.size:
            break
    assert not verify_raw(KEY.rsa, shifted.to_bytes(KEY.rsa.size, "big"), text)


def test_a_text_too_long_for_the_key_is_refused() -> None:
    size = KEY.rsa.size
    longest = b"x" * (size - 11)
    assert verify_raw(KEY.rsa, KEY.sign_raw(longest), longest)
    assert not verify_raw(KEY.rsa, KEY.sign_raw(longest + b"x"), longest + b"x")
    assert not verify_raw(KEY.rsa, bytes(size), b"x" * (size + 5))


@given(st.binary(min_size=256, max_size=256), st.binary(max_size=50))
@settings(max_examples=50)
def test_no_random_signature_is_accepted(signature: bytes, text: bytes) -> None:
    assert not verify_raw(KEY.rsa, signature, text)
    assert not verify_sha1(KEY.rsa, signature, text)


# -- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "public",
    [
        ec.generate_private_key(ec.SECP256R1()).public_key(),
        ed25519.Ed25519PrivateKey.generate().public_key(),
        None,
    ],
)
def test_keys_other_than_rsa_are_refused(public: object) -> None:
    with pytest.raises(TrustError, match="expected an RSA key"):
        rsa_key(public, "key")


@pytest.mark.parametrize(
    ("modulus", "exponent"),
    [
        ((1 << 1023) - 1, 65537),
        ((1 << 16385) - 1, 65537),
        (1 << 2047, 65537),
        (KEY.rsa.modulus, 1),
        (KEY.rsa.modulus, 65536),
        (KEY.rsa.modulus, (1 << 64) + 1),
        (KEY.rsa.modulus, (1 << 2000) + 1),
    ],
    ids=["short", "long", "even", "exponent 1", "even exponent", "big exponent", "giant exponent"],
)
def test_keys_with_senseless_numbers_are_refused(modulus: int, exponent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Made by hand, since the library would not make most of them.
    class Fake:
        def public_numbers(self) -> RsaKey:
            return type("Numbers", (), {"n": modulus, "e": exponent})()  # type: ignore[return-value]

    monkeypatch.setattr(rsa, "RSAPublicKey", Fake)
    with pytest.raises(TrustError, match="RSA"):
        rsa_key(Fake(), "key")


# -- fingerprints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
def test_a_fingerprint_is_read_back(algorithm: int) -> None:
    digest = digest_of(algorithm, b"x")
    assert parse_fingerprint(format_fingerprint(digest).encode()) == digest


@given(st.binary(max_size=80))
def test_any_line_is_a_fingerprint_or_skipped(line: bytes) -> None:
    digest = parse_fingerprint(line)
    assert digest is None or len(digest.raw) == 20


# -- certificates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", real.manifests())
def test_every_real_certificate_fits_its_manifest_and_has_a_listed_fingerprint(path: str) -> None:
    from shrinkwrap.cvmfs.whitelist import parse_whitelist

    manifest = parse_manifest(real.read(path))
    assert manifest.certificate is not None
    certificate = parse_certificate(real.inflated(manifest.fqrn, manifest.certificate, "X"))
    assert verify_sha1(certificate.key, manifest.document.signature, manifest.document.signed)
    listed = parse_whitelist(real.read(f"{manifest.fqrn}/.cvmfswhitelist")).fingerprints
    assert any(certificate.fingerprint(one.algorithm) == one for one in listed)


def test_the_fingerprint_is_over_der_not_pem() -> None:
    certificate = parse_certificate(KEY.certificate)
    assert certificate.der == KEY.certificate_der
    assert certificate.key == KEY.rsa
    for algorithm in (SHA1, RMD160, SHAKE128):
        assert certificate.fingerprint(algorithm) == digest_of(algorithm, KEY.certificate_der)


def test_text_around_the_certificate_and_dos_line_ends_do_not_matter() -> None:
    expected = parse_certificate(KEY.certificate)
    assert parse_certificate(b"Certificate:\n  Data: ...\n" + KEY.certificate + b"\nmore\n") == expected
    assert parse_certificate(KEY.certificate.replace(b"\n", b"\r\n")) == expected


def test_of_several_certificates_the_first_counts() -> None:
    assert parse_certificate(KEY.certificate + signing.stranger().certificate).key == KEY.rsa


def to_pem(der: bytes) -> bytes:
    import base64

    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def odd(old: bytes, new: bytes) -> bytes:
    """The certificate with some bytes of its DER exchanged for as many others."""
    assert len(old) == len(new)
    assert KEY.certificate_der.count(old) >= 1
    return KEY.certificate_der.replace(old, new, 1)


@pytest.mark.parametrize(
    "der",
    [
        odd(bytes.fromhex("a003020102020101"), bytes.fromhex("a003020107020101")),
        odd(bytes.fromhex("a003020102020101"), bytes.fromhex("a003020102020100")),
        odd(bytes.fromhex("a003020102020101"), bytes.fromhex("a0030201020201ff")),
        odd(b"100101000000Z", b"109999000000Z"),
        odd(b"100101000000Z", b"1001010000+01"),
    ],
    ids=["version 8", "serial number 0", "negative serial number", "impossible date", "odd date"],
)
def test_certificates_that_stretch_the_standard_are_still_read(der: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certificate = parse_certificate(to_pem(der))
    assert certificate.key == KEY.rsa
    assert certificate.der == der


@pytest.mark.parametrize("date", [b"100101000000Z", b"109999000000Z"], ids=["sound", "with an impossible date too"])
def test_a_certificate_without_a_version_is_read(date: bytes) -> None:
    der = odd(b"100101000000Z", date)
    # Both sequences around the version lose its five bytes.
    version = bytes.fromhex("a003020102")
    outer, inner = int.from_bytes(der[2:4], "big"), int.from_bytes(der[6:8], "big")
    rest = der[8:].replace(version, b"", 1)
    changed = der[:2] + (outer - 5).to_bytes(2, "big") + der[4:6] + (inner - 5).to_bytes(2, "big") + rest
    assert parse_certificate(to_pem(changed)).key == KEY.rsa


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no certificate",
        KEY.pem,
        KEY.certificate[:-30],
        KEY.certificate.replace(b"CERTIFICATE", b"CRAZY"),
        to_pem(b""),
        to_pem(b"\x30"),
        to_pem(b"\x30\x80\x00\x00"),
        to_pem(b"\x30\x84\xff\xff\xff\xff" + bytes(20)),
        to_pem(b"\x30\x85\x00\x00\x00\x00\x01\x00"),
        to_pem(KEY.certificate_der[:-1]),
        to_pem(KEY.certificate_der + b"\x00"),
        to_pem(KEY.certificate_der * 2),
        b"-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n",
    ],
)
def test_what_is_no_certificate_is_refused(pem: bytes) -> None:
    with pytest.raises(TrustError):
        parse_certificate(pem)


def test_a_certificate_with_another_kind_of_key_is_refused() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    start = datetime.datetime(2020, 1, 1)
    made = x509.CertificateBuilder(name, name, private.public_key(), 1, start, start + datetime.timedelta(days=1)).sign(
        private, hashes.SHA256()
    )
    with pytest.raises(TrustError, match="expected an RSA key"):
        parse_certificate(made.public_bytes(serialization.Encoding.PEM))


@given(st.integers(0, len(KEY.certificate_der) - 1), st.integers(0, 255))
def test_a_damaged_certificate_is_read_or_refused(position: int, value: int) -> None:
    der = bytearray(KEY.certificate_der)
    der[position] = value
    with suppress(TrustError):
        assert parse_certificate(to_pem(bytes(der))).der == bytes(der)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_certificate_or_refused(data: bytes) -> None:
    for pem in (data, to_pem(data), to_pem(b"\x30\x7f\x30" + data)):
        with suppress(TrustError):
            parse_certificate(pem)


def test_stored_certificates_are_zlib(repos: object) -> None:
    manifest = parse_manifest(real.read("small.cern.ch/.cvmfspublished"))
    assert manifest.certificate is not None
    stored = real.stored("small.cern.ch", manifest.certificate, "X")
    assert zlib.decompress(stored).startswith(b"-----BEGIN CERTIFICATE-----")
    with pytest.raises((TrustError, CorruptObject)):
        parse_certificate(stored)
