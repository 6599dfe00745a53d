"""The real repositories as parameters of tests, and their parts."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from support.golden import SKIPPED, find_repos

from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.keys import MasterKey, read_keys

_FOLDER = find_repos()


def _none() -> list[object]:
    return [pytest.param("absent", marks=pytest.mark.skip(reason=SKIPPED))]


def folder() -> Path:
    assert _FOLDER is not None
    return _FOLDER


def names() -> list[object]:
    """All repositories."""
    if _FOLDER is None:
        return _none()
    return [path.name for path in sorted(_FOLDER.glob("*.cern.ch")) if (path / ".cvmfspublished").exists()]


def manifests() -> list[object]:
    """The manifests of all revisions of all repositories, as ``fqrn/file``."""
    if _FOLDER is None:
        return _none()
    return [str(path.relative_to(_FOLDER)) for path in sorted(_FOLDER.glob("*.cern.ch/.cvmfspublished*"))]


def expired() -> list[object]:
    """Repositories that have kept their original, expired whitelist."""
    if _FOLDER is None:
        return _none()
    return [path.parent.name for path in sorted(_FOLDER.glob("*.cern.ch/.cvmfswhitelist.orig"))]


def read(path: str) -> bytes:
    return (folder() / path).read_bytes()


def stored(fqrn: str, digest: Digest, suffix: str) -> bytes:
    return read(f"{fqrn}/{digest.object_path(suffix)}")


def inflated(fqrn: str, digest: Digest, suffix: str) -> bytes:
    return zlib.decompress(stored(fqrn, digest, suffix))


def master_keys(fqrn: str) -> list[MasterKey]:
    return read_keys([folder() / "keys" / f"{fqrn}.pub"])
