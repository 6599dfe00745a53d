"""Building an image straight from repositories (DESIGN, images at the speed of the network).

Workers turn objects into blocks in segment files while the walk goes on; then the blocks are laid out in the order of
the stream, whatever the order in which they came; then the tables are written.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.engine.dispatch import workers_for
from shrinkwrap.errors import UsageError
from shrinkwrap.image.base import take_base
from shrinkwrap.image.entries import FILE, ImageEntry, folder
from shrinkwrap.image.exported import gather_export
from shrinkwrap.image.formats import OCI, SIF, TAR, WithOwn, write_archive, write_layout, write_sif_around
from shrinkwrap.image.gather import gather
from shrinkwrap.image.keys import own_key
from shrinkwrap.image.laying import Laying
from shrinkwrap.image.objects import HEADER, PATH, object_row
from shrinkwrap.image.output import sync_folder, unwritable
from shrinkwrap.image.partial import Partial
from shrinkwrap.image.pouring import Build
from shrinkwrap.image.provenance import FOLDER, IMAGE, Made, statement_path
from shrinkwrap.image.request import ImageRequest, ImageResult, Part
from shrinkwrap.image.rows import Rows
from shrinkwrap.image.segments import FIRST_SEGMENT, SegmentSink, Spool
from shrinkwrap.image.squashfs.layout import SUPERBLOCK
from shrinkwrap.image.squashfs.writer import write_tables
from shrinkwrap.image.stock import Stock
from shrinkwrap.image.via import version, write_via
from shrinkwrap.record.statement import Statement
from shrinkwrap.snapshot.walk import order_key
from shrinkwrap.tree.request import Hooks

_PIECE: Final = 1 << 20
_COUNTED: Final = ("files", "dirs", "symlinks", "bytes")
#: Counts that are told even if nothing comes of them.
_TOLD: Final = ("fetched", "verbatim", "reused")


def build(request: ImageRequest, hooks: Hooks | None = None) -> ImageResult:
    """Make the image that is asked for; it stands at its path when it is complete and on disk.

    Raises:
        ShrinkwrapError: see :mod:`shrinkwrap.errors`. Whatever it is, the next build goes on from what is there.
    """
    check(request)
    result = ImageResult(request.output, request.recipe, request.form)
    with ExitStack() as stack:
        try:
            return _Build(request, hooks or Hooks(), result, stack).go()
        except OSError as exc:
            raise unwritable(os.fsencode(request.output), exc) from None


def check(request: ImageRequest) -> None:
    """What is wrong with a request is said before anything is made. Raises UsageError."""
    names = [part.fqrn for part in request.parts]
    if not names:
        raise UsageError("no repository given", hint="-r FQRN, e.g. -r sft.cern.ch")
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise UsageError(f"{twice} is given twice", hint="put all of its paths into one specification")
    if os.path.isdir(request.output) and request.form.kind != OCI:
        raise UsageError(f"{request.output} is a folder", hint="-o FILE.squashfs")
    if request.output == "-" and request.form.kind != TAR:
        raise UsageError(f"a {request.form.kind} cannot go to standard output", hint="an archive can: --format tar")
    if request.workers < 0:
        raise UsageError(f"{request.workers} workers make no sense", hint="1 or more, or 0 for one for each CPU")
    if request.form.via is not None:
        version()  # told before anything is fetched if it is not installed
    for part in request.parts:
        if isinstance(part, Part):
            part.pin.check()


class _Build:
    """One build."""

    def __init__(self, request: ImageRequest, hooks: Hooks, result: ImageResult, stack: ExitStack) -> None:
        self._request = request
        self._hooks = hooks
        self._result = result
        self._stack = stack
        place = request.output.rstrip("/")
        if place == "-":
            # Nobody could find again what an interrupted build leaves.
            place = os.path.join(stack.enter_context(tempfile.TemporaryDirectory(prefix="shrinkwrap-")), "archive")
        self._partial = Partial(place, request.recipe, self._notice)
        stack.callback(self._partial.close)
        rows = tempfile.TemporaryFile(dir=self._partial.path)  # noqa: SIM115 - closed by the stack
        self._rows = Rows(stack.enter_context(rows))
        self._mtime_ns = 0

    def _notice(self, line: str) -> None:
        if line not in self._result.notices:
            self._result.notices.append(line)
            self._hooks.notice(line)

    def go(self) -> ImageResult:
        request, result, partial = self._request, self._result, self._partial
        result.counts.update(dict.fromkeys(_TOLD, 0), adopted=partial.adopted)
        result.bytes["received"] = 0
        if request.base and not os.path.isdir(request.base):
            take_base(request.base, request.recipe, partial, self._notice)
        statements = []
        build = Build(request, partial, self._rows, result, self._hooks)
        for part in sorted(request.parts, key=lambda part: part.fqrn.encode()):
            gathered = gather(build, part) if isinstance(part, Part) else gather_export(build, part)
            statements.append(gathered.statement)
            self._mtime_ns = max(self._mtime_ns, gathered.mtime_ns)
        for name in _COUNTED:
            result.counts[name] = sum(one.counts.get(name, 0) for one in result.parts)
        self._hooks.phase("image")
        if request.form.squashed:
            self._write(statements)
        else:
            self._archive(statements, frozenset(build.mounts))
        partial.remove()
        return result

    # -- the image ---------------------------------------------------------------------------------------------------

    def _write(self, statements: list[Statement]) -> None:
        """Write the image, give it its name. Raises OSError."""
        request, partial, result = self._request, self._partial, self._result
        fd = os.open(partial.image, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            laying = Laying(partial.records, partial.segment, fd, SUPERBLOCK, request.recipe.block_size)
            own = self._lay(laying, statements)
            result.bytes["data"] = laying.position - SUPERBLOCK
            with open(fd, "wb", closefd=False) as out:
                out.seek(laying.position)
                entries = self._entries(own)
                written = write_tables(
                    out, laying.position, entries, laying, request.recipe, self._mtime_ns, partial.path
                )
            os.pwrite(fd, written.superblock.pack(), 0)
            if request.form.kind == SIF:
                output = os.fsencode(request.output)
                write_sif_around(output, fd, request.form, statements, os.path.basename(request.output))
            else:
                os.fsync(fd)
                os.rename(partial.image, request.output)
                sync_folder(os.path.dirname(os.fsencode(request.output)) or b".")
        finally:
            os.close(fd)
        with open(request.output, "rb") as image:
            result.size = os.fstat(image.fileno()).st_size
            result.sha256 = _sha256(image.fileno())

    def _archive(self, statements: list[Statement], mounts: frozenset[bytes]) -> None:
        """Write an archive or an OCI layout. Raises ShrinkwrapError."""
        request, partial, result = self._request, self._partial, self._result
        form, output = request.form, os.fsencode(request.output)
        self._count()
        kind = OCI if form.layered else form.kind
        made = Made.of(form.to_json(), statements, source=self._source(), trust=request.trust, format=kind)
        own = {IMAGE: made.to_bytes(), **{statement_path(one.fqrn): one.to_bytes() for one in statements}}
        rows = self._folders(statements)
        rows += [
            folder(path, self._mtime_ns)._replace(kind=FILE, mode=0o644, size=len(data)) for path, data in own.items()
        ]
        rows.sort(key=lambda entry: order_key(entry.path))
        contents = WithOwn(Stock(partial.records, partial.segment, request.recipe), own)
        threads = workers_for(request.workers)
        if form.via is not None:
            write_via(output, form.via, self._entries(rows), contents, self._mtime_ns // 10**9)
            with open(output, "rb") as image:
                result.size = os.fstat(image.fileno()).st_size
                result.sha256 = _sha256(image.fileno())
            return
        if form.kind == TAR:
            written = write_archive(output, form, self._entries(rows), contents, threads)
            result.size, result.sha256 = written.size, written.sha256
            return
        layout = write_layout(output, form, lambda: self._entries(rows), contents, mounts, statements, threads)
        result.size, result.sha256 = layout.size, layout.manifest.sha256
        result.counts["layers"] = len(layout.layers)
        if layout.lost:
            first = ", ".join(f"{show(path)} ({show(name)})" for path, name in layout.cases[:3])
            self._notice(f"{layout.lost} extended attributes that no layer can hold left out: {first}")

    def _count(self) -> None:
        """How many contents there are, and their bytes."""
        records, content, objects = self._partial.records, 0, 0
        for entry in self._rows:
            if entry.key:
                number = records.number(entry.key)
                if not records.position(number):
                    records.place(number, 1)
                    content += entry.size
                    objects += 1
        self._result.counts["objects"] = objects
        self._result.bytes["content"] = content

    def _folders(self, statements: list[Statement]) -> list[ImageEntry]:
        """The root, and the folders of what the image says of itself."""
        paths = [b"", FOLDER, *(os.path.dirname(statement_path(one.fqrn)) for one in statements)]
        return [folder(path, self._mtime_ns) for path in paths]

    def _lay(self, laying: Laying, statements: list[Statement]) -> list[ImageEntry]:
        """Lay all data out, in the order of the stream; entries of what the image says of itself."""
        objects = Spool(self._partial.path)
        self._stack.callback(objects.close)
        content, reused, waiting, at = 0, 0, [HEADER], 0
        for entry in self._rows:
            if not entry.key:
                continue
            record = laying.lay(entry.key)
            if record is not None:
                content += record.size
                reused += record.segment < FIRST_SEGMENT
                waiting.append(object_row(record))
                if len(waiting) > 1000:
                    at += _spool(objects, waiting, at)
        at += _spool(objects, waiting, at)
        result = self._result
        result.counts["objects"] = laying.objects
        result.counts["reused"] += reused
        result.bytes["content"] = content
        recipe = self._request.recipe.to_json()
        made = Made.of(recipe, statements, source=self._source(), trust=self._request.trust)
        own = self._folders(statements)
        own.append(self._own(laying, IMAGE, made.to_bytes()))
        own += [self._own(laying, statement_path(one.fqrn), one.to_bytes()) for one in statements]
        own.append(self._own_file(laying, PATH, objects, at))
        laying.flush()
        return sorted(own, key=lambda entry: order_key(entry.path))

    def _source(self) -> str:
        """What the image is made from."""
        return "repository" if all(isinstance(part, Part) for part in self._request.parts) else "export"

    def _own(self, laying: Laying, path: bytes, data: bytes) -> ImageEntry:
        """A file that no repository has."""
        with Spool(self._partial.path) as file:
            file.write_at(0, data)
            return self._own_file(laying, path, file, len(data))

    def _own_file(self, laying: Laying, path: bytes, file: Spool, size: int) -> ImageEntry:
        records = self._partial.records
        key = own_key(path)
        sink = SegmentSink(self._partial.path, self._request.recipe).open()
        try:
            sink.add(key, file, size)
            records.want(key)
            records.take(sink.take_notes())
        finally:
            sink.close()
        laying.lay(key)
        return folder(path, self._mtime_ns)._replace(kind=FILE, mode=0o644, size=size, key=key)

    def _entries(self, own: list[ImageEntry]) -> Iterator[ImageEntry]:
        yield own[0]
        rest = own[1:]
        for entry in self._rows:
            # A repository's name may begin with a dash, which sorts before the dot.
            if rest and entry.path > FOLDER:
                yield from rest
                rest = []
            yield entry
        yield from rest


def _spool(file: Spool, pieces: list[bytes], at: int) -> int:
    """Append pieces to a file and forget them; their bytes."""
    data = b"".join(pieces)
    file.write_at(at, data)
    pieces.clear()
    return len(data)


def _sha256(fd: int) -> str:
    digest, at = hashlib.sha256(), 0
    while piece := os.pread(fd, _PIECE, at):
        digest.update(piece)
        at += len(piece)
    return digest.hexdigest()
