"""Destinations as the original tool leaves them, made from the listings of its exports (FORMAT.md §10.3)."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from support import golden
from support.golden import MARKER, Export
from support.listing import Projection, Record, compare, list_tree, probe


def build_original(base: Path, export: Export, contents: Path) -> dict[bytes, Path]:
    """Make a destination of the original: tree, store and provenance of one export; more of them may share a base.

    Args:
        base: made if it is not there.
        contents: the same tree by our own export: where contents come from.

    Returns:
        The stored file of each path.
    """
    fqrn = export.at.fqrn
    holds = probe(contents.parent)
    data = base / ".data"
    (data / ".garbage").mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    (data / ".garbage" / "flagged").write_bytes(b"")
    for number in range(256):  # all there are, of the first level
        (data / f"{number:02x}").mkdir(mode=0o700, exist_ok=True)
    infos = base / ".provenance" / fqrn
    infos.mkdir(parents=True)
    for name in ("src.info", "src.config", "dest.info"):
        (infos / name).write_text(f"repo : {fqrn}\nversion : 2.12:27")
    top, source = os.fsencode(base / fqrn), os.fsencode(contents)
    stored: dict[bytes, Path] = {}
    listed = golden.rows(f"{fqrn}/{export.file.name}")
    for row in listed:
        path = _path(row)
        place = top + path.rstrip(b"/")
        if row["type"] == "dir":
            os.mkdir(place)
        elif row["type"] == "symlink":
            target = base64.b64decode(row["target_b64"]) if "target_b64" in row else row["target"].encode()
            os.symlink(target, place)
            os.utime(place, (row["mtime"], row["mtime"]), follow_symlinks=False)
        elif row["data"] is None:
            Path(os.fsdecode(place)).write_bytes(MARKER[1:])
        else:
            stored[path] = data / row["data"]
            _store(stored[path], source + path, row, xattrs=holds.xattrs)
            os.link(stored[path], place)
    # Children first: making them changed the times of their parents.
    for row in reversed(listed):
        place = top + _path(row).rstrip(b"/")
        if row["type"] == "dir":
            _dress(os.fsdecode(place), row, xattrs=holds.xattrs)
    return stored


def _path(row: dict[str, Any]) -> bytes:
    return base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode()


def _store(file: Path, source: bytes, row: dict[str, Any], *, xattrs: bool) -> None:
    if file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, file)
    _dress(str(file), row, xattrs=xattrs)


def _dress(place: str, row: dict[str, Any], *, xattrs: bool) -> None:
    for name, value in row.get("xattrs", {}).items() if xattrs else ():
        text = base64.b64decode(value) if name.endswith("#b64") else value.encode()
        os.setxattr(place, name.removesuffix("#b64"), text)
    if os.getuid() == 0:
        os.chown(place, row["uid"], row["gid"])
    os.chmod(place, int(row["mode"], 8))
    if "mtime" in row:
        os.utime(place, (row["mtime"], row["mtime"]))


def spoil(file: Path, content: bytes) -> None:
    """Give a stored file another content, as a crash of the original does, with the metadata it had."""
    info = file.stat()
    file.chmod(0o600)
    file.write_bytes(content)
    file.chmod(info.st_mode & 0o7777)
    os.utime(file, ns=(info.st_mtime_ns, info.st_mtime_ns))


def differences_beside_marker(
    base: Path, fqrn: str, expected: Iterable[Record], projection: Projection, *, marked: bool
) -> list[str]:
    """What differs between a tree and what it should be, the original's marker file among it or not."""
    there = list_tree(base / fqrn)
    markers = [one for one in there if one.path == MARKER]
    wrong = [] if len(markers) == marked else [f"{len(markers)} markers"]
    for one in markers:
        if (base / fqrn / os.fsdecode(MARKER[1:])).read_bytes() != MARKER[1:]:
            wrong.append("the marker is another one")
        if (one.type, one.mode, one.nlink) != ("file", "0644", 1):
            wrong.append(f"the marker is {one}")
    rest = [one for one in there if one.path != MARKER] if marked else there
    return wrong + compare(expected, rest, projection.on(base))
