"""The blob of extended attributes in a catalog row (FORMAT.md §6.7)."""

from __future__ import annotations

from collections.abc import Iterable

_VERSION = 1


def parse_xattrs(blob: bytes | None) -> tuple[tuple[bytes, bytes], ...]:
    """Names and values, sorted by name. A malformed blob means "none", as for the reference client."""
    if not blob or blob[0] != _VERSION or len(blob) < 2:
        return ()
    found: dict[bytes, bytes] = {}
    position = 2
    for _ in range(blob[1]):
        if position + 2 > len(blob):
            return ()
        name_end = position + 2 + blob[position]
        value_end = name_end + blob[position + 1]
        name = blob[position + 2 : name_end]
        if value_end > len(blob) or not name or b"\0" in name:
            return ()
        found[name] = blob[name_end:value_end]
        position = value_end
    return tuple(sorted(found.items()))


def pack_xattrs(attributes: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The blob for some attributes, in byte order of their names; None for no attributes.

    Raises:
        ValueError: an empty name, a NUL in a name, more than 255 attributes or bytes.
    """
    pairs = sorted(attributes)
    if not pairs:
        return None
    if len(pairs) > 255:
        raise ValueError(f"{len(pairs)} extended attributes; the format holds 255")
    out = bytearray((_VERSION, len(pairs)))
    for name, value in pairs:
        if not name or b"\0" in name or len(name) > 255 or len(value) > 255:
            raise ValueError(
                f"extended attribute {name!r}: names have 1 to 255 bytes and no NUL, values up to 255 bytes"
            )
        out += bytes((len(name), len(value))) + name + value
    return bytes(out)
