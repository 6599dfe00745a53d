"""A publisher for tests: signs whitelists and manifests, right ones and wrong ones.

Signatures are made with the private exponent alone, so that a block of any content can be signed *validly*.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from shrinkwrap.cvmfs.digest import SHA1, Digest, digest_of
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.signature import RsaKey, format_fingerprint
from shrinkwrap.cvmfs.trust import TrustedSet

FQRN = "test.example.org"
#: 2030-06-15 12:30:00 UTC, the time at which all this takes place.
NOW = 1907757000.0
EXPIRES = "20300715123000"
ROOT = digest_of(SHA1, b"a root catalog")
ROOT_PATH = "d41d8cd98f00b204e9800998ecf8427e"
SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414")


@dataclass(frozen=True)
class Key:
    """An RSA key pair."""

    private: rsa.RSAPrivateKey

    @property
    def rsa(self) -> RsaKey:
        numbers = self.private.public_key().public_numbers()
        return RsaKey(numbers.n, numbers.e)

    @property
    def master(self) -> MasterKey:
        return MasterKey("test.pub", self.rsa)

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign_block(self, block: bytes) -> bytes:
        """The private-key operation on a whole block, whatever it holds."""
        numbers = self._numbers
        # By the Chinese remainder theorem: a quarter of the work.
        number = int.from_bytes(block, "big") % numbers.public_numbers.n
        one, two = pow(number, numbers.dmp1, numbers.p), pow(number, numbers.dmq1, numbers.q)
        value = two + (one - two) * numbers.iqmp % numbers.p * numbers.q
        return value.to_bytes(self.rsa.size, "big")

    @functools.cached_property
    def _numbers(self) -> rsa.RSAPrivateNumbers:
        return self.private.private_numbers()

    def sign_padded(self, payload: bytes) -> bytes:
        return self.sign_block(b"\x00\x01" + b"\xff" * (self.rsa.size - 3 - len(payload)) + b"\x00" + payload)

    def sign_raw(self, text: bytes) -> bytes:
        """As whitelists are signed."""
        return self.sign_padded(text)

    def sign_sha1(self, text: bytes) -> bytes:
        """As manifests are signed."""
        return self.sign_padded(SHA1_INFO + hashlib.sha1(text).digest())

    @functools.cached_property
    def certificate(self) -> bytes:
        return self.make_certificate(1)

    def make_certificate(self, serial: int) -> bytes:
        """A self-signed certificate in PEM, long expired: dates do not count."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        start = datetime.datetime(2010, 1, 1)
        made = x509.CertificateBuilder(
            issuer_name=name,
            subject_name=name,
            public_key=self.private.public_key(),
            serial_number=serial,
            not_valid_before=start,
            not_valid_after=start + datetime.timedelta(days=365),
        ).sign(self.private, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    @property
    def certificate_der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.certificate).public_bytes(serialization.Encoding.DER)

    @property
    def stored_certificate(self) -> bytes:
        return zlib.compress(self.certificate)

    def fingerprint(self, algorithm: int = SHA1) -> str:
        return format_fingerprint(digest_of(algorithm, self.certificate_der))


@functools.cache
def key(name: str, bits: int = 2048) -> Key:
    """One key pair for each name, made once per test run."""
    del name
    return Key(rsa.generate_private_key(public_exponent=65537, key_size=bits))


def master() -> Key:
    return key("master")


def publisher() -> Key:
    return key("publisher")


def stranger() -> Key:
    return key("stranger")


def document(text: bytes, signature: bytes | None, signer: Key, kind: str, algorithm: int) -> bytes:
    """Text, separator, hash line and signature (made by ``signer`` unless it is given)."""
    line = str(digest_of(algorithm, text)).encode()
    if signature is None:
        signature = signer.sign_raw(line) if kind == "raw" else signer.sign_sha1(line)
    return text + b"--\n" + line + b"\n" + signature


def whitelist(
    fingerprints: Iterable[str] | None = None,
    *,
    fqrn: str = FQRN,
    issued: str = "20300601000000",
    expires: str = EXPIRES,
    extra: Sequence[str] = (),
    text: bytes | None = None,
    signer: Key | None = None,
    signature: bytes | None = None,
    kind: str = "raw",
    algorithm: int = SHA1,
) -> bytes:
    if text is None:
        listed = [publisher().fingerprint()] if fingerprints is None else fingerprints
        lines = [issued, f"E{expires}", f"N{fqrn}", *extra, *listed]
        text = "".join(f"{line}\n" for line in lines).encode()
    return document(text, signature, signer or master(), kind, algorithm)


def manifest_fields(certificate: bytes | None = None, algorithm: int = SHA1) -> dict[str, str]:
    stored = publisher().stored_certificate if certificate is None else certificate
    return {
        "C": str(ROOT),
        "B": "14",
        "R": ROOT_PATH,
        "D": "240",
        "S": "7",
        "G": "no",
        "A": "no",
        "N": FQRN,
        "X": str(digest_of(algorithm, stored)),
        "T": "1907750000",
    }


def manifest(
    changes: Mapping[str, str | None] | None = None,
    *,
    text: bytes | None = None,
    certificate: bytes | None = None,
    signer: Key | None = None,
    signature: bytes | None = None,
    kind: str = "sha1",
    algorithm: int = SHA1,
) -> bytes:
    """A manifest with some fields changed, or left out (None)."""
    if text is None:
        fields: dict[str, str | None] = {**manifest_fields(certificate, algorithm), **(changes or {})}
        text = "".join(f"{name}{value}\n" for name, value in fields.items() if value is not None).encode()
    return document(text, signature, signer or publisher(), kind, algorithm)


@dataclass
class Attempt:
    """What servers answer. ``head`` takes it through all steps."""

    manifest: bytes = field(default_factory=manifest)
    certificate: bytes = field(default_factory=lambda: publisher().stored_certificate)
    whitelist: bytes = field(default_factory=whitelist)

    def through(self, trusted: TrustedSet) -> TrustedSet:
        trusted.add_manifest(self.manifest)
        trusted.add_certificate(self.certificate)
        trusted.add_whitelist(self.whitelist)
        return trusted


def root_hash(number: int) -> Digest:
    return digest_of(SHA1, b"root %d" % number)
