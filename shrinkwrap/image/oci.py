"""OCI image layouts: tar layers by catalog subtree, a configuration, a manifest, an index.

Everything in a layout is a function of the entries, the plan of the layers and the options. Source: OCI image format
specification 1.1 (layout, index, manifest, configuration, filesystem layer).
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import UsageError
from shrinkwrap.image.blobs import Blob, Blobs, Writing, document, layout_archive, layout_folder, put
from shrinkwrap.image.compress import GZIP, NONE, ZSTD, Bytes, Stream, compressing
from shrinkwrap.image.entries import Contents, ImageEntry, folder, parent_of
from shrinkwrap.image.layers import Layer, Plan, Sorter, ancestors, single_layer
from shrinkwrap.image.tar import TarWriter

FOLDER: Final = "folder"
ARCHIVE: Final = "archive"

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_INDEX: Final = "application/vnd.oci.image.index.v1+json"
_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
_EMPTY: Final = "application/vnd.oci.empty.v1+json"
_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
_SUFFIXES: Final = {NONE: "", GZIP: "+gzip", ZSTD: "+zstd"}
#: A tree of files as an artifact: nothing that can be run.
ARTIFACT_TYPE: Final = "application/vnd.x-shrinkwrap.tree.v1"
_REFERENCE: Final = "org.opencontainers.image.ref.name"
_CREATED: Final = "org.opencontainers.image.created"
_TITLE: Final = "org.opencontainers.image.title"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: What marks a removed file in a layer. No layer can hold a file that has such a name.
_WHITEOUT: Final = b".wh."
_PIECE: Final = 1 << 20
#: Cases that are told one by one.
_CASES: Final = 1000


@dataclass(frozen=True, slots=True)
class OciLayer:
    """A layer as it was written.

    Attributes:
        path: of the first catalog in it.
        entries: number of entries, plain directories above included.
        blob: as stored.
        diff_id: SHA-256 of the uncompressed archive, in hex.
    """

    path: bytes
    entries: int
    blob: Blob
    diff_id: str


@dataclass(frozen=True, slots=True)
class OciImage:
    """A layout as it was written.

    Attributes:
        manifest: names the image.
        layers: from the bottom up.
        lost: number of extended attributes that were left out because layers cannot hold them: those with an equals
            sign in their name or without a value.
        cases: path and name of the first thousand of them.
    """

    manifest: Blob
    layers: tuple[OciLayer, ...]
    lost: int = 0
    cases: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def digest(self) -> str:
        """Of the manifest, which names the image: ``sha256:...``."""
        return f"sha256:{self.manifest.sha256}"

    @property
    def size(self) -> int:
        """Bytes of all layers as stored."""
        return sum(layer.blob.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class OciOptions:
    """How an image is written.

    Attributes:
        form: :data:`FOLDER` or :data:`ARCHIVE`.
        compression, level, threads: of the layers, see :func:`~shrinkwrap.image.compress.compressing`.
        tag: name of the image in its layout.
        architecture: as Go names it. Every image must have one; software of several can lie in it all the same.
        artifact: write an artifact without configuration instead of an image that can be a container's.
    """

    form: str = FOLDER
    compression: str = ZSTD
    level: int | None = None
    threads: int = 1
    tag: str = "latest"
    architecture: str = "amd64"
    artifact: bool = False


def write_oci(
    path: bytes,
    entries: Iterable[ImageEntry],
    contents: Contents,
    *,
    plan: Plan | None = None,
    options: OciOptions | None = None,
    labels: Mapping[str, str] | None = None,
    timestamp: int = 0,
) -> OciImage:
    """Write an image layout of all entries.

    Memory does not grow with the number of entries. What lies in catalogs that are cut waits in temporary files beside
    the image.

    Args:
        plan: see :func:`~shrinkwrap.image.layers.plan_layers`; None: one layer.
        labels: annotations of the manifest, and labels of the image.
        timestamp: of everything that needs a time: the root catalog's, in seconds since the epoch.

    Raises:
        UsageError: no such form or compression; a path that no layer can hold.
        CorruptObject: the content of a file is shorter or longer than its size.
        DestinationError: the layout cannot be written.
    """
    plan = plan or single_layer()
    options = options or OciOptions()
    if options.form not in (FOLDER, ARCHIVE):
        raise UsageError(f"form {options.form!r} of an OCI image: expected {FOLDER!r} or {ARCHIVE!r}")
    if options.compression not in _SUFFIXES:
        raise UsageError(f"compression {options.compression!r}: not known", hint=f"one of {', '.join(_SUFFIXES)}")
    path = path.rstrip(b"/") or b"/"
    where = layout_folder(path) if options.form == FOLDER else layout_archive(path, timestamp)
    with where as blobs:
        fit = _Fit()
        layers = _write_layers(os.path.dirname(path) or b".", blobs, entries, contents, plan, options, fit)
        manifest = _describe(blobs, layers, options, dict(labels or {}), _time(timestamp))
        return OciImage(manifest, tuple(layers), fit.lost, tuple(fit.cases))


# ------------------------------------------------------------------------------------------------------------ layers


class _Hashed:
    """Hashes what passes through."""

    def __init__(self, take: Stream) -> None:
        self._take = take
        self.digest = hashlib.sha256()

    def write(self, data: Bytes) -> None:
        self.digest.update(data)
        self._take.write(data)

    def close(self) -> None:
        self._take.close()


class _Out:
    """One layer while it is written: archive, its digest, and what takes its bytes."""

    def __init__(self, layer: Layer, take: Stream) -> None:
        self.layer = layer
        # Nothing here refers back: a compressor takes much memory, which is to be free at once.
        self.take = _Hashed(take)
        # Container engines take names of attributes as they stand.
        self.tar = TarWriter(self.take.write, escaped=False)
        #: The directory above the last mount point: it and all above it are in the archive already.
        self.above = b""


class _Spool:
    """Bytes that wait in a temporary file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Bytes) -> None:
        self._file.write(data)

    def close(self) -> None:
        self._file.close()

    def pour(self, stream: Stream) -> None:
        """Hand all of it on."""
        self._file.seek(0)
        while data := self._file.read(_PIECE):
            stream.write(data)


def _write_layers(
    scratch: bytes,
    blobs: Blobs,
    entries: Iterable[ImageEntry],
    contents: Contents,
    plan: Plan,
    options: OciOptions,
    fit: _Fit,
) -> list[OciLayer]:
    with ExitStack() as spools:
        layers = _Layers(scratch, blobs, plan, options, spools)
        sorter = Sorter(plan)
        for entry in entries:
            number, entered = sorter.layer(entry)
            layers.add(number, fit.entry(entry), contents, entered=entered)
        return layers.finish()


class _Fit:
    """Makes entries fit for layers.

    Attributes:
        lost: number of extended attributes that no layer can hold.
        cases: path and name of the first of them.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.cases: list[tuple[bytes, bytes]] = []

    def entry(self, entry: ImageEntry) -> ImageEntry:
        if entry.name.startswith(_WHITEOUT):
            raise UsageError(
                f"{show(entry.path)}: a name that begins with .wh. means a removed file in an OCI layer",
                hint="leave it out with the specification, or make an image of another kind",
            )
        if not entry.xattrs:
            return entry
        # A record ends its name at the first equals sign, and one without a value removes an earlier one (pax).
        kept = tuple(pair for pair in entry.xattrs if _holds(pair))
        if len(kept) == len(entry.xattrs):
            return entry
        for pair in entry.xattrs:
            if not _holds(pair):
                self.lost += 1
                if len(self.cases) < _CASES:
                    self.cases.append((entry.path, pair[0]))
        return entry._replace(xattrs=kept)


def _holds(attribute: tuple[bytes, bytes]) -> bool:
    name, value = attribute
    return bool(value) and b"=" not in name


class _Layers:
    """All layers of an image. At most one is compressed at a time; those with gaps wait in spools till the end."""

    def __init__(self, scratch: bytes, blobs: Blobs, plan: Plan, options: OciOptions, spools: ExitStack) -> None:
        self._scratch = scratch
        self._blobs = blobs
        self._plan = plan
        self._options = options
        self._spools = spools
        self._waiting: dict[int, tuple[_Out, _Spool]] = {}
        self._done: dict[int, OciLayer] = {}
        self._number = -1
        self._current: tuple[_Out, Writing] | None = None

    def add(self, number: int, entry: ImageEntry, contents: Contents, *, entered: bool) -> None:
        out = self._out(number)
        if entered:
            for path in ancestors(entry.path):
                # The stream is in order: what lies above the last mount point and this one too has been written.
                if not out.above.startswith(path + b"/") and out.above != path:
                    out.tar.add(folder(path, 0), contents)
            out.above = parent_of(entry.path)
        out.tar.add(entry, contents)

    def _out(self, number: int) -> _Out:
        layer = self._plan.layers[number]
        if layer.scattered:
            if number not in self._waiting:
                # It has no name: whatever happens, nothing of it is left.
                file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - closed by the stack
                spool = _Spool(self._spools.enter_context(file))
                self._waiting[number] = (_Out(layer, spool), spool)
            return self._waiting[number][0]
        if self._current is None or self._number != number:
            self._end()
            self._number, self._current = number, self._start(layer)
        return self._current[0]

    def _start(self, layer: Layer) -> tuple[_Out, Writing]:
        writing = self._blobs.start()
        return _Out(layer, self._compressing(writing)), writing

    def _compressing(self, writing: Writing) -> Stream:
        options = self._options
        return compressing(options.compression, writing.write, level=options.level, threads=options.threads)

    def _end(self) -> None:
        if self._current is not None:
            out, writing = self._current
            out.tar.finish()
            out.take.close()
            self._close(self._number, out, writing)
            self._current = None

    def _close(self, number: int, out: _Out, writing: Writing) -> None:
        if number in self._done:
            raise AssertionError(f"layer {number} came twice: the stream is not in order")
        blob = self._blobs.end(writing)
        self._done[number] = OciLayer(out.layer.path, out.tar.entries, blob, out.take.digest.hexdigest())

    def _pour(self, number: int, out: _Out, spool: _Spool) -> None:
        out.tar.finish()
        writing = self._blobs.start()
        stream = self._compressing(writing)
        spool.pour(stream)
        stream.close()
        spool.close()
        self._close(number, out, writing)

    def finish(self) -> list[OciLayer]:
        self._end()
        for number, (out, spool) in sorted(self._waiting.items()):
            self._pour(number, out, spool)
        return [layer for _, layer in sorted(self._done.items())]


# --------------------------------------------------------------------------------------------------------- documents


def _describe(blobs: Blobs, layers: list[OciLayer], options: OciOptions, labels: dict[str, str], created: str) -> Blob:
    """Write configuration, manifest and index; the manifest."""
    platform = {"architecture": options.architecture, "os": "linux"}
    descriptors: list[dict[str, Any]] = [
        _descriptor(_LAYER + _SUFFIXES[options.compression], layer.blob)
        | ({"annotations": {_TITLE: show(layer.path)}} if options.artifact else {})
        for layer in layers
    ]
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "layers": descriptors,
        "annotations": {_CREATED: created} | labels,
    }
    if options.artifact:
        manifest |= {"artifactType": ARTIFACT_TYPE, "config": _descriptor(_EMPTY, put(blobs, b"{}"))}
    else:
        config = platform | {
            "created": created,
            "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
            "history": [{"created": created, "created_by": f"shrinkwrap {show(layer.path)}"} for layer in layers],
        }
        manifest["config"] = _descriptor(_CONFIG, put(blobs, document(config)))
    blob = put(blobs, document(manifest))
    top = _descriptor(_MANIFEST, blob) | {"annotations": {_REFERENCE: options.tag}}
    top |= {"artifactType": ARTIFACT_TYPE} if options.artifact else {"platform": platform}
    blobs.finish(document({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [top]}))
    return blob


def _descriptor(media_type: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{blob.sha256}", "size": blob.size}


def _time(timestamp: int) -> str:
    """Seconds since the epoch by RFC 3339; the epoch for a time that has none."""
    try:
        when = _EPOCH + timedelta(seconds=timestamp)
    except OverflowError:
        when = _EPOCH
    return f"{when.year:04d}{when:-%m-%dT%H:%M:%SZ}"
