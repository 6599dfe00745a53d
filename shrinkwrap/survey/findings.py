"""What is odd about a line of a specification, why, and what to write instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from shrinkwrap.spec.grammar import Line

#: A line that cannot be read.
ERROR: Final = "error"
#: What comes out is likely not what was meant.
WARNING: Final = "warning"
#: Right, but the line is superfluous, or the original tool takes it otherwise.
NOTE: Final = "note"

#: All kinds of findings, with what they are (docs/spec-tools.md has the same table for people).
KINDS: Final = {
    "wrong_line": ERROR,
    "empty": WARNING,
    "replaced": WARNING,
    "hidden": WARNING,
    "hides_nothing": WARNING,
    "lifted": WARNING,
    "rules_differ": WARNING,
    "dots": WARNING,
    "star_without_slash": WARNING,
    "comment_in_line": WARNING,
    "mount_prefix": WARNING,
    "brackets": WARNING,
    "directory_without_star": WARNING,
    "no_match": WARNING,
    "through_link": WARNING,
    "duplicate": NOTE,
    "covered": NOTE,
    "hidden_twice": NOTE,
    "flat_without_star": NOTE,
    "dos_line_ends": NOTE,
    "byte_order_mark": NOTE,
    "original_hangs": NOTE,
    "original_loses": NOTE,
    "original_drops_directory": NOTE,
    "original_knows_no_globs": NOTE,
    "special_file": NOTE,
    "empty_link_target": NOTE,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One oddity.

    Attributes:
        kind: of :data:`KINDS`.
        file, number, text: the line; number 0 and no text for what is about a file or a path of the repository.
        reason: what is odd, a sentence without its point.
        fix: what to do.
    """

    kind: str
    file: str
    number: int
    text: str
    reason: str
    fix: str

    @property
    def severity(self) -> str:
        return KINDS[self.kind]

    def __str__(self) -> str:
        where = f"{self.file}:{self.number}" if self.number else self.file
        line = f"{self.text}: " if self.text else ""
        return f"{where}: {self.severity}: {line}{self.reason} [{self.kind}]"

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "severity": self.severity,
            "file": self.file,
            "number": self.number,
            "line": self.text,
            "reason": self.reason,
            "fix": self.fix,
        }


def about(kind: str, line: Line, reason: str, fix: str) -> Finding:
    """A finding about a line."""
    return Finding(kind, line.file, line.number, line.text, reason, fix)
