"""The lines of a specification as two trees of path components: one of names, one of globs.

Literal paths and paths with globs live apart, because the way to a literal path comes out for its own sake
and the way through a glob does not, and because a name is found by one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from shrinkwrap.spec.glob import ANY_DEPTH, Glob, Part
from shrinkwrap.spec.grammar import Mode, Rule

#: In place of a line's index: there is none.
NO_LINE: Final = -1

#: Shared by all nodes without children of that kind: most of a long specification's nodes have none.
_NO_NAMES: Final[dict[bytes, Node]] = {}
_NO_GLOBS: Final[dict[Glob, Node]] = {}


class Node:
    """One component of written paths.

    Attributes:
        names: children by literal name.
        globs: children by glob (none in the tree of names).
        any_depth: the child ``**``.
        loops: this node is a ``**``: it stays where it is for every component.
        mode, line: what the path that ends here says, and the index of its line.
        veil: index of the line ``!path/*`` for the path that ends here.
        newest_below: largest index of an including line whose path goes on from here.
        number: of the node, in the order of making (the state's key).
    """

    __slots__ = ("any_depth", "globs", "line", "loops", "mode", "names", "newest_below", "number", "veil")

    def __init__(self, number: int, loops: bool = False) -> None:
        self.number = number
        self.loops = loops
        self.names = _NO_NAMES
        self.globs = _NO_GLOBS
        self.any_depth: Node | None = None
        self.mode: Mode | None = None
        self.line = NO_LINE
        self.veil = NO_LINE
        self.newest_below = NO_LINE

    @property
    def including_line(self) -> int:
        """Index of the line that includes this path, or NO_LINE."""
        return self.line if self.mode is not None and self.mode < Mode.EXCLUDE else NO_LINE

    @property
    def says_more(self) -> bool:
        """Whether any path goes on from here, but for what goes on through ``**`` (see :func:`closed`)."""
        return bool(self.names or self.globs or self.loops)


def build(rules: Sequence[Rule]) -> tuple[Node, Node]:
    """The tree of literal paths and the tree of paths with globs, of what :func:`grammar.resolve` gives."""
    literal, globbed = Node(0), Node(1)
    count = 2
    for rule in rules:
        node = globbed if any(not isinstance(part, bytes) for part in rule.parts) else literal
        way = [node]
        for part in rule.parts:
            child = _child(node, part)
            if child is None:
                child = Node(count, loops=part is ANY_DEPTH)
                count += 1
                _adopt(node, part, child)
            node = child
            way.append(node)
        if rule.mode is Mode.EXCLUDE_BELOW:
            node.veil = rule.line
        else:
            node.mode, node.line = rule.mode, rule.line
        if rule.mode.includes:
            # Of a final `**` the path both ends and goes on.
            for passed in way if node.loops else way[:-1]:
                passed.newest_below = max(passed.newest_below, rule.line)
    return literal, globbed


def _child(node: Node, part: Part) -> Node | None:
    if isinstance(part, bytes):
        return node.names.get(part)
    return node.globs.get(part) if isinstance(part, Glob) else node.any_depth


def _adopt(node: Node, part: Part, child: Node) -> None:
    if isinstance(part, bytes):
        if node.names is _NO_NAMES:
            node.names = {}
        node.names[part] = child
    elif isinstance(part, Glob):
        if node.globs is _NO_GLOBS:
            node.globs = {}
        node.globs[part] = child
    else:
        node.any_depth = child


def closed(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes together with those that a ``**`` for no component leads to, in order of their numbers."""
    found = {node.number: node for node in nodes}
    for node in nodes:
        below = node.any_depth
        while below is not None and below.number not in found:
            found[below.number] = below
            below = below.any_depth
    return tuple(found[number] for number in sorted(found))


def descend(nodes: Sequence[Node], name: bytes, hits: Sequence[Node]) -> tuple[Node, ...]:
    """Where the globs stand after one more component; ``hits`` are the children by globs that match it."""
    found = [*hits, *(node for node in nodes if node.loops)]
    found.extend(node.names[name] for node in nodes if name in node.names)
    return closed(found)


def paths_below(node: Node) -> Iterator[tuple[tuple[bytes, ...], Node]]:
    """The nodes below one, with the components on the way: a letter for their kind and their text.

    What goes on from the node itself through ``**`` is left out: in a :func:`closed` set it stands beside it.
    """
    stack: list[tuple[tuple[bytes, ...], Node]] = []
    way: tuple[bytes, ...] = (b"**",) if node.loops else ()
    here = node
    if node.loops:
        yield way, node
    while True:
        stack.extend(((*way, b"=" + name), child) for name, child in here.names.items())
        stack.extend(((*way, b"?" + glob.text), child) for glob, child in here.globs.items())
        if here.any_depth is not None and here is not node:
            stack.append(((*way, b"**"), here.any_depth))
        if not stack:
            return
        way, here = stack.pop()
        yield way, here
