"""The head of a repository as its publisher sees it: the manifest that is there, and the one that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs import manifest as manifests
from shrinkwrap.cvmfs import whitelist as whitelists
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.manifest import Manifest, parse_manifest
from shrinkwrap.cvmfs.signature import check_hash_line, parse_certificate, verify_sha1
from shrinkwrap.cvmfs.whitelist import parse_whitelist
from shrinkwrap.errors import TrustError, UsageError
from shrinkwrap.publish.keyring import Keyring
from shrinkwrap.publish.storage import Storage

#: The order of the reference publisher (FORMAT.md §4.1).
_ORDER: Final = "CBRDSGANXHTMY"


def read_head(storage: Storage, fqrn: str) -> Manifest | None:
    """The manifest that is there, with its signature checked; None for a new repository.

    Raises:
        TrustError: it is not what its certificate's key has signed. UsageError: it is that of another repository.
        MissingObject, CorruptObject: its certificate.
    """
    data = storage.control(manifests.NAME, limits.MANIFEST)
    if data is None:
        return None
    manifest = parse_manifest(data)
    what = f"{manifests.NAME} in {show(storage.path)}"
    if manifest.fqrn != fqrn:
        raise UsageError(f"{what}: it is that of {manifest.fqrn[:80]!r}, not of {fqrn}", hint="see -r and --storage")
    if manifest.root_path_md5 != manifests.ROOT_PATH_MD5 or manifest.certificate is None:
        raise TrustError(f"{what}: not the manifest of a whole repository, or without a certificate")
    check_hash_line(manifest.document, what)
    certificate = parse_certificate(storage.read(manifest.certificate, "X", limits.CERTIFICATE))
    if not verify_sha1(certificate.key, manifest.document.signature, manifest.document.signed):
        raise TrustError(f"{what}: its signature does not fit its certificate {manifest.certificate}")
    return manifest


@dataclass(frozen=True, slots=True)
class NewHead:
    """What the next manifest says (FORMAT.md §4.1)."""

    root: Digest
    root_size: int
    ttl: int
    revision: int
    fqrn: str
    certificate: Digest
    history: Digest
    timestamp: int
    metainfo: Digest
    reflog: Digest

    def text(self) -> bytes:
        """The lines that are signed. Old revisions may lose objects (G), nothing has alternative paths (A)."""
        fields: Mapping[str, str] = {
            "C": str(self.root),
            "B": str(self.root_size),
            "R": manifests.ROOT_PATH_MD5,
            "D": str(self.ttl),
            "S": str(self.revision),
            "G": "yes",
            "A": "no",
            "N": self.fqrn,
            "X": str(self.certificate),
            "H": str(self.history),
            "T": str(self.timestamp),
            "M": str(self.metainfo),
            "Y": str(self.reflog),
        }
        return "".join(f"{letter}{fields[letter]}\n" for letter in _ORDER).encode()


def renew_whitelist(
    storage: Storage, keyring: Keyring, fqrn: str, now: int, days: float, algorithm: int
) -> tuple[bytes | None, str]:
    """The whitelist to put there, None to keep the one that is there; and what people should know.

    Raises:
        UsageError: none can be signed, and the one that is there would not do.
    """
    if keyring.master is not None:
        return keyring.sign_whitelist(fqrn, now, days, algorithm), ""
    data = storage.control(whitelists.NAME, limits.WHITELIST)
    wrong = "there is no whitelist"
    if data is not None:
        found = parse_whitelist(data)
        listed = any(one == keyring.certificate.fingerprint(one.algorithm) for one in found.fingerprints)
        if found.fqrn == fqrn and listed and now < found.expires:
            return None, "the master key is not here: the whitelist stays as it is, with its old expiry"
        wrong = "the whitelist that is there has expired" if listed else "the whitelist does not list the certificate"
    raise UsageError(
        f"{fqrn}: {wrong}, and there is no master key in {keyring.folder} to sign one",
        hint=f"bring {fqrn}.masterkey there",
    )
