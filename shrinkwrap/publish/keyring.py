"""Keys of a repository, and what is signed with them (FORMAT.md §4.2, §5.2, §12.1).

Signatures are the bare RSA operation on a padded block: whitelists have no DigestInfo, which no library offers, and
manifests are over SHA-1, which some systems' policies forbid.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shrinkwrap.cvmfs.digest import digest_of
from shrinkwrap.cvmfs.limits import KIB
from shrinkwrap.cvmfs.signature import Certificate, format_fingerprint, parse_certificate
from shrinkwrap.errors import DestinationError, ShrinkwrapError, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

BITS: Final = 2048
_LIMIT: Final = 64 * KIB
_CERTIFICATE_DAYS: Final = 3650
#: DER of ``DigestInfo { sha1, NULL }`` up to the digest (RFC 8017 §9.2, note 1).
_SHA1_INFO: Final = bytes.fromhex("3021300906052b0e03021a05000414")


@dataclass(frozen=True, slots=True)
class PrivateNumbers:
    """An RSA key as numbers; never shown."""

    modulus: int
    public: int
    p: int
    q: int
    dp: int
    dq: int
    q_inverse: int

    def __repr__(self) -> str:
        return f"<RSA key of {self.modulus.bit_length()} bits>"

    def sign(self, payload: bytes) -> bytes:
        """``00 01 FF… 00 payload``, raised to the private exponent (RFC 8017 §8.2.1)."""
        size = (self.modulus.bit_length() + 7) // 8
        block = int.from_bytes(b"\x00\x01" + b"\xff" * (size - 3 - len(payload)) + b"\x00" + payload, "big")
        # Blinded: how long it takes tells nothing. Checked: one wrong half would tell the factors.
        while True:
            factor = secrets.randbelow(self.modulus - 2) + 2
            with suppress(ValueError):
                inverse = pow(factor, -1, self.modulus)
                break
        hidden = block * pow(factor, self.public, self.modulus) % self.modulus
        one, two = pow(hidden % self.p, self.dp, self.p), pow(hidden % self.q, self.dq, self.q)
        value = (two + (one - two) * self.q_inverse % self.p * self.q) * inverse % self.modulus
        if pow(value, self.public, self.modulus) != block:
            raise ShrinkwrapError("a signature came out wrong", hint="check this machine's memory, or the key file")
        return value.to_bytes(size, "big")


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys of a repository.

    Attributes:
        folder: where they are. public: file of the master key's public half.
        master: the master key, None if it is kept elsewhere.
        key: what manifests are signed with. certificate_pem: with its public half.
        made: files that did not exist before.
    """

    folder: str
    public: str
    master: PrivateNumbers | None
    key: PrivateNumbers
    certificate_pem: bytes
    certificate: Certificate
    made: tuple[str, ...]

    def sign_manifest(self, text: bytes, algorithm: int) -> bytes:
        """The whole document. The signature is over the SHA-1 of the hash line, whatever the algorithm of that."""
        line = str(digest_of(algorithm, text)).encode()
        payload = _SHA1_INFO + hashlib.sha1(line, usedforsecurity=False).digest()
        return text + b"--\n" + line + b"\n" + self.key.sign(payload)

    def sign_whitelist(self, fqrn: str, now: int, days: float, algorithm: int) -> bytes:
        """A whitelist with the certificate's fingerprint, that expires in some days.

        Raises:
            UsageError: the master key is not there.
        """
        if self.master is None:
            raise UsageError(f"{fqrn}: no master key in {self.folder}: the whitelist cannot be signed")
        fingerprint = format_fingerprint(self.certificate.fingerprint(algorithm))
        lines = (_stamp(now), f"E{_stamp(now + int(days * 86400))}", f"N{fqrn}", fingerprint)
        text = "".join(f"{line}\n" for line in lines).encode()
        line = str(digest_of(algorithm, text)).encode()
        return text + b"--\n" + line + b"\n" + self.master.sign(line)


def open_keyring(folder: str, fqrn: str, *, make: bool) -> Keyring:
    """The keys of a repository.

    Args:
        make: keys that are not there are made: for a new repository. Public halves are made again in any case.

    Raises:
        UsageError: some are missing, cannot be read, or do not fit each other. DestinationError: they cannot be
        written.
    """
    folder = os.path.abspath(folder)
    names = {kind: os.path.join(folder, f"{fqrn}.{kind}") for kind in ("masterkey", "pub", "key", "crt")}
    made: list[str] = []
    try:
        if make:
            os.makedirs(folder, exist_ok=True)
        _complete(fqrn, names, make, made)
    except OSError as exc:
        raise DestinationError(f"{folder}: keys cannot be written: {exc.strerror}") from None
    pem = _read(names["crt"])
    certificate = parse_certificate(pem)
    key = _load(names["key"])
    if (key.modulus, key.public) != tuple(certificate.key):
        raise UsageError(f"{names['key']} is not the key of {names['crt']}")
    master = _load(names["masterkey"]) if os.path.lexists(names["masterkey"]) else None
    if master is not None:
        from shrinkwrap.cvmfs.keys import parse_public_keys

        public = parse_public_keys(_read(names["pub"]), names["pub"])
        if all((one.rsa.modulus, one.rsa.exponent) != (master.modulus, master.public) for one in public):
            raise UsageError(f"{names['pub']} is not the public key of {names['masterkey']}")
    return Keyring(folder, names["pub"], master, key, pem, certificate, tuple(made))


def _complete(fqrn: str, names: dict[str, str], make: bool, made: list[str]) -> None:
    """Make what is missing: a private key before its public half, so that a cut never leaves one without the other."""
    for private, public in (("masterkey", "pub"), ("key", "crt")):
        if os.path.lexists(names[public]):
            continue
        if not os.path.lexists(names[private]):
            if not make:
                raise UsageError(
                    f"{fqrn}: no {names[private]}",
                    hint="--keys names the folder with FQRN.masterkey, FQRN.pub, FQRN.key and FQRN.crt;"
                    " keys are made for a new repository only",
                )
            _write(names[private], _private_pem(), 0o600)
            made.append(names[private])
        _write(names[public], _public_pem(_read(names[private]), names[private], fqrn, public), 0o644)
        made.append(names[public])


def _private_pem() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    return rsa.generate_private_key(public_exponent=65537, key_size=BITS).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _public_pem(private: bytes, name: str, fqrn: str, kind: str) -> bytes:
    """The public key (``pub``) or a self-signed certificate (``crt``) of a private key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    key = _parse(private, name)
    if kind == "pub":
        return key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    # At most 64 characters are allowed there.
    title = f"{fqrn} CernVM-FS Release Managers"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title if len(title) <= 64 else fqrn)])
    start = datetime.datetime.now(datetime.UTC)
    certificate = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=start + datetime.timedelta(days=_CERTIFICATE_DAYS),
    ).sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(name: str, data: bytes, mode: int) -> None:
    temporary = f"{name}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        # Not over a file of somebody who makes keys at the same time.
        os.link(temporary, name)
    finally:
        os.unlink(temporary)


def _read(name: str) -> bytes:
    try:
        with open(name, "rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as exc:
        raise UsageError(f"{name}: cannot be read: {exc.strerror}") from None
    if len(data) > _LIMIT:
        raise UsageError(f"{name}: larger than {_LIMIT} bytes; this is no key")
    return data


def _parse(pem: bytes, name: str) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise UsageError(f"{name}: not a readable private key without a password: {str(exc)[:200]}") from None
    if not isinstance(key, RSAPrivateKey):
        raise UsageError(f"{name}: expected an RSA key, found {type(key).__name__}")
    return key


def _load(name: str) -> PrivateNumbers:
    numbers = _parse(_read(name), name).private_numbers()
    return PrivateNumbers(
        numbers.public_numbers.n,
        numbers.public_numbers.e,
        numbers.p,
        numbers.q,
        numbers.dmp1,
        numbers.dmq1,
        numbers.iqmp,
    )


def _stamp(seconds: int) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y%m%d%H%M%S")
