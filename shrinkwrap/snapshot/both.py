"""What two specifications both select, for a walk: a matcher that asks two of them."""

from __future__ import annotations

import hashlib
from typing import cast

from shrinkwrap.spec.matcher import IF_BELOW, NO, YES, Matcher, State, Step


class _Pair(State):
    """The states of both, for one directory."""

    __slots__ = ("first", "second")

    def __init__(self, first: State, second: State) -> None:
        super().__init__(None, (), (), (), -1)
        self.first = first
        self.second = second
        self._hash = hash((first, second))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Pair) and self.first == other.first and self.second == other.second

    def __hash__(self) -> int:
        return self._hash


class Both(Matcher):
    """Selects what both of two matchers do. A directory on the way comes out with what both select below it.

    Args:
        own: decides about hidden entries; lines that are matched are its.
        within: leaves out what it does not select.
    """

    def __init__(self, own: Matcher, within: Matcher) -> None:
        # Nothing of the base is used but its shape: each of the two has states of its own.
        self.spec = own.spec
        self.states_made = self.globs_tried = 0
        self._own = own
        self._within = within
        self.root = self._joined(own.root, within.root)

    def step(self, state: State, name: bytes, is_dir: bool) -> Step:
        pair = cast(_Pair, state)
        return self._joined(
            self._own.step(pair.first, name, is_dir), self._within.step(pair.second, name, is_dir), is_dir
        )

    def names(self, state: State) -> tuple[bytes, ...] | None:
        pair = cast(_Pair, state)
        own, within = self._own.names(pair.first), self._within.names(pair.second)
        if own is None or within is None:
            return within if own is None else own
        return tuple(sorted({*own} & {*within}))

    def everything(self, state: State) -> bool:
        pair = cast(_Pair, state)
        return self._own.everything(pair.first) and self._within.everything(pair.second)

    def inherited(self, state: State) -> tuple[int, ...]:
        return self._own.inherited(cast(_Pair, state).first)

    def fingerprint(self, state: State) -> bytes:
        if not state.digest:
            pair = cast(_Pair, state)
            parts = (
                self._own.fingerprint(pair.first),
                self._within.fingerprint(pair.second),
                self._within.spec.rules.encode(),
            )
            state.digest = hashlib.blake2b(b"".join(parts), digest_size=16).digest()
        return state.digest

    def _joined(self, own: Step, within: Step, is_dir: bool = True) -> Step:
        state = None if own.state is None or within.state is None else _Pair(own.state, within.state)
        included = YES
        if NO in (own.included, within.included):
            included = NO
        elif IF_BELOW in (own.included, within.included):
            included = IF_BELOW if is_dir and state is not None else NO
        return Step(included, state if included != NO else None, own.named, own.lines)
