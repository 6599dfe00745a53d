"""Lines of a specification that decide nothing, because other lines say it all: found without a repository.

The matcher itself is asked, so what is said here holds for globs and for either rule set. Where an answer would need a
look at names that only a repository has, nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shrinkwrap.spec.glob import Part
from shrinkwrap.spec.grammar import Line, Mode, Spec, parse, resolve
from shrinkwrap.spec.matcher import NO, Matcher, Step
from shrinkwrap.spec.rules import NO_LINE
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
    replacing = set(_replacing(lines))
    idle = _Idle(spec, in_force)
    for index, line in enumerate(lines):
        # Without a line that replaces another one, that would be in force.
        if index in in_force and index not in replacing:
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


def _replacing(lines: Sequence[Line]) -> Iterator[int]:
    """Lines that take the place of an earlier one that says something else."""
    modes: dict[tuple[bool, tuple[Part, ...]], Mode] = {}
    for index, line in enumerate(lines):
        for parts in (line.parts, line.classic):
            if parts is not None:
                key = (line.mode is Mode.EXCLUDE_BELOW, parts)
                if modes.get(key, line.mode) is not line.mode:
                    yield index
                modes[key] = line.mode


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
        if len(steps) <= len(names) or last.included == NO or (len(names) < len(line.parts) and last.state is None):
            return self._hidden(line, self._hiding(steps))
        reason = self._brought_by(index, line, names, steps) if literal else self._brought_whole(index, last)
        if not reason or not self._untouched(names, whole=not literal):
            return None
        return about("covered", line, reason, "remove it")

    def _brought_by(self, index: int, line: Line, names: tuple[bytes, ...], steps: Sequence[Step]) -> str:
        """Which other line brings all that a literal line does; "" if none."""
        if not names:
            return ""
        above = steps[-2].state
        others = [] if above is None else list(self._matcher.inherited(above))
        if not others and line.mode is Mode.EXACT:
            others = [one for one in steps[-1].lines if one != index and self._lines[one].mode is Mode.FLAT]
            on_the_way = self._ways.get(names)
            if not others and on_the_way is not None:
                other = self._lines[on_the_way]
                return f"is on the way to {other.text} of {other.where}, and comes out anyway"
        return self._told(others)

    def _brought_whole(self, index: int, step: Step) -> str:
        """Which other line brings all below the directory of a step."""
        return (
            ""
            if step.state is None
            else self._told([one for one in self._matcher.inherited(step.state) if one != index])
        )

    def _told(self, others: Sequence[int]) -> str:
        # A line with globs brings the directories on the way only if something is there.
        literal = [self._lines[one] for one in others if self._lines[one].classic is None]
        return f"{literal[-1].text} of {literal[-1].where} brings it already" if literal else ""

    def _untouched(self, names: tuple[bytes, ...], *, whole: bool) -> bool:
        """Whether no exclusion has a say about a path, so that a line for it does not take any back."""
        steps = list(way(self._left, names))
        state = steps[-1].state
        if len(steps) <= len(names) or state is None or any(step.included == NO for step in steps):
            return False
        return self._left.everything(state) if whole else self._left.names(state) is None

    def _hiding(self, steps: Sequence[Step], besides: int = NO_LINE) -> Line | None:
        """The exclusion that ends these steps, unless it is the one that is looked at."""
        for step in reversed(steps):
            for index in reversed(step.lines):
                if not self._lines[index].mode.includes:
                    return None if index == besides else self._lines[index]
        return None

    def _hidden(self, line: Line, by: Line | None) -> Finding | None:
        if by is None:
            return None
        if by.mode is Mode.EXCLUDE_BELOW:
            reason = f"{by.text} of {by.where} stands after it and hides it: at most directories on the way come out"
            return about("hidden", line, reason, f"move it below {by.where}, or remove it")
        reason = (
            f"{by.text} of {by.where} hides it, and that is final wherever it stands: at most directories on the way"
            " come out"
        )
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
        beyond = len(names) < len(line.parts)
        brought = list(way(self._brought, names))
        last = brought[-1]
        if len(brought) <= len(names) or last.included == NO or ((below or beyond) and last.state is None):
            what = "what is below it" if below else "it"
            return about(
                "hides_nothing", line, f"hides nothing: no line brings {what}", "remove it, or correct the path"
            )
        steps = list(way(self._matcher, names))
        by = self._hidden_before(index, names, steps, beyond=beyond)
        if by is not None:
            return about("hidden_twice", line, f"{by.text} of {by.where} hides it already", "remove it")
        if below and literal and len(steps) > len(names) and steps[-1].included != NO and index not in steps[-1].lines:
            reason = "hides nothing: a later line brings all of it back"
            return about("lifted", line, reason, "remove it, or move it below that line")
        return None

    def _hidden_before(
        self, index: int, names: tuple[bytes, ...], steps: Sequence[Step], *, beyond: bool
    ) -> Line | None:
        """Another exclusion that hides all that an excluding line does."""
        last = steps[-1]
        if len(steps) <= len(names) or (beyond and last.state is None):
            return self._hiding(steps, index)
        if last.included != NO:
            return None
        others = [one for one in last.lines if one != index and not self._lines[one].mode.includes]
        return self._lines[others[-1]] if others else None

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
