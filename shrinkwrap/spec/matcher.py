"""Which entries of a repository come out: one question for each, answered from the state of its directory.

A state stands for all that the lines say below one directory. Of literal lines a step is one look into a
dictionary; with globs, a state is a set of positions in an automaton over path components, made as the walk
meets it. The rules: ``docs/spec-files.md``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from shrinkwrap.spec import fingerprint
from shrinkwrap.spec.glob import Glob
from shrinkwrap.spec.grammar import Mode, Spec, resolve
from shrinkwrap.spec.rules import NO_LINE, Node, build, closed, descend

#: The entry does not come out.
NO: Final = 0
#: The entry comes out.
YES: Final = 1
#: The directory comes out if anything below it does: it is on the way through a glob.
IF_BELOW: Final = 2

#: Answers that a state with globs keeps by name, and states that a matcher keeps for reuse; then it starts
#: anew.
_NAMES_KEPT: Final = 8192
_STATES_KEPT: Final = 65536


class State:
    """What the lines say below one directory. To be compared and hashed; the rest is the matcher's own.

    States of one matcher are equal if they stand for the same rules; across matchers compare fingerprints.
    """

    __slots__ = (
        "_hash",
        "by_hits",
        "default",
        "digest",
        "globs",
        "key",
        "literal",
        "live",
        "steps",
        "written",
    )

    literal: Node | None
    live: tuple[Node, ...]
    #: Inherited lines: deep ones, flat ones of the directory itself, and the ``!path/*`` that hides what is
    #: below.
    key: tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
    #: Answers by name: all that differ from ``default``, or with globs those of names met lately.
    steps: dict[bytes, Step] | None
    default: Step | None
    #: With globs: each with where it leads to, the names that lines name here, answers by the globs that match.
    globs: tuple[tuple[Glob, Node], ...]
    written: frozenset[bytes]
    by_hits: dict[tuple[Node, ...], Step]
    digest: bytes

    def __init__(
        self,
        literal: Node | None,
        live: tuple[Node, ...],
        deep: tuple[int, ...],
        flat: tuple[int, ...],
        veil: int,
    ) -> None:
        self.literal = literal
        self.live = live
        self.key = (
            NO_LINE if literal is None else literal.number,
            tuple(node.number for node in live),
            deep,
            flat,
            veil,
        )
        self._hash = hash(self.key)
        self.steps = None
        self.default = None
        self.globs = ()
        self.written = frozenset()
        self.by_hits = {}
        self.digest = b""

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, State) and self.key == other.key)

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"State{self.key}"


class Step(NamedTuple):
    """The answer for one entry.

    Attributes:
        included: :data:`NO`, :data:`YES` or :data:`IF_BELOW`.
        state: to ask on with below the entry; None: nothing below it can come out.
        named: a literal line names this entry, or one below it. Hidden entries come out only then.
        lines: indices into ``spec.lines`` of the lines that this entry is a match of. If it comes out:
            those that bring it (also from above), and a ``!path/*`` for this path. If not: those that hide
            it, where it would have come out without them. Empty if it is merely on the way. The tuples are
            shared.
    """

    included: int
    state: State | None
    named: bool
    lines: tuple[int, ...]


_NOTHING: Final = Step(NO, None, False, ())


class Matcher:
    """Answers for one specification. Not to be shared between threads.

    Attributes:
        spec: the specification.
        root: the answer for the repository's root, which always comes out.
        states_made, globs_tried: running totals of the work done, for tests and curious people.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.states_made = 0
        self.globs_tried = 0
        self._states: dict[State, State] = {}
        self._tuples: dict[tuple[int, ...], tuple[int, ...]] = {}
        literal, globbed = build(resolve(spec.lines))
        step = self._enter(literal, closed([globbed]), (), (), NO_LINE)
        self.root = Step(YES, step.state, True, step.lines)

    def step(self, state: State, name: bytes, is_dir: bool) -> Step:
        """The answer for the entry ``name`` of the directory that ``state`` belongs to."""
        steps = state.steps
        if steps is None:
            steps = self._prepare(state)
        found = steps.get(name) or state.default or self._step_through_globs(state, name)
        if found.included == IF_BELOW and not is_dir:
            return _NOTHING
        return found

    def names(self, state: State) -> tuple[bytes, ...] | None:
        """The only names below this directory that can come out, sorted; None: it takes a listing to know."""
        _, _, deep, flat, veil = state.key
        if veil == NO_LINE and (deep or flat):
            return None
        found: set[bytes] = set()
        for node in state.live:
            # `**` leads to no other directory by itself: what comes after it stands in the state as well.
            by_glob = [*node.globs.values(), *([node] if node.loops else [])]
            if any(_newest(child) > veil for child in by_glob):
                return None
        for node in (*state.live, *([] if state.literal is None else [state.literal])):
            found.update(name for name, child in node.names.items() if _newest(child) > veil)
        return tuple(sorted(found))

    def everything(self, state: State) -> bool:
        """Whether all that is below comes out and no further line has anything to say about any of it.

        Each entry below is a match of the lines :meth:`inherited` then.
        """
        _, _, deep, flat, veil = state.key
        return bool(deep) and not flat and veil == NO_LINE and state.literal is None and not state.live

    def inherited(self, state: State) -> tuple[int, ...]:
        """The lines ``/path/*`` for this directory or one above it, which all entries below match."""
        return state.key[2]

    def fingerprint(self, state: State) -> bytes:
        """Sixteen bytes that stand for the rules below this directory, in any process and any specification.

        Equal fingerprints mean equal answers (but for the numbers of lines) to all questions below. They
        depend neither on lines that do not reach here nor on line numbers.
        """
        if not state.digest:
            _, _, deep, flat, veil = state.key
            state.digest = fingerprint.digest(state.literal, state.live, bool(deep), bool(flat), veil)
        return state.digest

    def _prepare(self, state: State) -> dict[bytes, Step]:
        """Fill in the answers for all names if no glob needs to see them, else make ready for globs."""
        _, _, deep, flat, veil = state.key
        steps: dict[bytes, Step] = {}
        names = {name for node in state.live for name in node.names}
        if state.literal is not None:
            names.update(state.literal.names)
        state.globs = tuple(item for node in state.live for item in node.globs.items())
        if state.globs or any(node.loops for node in state.live):
            state.written = frozenset(names)
        else:
            state.default = self._enter(None, (), deep, flat, veil)
            for name in names:
                steps[name] = self._enter_child(state, name, ())
        state.steps = steps
        return steps

    def _step_through_globs(self, state: State, name: bytes) -> Step:
        """The answer for a name not met lately in this state; ``steps`` keeps those that were."""
        self.globs_tried += len(state.globs)
        hits = tuple([child for glob, child in state.globs if glob.match(name)])
        if name in state.written:
            found = self._enter_child(state, name, hits)
        else:
            # All other names with the same hits have the same answer.
            known = state.by_hits.get(hits)
            if known is None:
                if len(state.by_hits) >= _NAMES_KEPT:
                    state.by_hits.clear()
                known = state.by_hits[hits] = self._enter_child(state, name, hits)
            found = known
        assert state.steps is not None
        if len(state.steps) >= _NAMES_KEPT:
            state.steps.clear()
        state.steps[name] = found
        return found

    def _enter_child(self, state: State, name: bytes, hits: tuple[Node, ...]) -> Step:
        _, _, deep, flat, veil = state.key
        literal = None if state.literal is None else state.literal.names.get(name)
        return self._enter(literal, descend(state.live, name, hits), deep, flat, veil)

    def _enter(
        self,
        literal: Node | None,
        live: tuple[Node, ...],
        deep: tuple[int, ...],
        flat: tuple[int, ...],
        veil: int,
    ) -> Step:
        """The answer for an entry where these positions are reached.

        Args:
            literal, live: the written paths that end at it or lead on.
            deep, veil: inherited. ``flat``: flat lines of the parent.
        """
        here = live if literal is None else (literal, *live)
        including = [node for node in here if node.including_line != NO_LINE]
        named_below = NO_LINE if literal is None else literal.newest_below
        globbed_below = max((node.newest_below for node in live), default=NO_LINE)
        brought = deep or flat or including or named_below != NO_LINE
        otherwise = YES if brought else IF_BELOW if globbed_below != NO_LINE else NO
        named = named_below != NO_LINE or (literal is not None and literal.including_line != NO_LINE)

        hiding = _hiding(literal, live)
        if hiding:
            return self._hidden(otherwise, hiding)

        deep = _merged(deep, [node.line for node in including if node.mode is Mode.DEEP])
        flat_here = tuple(sorted(node.line for node in including if node.mode is Mode.FLAT))
        lines: tuple[int, ...] = ()
        if veil > max((node.line for node in including), default=NO_LINE):
            # Hidden by `!path/*` of a directory above, unless it is on the way to something that a later
            # line names.
            if max(named_below, globbed_below) < veil:
                return self._hidden(otherwise, [veil])
            included = YES if named_below > veil else IF_BELOW
            named = named_below > veil
        else:
            veil = NO_LINE
            included = otherwise
            lines = _merged(_merged(deep, flat), [node.line for node in including])

        own_veil = max((node.veil for node in here), default=NO_LINE)
        about_children = (node.line for node in including if node.mode is not Mode.EXACT)
        if own_veil > max(about_children, default=NO_LINE):
            veil = max(veil, own_veil)
            lines = _merged(lines, [own_veil])
        reach = max(named_below, globbed_below)
        if not (reach > veil if veil != NO_LINE else deep or flat_here or reach != NO_LINE):
            return _NOTHING if included != YES else Step(YES, None, named, self._shared(lines))
        if included == NO:
            return _NOTHING
        return Step(included, self._state(literal, live, deep, flat_here, veil), named, self._shared(lines))

    def _hidden(self, otherwise: int, lines: list[int]) -> Step:
        return _NOTHING if otherwise == NO else Step(NO, None, False, self._shared(tuple(sorted(lines))))

    def _state(
        self,
        literal: Node | None,
        live: tuple[Node, ...],
        deep: tuple[int, ...],
        flat: tuple[int, ...],
        veil: int,
    ) -> State:
        literal = literal if literal is not None and literal.says_more else None
        state = State(literal, tuple(node for node in live if node.says_more), self._shared(deep), flat, veil)
        known = self._states.get(state)
        if known is None:
            if len(self._states) >= _STATES_KEPT:
                self._states.clear()
            self._states[state] = known = state
            self.states_made += 1
        return known

    def _shared(self, lines: tuple[int, ...]) -> tuple[int, ...]:
        if len(self._tuples) >= _STATES_KEPT:
            self._tuples.clear()
        return self._tuples.setdefault(lines, lines)


def _newest(node: Node) -> int:
    """Largest index of a line that includes the path that ends here or one that goes on from here."""
    return max(node.including_line, node.newest_below)


def _hiding(literal: Node | None, live: tuple[Node, ...]) -> list[int]:
    """The plain exclusions that hide an entry. A later literal line for that very path takes back a glob's."""
    lines = [node.line for node in live if node.mode is Mode.EXCLUDE]
    if literal is not None:
        if literal.mode is Mode.EXCLUDE:
            lines.append(literal.line)
        elif lines and literal.including_line > max(lines):
            return []
    return lines


def _merged(lines: tuple[int, ...], more: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({*lines, *more})) if more else lines
