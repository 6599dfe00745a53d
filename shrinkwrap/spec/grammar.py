"""Reading of specification files: lines, their modes and paths (FORMAT.md §10.2, docs/spec-files.md).

A line is an optional ``^`` or ``!``, an absolute path, an optional final ``*``. Nothing here looks at a
repository; what a line comes to is decided in :mod:`shrinkwrap.spec.matcher`.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import SpecError, UsageError
from shrinkwrap.spec.glob import ANY_DEPTH, MAGIC, Part, read_component

#: Most bytes of one specification file: some 150,000 lines of 100 bytes.
FILE_LIMIT: Final = 16 * limits.MIB
#: Rule sets for exclusions; the first is the default.
RULES: Final = ("2.14", "2.12")
#: Wrong lines that a message lists one by one (a file that is no specification has thousands).
_LISTED: Final = 1000


class Mode(enum.IntEnum):
    """What a line says about its path.

    ``EXACT``: the entry alone. ``FLAT``: and its direct children. ``DEEP``: and everything below.
    ``EXCLUDE``: neither the entry nor anything below. ``EXCLUDE_BELOW``: nothing below, unless a later line
    brings it back; the entry itself is left as it is.
    """

    EXACT = 0
    FLAT = 1
    DEEP = 2
    EXCLUDE = 3
    EXCLUDE_BELOW = 4

    @property
    def includes(self) -> bool:
        return self < Mode.EXCLUDE


@dataclass(frozen=True, slots=True)
class Line:
    """One line that says something.

    Attributes:
        number: in its file, from 1.
        file: name of the file, for messages.
        text: the line for people: trimmed, undecodable bytes and control characters escaped.
        raw: the trimmed line as it is.
        mode: what it says about its path.
        parts: the path's components, globs compiled.
        classic: the path read without globs, where that is another one: it is matched as well.
    """

    number: int
    file: str
    text: str
    raw: bytes
    mode: Mode
    parts: tuple[Part, ...]
    classic: tuple[bytes, ...] | None = None

    @property
    def where(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Spec:
    """A specification, perhaps of several files.

    Attributes:
        lines: those that say something, in order.
        rules: the rule set for exclusions, one of :data:`RULES`.
        text: the lines, trimmed, each ended by a line feed; comments and empty lines left out. Parsed anew
            it gives the same lines.
        sha256: of ``text``, in hex.
        warnings: each begins with ``file:number:``.
    """

    lines: tuple[Line, ...]
    rules: str
    text: bytes
    sha256: str
    warnings: tuple[str, ...]

    @classmethod
    def from_text(cls, text: str | bytes, *, rules: str = RULES[0]) -> Spec:
        """Read a specification. Raises SpecError, UsageError: see :func:`parse_many`."""
        try:
            raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        except UnicodeEncodeError as exc:
            raise SpecError(f"the specification cannot be read: {exc}", hint="give it as bytes") from None
        return parse(raw, rules=rules)

    @classmethod
    def from_files(cls, *paths: str | os.PathLike[str], rules: str = RULES[0]) -> Spec:
        """Read files, one after the other. Raises SpecError, UsageError: see :func:`read_files`."""
        return read_files(paths, rules=rules)


class Rule(NamedTuple):
    """A line in one of its readings: ``line`` is the index into :attr:`Spec.lines`."""

    line: int
    mode: Mode
    parts: tuple[Part, ...]


def parse(text: bytes, *, file: str = "<spec>", rules: str = RULES[0]) -> Spec:
    """Read one specification. See :func:`parse_many`."""
    return parse_many([(file, text)], rules=rules)


def parse_many(files: Iterable[tuple[str, bytes]], *, rules: str = RULES[0]) -> Spec:
    """Read several specifications, one after the other, as if they were one.

    Args:
        files: names (for messages) and contents.
        rules: the rule set for exclusions.

    Raises:
        SpecError: lines that cannot be read, all of them.
        UsageError: an unknown rule set.
    """
    if rules not in RULES:
        raise UsageError(
            f"unknown rules for specifications: {rules!r}",
            hint=f"the rule sets are {' and '.join(RULES)}; {RULES[0]} is the default",
        )
    lines: list[Line] = []
    wrong: list[str] = []
    brackets: list[tuple[int, str]] = []
    for file, text in files:
        for number, whole in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
            # CR too: files with DOS line ends are common, names that end in one are not.
            raw = whole.lstrip(b" \t").rstrip(b" \t\r")
            if not raw or raw.startswith(b"#"):
                continue
            reason = _reason_against(raw)
            if reason:
                wrong.append(f"{file}:{number}: {reason}: {_shown(raw)}")
                continue
            line, complaints = _read_line(raw, file, number, rules)
            brackets.extend((len(lines), complaint) for complaint in complaints)
            lines.append(line)
    if wrong:
        count = len(wrong)
        listed = wrong[:_LISTED] + ([f"... and {count - _LISTED} more"] if count > _LISTED else [])
        what = "1 line" if count == 1 else f"{count} lines"
        raise SpecError(
            f"{what} of the specification cannot be read:\n  " + "\n  ".join(listed),
            hint="a line is a path that begins with /, perhaps ^ or ! just before it, perhaps a final *",
        )
    normalised = b"".join(line.raw + b"\n" for line in lines)
    return Spec(
        lines=tuple(lines),
        rules=rules,
        text=normalised,
        sha256=hashlib.sha256(normalised).hexdigest(),
        warnings=tuple(_warnings(lines, brackets, rules)),
    )


def read_files(paths: Iterable[str | os.PathLike[str]], *, rules: str = RULES[0]) -> Spec:
    """Read specification files from disk, in order.

    Raises:
        SpecError: a file that cannot be read or is larger than :data:`FILE_LIMIT`, or as :func:`parse_many`.
        UsageError: an unknown rule set.
    """
    files: list[tuple[str, bytes]] = []
    for path in paths:
        name = os.fspath(path)
        try:
            with open(path, "rb") as handle:
                text = handle.read(FILE_LIMIT + 1)
        except (OSError, ValueError) as exc:  # ValueError: a NUL byte in the file's name
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise SpecError(
                f"cannot read the specification file {_shown(os.fsencode(name))}: {reason}",
                hint="name the file with -t",
            ) from None
        if len(text) > FILE_LIMIT:
            raise SpecError(
                f"the specification file {_shown(os.fsencode(name))} is larger than {FILE_LIMIT} bytes",
                hint="if it is a specification, name directories (/path/*) in it instead of single files",
            )
        files.append((_shown(os.fsencode(name)), text))
    return parse_many(files, rules=rules)


def resolve(lines: Iterable[Line]) -> list[Rule]:
    """The lines that count, in order: each written path has one mode, the last line for it sets that.

    ``EXCLUDE_BELOW`` is no mode of its path but a word about what lies below, and is kept beside the mode.
    """
    last: dict[tuple[bool, tuple[Part, ...]], Rule] = {}
    for index, line in enumerate(lines):
        for parts in _readings(line):
            last[line.mode is Mode.EXCLUDE_BELOW, parts] = Rule(index, line.mode, parts)
    return sorted(last.values(), key=lambda rule: rule.line)


def _readings(line: Line) -> list[tuple[Part, ...]]:
    return [line.parts] if line.classic is None else [line.classic, line.parts]


def _reason_against(raw: bytes) -> str:
    """Why a trimmed, not empty line cannot be read; "" if it can."""
    if b"\0" in raw:
        return "holds a NUL byte (a text saved as UTF-16?)"
    path = raw[1:] if raw[:1] in (b"^", b"!") else raw
    if not path:
        return f"{raw.decode()} without a path"
    if path[:1] in (b" ", b"\t"):
        return f"a blank between {raw[:1].decode()} and the path"
    if path[:1] != b"/":
        return "the path does not begin with /"
    # Counted only where there are that many slashes.
    slashes = path.count(b"/")
    if slashes > limits.PATH_DEPTH and sum(map(bool, path.removesuffix(b"*").split(b"/"))) > limits.PATH_DEPTH:
        return f"more than {limits.PATH_DEPTH} directories inside each other"
    return ""


def _read_line(raw: bytes, file: str, number: int, rules: str) -> tuple[Line, list[str]]:
    """A line known to be good, and what is wrong with its brackets."""
    sign = raw[:1] if raw[:1] in (b"^", b"!") else b""
    path = raw[len(sign) :]
    star = path.endswith(b"*")
    if sign == b"!":
        mode = Mode.EXCLUDE_BELOW if star and rules != "2.12" else Mode.EXCLUDE
    elif star:
        mode = Mode.FLAT if sign else Mode.DEEP
    else:
        mode = Mode.EXACT
    classic = tuple(filter(None, path.removesuffix(b"*").split(b"/")))
    parts: list[Part] = []
    complaints: list[str] = []
    if MAGIC.intersection(path.removesuffix(b"*")):
        # A last component `**` says no more than the final `*` does.
        names = classic[:-1] if path.endswith(b"/**") else classic
        for name in names:
            part, complaint = read_component(name)
            if part is not ANY_DEPTH or parts[-1:] != [ANY_DEPTH]:
                parts.append(part)
            if complaint:
                complaints.append(f"{complaint}: {_shown(name)} is taken as a plain name there")
        # Everything below any depth of /a is everything below /a.
        while parts and parts[-1] is ANY_DEPTH and mode not in (Mode.EXACT, Mode.FLAT):
            parts.pop()
    else:
        parts.extend(classic)
    meant = tuple(parts)
    line = Line(number, file, _shown(raw), raw, mode, meant, None if meant == classic else classic)
    return line, complaints


def _warnings(lines: list[Line], brackets: list[tuple[int, str]], rules: str) -> Iterable[str]:
    found: list[tuple[int, str]] = [(index, f"{text} (in {lines[index].text})") for index, text in brackets]
    seen: dict[tuple[Part, ...], int] = {}  # as the rules in force have it
    plain: dict[tuple[Part, ...], Mode] = {}  # without the lines that the rule sets differ about
    for index, line in enumerate(lines):
        if not _is_starred_exclusion(line):
            plain[line.parts] = line.mode
        if line.mode is Mode.EXCLUDE_BELOW:
            continue
        before = lines[seen.setdefault(line.parts, index)]
        if before.mode is not line.mode:
            found.append(
                (
                    index,
                    f"{line.text} replaces {before.text} of {before.where}: the last line for a path wins",
                )
            )
        seen[line.parts] = index
    for index, line in enumerate(lines):
        if not _is_starred_exclusion(line):
            continue
        if any(plain.get(line.parts[:depth]) is Mode.EXCLUDE for depth in range(len(line.parts) + 1)):
            continue  # a plain exclusion hides all of it under either rule set
        kept = _directory(line)
        found.append(
            (
                index,
                f"{line.text} hides what is below {kept} and keeps {kept} itself (rules 2.14); "
                f"by the rules 2.12 it hides {kept} too"
                if rules != "2.12"
                else f"{line.text} hides {kept} and what is below (rules 2.12); "
                f"by the rules 2.14 it keeps {kept} itself",
            )
        )
    return (f"{lines[index].where}: {text}" for index, text in sorted(found, key=lambda item: item[0]))


def _is_starred_exclusion(line: Line) -> bool:
    """``!/path/*``: what the rule sets differ about."""
    return line.raw.startswith(b"!") and line.raw.endswith(b"*")


def _directory(line: Line) -> str:
    parts = [part if isinstance(part, bytes) else part.text for part in line.parts]
    return _shown(b"/" + b"/".join(parts))


def _shown(raw: bytes) -> str:
    """Bytes for a message: one line, printable, no longer than 200 characters."""
    text = raw.decode("utf-8", "backslashreplace")
    if not text.isprintable():
        text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return text if len(text) <= 200 else text[:197] + "..."
