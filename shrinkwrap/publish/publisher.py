"""Publishing: from a source to a signed revision in a storage folder.

Order of a run (docs/publishing.md): lock; objects; catalogs, deepest first; certificate, metainfo, history; all of it
to disk; whitelist; reflog; the manifest last. Until then nobody sees anything of it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from shrinkwrap.cvmfs import manifest as manifests
from shrinkwrap.cvmfs import whitelist as whitelists
from shrinkwrap.cvmfs.digest import SHA1, Digest, digest_of
from shrinkwrap.cvmfs.entry import FLAG_FILE, UNCOMPRESSED, show
from shrinkwrap.cvmfs.history import Tag
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.cvmfs.trust import check_fqrn
from shrinkwrap.errors import UsageError
from shrinkwrap.publish import scratch as scratches
from shrinkwrap.publish import tags as histories
from shrinkwrap.publish.cut import ChunkLimits
from shrinkwrap.publish.garbage import Marks, sweep
from shrinkwrap.publish.head import NewHead, read_head, renew_whitelist
from shrinkwrap.publish.intake import Intake, IntakeOptions
from shrinkwrap.publish.keyring import open_keyring
from shrinkwrap.publish.merge import Merge
from shrinkwrap.publish.nesting import MarkerFile, Nesting, parse_patterns
from shrinkwrap.publish.objects import store_bytes
from shrinkwrap.publish.pool import Workers
from shrinkwrap.publish.request import (
    METAINFO,
    TTL,
    WHITELIST_DAYS,
    Path,
    Published,
    PublishHooks,
    PublishOptions,
    check_metainfo,
    check_number,
    check_owner,
    parse_algorithm,
    parse_compression,
    path_text,
    repository_path,
)
from shrinkwrap.publish.scratch import Scratch
from shrinkwrap.publish.source import Source
from shrinkwrap.publish.storage import Storage
from shrinkwrap.publish.write import CatalogWriter, Revision, Written


def publish(
    source: Source | Path | None,
    *,
    storage: Path,
    fqrn: str,
    keys: Path | None = None,
    base_dir: str | bytes = "",
    tag: str = "",
    message: str = "",
    hash: str = "",  # noqa: A002 - the name of the option
    compression: str = "zlib",
    chunks: ChunkLimits | None = ChunkLimits(),  # noqa: B008 - a frozen value
    catalogs: Sequence[str | bytes] = (),
    max_entries: int = 0,
    uid: int | None = None,
    gid: int | None = None,
    uid_map: OwnerMap | None = None,
    gid_map: OwnerMap | None = None,
    whiteouts: bool = False,
    delete: Sequence[str | bytes] = (),
    mirror: bool = False,
    gc: bool = False,
    ttl: int | None = None,
    whitelist_days: float = WHITELIST_DAYS,
    workers: int = 0,
    metainfo: bytes | None = None,
    force: bool = False,
    wait: bool = False,
    now: float | None = None,
    hooks: PublishHooks | None = None,
) -> Published:
    """Publish a source as the next revision of a repository, or make a new repository of it.

    Args:
        source: a directory, a tar archive (``-``: from standard input), or an iterable of
            :class:`~shrinkwrap.publish.source.SourceEntry`. Its entries are put over what ``base_dir`` holds. None:
            only sign anew, delete, tag or collect garbage.
        storage: folder of the repository, made if needed.
        fqrn: its name.
        keys: folder of its keys, made at first use; by default ``keys`` beside the storage.
        base_dir: path in the repository that the source's root becomes.
        tag, message: a name for the revision, and what is said of it.
        hash: ``sha1``, ``rmd160`` or ``shake128``; by default that of the root catalog, for a new repository sha1.
        compression: of files: ``zlib`` or ``none``.
        chunks: sizes of chunks; None keeps all files whole.
        catalogs: patterns of directories that get a catalog of their own (docs/publishing.md).
        max_entries: split catalogs that have more rows; 0: never.
        uid, gid: owner of everything; uid_map, gid_map: or other numbers for those of the source.
        whiteouts: carry out deletions that the source stands for (``.wh.`` names, overlay whiteouts).
        delete: paths in the repository to delete first, with all below.
        mirror: make ``base_dir`` exactly what the source is.
        gc: afterwards delete the objects that neither the head nor a tag leads to.
        ttl: seconds that clients may take to notice a new revision; by default as before, 240 at first.
        whitelist_days: until the whitelist expires.
        workers: processes that compress and hash; 0: one for each CPU.
        metainfo: JSON text about the repository; by default as before.
        force: make a new revision in any case.
        wait: for another publisher on the same storage.
        now: seconds since the epoch.
        hooks: told how it gets on.

    Returns:
        What it came to. A source that changes nothing makes no revision.

    Raises:
        ShrinkwrapError: see :mod:`shrinkwrap.errors`. Whatever it is, readers see the old revision as it was.
    """
    folder = os.path.abspath(path_text("storage", storage))
    if (uid is not None and uid_map is not None) or (gid is not None and gid_map is not None):
        raise UsageError("a number for all owners and a map of owners exclude each other", hint="leave out one of them")
    options = PublishOptions(
        storage=folder,
        fqrn=check_fqrn(fqrn),
        keys=path_text("keys", keys) if keys is not None else os.path.join(os.path.dirname(folder), "keys"),
        base=repository_path("base directory", base_dir),
        tag=tag,
        message=message,
        algorithm=parse_algorithm(hash),
        compression=parse_compression(compression),
        chunks=chunks,
        patterns=parse_patterns([os.fsencode(one) for one in catalogs]) if catalogs else None,
        max_entries=check_number("max_entries", max_entries),
        uids=uid_map if uid is None else OwnerMap((), check_owner("uid", uid)),
        gids=gid_map if gid is None else OwnerMap((), check_owner("gid", gid)),
        whiteouts=whiteouts,
        delete=tuple(repository_path("--delete", one) for one in delete),
        mirror=mirror,
        gc=gc,
        ttl=None if ttl is None else check_number("ttl", ttl),
        whitelist_days=whitelist_days,
        workers=check_number("workers", workers) or os.cpu_count() or 1,
        metainfo=metainfo,
        force=force,
    )
    if tag:
        histories.check_tag(tag, message)
    elif message:
        raise UsageError("a message without a tag", hint="name the tag")
    if any(not path for path in options.delete):
        raise UsageError("the root of the repository cannot be deleted")
    if mirror and source is None:
        raise UsageError("nothing to mirror: no source is given")
    if not 0 < whitelist_days < 36500:
        raise UsageError(f"whitelist_days: {whitelist_days:g} days, expected up to 100 years")
    if metainfo is not None:
        check_metainfo(metainfo)
    with ExitStack() as stack:
        opened = stack.enter_context(Storage(folder, wait=wait))
        return _Run(opened, options, time.time() if now is None else now, hooks or PublishHooks(), stack).run(source)


class _Run:
    """One publication."""

    def __init__(
        self, storage: Storage, options: PublishOptions, now: float, hooks: PublishHooks, stack: ExitStack
    ) -> None:
        self._storage = storage
        self._options = options
        self._hooks = hooks
        self._stack = stack
        self._notices: list[str] = []
        self._counts: Counter[str] = Counter()
        self._catalogs: tuple[str, ...] = ()
        self._catalog_bytes = 0
        self._head = read_head(storage, options.fqrn)
        self._keyring = open_keyring(options.keys, options.fqrn, make=self._head is None)
        for name in self._keyring.made:
            if name.endswith(".pub"):
                hooks.notice(f"new keys in {self._keyring.folder}; readers need {name}")
        # Clients refuse a manifest that is older than the one they know (FORMAT.md §4.3).
        self._now = max(int(now), 0 if self._head is None else self._head.timestamp)
        before = SHA1 if self._head is None else self._head.root_hash.algorithm
        self._algorithm = before if options.algorithm is None else options.algorithm
        self._ttl = options.ttl if options.ttl is not None else TTL if self._head is None else self._head.ttl

    def run(self, source: Source | Path | None) -> Published:
        options, head = self._options, self._head
        if head is None and source is None:
            raise UsageError(
                f"{options.fqrn}: there is no repository in {options.storage} yet", hint="name a source to publish"
            )
        # All that can be refused is refused before anything is read.
        whitelist, note = renew_whitelist(
            self._storage, self._keyring, options.fqrn, self._now, options.whitelist_days, self._algorithm
        )
        self._note(note)
        tags, branches = histories.read_tags(self._storage, head.history if head else None, options.fqrn)
        if options.tag and (known := next((one for one in tags if one.name == options.tag), None)) is not None:
            fresh = source is not None or options.delete or options.force
            if fresh or head is None or known.hash != head.root_hash:
                raise UsageError(
                    f"the tag {options.tag!r} is that of revision {known.revision}",
                    hint="a tag never moves; choose another name",
                )
        root = self._tree(source) if self._needs_tree(source) else None
        return self._commit(root, whitelist, tags, branches)

    def _needs_tree(self, source: Source | Path | None) -> bool:
        options = self._options
        changed_ttl = self._head is not None and self._head.ttl != self._ttl
        return source is not None or bool(options.delete) or options.force or changed_ttl

    def _note(self, line: str) -> None:
        if line:
            self._notices.append(line)
            self._hooks.notice(line)

    # -- the tree ----------------------------------------------------------------------------------------------------

    def _tree(self, source: Source | Path | None) -> Written:
        """Objects and catalogs of the new revision; its root catalog."""
        scratch = Scratch(self._storage.scratch)
        self._stack.callback(scratch.close)
        try:
            if source is None:
                scratch.index_stage()
            else:
                self._take(source, scratch)
            return self._write_catalogs(scratch)
        except sqlite3.Error as exc:
            raise scratches.failed(exc) from None

    def _take(self, source: Source | Path, scratch: Scratch) -> None:
        from shrinkwrap.publish.opening import open_source

        options = self._options
        self._hooks.phase("objects")
        taken = IntakeOptions(options.base, options.uids, options.gids, options.whiteouts, options.chunks, self._now)
        intake = Intake(scratch, taken, self._storage.scratch, self._hooks.counts)
        settings = self._storage.settings(self._algorithm, options.compression)
        info = os.stat(self._storage.path)
        with (
            open_source(source, without=(info.st_dev, info.st_ino)) as entries,
            Workers(settings, options.workers, intake.stored) as workers,
        ):
            intake.take(entries, workers)
        self._counts = intake.counts
        for line in intake.notices:
            self._note(line)

    def _write_catalogs(self, scratch: Scratch) -> Written:
        options, head = self._options, self._head
        self._hooks.phase("catalogs")
        merge = Merge(scratch, self._storage, head.root_hash if head else None)
        for path in options.delete:
            merge.visit(path.rpartition(b"/")[0])
        if options.mirror:
            merge.visit(options.base)
        merge.open_concerned()
        for path in merge.delete(options.delete):
            self._note(f"nothing to delete at {show(path)}")
        merge.delete_hidden()
        if options.mirror:
            merge.delete_others(options.base)
        flags = FLAG_FILE | self._algorithm << 8 | options.compression << 11
        merge.apply(flags)
        empty = self._storage.settings(self._algorithm, options.compression)
        nesting = Nesting(scratch, merge, MarkerFile(empty_digest(self._algorithm, options.compression).raw, flags))
        nesting.settle(options.patterns, options.max_entries)
        if nesting.made:
            store_bytes(empty, b"", "", options.compression)
        revision = Revision(head.revision + 1 if head else 1, self._now, self._ttl, self._algorithm)
        writer = CatalogWriter(scratch, self._storage, merge, revision, options.force)
        root = writer.write()
        self._catalogs = tuple(show(path) for path in sorted(writer.changed))
        self._catalog_bytes = writer.bytes_written
        return root

    # -- the head ----------------------------------------------------------------------------------------------------

    def _commit(
        self,
        root: Written | None,
        whitelist: bytes | None,
        tags: list[Tag],
        branches: list[tuple[str, str, int]],
    ) -> Published:
        options, head, storage = self._options, self._head, self._storage
        self._hooks.phase("head")
        new = head is None or (root is not None and root.changed)
        if new:
            assert root is not None
            number = head.revision + 1 if head else 1
            top = Tag("", root.digest, number, self._now, "", root.size, "")
        else:
            assert head is not None
            # Signing anew moves the manifest's time, not that of the revision.
            trunk = next((one.timestamp for one in tags if one.name == histories.TRUNK), head.timestamp)
            top = Tag("", head.root_hash, head.revision, trunk, "", head.root_size, "")
        names = [(options.tag, options.message)] if options.tag else []
        wanted = histories.next_tags(tags, top, new, names)
        certificate = storage.put(self._keyring.certificate_pem, "X", self._algorithm)
        metainfo = self._metainfo()
        history = head.history if head else None
        if history is None or wanted != sorted(tags, key=lambda tag: (tag.revision, tag.name)):
            history = histories.write_history(storage, options.fqrn, wanted, branches, history, self._algorithm)
        refs = histories.read_reflog(storage, options.fqrn)
        old_refs = dict(refs)
        for digest, suffix in ((top.hash, "C"), (certificate, "X"), (history, "H"), (metainfo, "M")):
            if new or digest not in refs:
                refs[digest] = (histories.KINDS[suffix], self._now)
        marks = None
        if options.gc:
            marks = self._mark([top.hash, *(tag.hash for tag in wanted)], certificate, history, metainfo)
            suffixes = {kind: suffix for suffix, kind in histories.KINDS.items()}
            refs = {
                digest: (kind, when)
                for digest, (kind, when) in refs.items()
                if marks.has(digest, suffixes.get(kind, "C"))
            }
        same = (
            head is not None
            and not new
            and (certificate, history, metainfo) == (head.certificate, head.history, head.metainfo)
            and refs == old_refs
        )
        # What the manifest names is on disk before the manifest is.
        storage.sync()
        if whitelist is not None:
            storage.replace(whitelists.NAME, whitelist)
        if not same:
            reflog = histories.make_reflog(refs, options.fqrn)
            text = NewHead(
                top.hash,
                top.size,
                self._ttl,
                top.revision,
                options.fqrn,
                certificate,
                history,
                self._now,
                metainfo,
                digest_of(self._algorithm, reflog),
            ).text()
            storage.replace(histories.REFLOG, reflog)
            storage.replace(manifests.NAME, self._keyring.sign_manifest(text, self._algorithm))
        storage.trust()
        swept = (0, 0)
        if marks is not None:
            swept = self._sweep(marks)
        return self._result(top, "unchanged" if same else "published" if new else "signed", swept)

    def _metainfo(self) -> Digest:
        options, head = self._options, self._head
        if options.metainfo is None and head is not None and head.metainfo is not None:
            return head.metainfo
        return self._storage.put(options.metainfo or METAINFO, "M", self._algorithm)

    def _mark(self, roots: Iterable[Digest], certificate: Digest, history: Digest, metainfo: Digest) -> Marks:
        self._hooks.phase("gc")
        marks = Marks(self._storage)
        self._stack.callback(marks.close)
        for digest, suffix in ((certificate, "X"), (history, "H"), (metainfo, "M")):
            marks.add(digest, suffix)
        for root in roots:
            marks.mark_tree(root, lambda count: self._hooks.counts(Counter(catalogs_read=count)))
        return marks

    def _sweep(self, marks: Marks) -> tuple[int, int]:
        gone, freed, strange = sweep(self._storage, marks, lambda count: self._hooks.counts(Counter(collected=count)))
        if strange:
            self._note(f"{strange} files in data/ are no objects; they were left alone")
        return gone, freed

    def _result(self, top: Tag, reason: str, swept: tuple[int, int]) -> Published:
        options, counts = self._options, self._counts
        names = ("files", "dirs", "symlinks", "special", "links", "objects", "new_objects", "whiteouts")
        return Published(
            fqrn=options.fqrn,
            storage=options.storage,
            reason=reason,
            revision=top.revision,
            root_hash=str(top.hash),
            timestamp=top.timestamp,
            tags=(options.tag,) if options.tag else (),
            public_key=self._keyring.public,
            keys_made=self._keyring.made,
            catalogs=self._catalogs,
            counts={**{name: counts[name] for name in names}, "collected": swept[0]},
            bytes={
                "content": counts["bytes"],
                "objects": counts["written"],
                "catalogs": self._catalog_bytes,
                "collected": swept[1],
            },
            notices=self._notices,
        )


def empty_digest(algorithm: int, compression: int) -> Digest:
    """Of the object of an empty file (FORMAT.md §2.4)."""
    import zlib

    return digest_of(algorithm, b"" if compression == UNCOMPRESSED else zlib.compress(b""))
