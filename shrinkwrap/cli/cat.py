"""``shrinkwrap cat``: the content of a file in a repository, verified."""

from __future__ import annotations

import shutil
import sys
from typing import Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.reading import Cache, Reading, repository_path

_EXAMPLES = """\b
Examples:
  shrinkwrap cat -r sft.cern.ch --server URL /lcg/releases/LCG_105/README
  shrinkwrap cat -r sft.cern.ch --server URL --tag LCG_105 /lcg/mcgen.txt > mcgen.txt
"""
_PIECE = 1 << 20


def register(app: typer.Typer) -> None:
    app.command("cat", epilog=_EXAMPLES)(cat)


def cat(
    repo: opt.Repo,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files in the repository.")],
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    external: opt.ExternalServers = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    tag: opt.Tag = "",
    revision: opt.RevisionNumber = None,
    at: opt.At = "",
    root_hash: opt.RootHash = "",
    unsigned: opt.Unsigned = False,
    cache: Cache = None,
) -> None:
    """Print files of a repository. Nothing is printed of a file before all of it is verified."""
    from shrinkwrap.engine.read import open_file

    wanted = [repository_path(path) for path in paths]
    pin = opt.make_pin(tag, revision, at, root_hash, unsigned)
    reading = Reading(opt.Whence(repo, files, servers, storage, proxy, external, keys, blacklists), pin, cache)
    with reading.snapshot() as (session, snapshot, _):
        for path in wanted:
            with open_file(session, snapshot.root, path) as file:
                shutil.copyfileobj(file, sys.stdout.buffer, _PIECE)
                sys.stdout.buffer.flush()
