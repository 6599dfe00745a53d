"""Blocks from an older image: what it holds need not be fetched."""

from __future__ import annotations

import os
from collections.abc import Callable

from shrinkwrap.errors import CorruptObject, UsageError
from shrinkwrap.image.inspect import objects_of, read_provenance
from shrinkwrap.image.partial import Partial
from shrinkwrap.image.squashfs.reader import Image
from shrinkwrap.image.squashfs.recipe import Recipe

#: The older image, among the segments.
_NUMBER = 1
#: Records that are added at a time.
_TOGETHER = 4096


def take_base(path: str, recipe: Recipe, partial: Partial, notice: Callable[[str], None]) -> None:
    """Add the contents of an older image to those that are there, each held against its checksum.

    Only one of the very same recipe serves: the blocks of another would be other bytes than a build without it makes.

    Args:
        notice: told why nothing, or not all, is taken.

    Raises:
        UsageError: there is no such file. OSError: records cannot be written.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise UsageError(
            f"--from {path}: cannot be read: {exc.strerror}", hint="name an image, or leave it out"
        ) from None
    partial.borrow(_NUMBER, fd)
    try:
        image = Image(fd, 0, path)
        made, _ = read_provenance(image)
        if made is None or dict(made.recipe) != recipe.to_json():
            notice(f"{path}: of another recipe, nothing is taken from it")
            return
        broken = 0
        kept: list[bytes] = []
        for record in objects_of(image, _NUMBER):
            if not partial.sound(record):
                broken += 1
            elif partial.records.want(record.key):
                kept.append(record.pack())
                if len(kept) >= _TOGETHER:
                    partial.records.take(b"".join(kept))
                    kept.clear()
        partial.records.take(b"".join(kept))
        if broken:
            notice(f"{path}: {broken} contents in it are damaged, and fetched anew")
    except CorruptObject as exc:
        notice(f"{path}: not an image of this tool, or damaged ({exc.message}): not all is taken from it")
