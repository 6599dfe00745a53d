"""Globs inside one component of a path.

``*`` is any run of characters, ``?`` one character, ``[a-z]`` one of a set, ``[!a-z]`` one outside it
(``[^a-z]`` too). All of them match a leading dot, none a slash. A backslash before ``* ? [ ] \\`` takes
their meaning away; any other backslash is itself. A character is one of UTF-8, or a single byte where a
name is not UTF-8.

Names come from catalogs, so a name must not be able to make a match expensive: each piece between two stars
is searched once, leftmost first, and never again (a plain regular expression backtracks with a power of the
name's length that grows with each star).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

#: Bytes that make a line a glob when they stand in it (besides its final ``*``).
MAGIC: Final = frozenset(b"*?[")

_ESCAPABLE: Final = frozenset("*?[]\\")
_STAR: Final = None
_NAMED_CLASS: Final = re.compile(r"([:.=])\w{1,16}\1\]")


@dataclass(frozen=True, slots=True)
class Glob:
    """One component with wildcards. ``text`` is as written; two globs with the same text are equal.

    ``pieces`` are the fixed runs around the stars, where the component has no other wildcard; ``regex`` is
    for the others.
    """

    text: bytes
    pieces: tuple[bytes, ...] = field(compare=False, repr=False, default=())
    regex: re.Pattern[str] | None = field(compare=False, repr=False, default=None)

    def match(self, name: bytes) -> bool:
        """Whether the whole of ``name`` is matched."""
        if len(self.pieces) == 2:
            head, tail = self.pieces
            return name.endswith(tail) and name.startswith(head) and len(name) >= len(head) + len(tail)
        if self.regex is not None:
            return self.regex.fullmatch(name.decode("utf-8", "surrogateescape")) is not None
        head, *middle, tail = self.pieces
        if len(name) < len(head) + len(tail) or not name.startswith(head) or not name.endswith(tail):
            return False
        at, end = len(head), len(name) - len(tail)
        for piece in middle:
            at = name.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True


@dataclass(frozen=True, slots=True)
class AnyDepth:
    """The component ``**``: any number of components, also none."""

    text: bytes = b"**"


ANY_DEPTH: Final = AnyDepth()

#: A component as it is matched: a literal name, a glob, or ``**``.
Part = bytes | Glob | AnyDepth


def read_component(raw: bytes) -> tuple[Part, str]:
    """Read one component, without slashes, as a glob.

    Returns:
        The component (bytes where nothing in it is a wildcard) and what is wrong with its brackets, or "".
        A wrong bracket stands for itself.
    """
    if not MAGIC.intersection(raw):
        return raw, ""
    if raw == b"**":
        return ANY_DEPTH, ""
    text = raw.decode("utf-8", "surrogateescape")
    tokens: list[str | _Set | None] = []  # a character, a set, or a star
    complaint = ""
    closed = True
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            if not tokens or tokens[-1] is not _STAR:
                tokens.append(_STAR)
        elif char == "?":
            tokens.append(_Set("", True))
        elif char == "[" and closed:
            found, end, wrong = _read_set(text, at)
            if found is None:
                # `[` alone is a program's name and no slip of the pen.
                complaint = complaint or ("" if raw == b"[" else wrong)
                # Where one [ has no ], no later one has: looking again would take the square of the length.
                closed = end > at
                tokens.extend(text[at - 1 : end])
            else:
                tokens.append(found)
            at = end
        elif char == "\\" and at < len(text) and text[at] in _ESCAPABLE:
            tokens.append(text[at])
            at += 1
        else:
            tokens.append(char)
    return _compile(raw, tokens), complaint


@dataclass(frozen=True, slots=True)
class _Set:
    """The inside of a regular expression's brackets. An empty negated set is any character."""

    inside: str
    negated: bool
    only: str = ""  # the one character of a set that is no choice at all

    def pattern(self) -> str:
        if not self.inside:
            return "."
        return f"[{'^' if self.negated else ''}{self.inside}]"


def _read_set(text: str, at: int) -> tuple[_Set | None, int, str]:
    """The set whose ``[`` stands just before ``at``, the index behind it, and what is wrong with it.

    If something is wrong, the text up to that index is plain.
    """
    start = at
    negated = text[at : at + 1] in ("!", "^")
    if negated:
        at += 1
    chars: list[tuple[str, bool]] = []  # character, whether it may be the dash of a range
    first = True
    while True:
        if at >= len(text):
            return None, start, "a [ without its ]"
        char = text[at]
        at += 1
        if char == "]" and not first:
            break
        if char == "[" and (named := _NAMED_CLASS.match(text, at)):
            return None, named.end(), "named character classes are not known"
        if char == "\\" and at < len(text):
            chars.append((text[at], False))
            at += 1
        else:
            chars.append((char, char == "-"))
        first = False
    inside: list[str] = []
    index = 0
    while index < len(chars):
        char = chars[index][0]
        if index + 2 < len(chars) and chars[index + 1][1]:
            last = chars[index + 2][0]
            if last < char:
                return None, at, f"the range {char}-{last} runs backwards"
            inside.append(f"{_quoted(char)}-{_quoted(last)}")
            index += 3
        else:
            inside.append(_quoted(char))
            index += 1
    only = chars[0][0] if len(chars) == 1 and not negated else ""
    return _Set("".join(inside), negated, only), at, ""


def _quoted(char: str) -> str:
    return f"\\U{ord(char):08x}"


def _compile(raw: bytes, tokens: list[str | _Set | None]) -> Part:
    plain = [token.only if isinstance(token, _Set) and token.only else token for token in tokens]
    runs: list[list[str | _Set]] = [[]]
    for token in plain:
        if token is _STAR:
            runs.append([])
        else:
            runs[-1].append(token)
    if not any(isinstance(token, _Set) for run in runs for token in run):
        pieces = tuple("".join(str(token) for token in run).encode("utf-8", "surrogateescape") for run in runs)
        return pieces[0] if len(pieces) == 1 else Glob(raw, pieces=pieces)
    parts = ["".join(token.pattern() if isinstance(token, _Set) else re.escape(token) for token in run) for run in runs]
    if len(parts) == 1:
        source = parts[0]
    else:
        head, *middle, tail = parts
        # Atomic groups: the leftmost place of a piece is as good as any other, since a star follows it.
        source = head + "".join(f"(?>.*?{piece})" for piece in middle) + ".*" + tail
    return Glob(raw, regex=re.compile(source, re.DOTALL))
