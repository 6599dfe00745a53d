"""Lines of a specification that decide nothing, because other lines say it all: found without a repository.

The matcher itself is asked, so what is said here holds for globs and for either rule set. Where an answer would need a
look at names that only a repository has, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shrinkwrap.spec.glob import Part
from shrinkwrap.spec.grammar import Line, Mode, Spec, parse, resolve
from shrinkwrap.spec.matcher import NO, Matcher, Step
from shrinkwrap.survey.findings import Finding, about

_DEEP_ROOT = b"/*"


def way(matcher: Matcher, names: Sequence[bytes]) -> Iterator[Step]:
    """The answers for the root, and for the directories of a path down to where nothing below can come out."""
    step = matcher.root
    yield step
    for name in names:
        if step.state is None:
            return
        step = matcher.step(step.state, name, True)
        yield step


def idle_lines(spec: Spec) -> Iterator[Finding]:
    """The lines that decide nothing, in no order."""
    lines = spec.lines
    yield from _repeated(lines)
    in_force = {rule.line for rule in resolve(lines)}
    idle = _Idle(spec, in_force)
    for index, line in enumerate(lines):
        if index in in_force:
            found = idle.including(index, line) if line.mode.includes else idle.excluding(index, line)
            if found is not None:
                yield found


def _repeated(lines: Sequence[Line]) -> Iterator[Finding]:
    """Lines that a later one for the very same path takes the place of."""
    last: dict[tuple[bool, tuple[Part, ...], tuple[bytes, ...] | None], Line] = {}
    for line in reversed(lines):
        key = (line.mode is Mode.EXCLUDE_BELOW, line.parts, line.classic)
        later = last.setdefault(key, line)
        if later is line:
            continue
        if later.mode is line.mode:
            yield about("duplicate", line, f"{later.where} says the same ({later.text})", "remove one of them")
            continue
        reason = f"decides nothing: the last line for a path wins, and that is {later.text} of {later.where}"
        if line.mode is Mode.DEEP and later.mode.includes:
            reason += ", which brings less"
        elif later.mode is Mode.EXCLUDE:
            reason += "; the original tool leaves the directories above it, empty"
        yield about("replaced", line, reason, f"remove it, or remove {later.where} if this one was meant")


class _Idle:
    """Asks what would come out without a line, or because of it alone."""

    def __init__(self, spec: Spec, in_force: set[int]) -> None:
        self._lines = spec.lines
        self._matcher = Matcher(spec)
        including = [line.raw for index, line in enumerate(spec.lines) if line.mode.includes and index in in_force]
        excluding = [line.raw for index, line in enumerate(spec.lines) if not line.mode.includes and index in in_force]
        self._brought = _matcher(including, spec.rules)
        #: What exclusions leave of everything: all the more of less.
        self._left = _matcher([_DEEP_ROOT, *excluding], spec.rules)
        #: Directories on the way to a literal path that comes out, with a line that is the reason.
        self._ways: dict[tuple[bytes, ...], int] = {}
        for index, line in enumerate(spec.lines):
            names = _names(line)
            if line.mode.includes and index in in_force and names is not None and self._comes(self._matcher, names):
                for depth in range(len(names)):
                    self._ways.setdefault(names[:depth], index)

    def including(self, index: int, line: Line) -> Finding | None:
        names = _names(line)
        literal = names is not None
        if names is None:
            names = _prefix(line)
        steps = list(way(self._matcher, names))
        last = steps[-1]
        if len(steps) <= len(names) or last.included == NO or (not literal and last.state is None):
            return self._hidden(line, self._hiding(steps))
        if literal:
            by = self._others(index, line, names, steps)
        else:
            by = [one for one in self._matcher.inherited(last.state) if one != index] if last.state is not None else []
        if not by or not self._untouched(names, whole=not literal):
            return None
        other = self._lines[by[-1]]
        if other.mode.includes and names in self._ways and self._ways[names] == by[-1] and other.mode is not Mode.FLAT:
            way_only = not self._lies_below(other, names)
            if way_only:
                reason = f"is on the way to {other.text} of {other.where}, and comes out anyway"
                return about("covered", line, reason, "remove it")
        return about("covered", line, f"{other.text} of {other.where} brings it already", "remove it")

    def _others(self, index: int, line: Line, names: tuple[bytes, ...], steps: Sequence[Step]) -> list[int]:
        """Lines that bring all that a literal line does."""
        if not names:
            return []
        above = steps[-2].state
        deep = [] if above is None else list(self._matcher.inherited(above))
        if deep or line.mode is not Mode.EXACT:
            return deep
        flat = [one for one in steps[-1].lines if one != index and self._lines[one].mode is Mode.FLAT]
        if flat:
            return flat
        reason = self._ways.get(names)
        return [] if reason is None else [reason]

    @staticmethod
    def _lies_below(other: Line, names: tuple[bytes, ...]) -> bool:
        """Whether a path lies at or below that of a line."""
        parts = other.parts
        return len(parts) <= len(names) and parts == names[: len(parts)]

    def _untouched(self, names: tuple[bytes, ...], *, whole: bool) -> bool:
        """Whether no exclusion has a say about a path, so that a line for it does not take any back."""
        steps = list(way(self._left, names))
        state = steps[-1].state
        if len(steps) <= len(names) or state is None or any(step.included == NO for step in steps):
            return False
        return self._left.everything(state) if whole else self._left.names(state) is None

    def _hiding(self, steps: Sequence[Step]) -> Line | None:
        for step in reversed(steps):
            for index in reversed(step.lines):
                if not self._lines[index].mode.includes:
                    return self._lines[index]
        return None

    def _hidden(self, line: Line, by: Line | None) -> Finding | None:
        if by is None:
            return None
        if by.mode is Mode.EXCLUDE_BELOW:
            reason = f"brings nothing: {by.text} of {by.where} stands after it and hides it"
            return about("hidden", line, reason, f"move it below {by.where}, or remove it")
        reason = f"brings nothing: {by.text} of {by.where} hides it, and that is final wherever it stands"
        fix = "remove it"
        if not by.raw.endswith(b"*"):
            fix = f"remove it; or write {by.text.rstrip('/')}/* before it, which later lines can take back (rules 2.14)"
        return about("hidden", line, reason, fix)

    def excluding(self, index: int, line: Line) -> Finding | None:
        names = _names(line)
        literal = names is not None
        if names is None:
            names = _prefix(line)
        below = line.mode is Mode.EXCLUDE_BELOW
        brought = list(way(self._brought, names))
        last = brought[-1]
        if len(brought) <= len(names) or last.included == NO or ((below or not literal) and last.state is None):
            what = "what is below it" if below else "it"
            return about("hides_nothing", line, f"hides nothing: no line brings {what}", "remove it, or correct the path")
        steps = list(way(self._matcher, names))
        by = self._hiding(steps[:-1] if literal and len(steps) > len(names) else steps)
        gone = len(steps) <= len(names) or steps[-1].included == NO
        if gone and by is not None and by is not line and by.parts != line.parts:
            return about("hidden_twice", line, f"{by.text} of {by.where} hides it already", "remove it")
        if below and literal and len(steps) > len(names) and steps[-1].included != NO and index not in steps[-1].lines:
            reason = "hides nothing: a later line brings all of it back"
            return about("lifted", line, reason, "remove it, or move it below that line")
        return None

    @staticmethod
    def _comes(matcher: Matcher, names: tuple[bytes, ...]) -> bool:
        steps = list(way(matcher, names))
        return len(steps) > len(names) and steps[-1].included != NO


def _matcher(lines: Sequence[bytes], rules: str) -> Matcher:
    return Matcher(parse(b"".join(line + b"\n" for line in lines), rules=rules))


def _names(line: Line) -> tuple[bytes, ...] | None:
    """The path of a line without globs."""
    names = tuple(part for part in line.parts if isinstance(part, bytes))
    return names if len(names) == len(line.parts) and line.classic is None else None


def _prefix(line: Line) -> tuple[bytes, ...]:
    """The names before the first glob."""
    found: list[bytes] = []
    for part in line.parts:
        if not isinstance(part, bytes):
            break
        found.append(part)
    return tuple(found)
