"""Variant symlinks: ``$(NAME)`` and ``$(NAME:-default)`` in link targets (FORMAT.md §9)."""

from __future__ import annotations

from collections.abc import Mapping


def expand(target: bytes, values: Mapping[bytes, bytes], used: dict[bytes, bytes | None] | None = None) -> bytes:
    """The target with its variables replaced.

    No nesting: an expression ends at the first ``)``. A variable that is not set gives its default, or nothing; one
    that is set but empty counts as set. An expression without an end stays as it is.

    Args:
        values: variables by name.
        used: filled with each name that was looked up and its value, None for one that is not set.
    """
    start = target.find(b"$(")
    if start < 0:
        return target
    out = bytearray()
    position = 0
    while start >= 0:
        end = target.find(b")", start)
        if end < 0:
            break
        out += target[position:start]
        name, colon, default = target[start + 2 : end].partition(b":-")
        value = values.get(name)
        if used is not None:
            used[name] = value
        if value is not None:
            out += value
        elif colon:
            out += default
        position = end + 1
        start = target.find(b"$(", position)
    return bytes(out + target[position:])
