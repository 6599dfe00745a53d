"""Why a path comes out, or does not: the matcher's answers on the way to it, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import kind_of, show
from shrinkwrap.snapshot.both import Both
from shrinkwrap.snapshot.session import Session
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.grammar import Line, Mode, Spec, parse
from shrinkwrap.spec.matcher import IF_BELOW, NO, YES, Matcher, Step
from shrinkwrap.survey.original import classic

#: What a step comes to.
OUT: Final = "comes out"
ON_THE_WAY: Final = "on the way"
MAYBE: Final = "if something below it does"
HIDDEN: Final = "hidden"
NOT_ASKED: Final = "not asked for"
_IS_HIDDEN: Final = "it is a hidden entry of the repository"
_SPECIAL: Final = ("fifo", "socket", "chardev", "blockdev")


@dataclass(frozen=True, slots=True)
class Judged:
    """One entry on the way to a path, the path itself last.

    Attributes:
        path: in the repository.
        verdict: one of the five words above.
        reason: which line decides, and how.
        lines: those that decide.
        there: what the repository has there (``dir``, ``file``, ...); "" if nothing; None if nobody looked.
    """

    path: bytes
    verdict: str
    reason: str
    lines: tuple[Line, ...]
    there: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "path": show(self.path),
            "verdict": self.verdict,
            "why": self.reason,
            "lines": [{"file": one.file, "number": one.number, "line": one.text} for one in self.lines],
            "there": self.there,
        }


def comes_out(judged: Sequence[Judged]) -> bool | None:
    """Whether the path comes out, as far as that is known; None: that depends on what is below it."""
    last = judged[-1]
    if last.there == "" or last.there in _SPECIAL:
        return False
    return None if last.verdict == MAYBE else last.verdict in (OUT, ON_THE_WAY)


def explain(spec: Spec, path: bytes, *, is_dir: bool = True) -> list[Judged]:
    """Judge each directory on the way to a path, and the path.

    Args:
        path: in the repository, as :func:`~shrinkwrap.snapshot.session.repository_path` gives it.
        is_dir: what the path is; a directory may come out for the sake of what is below it.
    """
    matcher = Matcher(spec)
    names = path.split(b"/")[1:]
    step: Step | None = matcher.root
    found = [_judge(spec, (), matcher.root, None)]
    for depth, name in enumerate(names, 1):
        way = tuple(names[:depth])
        state = None if step is None else step.state
        if state is None:
            found.append(_beyond(way, found[-1]))
            step = None
            continue
        step = matcher.step(state, name, is_dir or depth < len(names))
        found.append(_judge(spec, way, step, found[-1]))
    return found


def explain_in(session: Session, root: NestedRef, spec: Spec, path: bytes) -> list[Judged]:
    """The same with a look into a repository: what is there, and whether the path really comes out.

    Raises:
        MissingObject, NetworkError, CorruptObject: a catalog cannot be had, or is wrong.
    """
    there = list(_there(session, root, path))
    judged = explain(spec, path, is_dir=there[-1][0] in ("dir", ""))
    found = []
    for one, (kind, words) in zip(judged, there, strict=True):
        found.append(replace(one, there=kind, reason=f"{one.reason}{'; ' if words else ''}{words}"))
    last = found[-1]
    if any(_IS_HIDDEN in one.reason for one in found) and comes_out(found) and not _really(session, root, spec, path):
        found[-1] = replace(last, verdict=NOT_ASKED)
    elif last.there == "dir" and last.verdict == MAYBE:
        out = _really(session, root, spec, path)
        reason = f"{last.reason}; something below it {'does' if out else 'does not'}"
        found[-1] = replace(last, verdict=ON_THE_WAY if out else NOT_ASKED, reason=reason)
    return found


def _really(session: Session, root: NestedRef, spec: Spec, path: bytes) -> bool:
    """Whether a walk brings a path."""
    # A name with a line feed in it stands in no line.
    within = Matcher(parse((b"" if b"\n" in path else path) + b"/*\n"))
    return any(entry.path == path for entry in Walk(session.catalogs, root, Both(Matcher(spec), within)))


def _there(session: Session, root: NestedRef, path: bytes) -> Iterator[tuple[str, str]]:
    """For each entry on the way its kind, and what people should know of it."""
    names = path.split(b"/")[1:]
    gone = ""
    for depth in range(len(names) + 1):
        here = b"".join(b"/" + name for name in names[:depth])
        if gone:
            yield "", gone
            continue
        found = session.find(root, here)
        if found is None:
            gone = f"{show(here)} is not in the repository"
            yield "", "it is not in the repository"
            continue
        catalog, entry = found
        session.catalogs.release(catalog)
        kind = kind_of(entry.mode)
        words = ""
        if entry.is_hidden:
            words = f"{_IS_HIDDEN}, which only a line that names it brings"
        elif kind == "symlink" and depth < len(names):
            words = f"it is a symbolic link to {show(entry.target)}: what is behind it does not come out by this path"
            gone = f"{show(here)} is a symbolic link"
        elif kind in _SPECIAL:
            words = f"it is a {kind}, which never comes out"
        yield kind, words


def _judge(spec: Spec, way: tuple[bytes, ...], step: Step, above: Judged | None) -> Judged:
    path = b"".join(b"/" + name for name in way)
    lines = tuple(spec.lines[index] for index in step.lines)
    bringing = [line for line in lines if line.mode.includes]
    hiding = [line for line in lines if not line.mode.includes]
    if step.included == YES and (bringing or not way):
        words = [_how(line, way) for line in bringing] or ["the root always comes out"]
        words += [f"{line.text} of {line.where} hides what is below it" for line in hiding]
        return Judged(path, OUT, ", ".join(words), lines)
    if step.included == YES:
        leading = _leading(spec, way)
        reason = (
            f"on the way to {leading.text} of {leading.where}" if leading is not None else "on the way to other lines"
        )
        if hiding:
            reason += f"; {hiding[0].text} of {hiding[0].where} hides all else that is below it"
        return Judged(path, ON_THE_WAY, f"{reason}; shows only what is needed", lines or _one(leading))
    if step.included == IF_BELOW:
        return Judged(path, MAYBE, "on the way through a glob: comes out if something below it does", lines)
    if hiding:
        return Judged(path, HIDDEN, "; ".join(_hides(line, way) for line in hiding), tuple(hiding))
    assert step.included == NO
    return Judged(path, NOT_ASKED, _missed(spec, way, above), ())


def _beyond(way: tuple[bytes, ...], above: Judged) -> Judged:
    """An entry below one below which nothing can come out."""
    path = b"".join(b"/" + name for name in way)
    hiding = tuple(line for line in above.lines if not line.mode.includes)
    if hiding:
        return Judged(path, HIDDEN, "; ".join(_hides(line, way) for line in hiding), hiding)
    return Judged(path, NOT_ASKED, _hint(above), ())


def _hint(above: Judged) -> str:
    """Why nothing below an entry is asked for."""
    if above.verdict != OUT:
        return "no line asks for it"
    line = above.lines[-1] if above.lines else None
    shown = show(above.path)
    if line is None:
        return "no line asks for it"
    if line.mode is Mode.EXACT:
        return f"{line.text} of {line.where} names {shown} alone: {shown.rstrip('/')}/* would bring what is below it"
    return f"{line.text} of {line.where} brings {shown} without what is in it: {shown}/* would bring that"


def _missed(spec: Spec, way: tuple[bytes, ...], above: Judged | None) -> str:
    return "no line asks for it" if above is None else _hint(above)


def _how(line: Line, way: tuple[bytes, ...]) -> str:
    """How a line brings an entry."""
    said = f"{line.text} of {line.where} "
    if line.classic is not None and line.classic != way:
        return said + ("matches it, or a directory above it" if line.mode is Mode.DEEP else "matches it")
    names = classic(line)
    if names == way:
        return said + {
            Mode.EXACT: "names it, alone",
            Mode.FLAT: "names it, and what is directly in it",
        }.get(line.mode, "names it, and all below it")
    folder = show(b"".join(b"/" + name for name in names))
    return said + (f"brings all below {folder}" if line.mode is Mode.DEEP else f"brings what is directly in {folder}")


def _hides(line: Line, way: tuple[bytes, ...]) -> str:
    said = f"{line.text} of {line.where} hides "
    below = f"what is below {show(b''.join(b'/' + name for name in classic(line)))}"
    if line.mode is Mode.EXCLUDE_BELOW:
        return said + f"{below}; a line after it could bring this back"
    return said + ("it" if classic(line) == way else "it, as all below") + ", for good"


def _leading(spec: Spec, way: tuple[bytes, ...]) -> Line | None:
    """A line whose path goes on from here."""
    for line in spec.lines:
        if line.mode.includes and len(classic(line)) > len(way) and classic(line)[: len(way)] == way:
            return line
    return None


def _one(line: Line | None) -> tuple[Line, ...]:
    return () if line is None else (line,)
