"""What a run says of itself: statement and listing, list of what was left out, run log (docs/provenance.md)."""

from __future__ import annotations

import dataclasses
import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import BinaryIO

from shrinkwrap import __version__
from shrinkwrap.cvmfs.manifest import Manifest
from shrinkwrap.errors import CorruptObject, DestinationError, Interrupted, ShrinkwrapError
from shrinkwrap.fetch.types import FetchStats
from shrinkwrap.record.listing import ListingDigest
from shrinkwrap.record.record import Goal
from shrinkwrap.record.runlog import LeftOut, RunFacts, RunLog
from shrinkwrap.record.statement import STATEMENT_BYTES, Material, Options, Statement
from shrinkwrap.snapshot.repository import Revision
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.request import ExportRequest, ExportResult

STATEMENT = b"/statement.json"


class Accounts:
    """The accounts of one run.

    Args:
        base, folder: destination, and the folder of the repository's records in it.
        notice: told of trouble with the accounts themselves, which never ends a run.
        stack: undoes what a run that fails leaves behind.
    """

    def __init__(
        self,
        base: Base,
        folder: bytes,
        request: ExportRequest,
        result: ExportResult,
        notice: Callable[[str], None],
        stack: ExitStack,
    ) -> None:
        self._base = base
        self._folder = folder
        self._request = request
        self._result = result
        self._notice = notice
        self._start = time.time()
        self._fd = os.dup(base.folders.fd(folder))
        stack.callback(os.close, self._fd)
        self._left_out: LeftOut | None = None
        self._listing = ListingDigest()
        self._listing_file: BinaryIO | None = None
        self._listing_temporary = ""
        self._stack = stack

    # -- while the tree is made --------------------------------------------------------------------------------------

    def open(self) -> None:
        """The walk is about to begin: what it leaves out is written down."""
        self._left_out = LeftOut(self._fd, self._notice)
        self._stack.callback(self._left_out.discard)
        self._result.report.told = self.left_out

    def left_out(self, what: str, path: bytes, detail: str) -> None:
        """A case for the list of what was left out or shown differently."""
        if self._left_out is not None:
            self._left_out.add(what, path, detail)

    def open_listing(self) -> None:
        """Begin the listing: of its digest, and of the file that was asked for.

        Raises:
            DestinationError: it cannot be written.
        """
        place = self._request.listing
        if place:
            self._listing_temporary = _temporary(place)
            try:
                self._listing_file = open(self._listing_temporary or place, "wb")  # noqa: SIM115 - closed by the stack
            except OSError as exc:
                raise DestinationError(f"--listing {place}: {exc.strerror or exc}") from None
            self._stack.callback(self._drop_listing)
        self._listing = ListingDigest(self._listing_file)

    def show(self, line: bytes) -> None:
        """An entry that comes out, as its line in the listing."""
        self._listing.add_line(line)

    def relist(self, pieces: Iterable[bytes]) -> None:
        """The listing as pieces of whole lines, when nothing was shown line by line.

        Raises:
            OSError: it cannot be written.
        """
        for piece in pieces:
            self._listing.add_lines(piece)

    # -- when all is done --------------------------------------------------------------------------------------------

    def commit(self, goal: Goal, revision: Revision, head: Manifest | None, counts: dict[str, int]) -> None:
        """Write statement and lists; the record that makes them valid follows.

        Args:
            head: the verified manifest, if there is one.
            counts: of the record.
        """
        request = self._request
        statement = self._stated(
            Statement(
                fqrn=goal.fqrn,
                pin=request.pin,
                revision=revision.revision,
                timestamp=revision.timestamp,
                tag=revision.tag,
                signed=revision.signed,
                root=Material(revision.root_hash),
                spec=goal.spec,
                rules=goal.rules,
                options=Options(
                    request.claim,
                    request.keep_suid,
                    request.share_mtime,
                    request.link_mode,
                    request.world_readable,
                    request.uid_map,
                    request.gid_map,
                ),
                variables=self._result.report.variables,
                listing_sha256=self._listing.hexdigest(),
                entries=self._listing.entries,
                counts=counts,
                tool=__version__,
            ),
            revision,
            head,
        )
        self._base.replace_file(self._folder + STATEMENT, statement.to_bytes())
        if self._left_out is not None:
            self._left_out.commit()

    def restate(self, revision: Revision, head: Manifest | None) -> bool:
        """The tree is unchanged, but may be asked for by another pin now; False if there is no statement to change."""
        data = self._base.read_file(self._folder + STATEMENT, STATEMENT_BYTES)
        if data is None:
            return False
        try:
            old = Statement.from_bytes(data)
        except CorruptObject:
            return False
        new = self._stated(dataclasses.replace(old, tool=__version__), revision, head).to_bytes()
        if new != data:
            self._base.replace_file(self._folder + STATEMENT, new)
        return True

    def _stated(self, statement: Statement, revision: Revision, head: Manifest | None) -> Statement:
        follows = head is not None and self._request.pin.follows_head
        return dataclasses.replace(
            statement,
            pin=self._request.pin,
            tag=revision.tag,
            timestamp=revision.timestamp,
            certificate=Material(head.certificate) if follows and head and head.certificate else None,
            history=Material(head.history) if follows and head and head.history else None,
        )

    def commit_listing(self) -> None:
        """Give the listing its name."""
        if self._listing_file is not None:
            self._listing_file.close()
            self._listing_file = None
            if self._listing_temporary:
                os.replace(self._listing_temporary, self._request.listing)

    def _drop_listing(self) -> None:
        file, self._listing_file = self._listing_file, None
        if file is not None:
            with suppress(OSError):
                file.close()
            if self._listing_temporary:
                with suppress(OSError):
                    os.unlink(self._listing_temporary)

    # -- the log -----------------------------------------------------------------------------------------------------

    def log(self, stats: FetchStats, error: BaseException | None) -> None:
        """One line for this run, however it ended."""
        result = self._result
        if isinstance(error, KeyboardInterrupt):
            error = Interrupted("interrupted")
        known = error if isinstance(error, ShrinkwrapError) else None
        RunLog(self._fd, self._notice).add(
            RunFacts(
                run=self._base.run,
                fqrn=result.fqrn,
                start=self._start,
                end=time.time(),
                reason=result.reason if error is None else "error" if known is None else known.reason,
                exit_code=0 if error is None else ShrinkwrapError.exit_code if known is None else known.exit_code,
                error="" if error is None else str(error),
                root_hash=result.root_hash,
                revision=result.revision,
                tag=result.tag,
                jobs=self._request.source.transfers,
                counts=result.counts,
                left_out=result.report.counts,
                received=result.bytes.get("received", 0),
                written=result.bytes.get("written", 0),
                stats=stats,
                destination=result.abilities,
                warnings=result.warnings(),
            )
        )


def _temporary(place: str) -> str:
    """Where a listing is written before it is moved to its place.

    Empty for what has to be written to directly: only a regular file may be replaced, never a device (``/dev/null``), a
    pipe, or a link that leads to one (``/dev/stdout``).
    """
    try:
        mode = os.lstat(place).st_mode
    except OSError:
        return f"{place}.new"
    return f"{place}.new" if stat.S_ISREG(mode) else ""
