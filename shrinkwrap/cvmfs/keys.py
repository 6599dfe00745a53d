"""Master keys: the RSA public keys that whitelists are signed with (FORMAT.md §5.3)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from shrinkwrap.cvmfs.limits import KIB
from shrinkwrap.cvmfs.signature import RsaKey, rsa_key
from shrinkwrap.errors import TrustError, UsageError

#: A key file is about 450 bytes; a handful of keys may share one.
FILE_LIMIT: Final = 64 * KIB
SUFFIX: Final = ".pub"

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,60})-----.*?-----END \1-----[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_KIND: Final = b"PUBLIC KEY"
_HINT: Final = "a master key is a PEM file that begins with '-----BEGIN PUBLIC KEY-----'"


@dataclass(frozen=True, slots=True)
class MasterKey:
    """A trusted key; ``name`` is the file it came from, for messages."""

    name: str
    rsa: RsaKey


def parse_public_keys(pem: bytes, name: str) -> list[MasterKey]:
    """The keys of one PEM text: one or more blocks ``PUBLIC KEY`` (SubjectPublicKeyInfo), RSA of 1024 to
    16384 bits.

    Raises:
        UsageError: no key, another kind of PEM block, or a key that cannot be used.
    """
    keys = [_parse_key(block, name) for block in _BLOCK.finditer(pem)]
    if not keys:
        raise UsageError(f"{name}: no public key in it", hint=_HINT)
    if pem.count(b"-----BEGIN ") != len(keys):
        raise UsageError(f"{name}: a PEM block is damaged", hint=_HINT)
    return keys


def _parse_key(block: re.Match[bytes], name: str) -> MasterKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if block[1] != _KIND:
        raise UsageError(f"{name}: a {block[1].decode('ascii')} is not a public key", hint=_HINT)
    try:
        return MasterKey(name, rsa_key(load_pem_public_key(block[0]), name))
    except TrustError as exc:
        raise UsageError(exc.message, hint=_HINT) from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise UsageError(f"{name}: not a readable public key: {str(exc)[:200]}", hint=_HINT) from None


def read_keys(paths: Iterable[str | os.PathLike[str]]) -> list[MasterKey]:
    """Keys from files, and from the ``*.pub`` of folders in order of their names; each key once.

    One bad key fails all, as in the reference: a key that cannot be read may be the one that was meant.

    Raises:
        UsageError: a path that cannot be read, a bad key (the message names the file), or no key at all.
    """
    asked = [os.fspath(path) for path in paths]
    keys: dict[RsaKey, MasterKey] = {}
    for path in asked:
        for file in _key_files(path):
            for key in parse_public_keys(_read(file), file):
                keys.setdefault(key.rsa, key)
    if not keys:
        where = ", ".join(asked) or "no file or folder was given"
        raise UsageError(
            f"no master key found ({where}): nothing could be verified",
            hint=f"name a public key file, or a folder with files *{SUFFIX}, such as /etc/cvmfs/keys/cern.ch",
        )
    return list(keys.values())


def _key_files(path: str) -> Iterator[str]:
    try:
        if not os.path.isdir(path):
            yield path
            return
        names = sorted(name for name in os.listdir(path) if name.endswith(SUFFIX))
    except (OSError, ValueError) as exc:
        raise UsageError(f"{path}: the folder of keys cannot be listed: {exc}") from None
    for name in names:
        yield os.path.join(path, name)


def _read(file: str) -> bytes:
    try:
        # Without O_NONBLOCK a named pipe would hang the run.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(f"{file}: the key is not a regular file")
            data = stream.read(FILE_LIMIT + 1)
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"{file}: the key cannot be read: {reason}") from None
    if len(data) > FILE_LIMIT:
        raise UsageError(f"{file}: larger than {FILE_LIMIT} bytes; this is not a key", hint=_HINT)
    return data
