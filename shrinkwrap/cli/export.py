"""``shrinkwrap export``: a verified tree from a repository."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say
from shrinkwrap.errors import UsageError

_EXAMPLES = """\b
Examples:
  shrinkwrap export -r sft.cern.ch --server http://stratum1.example.org/cvmfs/sft.cern.ch \\
      --key /etc/cvmfs/keys/cern.ch -t sft.cern.ch.spec -z /export/cvmfs
  shrinkwrap export -r sft.cern.ch -f sft.cern.ch.config -t sft.cern.ch.spec -z /export/cvmfs -j 16 -g
  shrinkwrap export -r sft.cern.ch --server URL --proxy 'http://squid:3128;DIRECT' \\
      -t root.spec --tag LCG_105 --env CMTCONFIG=x86_64-el9-gcc13-opt -j 16
  shrinkwrap export -r sft.cern.ch --storage /srv/cvmfs/sft.cern.ch -t root.spec --json
  shrinkwrap export -r sft.cern.ch -t sft.cern.ch.spec --dry-run
  shrinkwrap export -r sft.cern.ch -t sft.cern.ch.spec --as 2026Q3
  shrinkwrap export -r sft.cern.ch -t sft.cern.ch.spec --switch
"""


def register(app: typer.Typer) -> None:
    app.command("export", epilog=_EXAMPLES)(export)


def export(
    repo: opt.Repo,
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    external: opt.ExternalServers = None,
    external_proxy: opt.ExternalProxy = None,
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
            "-z",
            "--dest",
            "-x",
            "--dest-base",
            metavar="DIR",
            help="Destination: the tree is DIR/FQRN, the store DIR/.data.",
        ),
    ] = "/export/cvmfs",
    tag: opt.Tag = "",
    revision: opt.RevisionNumber = None,
    at: opt.At = "",
    root_hash: opt.RootHash = "",
    unsigned: opt.Unsigned = False,
    env: opt.Env = None,
    transfers: opt.Transfers = 0,
    store: Annotated[
        str,
        typer.Option(
            "-y",
            "--dest-cache",
            "--store",
            metavar="DIR",
            help="Store, which destinations may share [<dest>/.data].",
        ),
    ] = "",
    snapshot: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="A snapshot beside others: the tree is DIR/NAME/FQRN, of links only."
        ),
    ] = None,
    switch: Annotated[
        bool,
        typer.Option("--switch", help="Make a new snapshot, then let DIR/current lead to it, in one step for readers."),
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            "--workers", metavar="N", min=0, max=64, help="Processes that bring objects. 0: one for each CPU."
        ),
    ] = 0,
    retries: opt.Retries = None,
    timeout: opt.Timeout = None,
    redirects: opt.Redirects = None,
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
    allow_rollback: Annotated[
        bool, typer.Option("--allow-rollback", help="Accept a head that is older than the one seen last.")
    ] = False,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Take over a destination that cvmfs_shrinkwrap made; what can be proved is kept."),
    ] = False,
    gc: Annotated[
        bool, typer.Option("-g", "--gc", help="Afterwards, remove stored files that nothing needs any more.")
    ] = False,
    allow_missing: Annotated[
        str | None,
        typer.Option(
            "--allow-missing",
            metavar="FILE",
            help="Paths or digests, a line each, that may be left out if all servers say that they do not have them.",
        ),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Compare with the disk instead of the record, and mend the tree.")
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Warnings are errors: found in the catalogs before anything is touched."),
    ] = False,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Tell what would be fetched, linked, replaced and removed; touch nothing."),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run on this destination to end.")] = False,
    period: Annotated[
        float,
        typer.Option(
            "-p",
            "--stat-period",
            metavar="SECONDS",
            min=0,
            help="Between progress lines where there is no terminal; 0: none.",
        ),
    ] = 10.0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
    listing: Annotated[
        str,
        typer.Option("--listing", metavar="FILE", help="Write the listing of the export there, as lines of JSON."),
    ] = "",
    as_json: opt.Json = False,
) -> None:
    """Export what a spec file selects of a repository: verified, deduplicated, resumable.

    Nothing is trusted that no signature vouches for. A second run brings what changed; after any interruption the next
    run goes on from what is there.
    """
    from shrinkwrap.cli import gc as garbage
    from shrinkwrap.cli.dry import table
    from shrinkwrap.cli.progress import Progress
    from shrinkwrap.spec.grammar import read_files
    from shrinkwrap.tree.allowed import Allowed, read_allowed
    from shrinkwrap.tree.place import LINK_MODES
    from shrinkwrap.tree.request import ExportRequest

    # A run that finds nothing to do needs none of what the other way needs.
    if dry:
        from shrinkwrap.tree.dry import dry_run as run
    else:
        from shrinkwrap.tree.export import export as run
    if dry and adopt:
        raise UsageError("--dry-run cannot foresee what --adopt will find", hint="leave out one of them")
    if not dest:
        raise UsageError("-z is empty: no destination", hint="-z DIR; is a variable not set?")
    if link_mode not in LINK_MODES:
        raise UsageError(f"--link-mode {link_mode}: unknown", hint=f"one of {', '.join(LINK_MODES)}")
    missing = opt.given("--allow-missing", allow_missing)
    whence = opt.Whence(
        repo,
        files,
        servers,
        storage,
        proxy,
        external,
        keys,
        blacklists,
        external_proxy=external_proxy,
        transfers=transfers,
        retries=retries,
        timeout=timeout,
        redirects=redirects,
    )
    pin = opt.make_pin(tag, revision, at, root_hash, unsigned)
    settings = whence.settings()
    source = whence.source(settings)
    spec = read_files(specs or [f"{repo}.spec"], rules=rules)
    request = ExportRequest(
        source=source,
        keys=() if unsigned else whence.master_keys(settings),
        spec=spec,
        dest=dest,
        pin=opt.pin_of(pin, settings),
        variables=settings.environment(os.environb, opt.given_variables(env)),
        claim=claim or settings.claim_ownership,
        uid_map=settings.uid_map,
        gid_map=settings.gid_map,
        world_readable=settings.world_readable,
        keep_suid=keep_suid,
        share_mtime=share_mtime,
        link_mode=link_mode,
        allow_rollback=allow_rollback,
        adopt=adopt,
        workers=workers,
        store=store,
        repair=repair,
        wait=wait,
        blacklist=whence.blacklist(settings),
        strict=strict,
        listing=listing,
        gc=gc,
        snapshot=opt.given("--as", snapshot),
        switch=switch,
        allow_missing=read_allowed(missing) if missing else Allowed(),
    )
    with Progress(period=period, quiet=quiet or as_json) as progress:
        for line in (*opt.notes(settings), *spec.warnings):
            progress.hooks.notice(line)
        result = run(request, progress.hooks)
    result.notices[:0] = [*opt.notes(settings), *spec.warnings]
    if as_json:
        print_json({**result.to_json(), "exit_code": 0})
        return
    if not quiet:
        for line in result.warnings()[len(result.notices) :]:
            say(f"warning: {line}")
        for line in () if dry else progress.summary(result):
            say(line)
        for line in garbage.lines(result.garbage) if result.garbage is not None else ():
            say(line)
        for line in table(result) if dry else ():
            print(clean(line))
