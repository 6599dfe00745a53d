"""The chain of signatures of an export, followed offline (docs/verify.md).

Whitelist and manifest as they were fetched, certificate and history among the kept objects, a master key from
elsewhere: whether the root hash of a record is what the owners of the repository signed. A whitelist runs out after a
month or so, so there are two good answers: valid, and valid at the time when it was fetched.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.digest import Digest, parse_digest
from shrinkwrap.cvmfs.history import History
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.manifest import Manifest
from shrinkwrap.cvmfs.trust import TrustedSet
from shrinkwrap.cvmfs.whitelist import check_whitelist, parse_whitelist
from shrinkwrap.errors import MissingObject, ShrinkwrapError, TrustError
from shrinkwrap.record.record import Record
from shrinkwrap.record.runlog import read_runs
from shrinkwrap.record.statement import STATEMENT_BYTES, Statement
from shrinkwrap.snapshot.catalogs import ObjectKeeper
from shrinkwrap.tree.records import Records

VALID: Final = "valid"
THEN: Final = "valid when fetched"
UNSIGNED: Final = "unsigned"
INVALID: Final = "invalid"


@dataclass(slots=True)
class Chain:
    """What following the chain came to.

    Attributes:
        state: ``valid``; ``valid when fetched``, the whitelist has expired since; ``unsigned``, there are no
            signatures, or good ones that do not vouch for this root hash; ``invalid``.
        message: the same in a sentence; ``hint``: what to do about it.
        as_of: time at which the whitelist was judged, in seconds since the epoch; ``as_of_from``: who says so: the
            clock (``now``), the ``run log``, or the whitelist's ``file time``.
        expires: of the whitelist, in seconds since the epoch; 0 if that was not reached.
        revision: of the kept manifest.
        by: what names the root hash: ``manifest``, or ``tag NAME``.
        key: file of the master key that signed the whitelist.
        catalogs: that were reached from the root hash, hashed again and found right.
        problems: all that is broken: what, and why.
    """

    state: str = INVALID
    message: str = ""
    hint: str = ""
    as_of: int = 0
    as_of_from: str = ""
    expires: int = 0
    revision: int = 0
    by: str = ""
    key: str = ""
    catalogs: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    @property
    def signed(self) -> bool:
        """The signatures vouch for the root hash."""
        return self.state in (VALID, THEN)

    @property
    def holds(self) -> bool:
        """They do, and everything below it is what it says."""
        return self.signed and not self.problems

    def settle(self) -> None:
        """All problems are known: the sentence names the first, if the signatures are not the worst of it."""
        if self.signed and self.problems:
            what, why = self.problems[0]
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            self.message = f"{self.message}; but {what}: {why}{more}"
            self.hint = self.hint or "verify --repair fetches kept catalogs again"

    def to_json(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "holds": self.holds,
            "message": self.message,
            "as_of": utc(self.as_of) if self.as_of else None,
            "as_of_from": self.as_of_from,
            "whitelist_expires": utc(self.expires) if self.expires else None,
            "manifest_revision": self.revision,
            "by": self.by,
            "key": self.key,
            "catalogs": self.catalogs,
            "problems": [{"what": what, "why": why} for what, why in self.problems],
        }


def follow(
    records: Records,
    record: Record,
    keeper: ObjectKeeper,
    keys: Sequence[MasterKey],
    *,
    blacklist: Blacklist,
    scratch: str,
    now: float | None = None,
) -> Chain:
    """From a master key to the root hash of a record; what lies below it is looked at elsewhere.

    Args:
        keeper: of the kept objects, without a source.
        blacklist: of this site; bans of today count for chains of former days.
        scratch: folder for a history.
        now: seconds since the epoch; the clock's if None.

    Raises:
        OSError: what is there cannot be read.
    """
    chain = Chain()
    try:
        head = _head(chain, records, record, keeper, keys, blacklist, time.time() if now is None else now)
        if head is not None:
            _find_root(chain, record, head, keeper, scratch)
    except ShrinkwrapError as exc:
        chain.state, chain.message, chain.hint = INVALID, exc.message, exc.hint
    return chain


def _head(
    chain: Chain,
    records: Records,
    record: Record,
    keeper: ObjectKeeper,
    keys: Sequence[MasterKey],
    blacklist: Blacklist,
    now: float,
) -> Manifest | None:
    """The kept manifest, verified; None if none is kept."""
    fqrn = record.goal.fqrn
    manifest = records.read(fqrn, "manifest", limits.MANIFEST + 1)
    kept = records.read(fqrn, "whitelist", limits.WHITELIST + 1)
    if manifest is None or kept is None:
        chain.state = UNSIGNED
        missing = "manifest" if manifest is None else "whitelist"
        chain.message = f"no signed {missing} was kept: nothing vouches for root hash {record.goal.root_hash}"
        chain.hint = "an export of a root hash that was taken unsigned has none; export again without that option"
        return None
    whitelist = parse_whitelist(kept[0])
    chain.expires = whitelist.expires
    chain.as_of, chain.as_of_from = int(now), "now"
    if not now < whitelist.expires:
        chain.as_of, chain.as_of_from = _fetched(records, record, int(min(kept[1].st_mtime, now)))
        if not chain.as_of < whitelist.expires:
            raise TrustError(
                f"the whitelist expired at {utc(whitelist.expires)}, before it was fetched at {utc(chain.as_of)}"
                f" ({chain.as_of_from})",
                hint="an export verifies the whitelist of the day: run it again",
            )
    trusted = TrustedSet(fqrn, keys, now=chain.as_of, blacklist=blacklist)
    claimed = trusted.add_manifest(manifest[0])
    assert claimed.certificate is not None  # add_manifest lets none of these in
    trusted.add_certificate(keeper.stored(claimed.certificate, "X", limits.stored_size(limits.CERTIFICATE)))
    trusted.add_whitelist(kept[0])
    chain.key = check_whitelist(whitelist, fqrn, keys, chain.as_of).name
    chain.revision = claimed.revision
    return trusted.head


def _fetched(records: Records, record: Record, written: int) -> tuple[int, str]:
    """When the export was made for which the whitelist counted, and who says so.

    Args:
        written: time of the whitelist's file, which a copy need not have kept.
    """
    folder = records.folder(record.goal.fqrn)
    try:
        for run in read_runs(folder):
            if run.get("root_hash") == record.goal.root_hash and run.get("exit_code") == 0:
                with suppress(ValueError, TypeError):
                    return int(datetime.fromisoformat(str(run.get("start"))).timestamp()), "run log"
    finally:
        os.close(folder)
    return written, "file time"


def _find_root(chain: Chain, record: Record, head: Manifest, keeper: ObjectKeeper, scratch: str) -> None:
    """Whether a verified head vouches for the root hash of the record."""
    wanted = parse_digest(record.goal.root_hash)
    if head.root_hash == wanted:
        chain.by = "manifest"
    elif head.history is not None:
        with suppress(MissingObject):
            chain.by = _tag_of(wanted, record, head.history, keeper, scratch)
    if not chain.by:
        chain.state = UNSIGNED
        chain.message = (
            f"root hash {wanted} is neither that of the kept manifest (revision {head.revision}) nor in the history"
            " that was kept with it"
        )
        chain.hint = "its signature may have been replaced by that of a later head; export again to renew it"
    elif chain.as_of_from == "now":
        chain.state = VALID
        chain.message = f"valid: signed by {chain.by}, revision {head.revision}"
    else:
        chain.state = THEN
        chain.message = (
            f"valid when fetched ({utc(chain.as_of)}), whitelist expired since {utc(chain.expires)}:"
            f" signed by {chain.by}, revision {head.revision}"
        )


def _tag_of(wanted: Digest, record: Record, history: Digest, keeper: ObjectKeeper, scratch: str) -> str:
    """A tag with this root hash in a kept history, that of the record if there are several; empty if there is none."""
    fd, name = tempfile.mkstemp(prefix="history-", dir=scratch)
    try:
        with os.fdopen(fd, "wb") as out:
            keeper.inflate(history, "H", limits.stored_size(limits.HISTORY), limits.HISTORY, out)
        with History(name, record.goal.fqrn) as opened:
            names = [tag.name for tag in opened.tags() if tag.hash == wanted]
        if not names:
            return ""
        return f"tag {record.tag if record.tag in names else names[-1]}"
    finally:
        os.unlink(name)


def check_statement(chain: Chain, records: Records, record: Record, listing: str) -> None:
    """Whether the statement says of the export what the record and the catalogs say.

    Args:
        listing: SHA-256 of the listing as it was just composed; empty if that could not be.

    Raises:
        OSError: it cannot be read.
    """
    goal = record.goal
    try:
        statement = read_statement(records, goal.fqrn)
    except ShrinkwrapError as exc:
        chain.problems.append(("statement", exc.message))
        return
    if statement is None:
        chain.problems.append(("statement", "there is none"))
        return
    variables = {
        name.encode("utf-8", "surrogateescape"): None if value is None else value.encode("utf-8", "surrogateescape")
        for name, value in record.variables.items()
    }
    pairs: tuple[tuple[str, object, object], ...] = (
        ("repository", statement.fqrn, goal.fqrn),
        ("root hash", str(statement.root.digest), goal.root_hash),
        ("specification", statement.spec, goal.spec),
        ("rules", statement.rules, goal.rules),
        ("variables", dict(statement.variables), variables),
    )
    for name, said, recorded in pairs:
        if said != recorded:
            chain.problems.append(("statement", f"its {name} is not that of the record"))
    if not listing:
        chain.problems.append(("statement", "its listing cannot be composed: catalogs and summaries are missing"))
    elif statement.listing_sha256 != listing:
        chain.problems.append(
            ("statement", f"it names the listing {statement.listing_sha256}, the export's is {listing}")
        )


def read_statement(records: Records, fqrn: str) -> Statement | None:
    """The statement of an export; None if there is none. Raises CorruptObject, DestinationError, OSError."""
    found = records.read(fqrn, "statement.json", STATEMENT_BYTES)
    return None if found is None else Statement.from_bytes(found[0])


def utc(seconds: int) -> str:
    """A time for people and programs, to the second."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"
