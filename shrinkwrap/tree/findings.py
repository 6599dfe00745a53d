"""What verifying a destination finds: differences by kind, the first of them one by one (docs/verify.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import ShrinkwrapError, TrustError, VerificationFailed
from shrinkwrap.record.listing import text
from shrinkwrap.tree.chain import Chain

#: Cases of a repository that are kept one by one; all are counted.
LISTED: Final = 1000
#: Notes that are kept.
_NOTES: Final = 100

#: Kinds of differences, with the words for one path and for several.
KINDS: Final = {
    "missing": "missing",
    "surplus": "not of the export",
    "kind": "of another kind",
    "mode": "with another mode",
    "owner": "with another owner",
    "size": "of another size",
    "mtime": "with another time",
    "target": "links with another target",
    "xattr": "with other extended attributes",
    "content": "with another content",
    "hard_link": "not one inode with their stored file",
    "not_stored": "whose stored file is missing",
    "stored": "stored files that are broken",
    "unreadable": "that cannot be read",
    "catalog": "kept catalogs missing or broken",
    "record": "records that cannot be read",
    "unfinished": "changed by a run that was cut off",
}


class Case(NamedTuple):
    """One difference: its kind, the path, what was expected and what was found."""

    what: str
    path: bytes
    expected: str = ""
    found: str = ""

    def to_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {"what": self.what, **text("path", self.path or b"/")}
        if self.expected:
            row["expected"] = self.expected
        if self.found:
            row["found"] = self.found
        return row

    def __str__(self) -> str:
        words = f"{self.what.replace('_', ' ')}: {show(self.path)}"
        if self.expected and self.found:
            return f"{words}: {self.found} instead of {self.expected}"
        return f"{words}: {self.expected or self.found}" if self.expected or self.found else words


@dataclass(slots=True)
class Verified:
    """What became of one repository's tree.

    Attributes:
        fqrn: repository; empty for the store, which all share.
        revision, tag, root_hash: of the record.
        compared: paths that were held against the record, by kind, and their bytes.
        differences: by kind (:data:`KINDS`), all of them.
        cases: the first :data:`LISTED` one by one.
        unchecked: what could not be looked at, by reason: neither right nor wrong.
        content: of a check of contents: files, bytes and inodes read, and how they were checked; None if none was made.
        chain: of a check of the signatures; None if none was made.
        allowed: files that are not there because no server had their objects, as the export was allowed to.
        notes: what people should know.
        repaired: counts of the run that mended; None if there was none.
        mended: differences by kind that there were before it.
    """

    fqrn: str
    revision: int = 0
    tag: str = ""
    root_hash: str = ""
    compared: dict[str, int] = field(default_factory=dict)
    differences: dict[str, int] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    unchecked: dict[str, int] = field(default_factory=dict)
    content: dict[str, int] | None = None
    chain: Chain | None = None
    allowed: int = 0
    notes: list[str] = field(default_factory=list)
    repaired: dict[str, int] | None = None
    mended: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, path: bytes, expected: str = "", found: str = "") -> None:
        """One more difference."""
        self.add_many(what, 1, (Case(what, path, expected, found),))

    def add_many(self, what: str, number: int, cases: Iterable[Case]) -> None:
        """Several of one kind, the first of them one by one."""
        self.differences[what] = self.differences.get(what, 0) + number
        for case in cases:
            if len(self.cases) >= LISTED:
                break
            self.cases.append(case)

    def skip(self, why: str, number: int = 1) -> None:
        """Something could not be looked at."""
        self.unchecked[why] = self.unchecked.get(why, 0) + number

    def note(self, line: str) -> None:
        if line not in self.notes and len(self.notes) < _NOTES:
            self.notes.append(line)

    @property
    def reason(self) -> str:
        """``done``, ``differs``, or ``trust`` for a chain that does not hold."""
        if self.chain is not None and not self.chain.holds:
            return TrustError.reason
        return VerificationFailed.reason if self.differences else "done"

    def to_json(self) -> dict[str, Any]:
        return {
            "fqrn": self.fqrn,
            "revision": self.revision,
            "tag": self.tag,
            "root_hash": self.root_hash,
            "reason": self.reason,
            "compared": self.compared,
            "differences": self.differences,
            "cases": [case.to_json() for case in self.cases],
            "more": sum(self.differences.values()) - len(self.cases),
            "unchecked": self.unchecked,
            "content": self.content,
            "chain": None if self.chain is None else self.chain.to_json(),
            "allowed": self.allowed,
            "notes": self.notes,
            "repaired": self.repaired,
            "mended": self.mended,
        }


@dataclass(slots=True)
class VerifyResult:
    """What verifying a destination came to.

    Attributes:
        dest: destination.
        repositories: of each that was asked for.
        store: of stored files that no path shows; None if they were not looked at.
        notes: what people should know.
    """

    dest: str
    repositories: list[Verified] = field(default_factory=list)
    store: Verified | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Everything that was looked at is as it should be."""
        return self.error() is None

    def error(self) -> ShrinkwrapError | None:
        """What is wrong, in one error; None if nothing is."""
        broken = [one for one in self.repositories if one.chain is not None and not one.chain.holds]
        if broken:
            chain = broken[0].chain
            assert chain is not None
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            return TrustError(f"{broken[0].fqrn}: {chain.message}{more}", hint=chain.hint)
        total: dict[str, int] = {}
        for one in self._all():
            for what, count in one.differences.items():
                total[what] = total.get(what, 0) + count
        if not total:
            return None
        number = sum(total.values())
        parts = ", ".join(f"{total[what]} {KINDS[what]}" for what in KINDS if what in total)
        return VerificationFailed(
            f"{self.dest}: {number} difference{'s' if number != 1 else ''}: {parts}",
            hint="shrinkwrap verify --repair, or export --repair, makes the tree what its record says",
        )

    def check(self) -> None:
        """Raises VerificationFailed for differences, TrustError for a chain of signatures that does not hold."""
        error = self.error()
        if error is not None:
            raise error

    def _all(self) -> list[Verified]:
        return [*self.repositories, *([] if self.store is None else [self.store])]

    def to_json(self) -> dict[str, Any]:
        error = self.error()
        return {
            "command": "verify",
            "dest": self.dest,
            "repositories": [one.to_json() for one in self.repositories],
            "store": None if self.store is None else self.store.to_json(),
            "notes": self.notes,
            "reason": "done" if error is None else error.reason,
            "error": "" if error is None else error.message,
            "hint": "" if error is None else error.hint,
            "exit_code": 0 if error is None else error.exit_code,
        }
