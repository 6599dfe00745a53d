"""Squashfs images by squashfs-tools, for what only they offer: other compressors, fragments, exclusions.

Everything goes through an archive that ``sqfstar`` reads from a pipe: no tree, no root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final

from shrinkwrap.errors import DestinationError, UsageError
from shrinkwrap.image.entries import Contents, ImageEntry
from shrinkwrap.image.output import sync_folder, unwritable
from shrinkwrap.image.tar import write_tar, writer

PROGRAM: Final = "sqfstar"
_U32: Final = 2**32 - 1
_NS: Final = 10**9
_LINES: Final = 3


def version() -> str:
    """The program and its version, for the record.

    Raises:
        UsageError: it is not installed, or too old to know archives.
    """
    program = _find()
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stdout
    words = told.split()
    return f"{PROGRAM} {words[2]}" if words[:2] == [PROGRAM, "version"] and len(words) > 2 else PROGRAM


def write_via(
    output: bytes, options: tuple[str, ...], entries: Iterable[ImageEntry], contents: Contents, mtime: int
) -> None:
    """Have an image made; it stands at its path when it is whole.

    Args:
        options: of the program, such as ``("-comp", "xz")``.
        mtime: of the image, in seconds since the epoch.

    Raises:
        UsageError: the program is not installed, or refuses its options.
        DestinationError: the image cannot be written. CorruptObject: see :func:`~shrinkwrap.image.tar.write_tar`.
    """
    program = _find()
    folder = os.path.dirname(output) or b"."
    temporary = os.path.join(folder, b".shrinkwrap-" + secrets.token_hex(8).encode())
    time = str(max(0, min(mtime, _U32)))
    fixed = ("-mkfs-time", time, "-root-time", time, "-root-mode", "755", "-root-uid", "0", "-root-gid", "0")
    command = [program, *options, *fixed, "-quiet", "-no-progress", os.fsdecode(temporary)]
    try:
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said)
            try:
                written = _feed(process, entries, contents)
            except BaseException:
                process.kill()
                raise
            finally:
                code = process.wait()
            if code or not written:
                said.seek(0)
                lines = said.read(65_536).decode("utf-8", "backslashreplace").strip().splitlines()
                raise DestinationError(
                    f"{PROGRAM} ended with code {code}: {'; '.join(lines[:_LINES]) or 'it said nothing'}",
                    hint=f"see {PROGRAM} -help for what --via-options may be",
                )
        fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, output)
    except OSError as exc:
        raise unwritable(output, exc) from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_folder(folder)


def _feed(process: subprocess.Popen[bytes], entries: Iterable[ImageEntry], contents: Contents) -> bool:
    """Hand the archive over. False: the program did not want all of it."""
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            # It takes a slash off the targets of links that come in records of their own.
            write_tar(_fit(entries), contents, writer(pipe.fileno(), PROGRAM.encode()), gnu=True)
    except (BrokenPipeError, DestinationError):
        return False
    return True


def _fit(entries: Iterable[ImageEntry]) -> Iterator[ImageEntry]:
    """Entries as the program can take them: it ends at a time that squashfs does not hold; the root is an option."""
    for entry in entries:
        if entry.path:
            yield entry._replace(mtime_ns=max(0, min(entry.mtime_ns // _NS, _U32)) * _NS)


def _find() -> str:
    program = shutil.which(PROGRAM)
    if program is None:
        raise UsageError(
            f"--via mksquashfs: no {PROGRAM} is installed", hint="it comes with squashfs-tools 4.5 and later"
        )
    return program
