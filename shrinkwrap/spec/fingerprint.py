"""A short name for the rules that hold below one directory, equal in all processes and specifications.

Only what can make a difference goes in: the inherited modes, and for each line that goes on from here the
rest of its path, its mode and its place in the order. The order is of importance only between lines that
include and those that hide in dependence on it (``!path/*``, and plain exclusions with globs): numbers of
blocks stand for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from shrinkwrap.spec.grammar import Mode
from shrinkwrap.spec.rules import NO_LINE, Node, paths_below

_VERSION: Final = b"spec state 1"


class _Below(NamedTuple):
    """A line that goes on below a directory: the rest of its path, its mode, its index."""

    way: tuple[bytes, ...]
    mode: int
    line: int


def digest(literal: Node | None, live: Sequence[Node], deep: bool, flat: bool, veil: int) -> bytes:
    """Sixteen bytes for what holds below a directory; the arguments are those of its state."""
    rules = _rules_below(literal, live)
    blocks = _blocks(rules, veil)
    state = hashlib.blake2b(_VERSION, digest_size=16)
    state.update(bytes((deep, flat, veil != NO_LINE)) + _number(blocks.get(veil, 0)))
    for way, mode, block in sorted((rule.way, rule.mode, blocks.get(rule.line, 0)) for rule in rules):
        state.update(_number(mode) + _number(block) + _number(len(way)))
        for part in way:
            state.update(_number(len(part)) + part)
    return state.digest()


def _rules_below(literal: Node | None, live: Sequence[Node]) -> list[_Below]:
    found: list[_Below] = []
    for node, kind in [*((node, b"G") for node in live), *([(literal, b"L")] if literal is not None else [])]:
        for way, here in paths_below(node):
            if here.mode is not None:
                found.append(_Below((kind, *way), here.mode, here.line))
            if here.veil != NO_LINE:
                found.append(_Below((kind, *way), Mode.EXCLUDE_BELOW, here.veil))
    return found


def _blocks(rules: Sequence[_Below], veil: int) -> dict[int, int]:
    """Place in the order, by line: even blocks include, odd blocks hide.

    A literal plain exclusion holds in any order and gets none.
    """
    hides: dict[int, bool] = {} if veil == NO_LINE else {veil: True}
    for rule in rules:
        if rule.mode < Mode.EXCLUDE:
            hides[rule.line] = False
        elif rule.mode == Mode.EXCLUDE_BELOW or rule.way[0] == b"G":
            hides[rule.line] = True
    blocks: dict[int, int] = {}
    block = 0
    for line in sorted(hides):
        if hides[line] != bool(block % 2):
            block += 1
        blocks[line] = block
    return blocks


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")
