"""Specification files as texts: what is lost when they are parsed, and those that cannot be parsed as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import SpecError
from shrinkwrap.spec.grammar import FILE_LIMIT, Spec, parse, parse_many

BOM: Final = b"\xef\xbb\xbf"
#: Wrong lines of a file that are told one by one: one that is no specification has thousands.
_LISTED: Final = 1000


class Text(NamedTuple):
    """A file: its name for messages, and its bytes."""

    name: str
    data: bytes


class Wrong(NamedTuple):
    """A line that cannot be read, and why."""

    file: str
    number: int
    text: str
    reason: str


def read_texts(paths: Iterable[str | os.PathLike[str]]) -> list[Text]:
    """Read files.

    Raises:
        SpecError: one cannot be read, or is larger than a specification may be.
    """
    found = []
    for path in paths:
        name = show(os.fsencode(path))
        try:
            with open(path, "rb") as file:
                data = file.read(FILE_LIMIT + 1)
        except (OSError, ValueError) as exc:  # ValueError: a NUL byte in the file's name
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise SpecError(
                f"cannot read the specification file {name}: {reason}", hint="is it the right name?"
            ) from None
        if len(data) > FILE_LIMIT:
            raise SpecError(
                f"the specification file {name} is larger than {FILE_LIMIT} bytes",
                hint="if it is a specification, name directories (/path/*) in it instead of single files",
            )
        found.append(Text(name, data))
    return found


def read_leniently(texts: Sequence[Text], rules: str) -> tuple[Spec, list[Wrong]]:
    """The specification without the lines that cannot be read, and those lines.

    Raises:
        UsageError: an unknown rule set.
        SpecError: a file has no line that can be read among more than a thousand that cannot.
    """
    try:
        return parse_many(texts, rules=rules), []
    except SpecError:
        wrong: list[Wrong] = []
    kept = []
    for name, data in texts:
        lines = data.removeprefix(BOM).split(b"\n")
        for index, line in enumerate(lines):
            try:
                parse(line.strip(b" \t\r"), file="", rules=rules)
            except SpecError as exc:
                # ":1: reason: line" of the message.
                told = exc.message.split("\n  ", 1)[1].removeprefix(":1: ")
                shown = show(line.strip(b" \t\r"))[:200]
                wrong.append(Wrong(name, index + 1, shown, told.partition(": ")[0]))
                lines[index] = b""
                if len(wrong) > _LISTED:
                    raise
        kept.append(Text(name, b"\n".join(lines)))
    return parse_many(kept, rules=rules), wrong
