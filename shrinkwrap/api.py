"""The public classes and functions, thin over the rooms that do the work (docs/python-api.md).

What is here is what :mod:`shrinkwrap` offers; import it from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import IO, Self

from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.cvmfs.history import Tag
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.engine.read import open_file
from shrinkwrap.errors import UsageError
from shrinkwrap.snapshot.client import client_settings
from shrinkwrap.snapshot.diff import ASPECTS, Change
from shrinkwrap.snapshot.repository import Pin, Revision
from shrinkwrap.snapshot.session import Session, open_session, repository_path
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.grammar import Spec
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.allowed import Allowed, read_allowed
from shrinkwrap.tree.compare import Live, Recorded, compared, find_record
from shrinkwrap.tree.dry import dry_run as run_dry
from shrinkwrap.tree.export import export as run_export
from shrinkwrap.tree.findings import VerifyResult
from shrinkwrap.tree.gc import GcResult
from shrinkwrap.tree.gc import gc as run_gc
from shrinkwrap.tree.place import HARDLINK, LINK_MODES
from shrinkwrap.tree.request import ExportRequest, ExportResult, Hooks
from shrinkwrap.tree.verify import VerifyRequest, Whence
from shrinkwrap.tree.verify import verify as run_verify

__all__ = [
    "Change",
    "Entry",
    "ExportResult",
    "GcResult",
    "Hooks",
    "Repository",
    "Snapshot",
    "Spec",
    "Tag",
    "VerifyResult",
    "diff",
    "export",
    "gc",
    "verify",
]

Path = str | os.PathLike[str]


class Repository:
    """A repository: where its bytes come from, and how far it is trusted.

    Use it in a ``with`` statement, or call :meth:`close`. Nothing is asked of any server before it is needed. Not to be
    shared between threads.

    Args:
        fqrn: its name, such as ``sft.cern.ch``.
        servers: URLs of the repository on servers, tried in order; ``@fqrn@`` stands for the name.
        storage: a folder with the repository's storage, instead of servers.
        keys: files with master public keys, or folders of ``*.pub``.
        config: CernVM-FS client configuration, as ``-f`` takes it; the files of ``/etc/cvmfs`` if there is none. All
            that is given here wins over it.
        proxies: groups separated by ``;``, members by ``|``, ``DIRECT`` for none.
        external_servers: URLs below which external files are served by their path.
        external_proxies: the proxies to those.
        blacklists: files with banned certificates and revisions.
        transfers: in flight at a time, 32 at most; 0: the default, 16.
        cache: a folder that keeps catalogs between runs; a temporary one if None.
        notice: told of what people should know, a line each.

    Raises:
        UsageError: something of it makes no sense, or a file of it cannot be read. DestinationError: ``cache`` cannot
        be written.
    """

    def __init__(
        self,
        fqrn: str,
        *,
        servers: Sequence[str] = (),
        storage: Path | None = None,
        keys: Sequence[Path] = (),
        config: Sequence[Path] = (),
        proxies: str | None = None,
        external_servers: Sequence[str] = (),
        external_proxies: str | None = None,
        blacklists: Sequence[Path] = (),
        transfers: int = 0,
        cache: Path | None = None,
        notice: Callable[[str], None] | None = None,
    ) -> None:
        self.fqrn = fqrn
        self._settings = settings = client_settings(fqrn, _texts("config", config))
        self._source = settings.source(
            servers=_texts("servers", servers),
            storage=None if storage is None else _text("storage", storage),
            proxies=proxies,
            external_servers=_texts("external_servers", external_servers),
            external_proxies=external_proxies,
            transfers=transfers or None,
        )
        given = _texts("keys", keys)
        # An unsigned root hash needs none: that there are none is said when one is needed.
        self._keys = settings.master_keys(given) if given or settings.keys else ()
        self._blacklist = settings.blacklist(_texts("blacklists", blacklists))
        self._notice = notice or (lambda line: None)
        for line in settings.remarks():
            self._notice(line)
        self._stack = ExitStack()
        self._open: Session | None = self._stack.enter_context(
            open_session(
                self._source,
                self._keys,
                blacklist=self._blacklist,
                cache=None if cache is None else _text("cache", cache),
                notice=self._notice,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Repository {self.fqrn}>"

    def close(self) -> None:
        """Close connections and remove temporary files. Idempotent; snapshots of it cannot be used any more."""
        self._open = None
        self._stack.close()

    @property
    def head(self) -> Snapshot:
        """The newest snapshot that is signed; asked for once.

        Raises:
            TrustError, NetworkError, MissingObject, CorruptObject.
        """
        return self._snapshot(Pin())

    def tags(self) -> list[Tag]:
        """The named snapshots of the signed history, by revision; empty for a repository without history.

        Raises:
            TrustError, NetworkError, MissingObject, CorruptObject.
        """
        self._need_keys()
        return self._session().repository.tags()

    def snapshot(
        self, *, tag: str = "", revision: int | None = None, at: str = "", root_hash: str = "", unsigned: bool = False
    ) -> Snapshot:
        """One snapshot, by at most one of these; without any the one of the configuration, else the head.

        Args:
            tag: its name in the history.
            revision: its number, tagged in the history.
            at: ``YYYY-MM-DD`` or ``YYYY-MM-DDThh:mm:ssZ``: the newest tagged snapshot that is not younger.
            root_hash: of its root catalog, in the signed history...
            unsigned: ...or in none: nothing vouches for it then but the hash itself.

        Raises:
            UsageError: there is no such snapshot, or arguments that exclude each other. TrustError, NetworkError,
            MissingObject, CorruptObject.
        """
        pin = Pin(tag, revision, at, root_hash, unsigned)
        pin.check()
        return self._snapshot(self._settings.chosen(pin))

    def _snapshot(self, pin: Pin) -> Snapshot:
        if not pin.unsigned:
            self._need_keys()
        session = self._session()
        return Snapshot(self, session.snapshot(pin))

    def _session(self) -> Session:
        if self._open is None:
            raise UsageError(f"{self.fqrn}: the repository was closed", hint="open it anew")
        return self._open

    def _need_keys(self) -> tuple[MasterKey, ...]:
        return self._keys or self._settings.master_keys()


class Snapshot:
    """A repository at one moment, verified: everything that it tells is covered by its root hash.

    Made by :class:`Repository`, and of use while that is open.

    Attributes:
        root_hash: digest of the root catalog in hex, with the algorithm's name after it unless it is SHA-1.
        revision: its number; 0 for a root hash that was taken unsigned.
        timestamp: when it was published, in seconds since the epoch; 0 if that is unknown.
        tag: the name that it was asked for by, or found under; empty otherwise.
        signed: False for a root hash that was taken unsigned.
    """

    def __init__(self, repository: Repository, revision: Revision) -> None:
        self._repository = repository
        self._root = revision.root
        self.root_hash = str(revision.root_hash)
        self.revision = revision.revision
        self.timestamp = revision.timestamp
        self.tag = revision.tag
        self.signed = revision.signed

    def __repr__(self) -> str:
        return f"<Snapshot {self._repository.fqrn} revision {self.revision} {self.root_hash}>"

    def entries(self, spec: Spec | None = None) -> Iterator[Entry]:
        """What a specification selects, everything without one.

        All catalogs that it takes are fetched before the first entry comes. The order is that of names, component by
        component as bytes, a directory before what is in it. Entries are as the repository has them: owners, modes and
        variables in link targets included.

        Raises:
            NetworkError, MissingObject, CorruptObject.
        """
        session = self._repository._session()
        matcher = Matcher(Spec.from_text("/*") if spec is None else spec)
        bring_catalogs(session.catalogs, self._root, matcher)
        for entry in Walk(session.catalogs, self._root, matcher):
            yield entry
            self._repository._session()  # closed meanwhile?

    def find(self, path: str | bytes) -> Entry | None:
        """The entry of a path, None if there is none. Links are not followed; hidden entries are found too.

        Raises:
            UsageError: the path does not begin with a slash. NetworkError, MissingObject, CorruptObject.
        """
        session = self._repository._session()
        found = session.find(self._root, repository_path(path))
        if found is None:
            return None
        catalog, entry = found
        session.catalogs.release(catalog)
        return entry

    def open(self, path: str | bytes) -> IO[bytes]:
        """A file's content as a temporary file, whole and verified; close it.

        Raises:
            UsageError: no regular file, or not a path. MissingObject: nothing there, or the content is nowhere to be
            had. NetworkError, CorruptObject, DestinationError.
        """
        return open_file(self._repository._session(), self._root, repository_path(path))

    def read(self, path: str | bytes) -> bytes:
        """A file's content, verified. Raises what :meth:`open` does."""
        with self.open(path) as file:
            return file.read()


def diff(
    old: Snapshot | Path,
    new: Snapshot | Path,
    *,
    spec: Spec | None = None,
    ignore: Collection[str] = (),
) -> Iterator[Change]:
    """What differs between two snapshots or exports, from catalogs alone: as ``shrinkwrap diff`` does (docs/diff.md).

    Catalogs that both sides have are left out, and not fetched. The order is that of :meth:`Snapshot.entries`. An
    export shows what its record says; a snapshot beside it is looked at as if it were exported in the same way.

    Args:
        old, new: snapshots, whose repositories stay open meanwhile, or exports: a destination with one repository, a
            tree in a destination, or a ``record.json``.
        spec: leaves out, on both sides, what it does not select.
        ignore: what does not count, e.g. ``mtime`` or ``owner``: the words of ``Change.what``.

    Raises:
        UsageError: two repositories, or an unknown word. DestinationError: no record, or one that cannot be read. While
        it is iterated: NetworkError, MissingObject, CorruptObject.
    """
    if isinstance(ignore, str) or not {*ignore} <= {*ASPECTS}:
        raise UsageError(f"ignore={ignore!r:.80}: unknown", hint=f"a list of some of {', '.join(ASPECTS)}")
    sides = [_side("old", old), _side("new", new)]
    opened = [one._repository for one in (old, new) if isinstance(one, Snapshot)]
    for one in opened:
        one._session()
    if sides[0].fqrn != sides[1].fqrn:
        raise UsageError(
            f"{sides[0].fqrn} and {sides[1].fqrn} are different repositories", hint="compare one with itself"
        )

    def changes() -> Iterator[Change]:
        variables = opened[0]._settings.environment(os.environb, {}) if opened else {}
        with compared(sides[0], sides[1], spec=spec, variables=variables, ignore=ignore) as found:
            for change in found:
                yield change
                for one in opened:
                    one._session()  # closed meanwhile?

    return changes()


def _side(what: str, given: Snapshot | Path) -> Live | Recorded:
    if not isinstance(given, Snapshot):
        return find_record(_text(what, given))
    session = given._repository._session()
    return Live(given._repository.fqrn, session.catalogs, given._root, session.source)


def export(
    repository: str | Repository,
    spec: Spec,
    dest: Path,
    *,
    tag: str = "",
    revision: int | None = None,
    at: str = "",
    root_hash: str = "",
    unsigned: bool = False,
    variables: Mapping[str, str] | None = None,
    claim_ownership: bool = False,
    keep_suid: bool = False,
    share_mtime: bool = False,
    link_mode: str = HARDLINK,
    allow_rollback: bool = False,
    repair: bool = False,
    strict: bool = False,
    wait: bool = False,
    listing: Path | None = None,
    workers: int = 0,
    store: Path | None = None,
    gc: bool = False,
    snapshot: str = "",
    switch: bool = False,
    allow_missing: Path | None = None,
    dry_run: bool = False,
    hooks: Hooks | None = None,
) -> ExportResult:
    """Make ``<dest>/<fqrn>`` what a specification selects of a snapshot: as ``shrinkwrap export`` does.

    Args:
        repository: an open one, or the name of one that the client configuration of ``/etc/cvmfs`` describes.
        spec: what is wanted.
        dest: destination, made if needed; the store is ``<dest>/.data``.
        tag, revision, at, root_hash, unsigned: which snapshot, see :meth:`Repository.snapshot`.
        variables: for variant symlinks; they win over those of the configuration and of the process's environment.
        claim_ownership: everything belongs to the user who runs this (always so without root).
        keep_suid: keep set-id bits (root only).
        share_mtime: files that differ in their mtime only share one inode and one mtime.
        link_mode: from store to tree: ``hardlink``, ``reflink`` or ``copy``.
        allow_rollback: accept a head that is older than the one seen last.
        repair: compare with the disk instead of the record, and mend the tree.
        strict: warnings are errors, found before anything is touched.
        wait: wait for another run on this destination to end.
        store: folder of the store, where several destinations may share one; None: ``<dest>/.data``.
        workers: processes that bring objects; 1: none but this one, 0: one for each CPU.
        listing: write the listing of the export there, as lines of JSON.
        gc: afterwards, remove what nothing needs any more, as :func:`gc` does.
        snapshot: name of a snapshot beside others in ``dest``, with its store: the tree is
            ``<dest>/<snapshot>/<fqrn>`` (docs/snapshots.md).
        switch: make a new snapshot, then let ``<dest>/current`` lead to it in one step.
        allow_missing: file with paths or digests, a line each, that may be left out if all servers say that they do
            not have them.
        dry_run: touch nothing; the result tells what would be done (docs/dry-run.md).
        hooks: told how it gets on.

    Raises:
        ShrinkwrapError: see :mod:`shrinkwrap.errors`. Whatever it is, the next run goes on from what is there.
    """
    place = _text("dest", dest)
    if not place:
        raise UsageError("dest is empty: no destination")
    if link_mode not in LINK_MODES:
        raise UsageError(f"link_mode {link_mode!r}: unknown", hint=f"one of {', '.join(LINK_MODES)}")
    pin = Pin(tag, revision, at, root_hash, unsigned)
    pin.check()
    with ExitStack() as stack:
        opened = stack.enter_context(Repository(repository)) if isinstance(repository, str) else repository
        settings = opened._settings
        request = ExportRequest(
            source=opened._source,
            keys=() if unsigned else opened._need_keys(),
            spec=spec,
            dest=place,
            pin=settings.chosen(pin),
            variables=settings.environment(os.environb, _variables(variables or {})),
            claim=claim_ownership or settings.claim_ownership,
            uid_map=settings.uid_map,
            gid_map=settings.gid_map,
            world_readable=settings.world_readable,
            keep_suid=keep_suid,
            share_mtime=share_mtime,
            link_mode=link_mode,
            allow_rollback=allow_rollback,
            repair=repair,
            wait=wait,
            blacklist=opened._blacklist,
            workers=workers,
            store="" if store is None else _text("store", store),
            listing="" if listing is None else _text("listing", listing),
            strict=strict,
            gc=gc,
            snapshot=snapshot,
            switch=switch,
            allow_missing=Allowed() if allow_missing is None else read_allowed(_text("allow_missing", allow_missing)),
        )
        result = (run_dry if dry_run else run_export)(request, hooks)
    result.notices[:0] = [*settings.remarks(), *spec.warnings]
    return result


def verify(
    dest: Path,
    *repositories: str | Repository,
    records: Path | None = None,
    content: bool = False,
    chain: bool = False,
    repair: bool = False,
    owners: bool = True,
    workers: int = 0,
    wait: bool = False,
    keys: Sequence[Path] = (),
    hooks: Hooks | None = None,
) -> VerifyResult:
    """Hold an export, a copy or a mounted image of one against its record: as ``shrinkwrap verify`` does.

    Nothing is written but by ``repair``. Differences are no error here: ``result.ok`` tells, ``result.check()`` raises.

    Args:
        dest: the destination, which may be read-only.
        repositories: names, or open repositories; none: all that there are records of.
        records: the folder that ``.provenance`` is in, if it is not ``dest``.
        content: read all files, and compare their checksums.
        chain: follow the signatures, offline.
        repair: fetch what is broken, and mend the tree: from the open repository, or from where the client
            configuration of ``/etc/cvmfs`` says.
        owners: compare owners; of a copy they may be others.
        workers: processes that read files; 1: none but this one, 0: one for each CPU.
        wait: wait for a run on the destination to end.
        keys: files with master public keys, or folders of ``*.pub``, for repositories that are not open.
        hooks: told how it gets on.

    Raises:
        DestinationError: there is no record, or something cannot be read. LockedError: a run is at work there. With
        ``repair`` all that :func:`export` raises.
    """
    opened = {one.fqrn: one for one in repositories if isinstance(one, Repository)}
    given = _texts("keys", keys)

    def whence(fqrn: str) -> Whence:
        repository = opened.get(fqrn)
        if repository is not None:
            trusted = repository._need_keys() if chain else repository._keys
            return Whence(trusted, repository._blacklist, repository._source)
        settings = client_settings(fqrn, ())
        # A root hash that was taken unsigned is mended without any.
        trusted = settings.master_keys(given) if chain or given or settings.keys else ()
        return Whence(trusted, settings.blacklist(()), settings.source() if repair else None)

    return run_verify(
        VerifyRequest(
            dest=_text("dest", dest),
            repositories=tuple(one if isinstance(one, str) else one.fqrn for one in repositories),
            records="" if records is None else _text("records", records),
            content=content,
            chain=chain,
            repair=repair,
            owners=owners,
            workers=workers,
            wait=wait,
            whence=whence,
        ),
        hooks,
    )


def gc(
    dest: Path,
    *,
    full: bool = False,
    grace: float = 0,
    dry_run: bool = False,
    wait: bool = False,
    forget: Sequence[Path] = (),
) -> GcResult:
    """Remove stored files, catalogs and summaries that no path and no record needs: as ``shrinkwrap gc`` does.

    Args:
        dest: a destination; of others that share its store nothing but stored files that they need no more goes.
        full: look at all of the store, not only at what was dropped since the last time.
        grace: seconds for which a stored file stays after it lost its last path.
        dry_run: touch nothing; the result tells what would be removed.
        wait: wait for another run on this destination to end.
        forget: destinations that shared the store and are gone for good.

    Raises:
        DestinationError: no export was made there; a destination that shares the store cannot be reached; what is
        needed cannot be told. LockedError: another run is at work. UsageError.
    """
    place = _text("dest", dest)
    return run_gc(place, full=full, grace=grace, dry_run=dry_run, wait=wait, forget=_texts("forget", forget))


def _variables(given: Mapping[str, str]) -> dict[bytes, bytes]:
    try:
        return {os.fsencode(name): os.fsencode(value) for name, value in given.items()}
    except UnicodeEncodeError as exc:
        raise UsageError(f"variables: {exc}") from None


def _text(what: str, path: Path) -> str:
    text = os.fspath(path)
    if "\0" in text:
        raise UsageError(f"{what}: {text!a} holds a NUL character, which no path has")
    return text


def _texts(what: str, values: Sequence[Path]) -> tuple[str, ...]:
    if isinstance(values, str | os.PathLike):
        raise UsageError(f"{what}: a list is needed, not {values!s:.80}", hint=f"{what}=[...]")
    return tuple(_text(what, value) for value in values)
