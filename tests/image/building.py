"""Images of the test repositories, and what they come to in the form of listings."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from image.squashing import opened
from support import golden
from support.golden import Pinned
from support.listing import Projection, Record
from support.servers import RepoServer

from shrinkwrap.cvmfs.keys import read_keys
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.image.entries import DIR, FILE
from shrinkwrap.image.request import ImageRequest, Part
from shrinkwrap.image.squashfs.layout import NONE
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.spec.grammar import read_files

#: What squashfs can hold: whole seconds in 32 bits. All else is as the mounted repository shows it.
SQUASHFS = Projection(whole_seconds=True, times=(0, NONE))
_VARIABLES = {name.encode(): value.encode() for name, value in golden.ENVIRONMENT.items()}
_TYPES = {DIR: ("dir", stat.S_IFDIR), FILE: ("file", stat.S_IFREG), "l": ("symlink", stat.S_IFLNK)}


def from_storage(at: Pinned, repos: Path, folder: Path) -> SourceConfig:
    """A repository's storage on local disk; of a revision that no tag names, a copy with its manifest."""
    stored = repos / at.fqrn
    external = (f"file://{repos}/external-data/{at.fqrn}",) if at.fqrn == "external.cern.ch" else ()
    if at.tag is None:
        pinned = folder / f"storage-{at}"
        pinned.mkdir()
        (pinned / ".cvmfspublished").write_bytes(at.manifest)
        for name in (".cvmfswhitelist", "data"):
            (pinned / name).symlink_to(stored / name)
        stored = pinned
    return SourceConfig(at.fqrn, storage=str(stored), external_servers=external)


def from_server(at: Pinned, server: RepoServer) -> SourceConfig:
    """The same by HTTP, for revisions that a tag names."""
    external = (server.external(at.fqrn),) if at.fqrn == "external.cern.ch" else ()
    return SourceConfig(at.fqrn, servers=(server.repo(at.fqrn),), external_servers=external)


def part(at: Pinned, source: SourceConfig, spec: str | Path = "full", rules: str = "2.14") -> Part:
    file = golden.spec_file(spec) if isinstance(spec, str) else spec
    return Part(
        source,
        tuple(read_keys([str(at.key)])),
        read_files([str(file)], rules=rules),
        Pin(tag=at.tag or ""),
        _VARIABLES,
    )


def request(output: Path, *parts: Part, workers: int = 1, keep_suid: bool = True, **more: object) -> ImageRequest:
    return ImageRequest(parts, str(output), workers=workers, keep_suid=keep_suid, **more)  # type: ignore[arg-type]


def listed(image: Path, fqrn: str) -> list[Record]:
    """What our own reader finds below a repository's folder, in the order of lists of paths."""
    top = b"/" + fqrn.encode()
    records = []
    with opened(image) as one:
        for entry, inode in one.walk(top):
            kind, _ = _TYPES[entry.kind]
            record = Record(
                entry.path[len(top) :] or b"/",
                kind,
                f"{entry.mode:04o}",
                entry.uid,
                entry.gid,
                entry.mtime_ns // 10**9,
                0,
                entry.size,
                inode.links,
                target=entry.target if kind == "symlink" else None,
                xattrs={name: value for name, value in entry.xattrs if name.startswith(b"user.")},
                inode=(1, inode.number),
            )
            if kind == "file":
                digest = hashlib.sha256()
                for piece in one.pieces(inode):
                    digest.update(piece)
                record.sha256 = digest.hexdigest()
            records.append(record)
    return sorted(records, key=lambda record: record.path)


def leftovers(folder: Path) -> list[str]:
    """What a build that ended well leaves beside its image."""
    return sorted(name for name in os.listdir(folder) if "partial" in name or name.startswith(".shrinkwrap"))
