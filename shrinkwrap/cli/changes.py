"""Differences as people and programs read them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from shrinkwrap.cli.output import clean, print_json, size

if TYPE_CHECKING:
    from shrinkwrap.snapshot.diff import Change, Shown
    from shrinkwrap.snapshot.tally import Tally

_NS: Final = 10**9
_SIGNS: Final = {"added": "+", "removed": "-", "changed": "~"}
_WORDS: Final = {
    "files": ("file", "files"),
    "dirs": ("directory", "directories"),
    "symlinks": ("symbolic link", "symbolic links"),
    "special": ("special file", "special files"),
}

HEAD: Final = f"{'added':>9} {'removed':>9} {'changed':>9} {'bytes +':>10} {'bytes -':>10}  directory"


def print_row(path: bytes, tally: Tally, as_json: bool) -> None:
    from shrinkwrap.cvmfs.entry import show
    from shrinkwrap.record.listing import text

    if as_json:
        print_json({**text("directory", path), **tally.to_json()})
        return
    added, removed, changed = tally.entries
    numbers = f"{added:>9} {removed:>9} {changed:>9} {size(tally.gained):>10} {size(tally.lost):>10}"
    print(clean(f"{numbers}  {show(path)}"))


def print_change(change: Change, as_json: bool) -> None:
    from shrinkwrap.cvmfs.entry import show

    if as_json:
        print_json(_row(change))
        return
    shown = change.new or change.old
    assert shown is not None
    name = show(change.path)
    if shown.type == "dir" and change.path:
        name += "/"
    elif shown.type == "symlink" and "target" not in change.what:
        name += f" -> {show(shown.target)}"
    how = f"  ({', '.join(_details(change))})" if change.what else ""
    length = size(shown.size) if shown.type == "file" else ""
    print(clean(f"{_SIGNS[change.kind]} {length:>9}  {name}{how}"))


def _details(change: Change) -> Iterator[str]:
    """What people read of a change."""
    from shrinkwrap.cvmfs.entry import show

    old, new = change.old, change.new
    assert old is not None
    assert new is not None
    for aspect in change.what:
        if aspect == "type":
            yield f"{old.type} -> {new.type}"
        elif aspect == "storage":
            yield "stored otherwise"
        elif aspect == "size":
            yield f"{old.size} -> {new.size} bytes"
        elif aspect == "target":
            yield f"{show(old.target)} -> {show(new.target)}"
        elif aspect == "mode":
            yield f"mode {old.mode:04o} -> {new.mode:04o}"
        elif aspect == "owner":
            yield f"owner {old.uid}:{old.gid} -> {new.uid}:{new.gid}"
        elif aspect == "links" and old.links[0] != new.links[0]:
            yield f"links {old.links[0]} -> {new.links[0]}"
        else:
            yield aspect


def _row(change: Change) -> dict[str, Any]:
    from shrinkwrap.record.listing import text

    row: dict[str, Any] = {"change": change.kind, **text("path", change.path or b"/")}
    if change.what:
        row["what"] = list(change.what)
    for name, shown in (("old", change.old), ("new", change.new)):
        if shown is not None:
            row[name] = _shown(shown)
    return row


def _shown(shown: Shown) -> dict[str, Any]:
    """One side of a change; names as in listings (docs/provenance.md)."""
    from shrinkwrap.record.listing import text

    seconds, nanoseconds = divmod(shown.mtime_ns, _NS)
    row: dict[str, Any] = {
        "type": shown.type,
        "mode": f"{shown.mode:04o}",
        "uid": shown.uid,
        "gid": shown.gid,
        "mtime": seconds,
        "mtime_ns": nanoseconds,
        "size": shown.size,
    }
    if shown.links != (1, b""):
        row["nlink"] = shown.links[0]
    if shown.type == "symlink":
        row.update(text("target", shown.target))
    if shown.content is not None:
        row["chunks_hash" if shown.content.chunks else "hash"] = str(shown.content.digest)
        row["compression"] = "zlib" if shown.content.compressed else "none"
    clear: dict[str, str] = {}
    odd = []
    for name, value in shown.xattrs:
        try:
            clear[name.decode()] = value.decode()
        except UnicodeDecodeError:
            odd.append([base64.b64encode(part).decode() for part in (name, value)])
    if clear:
        row["xattrs"] = clear
    if odd:
        row["xattrs_b64"] = odd
    return row


def sums(tally: Tally) -> Iterator[str]:
    """What people read at the end."""
    if not any(tally.entries):
        yield "  no differences"
    for name, counts, length in (
        ("added", tally.added, size(tally.bytes_added)),
        ("removed", tally.removed, size(tally.bytes_removed)),
        ("changed", tally.changed, f"{size(tally.bytes_before)} -> {size(tally.bytes_after)}"),
    ):
        if counts:
            kinds = ", ".join(_counted(kind, number) for kind, number in sorted(counts.items()))
            yield f"  {name}: {kinds}; {length}"
    if tally.aspects:
        yield "  what changed: " + ", ".join(f"{name} {number}" for name, number in sorted(tally.aspects.items()))


def _counted(kind: str, number: int) -> str:
    one, many = _WORDS[kind]
    return f"{number} {one if number == 1 else many}"
