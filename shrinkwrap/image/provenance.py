"""What an image says of itself: ``/.provenance``. Only what the same request gives again (DESIGN promise 8).

Layout::

    /.provenance/image.json             how the image was made
    /.provenance/objects                contents in the image (shrinkwrap.image.objects)
    /.provenance/<fqrn>/statement.json  what a repository's part is and what it was made from (docs/provenance.md)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from shrinkwrap import __version__
from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import CorruptObject
from shrinkwrap.image.squashfs.recipe import Recipe
from shrinkwrap.record.statement import Statement

FOLDER: Final = b"/.provenance"
IMAGE: Final = FOLDER + b"/image.json"
IMAGE_BYTES: Final = limits.MIB
_VERSION: Final = 1
_SQUASHFS: Final = "squashfs"
#: What JSON of another shape raises when it is taken apart.
_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)


def statement_path(fqrn: str) -> bytes:
    return FOLDER + b"/" + fqrn.encode() + b"/statement.json"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository in an image."""

    fqrn: str
    root_hash: str
    revision: int


@dataclass(frozen=True, slots=True)
class Made:
    """How an image was made.

    Attributes:
        recipe: of the blocks of a squashfs, or of an archive or layers; ``library``: what compressed what is not the
            repository's own.
        source: ``repository``, or ``export``.
        trust: sizes of objects were not checked by inflating them.
        repositories: in it, by name.
        tool: version of this tool.
        format: kind of image; of a SIF that of the image in it.
    """

    recipe: Mapping[str, Any]
    source: str
    trust: bool
    repositories: tuple[Repository, ...]
    tool: str
    format: str = _SQUASHFS

    @classmethod
    def of(
        cls,
        recipe: Mapping[str, Any],
        statements: Sequence[Statement],
        *,
        source: str,
        trust: bool,
        format: str = _SQUASHFS,  # noqa: A002 - the name of the field
    ) -> Self:
        found = tuple(Repository(one.fqrn, str(one.root.digest), one.revision) for one in statements)
        return cls(recipe, source, trust, found, __version__, format)

    def to_bytes(self) -> bytes:
        value = {
            "version": _VERSION,
            "format": self.format,
            "recipe": dict(self.recipe),
            "source": self.source,
            "trust": self.trust,
            "repositories": [
                {"fqrn": one.fqrn, "rootHash": one.root_hash, "revision": one.revision} for one in self.repositories
            ],
            "tool": self.tool,
        }
        return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises CorruptObject for what is nothing of ours."""
        try:
            value = json.loads(data)
            if value["version"] != _VERSION:
                raise ValueError(f"version {value['version']}")
            recipe = value["recipe"]
            if "via" in recipe:
                recipe = {**recipe, "via": [str(option) for option in recipe["via"]]}
            else:
                Recipe(int(recipe["block_size"]), str(recipe["compressor"]), int(recipe["level"]))
            return cls(
                {**recipe, "library": str(recipe["library"])},
                str(value["source"]),
                bool(value["trust"]),
                tuple(
                    Repository(str(one["fqrn"]), str(one["rootHash"]), int(one["revision"]))
                    for one in value["repositories"]
                ),
                str(value["tool"]),
            )
        except _UNREADABLE as exc:
            raise CorruptObject(f"image.json cannot be read: {type(exc).__name__}: {str(exc)[:200]}") from None
