"""An image's part straight from a repository: the part of a build that talks to servers."""

from __future__ import annotations

import os
from contextlib import ExitStack

from shrinkwrap import __version__
from shrinkwrap.image.exported import stored_files
from shrinkwrap.image.pouring import Build, Gathered, Pouring, nodes_of, view_of
from shrinkwrap.image.request import Part
from shrinkwrap.record.statement import Material, Options, Statement
from shrinkwrap.snapshot.repository import Revision
from shrinkwrap.snapshot.session import Session, open_session
from shrinkwrap.snapshot.view import ViewOptions
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.aim import refuse
from shrinkwrap.tree.lines import LineCounts
from shrinkwrap.tree.request import ExportResult


def gather(build: Build, part: Part) -> Gathered:
    """Bring one repository of an image.

    Raises:
        ShrinkwrapError: see :mod:`shrinkwrap.errors`. OSError: something cannot be written.
    """
    with ExitStack() as stack:
        store, stored = "", None
        if os.path.isdir(build.request.base):
            store, stored = stored_files(build.request.base, part.fqrn, stack)
        pouring = Pouring(build, part.fqrn, store=store, stored=stored)
        result = pouring.result
        build.result.parts.append(result)
        build.hooks.phase("head")
        session = stack.enter_context(
            open_session(
                part.source, part.keys, blacklist=part.blacklist, cache=build.partial.catalogs, notice=pouring.notice
            )
        )
        if part.pin.unsigned:
            pouring.notice("the root hash is taken without any signature: only the hash itself vouches for the content")
        revision = session.snapshot(part.pin)
        result.root_hash, result.revision = str(revision.root_hash), revision.revision
        result.timestamp, result.tag = revision.timestamp, revision.tag
        build.hooks.phase("catalogs")
        matcher = Matcher(part.spec)
        result.counts["catalogs"], entries = bring_catalogs(session.catalogs, revision.root, matcher)
        build.hooks.expect(entries)
        if build.request.strict:
            _be_strict(build, part, session, revision, matcher)
        lines = LineCounts(part.spec)
        walk = Walk(session.catalogs, revision.root, matcher, notice=pouring.notice, count=lines)
        nodes = nodes_of(iter(walk), _view(build, part), part.variables, result.report)
        pouring.pour(nodes, session.source, part.source, entries)
        lines.report_to(result.report, session.catalogs, revision.root)
        result.lines = lines.to_json()
        return Gathered(_stated(build, part, session, revision, pouring), pouring.mtime_ns)


def _view(build: Build, part: Part) -> ViewOptions:
    return view_of(
        claim=part.claim,
        uid_map=part.uid_map,
        gid_map=part.gid_map,
        world_readable=part.world_readable,
        keep_suid=build.request.keep_suid,
    )


def _be_strict(build: Build, part: Part, session: Session, revision: Revision, matcher: Matcher) -> None:
    """Walk once before anything is fetched. Raises WarningsAreErrors if there is something to warn of."""
    seen = ExportResult(part.fqrn, build.request.output)
    lines = LineCounts(part.spec)
    walk = Walk(session.catalogs, revision.root, matcher, notice=seen.notices.append, count=lines)
    for _ in nodes_of(iter(walk), _view(build, part), part.variables, seen.report):
        continue
    lines.report_to(seen.report, session.catalogs, revision.root)
    refuse([*part.spec.warnings, *seen.warnings()])


def _stated(build: Build, part: Part, session: Session, revision: Revision, pouring: Pouring) -> Statement:
    result, listing = pouring.result, pouring.listing
    certificate = history = None
    if part.pin.follows_head:
        head = session.repository.head().manifest
        certificate = None if head.certificate is None else Material(head.certificate)
        history = None if head.history is None else Material(head.history)
    return Statement(
        fqrn=part.fqrn,
        pin=part.pin,
        revision=revision.revision,
        timestamp=revision.timestamp,
        tag=revision.tag,
        signed=revision.signed,
        root=Material(revision.root_hash),
        spec=part.spec.text,
        rules=part.spec.rules,
        options=Options(
            claim=part.claim,
            keep_suid=build.request.keep_suid,
            world_readable=part.world_readable,
            uid_map=part.uid_map,
            gid_map=part.gid_map,
        ),
        variables=result.report.variables,
        listing_sha256=listing.hexdigest(),
        entries=listing.entries,
        counts={**result.counts, **result.report.counts},
        tool=__version__,
        certificate=certificate,
        history=history,
    )
