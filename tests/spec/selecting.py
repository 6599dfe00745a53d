"""Walks trees of paths with a matcher, as an exporter would, and by the written rules, slowly."""

from __future__ import annotations

from collections.abc import Iterable

from shrinkwrap.spec.glob import AnyDepth, Glob, Part
from shrinkwrap.spec.grammar import Line, Mode, Spec
from shrinkwrap.spec.matcher import IF_BELOW, NO, YES, Matcher, State

#: A directory's entries by name; None is anything that is not a directory.
Tree = dict[bytes, "Tree | None"]
Path = tuple[bytes, ...]


def tree_of(paths: Iterable[bytes]) -> Tree:
    """A tree with these paths and the directories above them; a path that ends in / is a directory."""
    root: Tree = {}
    for path in paths:
        names = [name for name in path.split(b"/") if name]
        here = root
        for index, name in enumerate(names):
            if index == len(names) - 1 and not path.endswith(b"/"):
                here.setdefault(name, None)
            else:
                below = here.setdefault(name, {})
                if below is None:
                    below = here[name] = {}
                here = below
    return root


def all_paths(tree: Tree, above: Path = ()) -> Iterable[tuple[Path, bool]]:
    for name, below in tree.items():
        yield (*above, name), below is not None
        if below is not None:
            yield from all_paths(below, (*above, name))


def select(matcher: Matcher, tree: Tree, counts: dict[int, int] | None = None) -> set[Path]:
    """The paths that come out, by asking the matcher; looks names up where it says that this is enough."""
    found: set[Path] = set()
    if matcher.root.state is not None:
        _select(matcher, matcher.root.state, tree, (), found, counts)
    return found


def _select(
    matcher: Matcher, state: State, tree: Tree, above: Path, found: set[Path], counts: dict[int, int] | None
) -> bool:
    any_found = False
    wanted = matcher.names(state)
    for name in sorted(tree) if wanted is None else [name for name in wanted if name in tree]:
        below = tree[name]
        step = matcher.step(state, name, below is not None)
        came = step.included == YES
        if below is not None and step.state is not None:
            if matcher.everything(step.state):
                found.update((*above, name, *path) for path, _ in all_paths(below))
                came = came or bool(below)
            else:
                came = _select(matcher, step.state, below, (*above, name), found, counts) or came
        assert step.included != NO or not came
        assert step.included != IF_BELOW or step.state is not None
        if came:
            found.add((*above, name))
            any_found = True
        if counts is not None and (came or step.included == NO):
            for line in step.lines:
                counts[line] = counts.get(line, 0) + 1
    return any_found


def matches(parts: tuple[Part, ...], path: Path) -> bool:
    if not parts:
        return not path
    if isinstance(parts[0], AnyDepth):
        return any(matches(parts[1:], path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and matches_name(parts[0], path[0]) and matches(parts[1:], path[1:])


def leads_to(parts: tuple[Part, ...], path: Path) -> bool:
    """Whether the written path goes on below ``path``."""
    if not path:
        return bool(parts)
    if not parts:
        return False
    if isinstance(parts[0], AnyDepth):
        return True
    return matches_name(parts[0], path[0]) and leads_to(parts[1:], path[1:])


def matches_name(part: Part, name: bytes) -> bool:
    if isinstance(part, bytes):
        return part == name
    assert isinstance(part, Glob)
    return wild(part.text, name)


def wild(glob: bytes, name: bytes) -> bool:
    """The glob inside a name, byte by byte, without escapes."""
    if not glob:
        return not name
    if glob[:1] == b"*":
        return any(wild(glob[1:], name[skip:]) for skip in range(len(name) + 1))
    if glob[:1] == b"[" and b"]" in glob[2:]:
        end = glob.index(b"]", 2)
        negated = glob[1:2] == b"!"
        inside = glob[2 if negated else 1 : end]
        chars = set(range(inside[0], inside[2] + 1)) if inside[1:2] == b"-" else set(inside)
        return bool(name) and (name[0] in chars) != negated and wild(glob[end + 1 :], name[1:])
    return bool(name) and glob[:1] in (b"?", name[:1]) and wild(glob[1:], name[1:])


def by_the_rules(spec: Spec, tree: Tree) -> set[Path]:
    """The paths that come out, from the rules of docs/spec-files.md as they are written."""
    rules: list[tuple[int, Mode, tuple[Part, ...]]] = []
    for index, line in enumerate(spec.lines):
        for parts in readings(line):
            # The last line for the very same written path; `!/p/*` is no mode of p.
            rules = [
                rule
                for rule in rules
                if rule[2] != parts or (rule[1] is Mode.EXCLUDE_BELOW) != (line.mode is Mode.EXCLUDE_BELOW)
            ]
            rules.append((index, line.mode, parts))
    entries = dict(all_paths(tree))
    sure = {path for path in entries if _comes_out(rules, path)}
    # The way through a glob: directories with something below them that comes out.
    ways = {path[:depth] for path in sure for depth in range(1, len(path)) if not _hidden(rules, path[:depth])}
    return sure | ways


def readings(line: Line) -> list[tuple[Part, ...]]:
    return [line.parts] if line.classic is None else [line.parts, line.classic]


def _literal(parts: tuple[Part, ...]) -> bool:
    return all(isinstance(part, bytes) for part in parts)


def _prefixes(path: Path) -> list[Path]:
    return [path[:depth] for depth in range(len(path) + 1)]


def _excluded(rules: list[tuple[int, Mode, tuple[Part, ...]]], path: Path) -> bool:
    hiding = [rule for rule in rules if rule[1] is Mode.EXCLUDE and matches(rule[2], path)]
    back = [rule[0] for rule in rules if rule[1].includes and rule[2] == path]
    return bool(hiding) and not (back and all(back[0] > rule[0] and not _literal(rule[2]) for rule in hiding))


def _hidden(rules: list[tuple[int, Mode, tuple[Part, ...]]], path: Path) -> bool:
    return any(_excluded(rules, prefix) for prefix in _prefixes(path))


def _comes_out(rules: list[tuple[int, Mode, tuple[Part, ...]]], path: Path) -> bool:
    if _hidden(rules, path):
        return False
    including = [rule for rule in rules if rule[1].includes]
    literal_way = [rule for rule in including if _literal(rule[2]) and leads_to(rule[2], path)]
    curtains = [
        (rule[0], len(above))
        for above in _prefixes(path)[:-1]
        for rule in rules
        if rule[1] is Mode.EXCLUDE_BELOW and matches(rule[2], above)
    ]
    for number, depth in curtains:
        lifted = any(
            rule[0] > number and any(matches(rule[2], path[:end]) for end in range(depth + 1, len(path) + 1))
            for rule in including
        ) or any(
            rule[0] > number and rule[1] in (Mode.DEEP, Mode.FLAT) and matches(rule[2], path[:depth])
            for rule in including
        )
        if not lifted and not any(rule[0] > number for rule in literal_way):
            return False
    if literal_way:
        return True
    for rule in including:
        if matches(rule[2], path):
            return True
        if rule[1] is Mode.DEEP and any(matches(rule[2], above) for above in _prefixes(path)):
            return True
        if rule[1] is Mode.FLAT and matches(rule[2], path[:-1]):
            return True
    return False
