"""Exports of the test repositories by the command line, and what they come to."""

from __future__ import annotations

import functools
import hashlib
import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from support import golden
from support.cli import Result, Word, run_cli
from support.golden import Pinned
from support.listing import AS_ROOT, Projection, Record, compare, list_tree
from support.servers import RepoServer, Variant


def external(at: Pinned, server: RepoServer | Variant) -> list[str]:
    return ["--external-server", server.external(at.fqrn)] if at.fqrn == "external.cern.ch" else []


def from_server(at: Pinned, server: RepoServer) -> list[str]:
    """Options that pin a revision on a web server: by its tag, else by the manifest that is served."""
    if at.tag is not None:
        return ["--server", server.repo(at.fqrn), "--tag", at.tag, *external(at, server)]
    return ["--server", server.with_files({f"{at.fqrn}/.cvmfspublished": at.manifest}).repo(at.fqrn)]


def from_storage(at: Pinned, repos: Path, folder: Path) -> list[str]:
    """The same for a repository's storage on local disk."""
    stored = repos / at.fqrn
    if at.tag is not None:
        return ["--storage", str(stored), "--tag", at.tag]
    pinned = folder / "storage"
    pinned.mkdir()
    (pinned / ".cvmfspublished").write_bytes(at.manifest)
    for name in (".cvmfswhitelist", "data"):
        (pinned / name).symlink_to(stored / name)
    return ["--storage", str(pinned)]


def words(at: Pinned, base: Path, *options: Word, spec: str | Path = "full") -> list[Word]:
    """The command line of an export, with the variables that the golden listings were made with.

    ``spec`` is the name of a specification of the test repositories, or a file.
    """
    variables = [word for name, value in golden.ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
    file = golden.spec_file(spec) if isinstance(spec, str) else spec
    return ["export", "-r", at.fqrn, "--key", at.key, "-t", file, "-z", base, *variables, *options]


def export(
    at: Pinned, base: Path, *options: Word, spec: str | Path = "full", user: tuple[int, int] | None = None
) -> Result:
    """Export a repository to a base folder; it must end well."""
    return run_cli(*words(at, base, *options, spec=spec), user=user).ok()


def differences(
    base: Path, at: Pinned, projection: Projection = AS_ROOT, expected: Iterable[Record] | None = None
) -> list[str]:
    """What differs between the exported tree and the mounted repository (or some of its records)."""
    wanted = golden.mounted(at) if expected is None else expected
    return compare(wanted, list_tree(base / at.fqrn), projection.on(base))


def selected(at: Pinned, *folders: bytes) -> list[Record]:
    """The mount's records that a specification with ``/folder/*`` for each of these brings."""

    def brought(path: bytes) -> bool:
        return any(
            path == folder or path.startswith(folder + b"/") or folder.startswith(path.rstrip(b"/") + b"/")
            for folder in folders
        )

    return [record for record in golden.mounted(at) if brought(record.path)]


# ----------------------------------------------------------------------------------------------------- the store


def stored_files(base: Path) -> dict[str, Path]:
    """All files under a name in the store, by that name (``ab/cdef…``)."""
    return {
        f"{shard.name}/{file.name}": file
        for shard in (base / ".data").iterdir()
        if len(shard.name) == 2
        for file in shard.iterdir()
    }


def groups(base: Path) -> set[str]:
    """The contents in the store, whatever their metadata: what need not be fetched again."""
    return {name.partition(".")[0] for name in stored_files(base)}


def _sum(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def broken_names(base: Path, *pinned: Pinned) -> list[str]:
    """Names in the store whose content is not what they say: an empty list is promise 1.

    Objects are held against the repository's own, inflated; lists of chunks and external files against the listings.
    """
    fqrn = pinned[0].fqrn
    known = {(one.sha256, one.size) for at in pinned for one in golden.mounted(at) if one.type == "file"}
    wrong = []
    for name, file in stored_files(base).items():
        hexes, kind, size = _parts(name)
        if (found := file.lstat().st_size) != size:
            wrong.append(f"{name}: {found} bytes")
            continue
        actual = _sum(file)
        if kind in ("z", "n"):
            right = _published_sum(fqrn, hexes, kind) == actual
        else:
            right = (actual, size) in known
        if not right:
            wrong.append(f"{name}: its content is another one")
    return wrong


def published_path(name: str) -> str:
    """Where a repository has the object of a name in the store (no chunks): ``data/ab/cdef…``."""
    hexes = _parts(name)[0]
    return f"data/{hexes[:2]}/{hexes[2:]}"


@functools.cache
def _published_sum(fqrn: str, hexes: str, kind: str) -> str:
    """SHA-256 of what an object of a repository holds, inflated or (kind ``n``) as it is."""
    raw = (golden.repos() / fqrn / "data" / hexes[:2] / hexes[2:]).read_bytes()
    return hashlib.sha256(zlib.decompress(raw) if kind == "z" else raw).hexdigest()


def _parts(name: str) -> tuple[str, str, int]:
    """Of a name in the store: path of the object in a repository (hex digits and tag), kind, size."""
    group = name.partition(".")[0].replace("/", "")
    digits, rest = group[:40], group[40:]
    tag = {"r": "-rmd160", "s": "-shake128"}.get(rest[:1], "")
    rest = rest[1:] if tag else rest
    kind = rest.rstrip("0123456789")
    return digits + tag, kind, int(rest[len(kind) :])


def unlinked_files(base: Path, fqrn: str) -> list[bytes]:
    """Files of the tree that are not one inode with a name in the store (hard link mode)."""
    inodes = {(info.st_dev, info.st_ino) for info in (file.lstat() for file in stored_files(base).values())}
    return [one.path for one in list_tree(base / fqrn, content=False) if one.type == "file" and one.inode not in inodes]


def leftovers(base: Path) -> list[str]:
    """What should be gone when no run is at work: temporary files, directories moved aside, an open intent."""
    found = [str(path) for name in ("tmp", "trash") for path in (base / ".data").glob(f"{name}/*")]
    found += [str(path) for path in (base / ".provenance").glob("*/intent.json")]
    return found + [os.fspath(path) for path in (base / ".provenance").rglob("*.new")]
