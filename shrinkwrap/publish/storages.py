"""Repositories' storages in local folders, found by their manifests."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from shrinkwrap.cvmfs import limits, manifest
from shrinkwrap.cvmfs.trust import check_fqrn
from shrinkwrap.errors import TrustError, UsageError

__all__ = ["repositories"]


def repositories(folders: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """The storages in some folders: absolute path by name of the repository, in order.

    Args:
        folders: each is a repository's storage, or a folder of such.

    A repository is called what its manifest says, else what its folder is called.

    Raises:
        UsageError: no such folder, no repository in it, two of one name, or a name that none can have.
    """
    found: dict[str, str] = {}
    for given in folders:
        folder = os.path.abspath(os.fspath(given))
        try:
            storages = [folder] if _is_storage(folder) else _storages_in(folder)
        except (OSError, ValueError) as exc:
            why = (exc.strerror if isinstance(exc, OSError) else None) or exc
            raise UsageError(f"{folder}: {why}", hint="name the folder that holds .cvmfspublished and data/") from None
        if not storages:
            raise UsageError(
                f"{folder}: no repository; neither it nor a folder in it holds .cvmfspublished",
                hint="make one with shrinkwrap publish or shrinkwrap demo",
            )
        for storage in storages:
            fqrn = _name(storage)
            if found.setdefault(fqrn, storage) != storage:
                raise UsageError(f"two repositories are called {fqrn}: {found[fqrn]} and {storage}")
    return found


def _is_storage(folder: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(os.path.join(folder, manifest.NAME)).st_mode)
    except FileNotFoundError:
        os.stat(folder)
        return False


def _storages_in(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        below = sorted(entry.path for entry in entries if entry.is_dir())
    return [path for path in below if _is_storage(path)]


def _name(storage: str) -> str:
    try:
        with open(os.path.join(storage, manifest.NAME), "rb") as file:
            claimed = manifest.parse_manifest(file.read(limits.MANIFEST)).fqrn
    except (OSError, TrustError):
        claimed = ""
    return check_fqrn(claimed or os.path.basename(storage))
