"""The canonical form of a specification file: the same lines in the same order, each written in one way."""

from __future__ import annotations

from shrinkwrap.spec.glob import MAGIC
from shrinkwrap.spec.grammar import RULES, parse
from shrinkwrap.survey.texts import BOM, Text


def formatted(text: Text) -> bytes:
    """The file in its canonical form; formatting that again changes nothing.

    No byte order mark, no CR at line ends, no blanks at the ends of lines; no doubled slashes, and no final one that
    says nothing; ``/path/*`` for ``/path*``; no ``^`` without a final ``*``. Comments stay, and of several empty lines
    one. The file ends in one line feed. What comes out is the same by all rule sets.

    Raises:
        SpecError: lines that cannot be read.
    """
    parse(text.data, file=text.name)
    lines: list[bytes] = []
    for whole in text.data.removeprefix(BOM).split(b"\n"):
        raw = whole.strip(b" \t\r")
        if raw and not raw.startswith(b"#"):
            raw = _canonical(raw)
        if raw or (lines and lines[-1]):
            lines.append(raw)
    while lines and not lines[-1]:
        lines.pop()
    return b"".join(line + b"\n" for line in lines)


def _canonical(raw: bytes) -> bytes:
    """A line in its canonical form, or as it is where that would say something else."""
    sign = raw[:1] if raw[:1] in (b"^", b"!") else b""
    path = raw[len(sign) :]
    star = path.endswith(b"*")
    bare = path.removesuffix(b"*")
    names = [name for name in bare.split(b"/") if name]
    short = b"".join(b"/" + name for name in names)
    if sign == b"^" and not star:
        sign = b""
    if MAGIC.intersection(bare) and not star and names and names[-1].endswith(b"*"):
        short += b"/"  # what makes the last star a glob
    better = sign + (short + b"/*" if star else short or b"/")
    return better if all(_meaning(better, rules) == _meaning(raw, rules) for rules in RULES) else raw


def _meaning(raw: bytes, rules: str) -> object:
    (line,) = parse(raw, rules=rules).lines
    return line.mode, line.parts, line.classic
