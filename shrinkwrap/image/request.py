"""What an image is asked for, and what a build answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.image.formats import Form
from shrinkwrap.image.squashfs.recipe import Recipe
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.spec.grammar import Spec
from shrinkwrap.tree.request import ExportResult


@dataclass(frozen=True, slots=True)
class Part:
    """A repository in an image; attributes as those of :class:`~shrinkwrap.tree.request.ExportRequest`."""

    source: SourceConfig
    keys: tuple[MasterKey, ...]
    spec: Spec
    pin: Pin = field(default_factory=Pin)
    variables: Mapping[bytes, bytes] = field(default_factory=dict)
    blacklist: Blacklist = field(default_factory=Blacklist)
    uid_map: OwnerMap | None = None
    gid_map: OwnerMap | None = None
    world_readable: bool = False
    claim: bool = False

    @property
    def fqrn(self) -> str:
        return self.source.fqrn


@dataclass(frozen=True, slots=True)
class ExportedPart:
    """A repository in an image, from an export of it; nothing is fetched.

    Attributes:
        dest: the destination of the export.
        fqrn: repository.
        claim: everything belongs to the user who runs this.
    """

    dest: str
    fqrn: str
    claim: bool = False


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image.

    Attributes:
        parts: the repositories in it, each once.
        output: the file, or folder of an OCI layout. What is there is replaced when the new one is complete. ``-`` is
            standard output, for archives.
        form: what it is to be.
        recipe: how the blocks of a squashfs are made.
        keep_suid: keep set-id bits and file capabilities.
        strict: refuse to begin if there is something to warn of.
        trust: take the catalogs' word for the sizes of objects (their digests are checked all the same).
        workers: processes that bring objects, 1 for this one alone; 0: one for each CPU.
        base: an older image, or the destination of an export; what it holds need not be fetched. None if empty.
    """

    parts: tuple[Part | ExportedPart, ...]
    output: str
    form: Form = field(default_factory=Form)
    recipe: Recipe = field(default_factory=Recipe)
    keep_suid: bool = False
    strict: bool = False
    trust: bool = False
    workers: int = 0
    base: str = ""


@dataclass(slots=True)
class ImageResult:
    """How a build ended.

    Attributes:
        parts: what came of each repository, by name.
        size, sha256: of the file; of an OCI layout bytes of all layers, and the digest of its manifest.
        counts: entries (``files``, ``dirs``, ``symlinks``, ``bytes`` of content), distinct ``objects``, those
            ``fetched``, those taken ``verbatim``, those ``adopted`` from an interrupted build, and ``reused`` ones.
        bytes: ``received``; ``content``: of the distinct objects; ``data``: of their blocks in the image.
    """

    output: str
    recipe: Recipe
    form: Form = field(default_factory=Form)
    parts: list[ExportResult] = field(default_factory=list)
    size: int = 0
    sha256: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """All that people should know, a line each."""
        lines = list(self.notices)
        many = len(self.parts) > 1
        for part in self.parts:
            lines += [f"{part.fqrn}: {line}" if many else line for line in part.warnings()]
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "command": "image",
            "reason": "built",
            "output": self.output,
            "format": self.form.kind,
            "size": self.size,
            "sha256": self.sha256,
            "recipe": self.recipe.to_json() if self.form.squashed else self.form.to_json(),
            "counts": dict(sorted(self.counts.items())),
            "bytes": dict(sorted(self.bytes.items())),
            "repositories": [
                {
                    "fqrn": part.fqrn,
                    "root_hash": part.root_hash,
                    "revision": part.revision,
                    "timestamp": part.timestamp,
                    "tag": part.tag,
                    "counts": dict(sorted(part.counts.items())),
                    "lines": part.lines,
                    "left_out": dict(sorted(part.report.counts.items())),
                }
                for part in self.parts
            ],
            "warnings": self.warnings(),
        }
