"""Whether all that was touched comes out of a specification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shrinkwrap.snapshot.walk import order_key
from shrinkwrap.spec.grammar import Spec
from shrinkwrap.spec.matcher import YES, Matcher
from shrinkwrap.survey.explain import explain
from shrinkwrap.survey.trace.touched import How

#: A name that no line names: what comes out with it comes out with all.
_ANY = b"\x01"


class Missing(NamedTuple):
    """A path that was touched and does not come out, or comes out without what was read of it."""

    path: bytes
    how: How
    reason: str


def missing(spec: Spec, paths: Mapping[bytes, How]) -> Iterator[Missing]:
    """What a job touched and would not find in an export, in the order of names."""
    matcher = Matcher(spec)
    for path in sorted(paths, key=order_key):
        how = paths[path]
        step = matcher.root
        names = path.split(b"/")[1:]
        included = True
        for depth, name in enumerate(names, 1):
            if step.state is None:
                included = False
                break
            # Below a directory on the way through a glob, what was touched is something that comes out.
            step = matcher.step(step.state, name, depth < len(names) or not how & How.OPENED)
        if not included or step.included != YES:
            if included and step.included and not how & (How.OPENED | How.LISTED):
                continue
            yield Missing(path, how, explain(spec, path, is_dir=not how & How.OPENED)[-1].reason)
        elif how & How.LISTED:
            below = None if step.state is None else matcher.step(step.state, _ANY, True)
            if below is None or below.included != YES:
                yield Missing(path, how, "it was listed, and not all that is in it comes out")
