"""``shrinkwrap tags``: the named snapshots of a repository."""

from __future__ import annotations

from typing import Any

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.info import utc
from shrinkwrap.cli.output import clean, print_json
from shrinkwrap.cli.reading import Cache, Reading

_EXAMPLES = """\b
Examples:
  shrinkwrap tags -r sft.cern.ch --server http://stratum1.example.org/cvmfs/sft.cern.ch
  shrinkwrap tags -r sft.cern.ch --storage /srv/cvmfs/sft.cern.ch --json
"""


def register(app: typer.Typer) -> None:
    app.command("tags", epilog=_EXAMPLES)(tags)


def tags(
    repo: opt.Repo,
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    cache: Cache = None,
    as_json: opt.Json = False,
) -> None:
    """List the tags of the signed history, oldest revision first: what --tag, --revision and --at can pin to."""
    pin = opt.make_pin("", None, "", "", False)
    reading = Reading(opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists), pin, cache)
    with reading.session() as session:
        found = session.repository.tags()
    rows: list[dict[str, Any]] = [
        {
            "name": tag.name,
            "revision": tag.revision,
            "published": utc(tag.timestamp),
            "timestamp": tag.timestamp,
            "root_hash": str(tag.hash),
            "branch": tag.branch,
            "description": tag.description,
        }
        for tag in found
    ]
    if as_json:
        print_json({"command": "tags", "fqrn": repo, "tags": rows, "reason": "done", "exit_code": 0})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        described = f"  {row['description']}" if row["description"] else ""
        line = f"{row['revision']:>8}  {row['published']}  {row['name']:<{width}}  {row['root_hash']}{described}"
        print(clean(line))
