"""``shrinkwrap plan``: what an export would be, from the catalogs alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say, size
from shrinkwrap.cli.reading import Cache, Reading
from shrinkwrap.errors import NetworkError, UsageError

if TYPE_CHECKING:
    from shrinkwrap.cvmfs.catalog import NestedRef
    from shrinkwrap.snapshot.repository import Revision
    from shrinkwrap.survey.plan import Plan
    from shrinkwrap.survey.room import Room
    from shrinkwrap.survey.sums import Sum
    from shrinkwrap.tree.request import ExportRequest, ExportResult

_EXAMPLES = """\b
Examples:
  shrinkwrap plan -r sft.cern.ch --server URL -t sft.cern.ch.spec
  shrinkwrap plan -r sft.cern.ch --server URL -t sft.cern.ch.spec --by-directory 3
  shrinkwrap plan -r sft.cern.ch --server URL -t sft.cern.ch.spec -z /export/cvmfs --strict
  shrinkwrap plan -r sft.cern.ch --storage /srv/cvmfs/sft.cern.ch -t a.spec -t b.spec --tag LCG_105 --json
"""
_HEAD = f"{'files':>9} {'dirs':>8} {'links':>8} {'bytes':>10}"


def register(app: typer.Typer) -> None:
    app.command("plan", epilog=_EXAMPLES)(plan)


def plan(
    repo: opt.Repo,
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    specs: Annotated[
        list[str] | None,
        typer.Option(
            "-t", "--spec-file", metavar="FILE", help="Paths to export. Several are joined. Default: FQRN.spec."
        ),
    ] = None,
    rules: Annotated[
        str, typer.Option("--spec-rules", metavar="VERSION", help="What '!/path/*' means: as in 2.14, or as in 2.12.")
    ] = "2.14",
    dest: Annotated[
        str,
        typer.Option(
            "-z", "--dest", "-x", "--dest-base", metavar="DIR", help="Hold it against this destination, and its disk."
        ),
    ] = "",
    store: Annotated[
        str,
        typer.Option("-y", "--dest-cache", "--store", metavar="DIR", help="Store of the destination [<dest>/.data]."),
    ] = "",
    tag: opt.Tag = "",
    revision: opt.RevisionNumber = None,
    at: opt.At = "",
    root_hash: opt.RootHash = "",
    unsigned: opt.Unsigned = False,
    env: opt.Env = None,
    cache: Cache = None,
    claim: Annotated[
        bool, typer.Option("--claim-ownership", help="Everything belongs to you (always so for users other than root).")
    ] = False,
    keep_suid: Annotated[
        bool, typer.Option("--keep-suid", help="Keep set-user-id and set-group-id bits (root only).")
    ] = False,
    share_mtime: Annotated[
        bool, typer.Option("--share-mtime", help="Files that differ in their mtime only share one inode and one mtime.")
    ] = False,
    link_mode: Annotated[
        str, typer.Option("--link-mode", metavar="MODE", help="From store to tree: hardlink, reflink or copy.")
    ] = "hardlink",
    by_directory: Annotated[
        int,
        typer.Option("--by-directory", metavar="DEPTH", min=0, max=4096, help="Sums by directory too, down to DEPTH."),
    ] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings are errors, and so is a disk without room for it.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Tell what an export would be, before anything is fetched but catalogs.

    Files, directories, links and bytes, after deduplication too, of everything and of each line of the specification;
    with -z what of it a destination lacks, and whether there is room for that.
    """
    from shrinkwrap.spec.grammar import read_files
    from shrinkwrap.survey.plan import Wish, survey
    from shrinkwrap.tree.aim import check_request, goal_of
    from shrinkwrap.tree.place import LINK_MODES
    from shrinkwrap.tree.request import ExportRequest

    if link_mode not in LINK_MODES:
        raise UsageError(f"--link-mode {link_mode}: unknown", hint=f"one of {', '.join(LINK_MODES)}")
    if store and not dest:
        raise UsageError("--store without a destination", hint="-z DIR")
    whence = opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists)
    reading = Reading(whence, opt.make_pin(tag, revision, at, root_hash, unsigned), cache)
    settings = whence.settings()
    spec = read_files(specs or [f"{repo}.spec"], rules=rules)
    request = ExportRequest(
        source=whence.source(settings),
        keys=() if unsigned else whence.master_keys(settings),
        spec=spec,
        dest=dest,
        pin=opt.pin_of(reading.pin, settings),
        variables=settings.environment(os.environb, opt.given_variables(env)),
        claim=claim or settings.claim_ownership,
        uid_map=settings.uid_map,
        gid_map=settings.gid_map,
        world_readable=settings.world_readable,
        keep_suid=keep_suid,
        share_mtime=share_mtime,
        link_mode=link_mode,
        store=store,
        blacklist=whence.blacklist(settings),
    )
    check_request(request)
    for line in spec.warnings:
        say(f"note: {line}")
    directories = _Directories(as_json)
    with reading.session(settings) as session:
        found = session.snapshot(request.pin)
        goal = goal_of(request, found, link_mode)
        wish = Wish(goal.root, spec, goal.view, request.variables)
        planned = survey(session.catalogs, wish, depth=by_directory, row=directories)
    there = _held_against(request, found.root, planned) if dest else None
    outcome = _Outcome(repo, found, planned, there, tuple(spec.warnings))
    warned = outcome.warnings()
    code = 1 if strict and warned else 0
    if as_json:
        print_json({**outcome.to_json(), "reason": "warnings" if code else "done", "exit_code": code})
    else:
        for line in outcome.table():
            print(clean(line))
        for line in warned[len(spec.warnings) :]:
            say(f"warning: {line}")
    if code:
        raise typer.Exit(code)


class _Directories:
    """Prints a row as soon as it is known: there may be any number of them."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._begun = False

    def __call__(self, path: bytes, found: Sum) -> None:
        from shrinkwrap.cvmfs.entry import show
        from shrinkwrap.record.listing import text

        if self._as_json:
            print_json({**text("directory", path), **found.to_json()})
            return
        if not self._begun:
            self._begun = True
            print(f"{_HEAD}  directory")
        print(clean(f"{_numbers(found)}  {show(path)}"))


@dataclass(frozen=True, slots=True)
class _There:
    """A destination as it is."""

    dry: ExportResult
    rooms: list[Room]

    def to_json(self) -> dict[str, Any]:
        from shrinkwrap.tree.dry import PLANNED

        dry = self.dry
        return {
            "path": dry.dest,
            "unchanged": dry.reason == "unchanged",
            **{name: dry.counts[name] for name in PLANNED},
            "bytes": {name: dry.bytes[name] for name in ("to_fetch", "download")},
            "file_systems": [room.to_json() for room in self.rooms],
            "enough": all(room.enough for room in self.rooms),
            "abilities": dry.abilities,
        }


def _held_against(request: ExportRequest, root: NestedRef, plan: Plan) -> _There:
    """A dry run of the same, and the room that there is for what is new.

    Raises:
        NetworkError: the head moved meanwhile.
    """
    from shrinkwrap.survey.room import needs, rooms
    from shrinkwrap.tree.dry import dry_run

    result = dry_run(request)
    if result.root_hash != str(root.digest):
        raise NetworkError(
            f"{request.source.fqrn}: a new revision was published while the plan was made",
            hint="try again, or pin the snapshot, e.g. with --tag",
        )
    # What the file system cannot link is copied (see the notices of the dry run).
    linkable = "no hard links" not in result.abilities or request.link_mode != "hardlink"
    needed = needs(plan, result.counts, result.bytes["to_fetch"], link_mode=request.link_mode if linkable else "copy")
    return _There(result, rooms(needed, tree=result.dest, store=_store_of(result.dest, request.store)))


def _store_of(dest: str, wish: str) -> str:
    """Where a destination has its store, or would have it."""
    from shrinkwrap.tree.beneath import DIRECTORY
    from shrinkwrap.tree.storage import read_description

    data = os.path.join(dest, ".data")
    try:
        folder = os.open(data, DIRECTORY)
    except OSError:
        return os.path.realpath(wish) if wish else data
    try:
        description = read_description(folder)
    finally:
        os.close(folder)
    there = (description or {}).get("store")
    return there if isinstance(there, str) and there else data


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The plan of a snapshot, and what a destination has to do with it."""

    fqrn: str
    revision: Revision
    plan: Plan
    there: _There | None
    notices: tuple[str, ...]

    def warnings(self) -> list[str]:
        """All that people should know, a line each, the notes of the specification first."""
        from shrinkwrap.tree.request import ExportResult

        told = ExportResult(self.fqrn, "", report=self.plan.report, notices=[*self.notices, *self.plan.notices])
        lines = told.warnings()
        for room in self.there.rooms if self.there is not None else ():
            if not room.enough:
                lines.append(f"{room.path}: not enough room for the {' and the '.join(room.holds)}: {_needed(room)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        found = self.revision
        return {
            "command": "plan",
            "fqrn": self.fqrn,
            "root_hash": str(found.root_hash),
            "revision": found.revision,
            "timestamp": found.timestamp,
            "tag": found.tag,
            **self.plan.to_json(),
            "destination": None if self.there is None else self.there.to_json(),
            "warnings": self.warnings(),
        }

    def table(self) -> Iterator[str]:
        found, plan = self.revision, self.plan
        stored, total = plan.stored, plan.total
        if plan.lines:
            yield f"{_HEAD} {'alone':>10}  line"
            for line in plan.lines:
                if line.matched is None:
                    yield f"{'-':>9} {'-':>8} {'-':>8} {'-':>10} {'-':>10}  {line.line.text}"
                else:
                    yield f"{_numbers(line.brings)} {size(line.alone.bytes):>10}  {line.line.text}"
            yield ""
        yield f"{self.fqrn} revision {found.revision}" + (f" ({found.tag})" if found.tag else "") + ", a plan"
        yield f"  tree      {total.files} files, {total.dirs} directories, {total.symlinks} symbolic links"
        yield f"  bytes     {total.bytes} ({size(total.bytes)}) in files, each path counted"
        yield f"  contents  {stored.contents} that differ, {stored.content_bytes} bytes ({size(stored.content_bytes)})"
        yield f"  store     {stored.inodes} files, {stored.inode_bytes} bytes ({size(stored.inode_bytes)})"
        yield (
            f"  download  {stored.objects} objects, about {size(plan.download)} (an estimate: catalogs do not tell"
            f" compressed sizes), and {_catalogs(plan.catalogs)}"
        )
        if self.there is not None:
            yield from self._against(self.there)
        yield f"root hash {found.root_hash}"

    def _against(self, there: _There) -> Iterator[str]:
        counts, sizes = there.dry.counts, there.dry.bytes
        yield f"{there.dry.dest}" + (": nothing new" if there.dry.reason == "unchanged" else "")
        yield (
            f"  fetch     {counts['to_fetch']} contents, {size(sizes['to_fetch'])},"
            f" about {size(sizes['download'])} to download (estimate)"
        )
        yield f"  link      {counts['to_link']} new files and links, in {counts['to_make_dirs']} new directories"
        yield f"  change    {counts['to_replace']} paths, {counts['to_touch_dirs']} directories in their metadata"
        yield f"  remove    {counts['to_remove']} paths"
        for room in there.rooms:
            yield f"  room      {' and '.join(room.holds)} at {room.path}: {_needed(room)}"


def _needed(room: Room) -> str:
    free = "any number" if room.free_inodes is None else f"{room.free_inodes}"
    return (
        f"needs at most {size(room.bytes)} and {room.inodes} inodes, free are {size(room.free_bytes)} and {free}"
        f" ({'enough' if room.enough else 'not enough'})"
    )


def _numbers(found: Sum) -> str:
    return f"{found.files:>9} {found.dirs:>8} {found.symlinks:>8} {size(found.bytes):>10}"


def _catalogs(number: int) -> str:
    return f"{number} catalog{'s' if number != 1 else ''}"
