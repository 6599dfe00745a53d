"""``shrinkwrap info``: what a repository says of itself, verified."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.configuration import show
from shrinkwrap.cli.output import clean, print_json, size
from shrinkwrap.cli.reading import Cache, Reading

_EXAMPLES = """\b
Examples:
  shrinkwrap info -r sft.cern.ch --server http://stratum1.example.org/cvmfs/sft.cern.ch
  shrinkwrap info -r sft.cern.ch --config
  shrinkwrap info -r sft.cern.ch --storage /srv/cvmfs/sft.cern.ch --tag LCG_105 --json
"""


def register(app: typer.Typer) -> None:
    app.command("info", epilog=_EXAMPLES)(info)


def info(
    repo: opt.Repo,
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
    cache: Cache = None,
    config: Annotated[
        bool, typer.Option("--config", help="Show the client configuration in force, and which file says so.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Show a snapshot's root hash, revision, times, signatures and counters."""
    pin = opt.make_pin(tag, revision, at, root_hash, unsigned)
    reading = Reading(opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists), pin, cache)
    if config:
        show(reading.whence.settings(), as_json=as_json)
        return
    with reading.snapshot() as (session, snapshot, _):
        catalog = session.catalogs.open(snapshot.root)
        out: dict[str, Any] = {
            "command": "info",
            "fqrn": repo,
            "host": session.source.host,
            "root_hash": str(snapshot.root_hash),
            "revision": snapshot.revision or catalog.revision,
            "published": utc(snapshot.timestamp or catalog.last_modified),
            "tag": snapshot.tag or None,
            "signed": snapshot.signed,
            "schema": f"{catalog.schema:g} revision {catalog.schema_revision}",
            "nested_catalogs": len(catalog.nested),
            "statistics": _totals(catalog.statistics()),
        }
        session.catalogs.release(catalog)
        if snapshot.signed:
            accepted = session.repository.head()
            head = accepted.manifest
            out["head_revision"] = head.revision
            out["ttl"] = head.ttl
            out["certificate"] = str(head.certificate)
            out["history"] = None if head.history is None else str(head.history)
            out["garbage_collectable"] = head.garbage_collectable
            out["whitelist_expires"] = utc(accepted.expires)
    if as_json:
        print_json({**out, "reason": "done", "exit_code": 0})
    else:
        _print(out)


def _totals(statistics: dict[str, int]) -> dict[str, int]:
    """Counters of the whole repository: the root catalog's own plus those below (FORMAT.md §6.10)."""
    names = ("regular", "dir", "symlink", "special", "nested", "chunked", "external", "file_size")
    totals = {
        name: statistics.get(f"self_{name}", 0) + statistics.get(f"subtree_{name}", 0)
        for name in names
        if f"self_{name}" in statistics
    }
    if "dir" in totals:
        # Mount points are counted in both of their catalogs.
        totals["dir"] = max(0, totals["dir"] - totals.get("nested", 0))
    return totals


def utc(seconds: int) -> str:
    """A time for people and programs, to the second."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"


_WORDS = {
    "fqrn": "repository",
    "root_hash": "root hash",
    "head_revision": "head's revision",
    "nested_catalogs": "catalogs mounted",
    "garbage_collectable": "garbage collected",
    "whitelist_expires": "whitelist expires",
    "ttl": "time to live",
}


def _print(out: dict[str, Any]) -> None:
    for key, value in out.items():
        if key == "command" or value is None:
            continue
        if key == "statistics":
            value = ", ".join(
                f"{number} {name}" if name != "file_size" else f"{size(number)} in files"
                for name, number in value.items()
            )
        elif isinstance(value, bool):
            value = "yes" if value else "no"
        elif key == "ttl":
            value = f"{value} s"
        if value != "":
            print(f"{_WORDS.get(key, key):<18} {clean(str(value))}")
