"""Images of other kinds than squashfs, from the same entries and blocks: tar, OCI layouts, SIF.

What comes in as blocks of a squashfs image (so that an interrupted build is taken up, whatever its kind) is read back
from the segments. A SIF holds a squashfs image as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap import __version__
from shrinkwrap.errors import UsageError
from shrinkwrap.image import compress, oci, sif, tar
from shrinkwrap.image.entries import Contents, ImageEntry
from shrinkwrap.image.layers import MOST_LAYERS, plan_layers, single_layer, weigh
from shrinkwrap.image.sbom import held, sbom
from shrinkwrap.image.stock import Stock
from shrinkwrap.image.via import version
from shrinkwrap.record.statement import Statement

SQUASHFS: Final = "squashfs"
SIF: Final = "sif"
TAR: Final = "tar"
OCI: Final = "oci"
OCI_ARCHIVE: Final = "oci-archive"

LAYERED: Final = (OCI, OCI_ARCHIVE)
#: Of archives and layers.
COMPRESSIONS: Final = (compress.NONE, compress.GZIP, compress.ZSTD)
#: Kinds by the ends of names, with the compression of the archive or of the layers.
ENDS: Final = {
    ".squashfs": (SQUASHFS, ""),
    ".sqsh": (SQUASHFS, ""),
    ".sqfs": (SQUASHFS, ""),
    ".sfs": (SQUASHFS, ""),
    ".sif": (SIF, ""),
    ".tar": (TAR, compress.NONE),
    ".tar.gz": (TAR, compress.GZIP),
    ".tgz": (TAR, compress.GZIP),
    ".tar.zst": (TAR, compress.ZSTD),
    ".tzst": (TAR, compress.ZSTD),
    ".oci": (OCI, compress.ZSTD),
    ".oci.tar": (OCI_ARCHIVE, compress.ZSTD),
}
#: Kinds by name, as ``--format`` takes them.
NAMES: Final = {
    SQUASHFS: (SQUASHFS, ""),
    SIF: (SIF, ""),
    TAR: (TAR, compress.NONE),
    "tar.gz": (TAR, compress.GZIP),
    "tar.zst": (TAR, compress.ZSTD),
    OCI: (OCI, compress.ZSTD),
    OCI_ARCHIVE: (OCI_ARCHIVE, compress.ZSTD),
}


@dataclass(frozen=True, slots=True)
class Form:
    """What an image is to be.

    Attributes:
        kind: :data:`SQUASHFS`, :data:`SIF`, :data:`TAR`, :data:`OCI` (a folder) or :data:`OCI_ARCHIVE`.
        compression: of an archive or of layers, see :mod:`shrinkwrap.image.compress`; ``level``: None for its default.
        architecture: of a SIF (``unknown`` claims nothing) or an OCI image; empty: the default of the kind.
        single_layer: put everything into one layer.
        artifact: an OCI artifact without a configuration, for volumes.
        tag: name of the image in its OCI layout.
        via: options of the program that makes a squashfs image in our place (:mod:`shrinkwrap.image.via`); None: none.

    Raises:
        UsageError: no such kind or compression; an architecture that the kind does not know.
    """

    kind: str = SQUASHFS
    compression: str = ""
    level: int | None = None
    architecture: str = ""
    single_layer: bool = False
    artifact: bool = False
    tag: str = "latest"
    via: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        known = COMPRESSIONS if self.kind in (TAR, OCI, OCI_ARCHIVE) else ("",)
        if self.via is not None and self.kind != SQUASHFS:
            raise UsageError(f"--via is for squashfs images, not for {self.kind}", hint="-o FILE.squashfs")
        if self.kind not in NAMES or self.compression not in known:
            raise UsageError(
                f"{self.kind} {self.compression}: no such kind of image", hint=f"one of {', '.join(NAMES)}"
            )
        if self.kind == SIF and self.architecture and self.architecture not in sif.ARCHITECTURES:
            raise UsageError(
                f"--arch {self.architecture}: not one that SIF knows", hint=f"one of {', '.join(sif.ARCHITECTURES)}"
            )
        if self.layered and not self.tag.isascii():
            raise UsageError(f"--name {self.tag}: not ASCII", hint="letters, digits, dots, dashes and underscores")

    @property
    def layered(self) -> bool:
        return self.kind in LAYERED

    @property
    def squashed(self) -> bool:
        """It holds a squashfs image that we make."""
        return self.kind in (SQUASHFS, SIF) and self.via is None

    def to_json(self) -> dict[str, Any]:
        """What has to be equal for two images to be equal to the byte, besides what they hold."""
        if self.via is not None:
            return {"library": version(), "via": list(self.via)}
        found: dict[str, Any] = {"compression": self.compression, "library": compress.compressor(self.compression)}
        if self.level is not None:
            found["level"] = self.level
        if self.layered:
            found |= {"artifact": self.artifact, "single_layer": self.single_layer, "architecture": self._architecture}
        return found

    @property
    def _architecture(self) -> str:
        return self.architecture or (sif.UNKNOWN if self.kind == SIF else "amd64")

    def options(self, threads: int) -> oci.OciOptions:
        """For :func:`shrinkwrap.image.oci.write_oci`."""
        return oci.OciOptions(
            form=oci.FOLDER if self.kind == OCI else oci.ARCHIVE,
            compression=self.compression,
            level=self.level,
            threads=threads,
            tag=self.tag,
            architecture=self._architecture,
            artifact=self.artifact,
        )


def form_of(output: str, wish: str = "") -> tuple[str, str]:
    """Kind and compression by the name that was asked for, else by the end of the file's.

    Raises:
        UsageError: neither tells.
    """
    found = NAMES.get(wish) if wish else None
    if found is None and not wish:
        ends = sorted((end for end in ENDS if output.lower().endswith(end)), key=len)
        found = ENDS[ends[-1]] if ends else None
    if found is None:
        raise UsageError(
            f"--format {wish}: unknown" if wish else f"{output}: its end does not say what it is to be",
            hint=f"--format {', '.join(NAMES)}; or a name that ends in {', '.join(ENDS)}",
        )
    return found


class WithOwn:
    """Contents of a build, and of files that no repository has.

    Args:
        stock: of the build.
        own: contents by path.
    """

    def __init__(self, stock: Stock, own: Mapping[bytes, bytes]) -> None:
        self._stock = stock
        self._own = own

    def pieces(self, entry: ImageEntry) -> Iterator[bytes]:
        """See :class:`~shrinkwrap.image.entries.Contents`."""
        own = self._own.get(entry.path)
        if own is None:
            yield from self._stock.pieces(entry)
        elif own:
            yield own


def write_archive(
    output: bytes, form: Form, entries: Iterable[ImageEntry], contents: Contents, threads: int
) -> tar.Written:
    """An archive; ``-`` is standard output. Raises DestinationError, UsageError, CorruptObject."""
    compression, level = form.compression, form.level
    if output == b"-":
        write = tar.writer(1, b"standard output")
        return tar.write_tar(entries, contents, write, compression=compression, level=level, threads=threads)
    return tar.write_tar_file(output, entries, contents, compression=compression, level=level, threads=threads)


def write_layout(
    output: bytes,
    form: Form,
    entries: Callable[[], Iterable[ImageEntry]],
    contents: Contents,
    mounts: frozenset[bytes],
    statements: Sequence[Statement],
    threads: int,
) -> oci.OciImage:
    """An OCI layout, its layers cut where catalogs are (FORMAT.md §6.8), so that releases share those that they share.

    Args:
        entries: gives the stream, twice.
        mounts: paths of the mount points of catalogs in the image.
    """
    plan = single_layer() if form.single_layer else plan_layers(weigh(entries(), mounts), limit=MOST_LAYERS)
    return oci.write_oci(
        output,
        entries(),
        contents,
        plan=plan,
        options=form.options(threads),
        labels=labels_of(statements),
        timestamp=_newest(statements),
    )


def write_sif_around(output: bytes, squashfs: int, form: Form, statements: Sequence[Statement], name: str) -> sif.Sif:
    """A SIF with a squashfs image as its data partition, the statements, labels and a bill of materials.

    Args:
        squashfs: descriptor of the image.
        name: of the image, for the bill of materials.
    """
    return sif.write_sif(
        output,
        squashfs,
        records=[(f"{one.fqrn}.statement.json", one.to_bytes()) for one in statements],
        labels=labels_of(statements),
        sbom=sbom(name, [held(one) for one in statements], tool=__version__),
        architecture=form.architecture or sif.UNKNOWN,
        timestamp=_newest(statements),
    )


def labels_of(statements: Sequence[Statement]) -> dict[str, str]:
    """What registries and runtimes show of an image."""
    found = {}
    for one in statements:
        prefix = f"org.cernvm.cvmfs.{one.fqrn}"
        found[f"{prefix}.root-hash"] = str(one.root.digest)
        found[f"{prefix}.revision"] = str(one.revision)
        if one.tag:
            found[f"{prefix}.tag"] = one.tag
    return found


def _newest(statements: Sequence[Statement]) -> int:
    return max((one.timestamp for one in statements), default=0)
