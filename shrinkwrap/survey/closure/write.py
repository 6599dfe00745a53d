"""A specification with what it needs: additions first, each with its reason, then what it was before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from shrinkwrap.errors import SpecError
from shrinkwrap.snapshot.walk import order_key
from shrinkwrap.spec.grammar import FILE_LIMIT, Mode, Spec
from shrinkwrap.survey.closure.result import Added
from shrinkwrap.survey.texts import BOM, Text
from shrinkwrap.survey.trace.policy import quoted

_REPLACED: Final = b"# comes out as a tree, see above: "


def closed_text(texts: Sequence[Text], spec: Spec, added: Mapping[bytes, Added]) -> bytes:
    """The texts of a specification, joined, with additions before them.

    The last line for a path wins, and an exclusion hides what stands before it: so exclusions stay in force, and a line
    for a path that is now needed with all that is in it becomes a comment.

    Raises:
        SpecError: larger than a specification may be.
    """
    replaced = {
        (line.file, line.number)
        for line in spec.lines
        if line.mode in (Mode.EXACT, Mode.FLAT) and _is_tree(line.parts, added)
    }
    out = [b"# needed by what is selected below:\n", *_lines(added), b"\n"] if added else []
    for text in texts:
        for number, line in enumerate(text.data.removeprefix(BOM).removesuffix(b"\n").split(b"\n"), 1):
            out.append((_REPLACED if (text.name, number) in replaced else b"") + line + b"\n")
    return _bounded(out)


def other_text(fqrn: str, added: Mapping[bytes, Added], by: str) -> bytes:
    """The specification of another repository, of what one needs of it. Raises SpecError: it is too large."""
    return _bounded([f"# {fqrn}: what {by} needs of it\n".encode(), *_lines(added)])


def _is_tree(parts: Sequence[object], added: Mapping[bytes, Added]) -> bool:
    names = [part for part in parts if isinstance(part, bytes)]
    found = added.get(b"".join(b"/" + name for name in names))
    return len(names) == len(parts) and found is not None and found.mode is Mode.DEEP


def _lines(added: Mapping[bytes, Added]) -> Iterable[bytes]:
    tree: bytes | None = None
    for path in sorted(added, key=order_key):
        if tree is not None and path.startswith(tree + b"/"):
            continue
        one = added[path]
        if one.mode is Mode.DEEP:
            tree = path
        yield b"# " + _comment(one) + b"\n" + line_of(one) + b"\n"


def _comment(one: Added) -> bytes:
    return "".join(char if char.isprintable() else "?" for char in one.why).encode("utf-8", "backslashreplace")


def line_of(one: Added) -> bytes:
    """The line that brings a path."""
    return quoted(one.path) + (b"/*" if one.mode is Mode.DEEP else b"") or b"/"


def _bounded(pieces: Sequence[bytes]) -> bytes:
    text = b"".join(pieces)
    if len(text) > FILE_LIMIT:
        raise SpecError(
            f"the specification would have {len(text)} bytes, more than {FILE_LIMIT}",
            hint="name directories (/path/*) in it instead of single files",
        )
    return text
