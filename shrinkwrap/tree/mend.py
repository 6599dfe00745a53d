"""Mending what verifying found: an export of what the record names, after what is broken was taken out of the store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shrinkwrap.errors import CorruptObject, LockedError, UsageError
from shrinkwrap.fetch.source import open_source
from shrinkwrap.fetch.types import FetchStats, Source
from shrinkwrap.record.record import Record
from shrinkwrap.record.statement import STATEMENT_BYTES, Options, Statement
from shrinkwrap.snapshot.catalogs import ObjectKeeper
from shrinkwrap.snapshot.repository import Pin, Revision
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.accounts import STATEMENT
from shrinkwrap.tree.aim import find_snapshot
from shrinkwrap.tree.allowed import Allowed
from shrinkwrap.tree.base import Base, explain
from shrinkwrap.tree.chain import follow
from shrinkwrap.tree.known import encode, gaps_in, known
from shrinkwrap.tree.pour import Pour
from shrinkwrap.tree.probe import probe
from shrinkwrap.tree.records import Records, read_gaps
from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks
from shrinkwrap.tree.run import Run
from shrinkwrap.tree.sink import MAX_OVERFLOW

if TYPE_CHECKING:
    from shrinkwrap.tree.verify import VerifyRequest


def mend(
    request: VerifyRequest, records: Records, record: Record, broken: Iterable[tuple[str]], hooks: Hooks
) -> ExportResult:
    """Make a tree what its record says; record and statement stay what they are.

    The root hash is that of the record, if its kept signatures vouch for it, or have never been asked for; else the
    servers' head or history has to.

    Args:
        records: of the destination.
        broken: names of stored files that are not what they say, each in a tuple of its own.

    Raises:
        ShrinkwrapError: what an export raises; LockedError if another run changed the export meanwhile.
    """
    fqrn = record.goal.fqrn
    whence = request.whence(fqrn)
    if whence.source is None:
        raise UsageError(f"{fqrn}: nothing says where its objects are to be had", hint="name a server, or a storage")
    if os.path.realpath(records.path) != os.path.realpath(request.dest):
        raise UsageError("--repair goes with the records of the destination only", hint="leave out --records")
    before = _statement(records, fqrn)
    export = ExportRequest(
        source=whence.source,
        keys=whence.keys,
        spec=parse(record.goal.spec, file="<record>", rules=record.goal.rules),
        dest=request.dest,
        pin=Pin() if before is None else before.pin,
        variables={encode(name): encode(value) for name, value in record.variables.items() if value is not None},
        repair=True,
        wait=request.wait,
        blacklist=whence.blacklist,
        marker=record.goal.marker,
        workers=request.workers,
        allow_missing=Allowed(frozenset(read_gaps(records, fqrn))) if gaps_in(record) else Allowed(),
        **_options(record, before),
    )
    with ExitStack() as stack:
        try:
            base = Base(request.dest, wait=request.wait)
            stack.callback(base.close)
            return _Mend(export, hooks, base, stack, records, record, before, broken).logged(request.now)
        except OSError as exc:
            raise explain(exc, request.dest) from exc


def drop_stored(request: VerifyRequest, names: Iterable[tuple[str]]) -> None:
    """Take stored files out of the store that no path shows.

    Raises:
        DestinationError: they cannot be removed. LockedError: a run is at work there.
    """
    try:
        base = Base(request.dest, wait=request.wait)
        try:
            _drop(base, names)
        finally:
            base.close()
    except OSError as exc:
        raise explain(exc, request.dest) from exc


def _drop(base: Base, names: Iterable[tuple[str]]) -> None:
    for (name,) in names:
        shard, _, rest = name.partition("/")
        rest = rest.partition("~")[0]
        for number in range(MAX_OVERFLOW):
            try:
                os.unlink(f"{rest}~{number}" if number else rest, dir_fd=base.store.folders.fd(shard.encode()))
            except FileNotFoundError:
                if number:
                    break


def _statement(records: Records, fqrn: str) -> Statement | None:
    found = records.read(fqrn, "statement.json", STATEMENT_BYTES)
    if found is not None:
        with suppress(CorruptObject):
            return Statement.from_bytes(found[0])
    return None


def _options(record: Record, before: Statement | None) -> dict[str, Any]:
    """Options as they were asked for, or as they came out if no statement tells."""
    view = record.goal.view
    asked = (
        Options(
            view.claim,
            view.keep_suid,
            view.share_mtime,
            record.goal.link_mode,
            view.world_readable,
            view.uid_map,
            view.gid_map,
        )
        if before is None
        else before.options
    )
    return {
        "claim": asked.claim,
        "keep_suid": asked.keep_suid,
        "share_mtime": asked.share_mtime,
        "link_mode": asked.link_mode,
        "world_readable": asked.world_readable,
        "uid_map": asked.uid_map,
        "gid_map": asked.gid_map,
    }


class _Mend(Run):
    def __init__(
        self,
        request: ExportRequest,
        hooks: Hooks,
        base: Base,
        stack: ExitStack,
        records: Records,
        record: Record,
        before: Statement | None,
        broken: Iterable[tuple[str]],
    ) -> None:
        super().__init__(request, hooks, base, stack)
        self._records = records
        self._record = record
        self._before = before
        self._broken = broken

    def logged(self, now: float | None) -> ExportResult:
        """The run, and its line in the log, however it ends."""
        error: BaseException | None = None
        try:
            return self._go(now)
        except OSError as exc:
            error = explain(exc, self.request.dest)
            raise error from exc
        except BaseException as exc:
            error = exc
            raise
        finally:
            self.accounts.log(FetchStats() if self.source is None else self.source.stats, error)

    def _go(self, now: float | None) -> ExportResult:
        base, record, result = self.base, self._record, self.result
        there = known(base, self.fqrn, repair=True)
        if there.record != record:
            raise LockedError(
                f"{base.path}: another run has changed the export of {self.fqrn} meanwhile", hint="verify it again"
            )
        abilities = probe(base)
        result.abilities = abilities.line()
        result.root_hash, result.revision = record.goal.root_hash, record.revision
        result.timestamp, result.tag = record.timestamp, record.tag
        self.hooks.phase("head")
        source = open_source(self.request.source, self.notice)
        self.stack.callback(source.close)
        self.source = source
        keeper = ObjectKeeper(source, base.keep())
        self._check_root(source, keeper, now)
        signed = self._before is None or self._before.signed
        revision = Revision(record.goal.root, record.revision, record.timestamp, record.tag, signed)
        _drop(base, self._broken)
        Pour(self, there, record.goal, revision, keeper, abilities).go()
        self._restore_statement()
        return result

    def _check_root(self, source: Source, keeper: ObjectKeeper, now: float | None) -> None:
        """Whether somebody vouches for the root hash: what is fetched is believed because of it.

        Raises:
            TrustError: nobody does.
        """
        request, record = self.request, self._record
        if self._before is not None and not self._before.signed:
            self.notice("the root hash was taken without any signature: only the hash itself vouches for the content")
            return
        with tempfile.TemporaryDirectory(dir=self.base.scratch) as scratch:
            kept = ObjectKeeper(None, self.base.keep())
            chain = follow(
                self._records,
                record,
                kept,
                request.keys,
                blacklist=request.blacklist,
                scratch=scratch,
                now=now,
            )
        if chain.signed:
            return
        find_snapshot(
            _pinned(request, record),
            self.base,
            source,
            keeper,
            scratch=self.base.scratch,
            notice=self.notice,
            remember=lambda accepted: None,
        )

    def _restore_statement(self) -> None:
        """The export is what it was, and so is what is stated of it: the certificate of its day, for one."""
        if self._before is None:
            return
        path = self.folder + STATEMENT
        data = self.base.read_file(path, STATEMENT_BYTES)
        made = None if data is None else Statement.from_bytes(data)
        if made is not None and made.listing_sha256 == self._before.listing_sha256:
            before = self._before.to_bytes()
            if before != data:
                self.base.replace_file(path, before)


def _pinned(request: ExportRequest, record: Record) -> ExportRequest:
    return replace(request, pin=Pin(root_hash=record.goal.root_hash), allow_rollback=True)
