"""``shrinkwrap ls``: what a repository holds, without exporting it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.reading import Cache, Reading, repository_path
from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import CatalogError, MissingObject

if TYPE_CHECKING:
    from shrinkwrap.cvmfs.catalog import Catalog, NestedRef
    from shrinkwrap.cvmfs.entry import Entry
    from shrinkwrap.snapshot.session import Session

_EXAMPLES = """\b
Examples:
  shrinkwrap ls -r sft.cern.ch --server URL /lcg/releases/gcc
  shrinkwrap ls -r sft.cern.ch --server URL --tag LCG_105 -l -R /lcg/views
"""
_NS = 10**9


def register(app: typer.Typer) -> None:
    app.command("ls", epilog=_EXAMPLES)(ls)


def ls(
    repo: opt.Repo,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Path in the repository.")] = "/",
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    tag: opt.Tag = "",
    revision: opt.RevisionNumber = None,
    at: opt.At = "",
    root_hash: opt.RootHash = "",
    unsigned: opt.Unsigned = False,
    env: opt.Env = None,
    cache: Cache = None,
    long: Annotated[bool, typer.Option("-l", "--long", help="Mode, owner, size and time too.")] = False,
    recursive: Annotated[bool, typer.Option("-R", "--recursive", help="All below the path.")] = False,
    everything: Annotated[bool, typer.Option("-a", "--all", help="Hidden entries too.")] = False,
    as_json: opt.Json = False,
) -> None:
    """List a path of a repository, from its signed catalogs alone."""
    from shrinkwrap.record.listing import repository_row

    wanted = repository_path(path)
    pin = opt.make_pin(tag, revision, at, root_hash, unsigned)
    reading = Reading(opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists), pin, cache)
    given = opt.given_variables(env)
    with reading.snapshot() as (session, snapshot, settings):
        values = settings.environment(os.environb, given)
        for entry in _listed(session, snapshot.root, wanted, recursive, everything):
            if as_json:
                print(json.dumps(repository_row(entry, values)))
            else:
                name = entry.path if recursive or entry.path == wanted else entry.name
                print(_long(entry, name, values) if long else _shown(name))


def _listed(session: Session, root: NestedRef, path: bytes, recursive: bool, everything: bool) -> Iterator[Entry]:
    from shrinkwrap.cvmfs.entry import show

    found = session.find(root, path)
    if found is None:
        raise MissingObject(f"{show(path)}: not in the repository", hint="'shrinkwrap ls' of its parent shows what is")
    catalog, entry = found
    # The directories that the listing is in: the catalog of each, and what is left of its children.
    stack: list[tuple[Catalog, Iterator[Entry]]] = [(catalog, iter([entry]))]
    try:
        if entry.is_dir:
            if recursive:
                yield entry
            stack[0] = (catalog, catalog.children(path))
        while stack:
            catalog, entries = stack[-1]
            child = next(entries, None)
            if child is None:
                session.catalogs.release(stack.pop()[0])
            elif not child.is_hidden or everything or child.path == path:
                yield child
                if recursive and child.is_dir:
                    if len(stack) > limits.PATH_DEPTH:
                        raise CatalogError(f"{show(child.path)[:200]}: too many directories inside each other")
                    below = session.catalogs.open(catalog.nested.get(child.path, catalog.ref))
                    stack.append((below, below.children(child.path)))
    finally:
        for catalog, _ in stack:
            session.catalogs.release(catalog)


def _shown(path: bytes) -> str:
    from shrinkwrap.cvmfs.entry import show

    return show(path)


def _long(entry: Entry, name: bytes, variables: dict[bytes, bytes]) -> str:
    from shrinkwrap.cvmfs.variants import expand

    try:
        when = datetime.fromtimestamp(entry.mtime_ns // _NS, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        when = str(entry.mtime_ns // _NS)
    target = f" -> {_shown(expand(entry.target, variables))}" if entry.is_link else ""
    owner = f"{max(entry.uid, 0):>5} {max(entry.gid, 0):>5}"
    return f"{stat.filemode(entry.mode)} {owner} {entry.size:>12} {when} {_shown(name)}{target}"
