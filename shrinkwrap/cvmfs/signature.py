"""Signed documents, RSA signatures and the certificates that carry their keys (FORMAT.md §4.2, §4.3, §5.2).

A signature is checked by raising it to the public exponent and comparing the result with the one block that a
right signature gives, built anew from what should have been signed. Nothing is parsed out of the recovered
block, so there is no room for lax padding; and no policy on hash algorithms is asked, because the format
leaves no choice: manifests are signed over SHA-1 for ever, which EL9's crypto policy and FIPS builds of
OpenSSL refuse.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import warnings
from typing import Any, Final, NamedTuple

from shrinkwrap.cvmfs.digest import Digest, digest_of, parse_digest
from shrinkwrap.errors import CorruptObject, TrustError

#: Sizes of RSA moduli in bits that are worth an answer. The reference makes 2048; a larger one than this
#: costs seconds.
MIN_BITS: Final = 1024
MAX_BITS: Final = 16384
#: Public exponents beyond this are never seen and only slow verification down.
MAX_EXPONENT: Final = 1 << 64

#: DER of ``DigestInfo { sha1, NULL }`` up to the 20 bytes of the digest (RFC 8017 §9.2, note 1).
_SHA1_INFO: Final = bytes.fromhex("3021300906052b0e03021a05000414")
_MIN_PADDING: Final = 8

_SEPARATOR: Final = b"\n--\n"
#: The longest text form of a digest is 49 characters (FORMAT.md §2.1).
_HASH_LINE: Final = 64

_CERTIFICATE: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[ \t]*\r?\n([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----"
)


class SignedDocument(NamedTuple):
    """The parts of a manifest or whitelist.

    Attributes:
        text: what was hashed, up to and with the newline before the separator line.
        digest: the hash line.
        signature: all bytes after the hash line.
    """

    text: bytes
    digest: Digest
    signature: bytes

    @property
    def signed(self) -> bytes:
        """What the signature is over: the ASCII of the hash line with its tag (FORMAT.md §4.2)."""
        return str(self.digest).encode("ascii")


def split_signed(data: bytes, what: str, limit: int) -> SignedDocument:
    """Cut a manifest or whitelist at its first line that is ``--`` (FORMAT.md §4.2); nothing is verified
    here.

    The signature is binary and may hold newlines and ``--`` itself, so only the first separator counts.

    Raises:
        TrustError: larger than ``limit`` bytes, or a part is missing.
    """
    if len(data) > limit:
        raise TrustError(f"{what}: larger than the {limit} bytes that are allowed")
    end = data.find(_SEPARATOR)
    if end < 0 or data.startswith(_SEPARATOR[1:]):
        raise TrustError(
            f"{what}: no line '--' before a signature; this is not a signed document",
            hint="a web server's error page, or a repository that is not there, looks like this",
        )
    text = data[: end + 1]
    start = end + len(_SEPARATOR)
    stop = data.find(b"\n", start, start + _HASH_LINE)
    if stop < 0:
        raise TrustError(f"{what}: no hash line after the line '--'")
    try:
        digest = parse_digest(data[start:stop].decode("ascii", "replace"))
    except CorruptObject as exc:
        raise TrustError(f"{what}: hash line: {exc}") from None
    signature = data[stop + 1 :]
    if not signature:
        raise TrustError(f"{what}: the signature is missing")
    return SignedDocument(text, digest, signature)


def check_hash_line(document: SignedDocument, what: str) -> None:
    """Hold the text against the hash line.

    Raises:
        TrustError: they differ.
    """
    found = digest_of(document.digest.algorithm, document.text)
    if not hmac.compare_digest(found.raw, document.digest.raw):
        raise TrustError(f"{what}: its text has the hash {found}, but its hash line says {document.digest}")


class RsaKey(NamedTuple):
    """Public numbers of an RSA key; made by :func:`rsa_key`, which checks them."""

    modulus: int
    exponent: int

    @property
    def size(self) -> int:
        """Length in bytes of the modulus, and so of each signature."""
        return (self.modulus.bit_length() + 7) // 8


def rsa_key(public: object, what: str) -> RsaKey:
    """The numbers of a public key as ``cryptography`` loads it.

    Raises:
        TrustError: not RSA, or of a size that makes no sense.
    """
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if not isinstance(public, RSAPublicKey):
        raise TrustError(f"{what}: expected an RSA key, found {type(public).__name__}")
    numbers = public.public_numbers()
    bits = numbers.n.bit_length()
    if not MIN_BITS <= bits <= MAX_BITS or numbers.n % 2 == 0:
        raise TrustError(f"{what}: an RSA key of {bits} bits, expected {MIN_BITS} to {MAX_BITS}")
    if not 3 <= numbers.e < MAX_EXPONENT or numbers.e % 2 == 0:
        raise TrustError(f"{what}: its RSA exponent ({numbers.e.bit_length()} bits) is not a usable one")
    return RsaKey(numbers.n, numbers.e)


def _holds(key: RsaKey, signature: bytes, payload: bytes) -> bool:
    """Whether the signature recovers to ``00 01 FF… 00 payload`` exactly (RFC 8017 §8.2.2, §9.2)."""
    size = key.size
    padding = size - 3 - len(payload)
    if len(signature) != size or padding < _MIN_PADDING:
        return False
    number = int.from_bytes(signature, "big")
    if number >= key.modulus:
        return False
    expected = b"\x00\x01" + b"\xff" * padding + b"\x00" + payload
    recovered = pow(number, key.exponent, key.modulus).to_bytes(size, "big")
    return hmac.compare_digest(recovered, expected)


def verify_raw(key: RsaKey, signature: bytes, text: bytes) -> bool:
    """Whether ``signature`` over ``text`` is of the whitelist's kind: no DigestInfo (FORMAT.md §5.2)."""
    return _holds(key, signature, text)


def verify_sha1(key: RsaKey, signature: bytes, text: bytes) -> bool:
    """Whether ``signature`` over ``text`` is of the manifest's kind: SHA-1 DigestInfo (FORMAT.md §4.2)."""
    return _holds(key, signature, _SHA1_INFO + hashlib.sha1(text, usedforsecurity=False).digest())


class Certificate(NamedTuple):
    """What counts of a certificate: its DER bytes and its key. Dates and names do not (FORMAT.md §4.3)."""

    der: bytes
    key: RsaKey

    def fingerprint(self, algorithm: int) -> Digest:
        """Digest of the DER form, not of the PEM (FORMAT.md §2.3)."""
        return digest_of(algorithm, self.der)


def format_fingerprint(fingerprint: Digest) -> str:
    """As whitelists write it: ``AB:CD:…[-SHAKE128]``."""
    tag = str(fingerprint)[2 * len(fingerprint.raw) :]
    return fingerprint.raw.hex(":").upper() + tag.upper()


def parse_fingerprint(line: bytes) -> Digest | None:
    """A line of a whitelist or blacklist; None if it is no fingerprint, as comments are (FORMAT.md §5.1)."""
    word = re.split(rb"[ \t#]", line, maxsplit=1)[0].replace(b":", b"").lower()
    try:
        return parse_digest(word.decode("ascii", "replace"))
    except CorruptObject:
        return None


def parse_certificate(pem: bytes) -> Certificate:
    """The first certificate in a PEM text.

    Raises:
        TrustError: no certificate, not DER, or its key is not RSA.
    """
    block = _CERTIFICATE.search(pem)
    if block is None:
        raise TrustError("the certificate is not a PEM text with a line '-----BEGIN CERTIFICATE-----'")
    try:
        der = base64.b64decode(b"".join(block[1].split()), validate=True)
    except binascii.Error as exc:
        raise TrustError(f"the certificate is not valid base64: {exc}") from None
    return Certificate(der, rsa_key(_certificate_key(der), "key of the certificate"))


def _certificate_key(der: bytes) -> Any:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm

    # Certificates of old repositories stretch X.509 here and there (serial numbers, dates, versions). That
    # must not keep anybody from reading them, since only the key and the fingerprint count: no warning, and a
    # second way.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return x509.load_der_x509_certificate(der).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            return _load_key(_key_info(der))


def _load_key(info: bytes) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        return load_der_public_key(info)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise TrustError(f"the certificate's key cannot be read: {str(exc)[:200]}") from None


_SEQUENCE: Final = 0x30
_EXPLICIT_VERSION: Final = 0xA0


def _element(der: bytes, position: int, end: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the DER element at ``position``; it must end by ``end``."""
    if position + 2 > end:
        raise TrustError("the certificate is cut short")
    tag, length = der[position], der[position + 1]
    start = position + 2
    if length & 0x80:
        digits = length & 0x7F
        if not 1 <= digits <= 4 or start + digits > end:
            raise TrustError("the certificate is not valid DER")
        length = int.from_bytes(der[start : start + digits], "big")
        start += digits
    if start + length > end:
        raise TrustError("the certificate is cut short")
    return tag, start, start + length


def _sequence(der: bytes, position: int, end: int) -> tuple[int, int]:
    tag, start, stop = _element(der, position, end)
    if tag != _SEQUENCE:
        raise TrustError("the certificate is not valid DER")
    return start, stop


def _key_info(der: bytes) -> bytes:
    """SubjectPublicKeyInfo of a certificate, found by position alone (RFC 5280 §4.1)."""
    start, stop = _sequence(der, 0, len(der))
    if stop != len(der):
        raise TrustError("bytes follow the certificate")
    position, end = _sequence(der, start, stop)
    tag, _, after = _element(der, position, end)
    if tag == _EXPLICIT_VERSION:
        position = after
    for _ in ("serial number", "algorithm", "issuer", "validity", "subject"):
        _, _, position = _element(der, position, end)
    _, after = _sequence(der, position, end)
    return der[position:after]
