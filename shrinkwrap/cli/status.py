"""``shrinkwrap status``: what is in a destination."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.gc import Dest
from shrinkwrap.cli.output import clean, print_json, size

if TYPE_CHECKING:
    from shrinkwrap.tree.status import RepositoryStatus, Status

_EXAMPLES = """\b
Examples:
  shrinkwrap status /export/cvmfs
  shrinkwrap status /export/cvmfs --json
"""

#: What the states of a repository mean to people.
_STATES: Final = {
    "open": "not whole: a run is under way, or was cut off; the next export finishes it",
    "no tree": "its tree is gone; the next export makes it anew",
    "unreadable": "its record cannot be read; export --repair writes a new one",
    "nothing": "no export has ended well yet",
}


def register(app: typer.Typer) -> None:
    app.command("status", epilog=_EXAMPLES)(status)


def status(dest: Dest = "/export/cvmfs", as_json: opt.Json = False) -> None:
    """List the repositories in a destination, and the snapshots in it with theirs: what each tree shows, when it was
    made, and how the last run ended.

    Only the records are read: nothing is locked, and nothing is asked of any server.
    """
    from shrinkwrap.tree.status import status as find

    found = find(dest)
    if as_json:
        print_json({"command": "status", **found.to_json(), "reason": "done", "exit_code": 0})
        return
    for line in _lines(found):
        print(clean(line))


def _lines(found: Status) -> Iterator[str]:
    for one in found.repositories:
        yield from _repository(one)
    for name, repositories in found.snapshots.items():
        yield f"snapshot {name}" + (", the current one" if name == found.current else "")
        if not repositories:
            yield "  no repository"
        for one in repositories:
            yield from (f"  {line}" for line in _repository(one))
    if not found.repositories and not found.snapshots:
        yield f"{found.dest}: no repository"
    if found.store:
        here = {found.dest, *(os.path.join(found.dest, name) for name in found.snapshots)}
        shared = [place for place in found.bases or () if place not in here]
        yield f"store: {found.store}" + (f", shared with {', '.join(shared)}" if shared else "")
    if found.dropped:
        yield "store: there may be garbage; shrinkwrap gc removes it"
    if found.original:
        yield "store: that of cvmfs_shrinkwrap is being taken over; the next exports finish it"


def _repository(one: RepositoryStatus) -> Iterator[str]:
    from shrinkwrap.cli.info import utc

    record = one.record
    if record is None:
        yield one.fqrn
    else:
        counts = record.counts
        yield (
            f"{one.fqrn} revision {record.revision}"
            + (f" ({record.tag})" if record.tag else "")
            + f", exported {utc(int(one.exported))}"
        )
        yield (
            f"  {counts.get('files', 0)} files, {counts.get('dirs', 0)} directories, {counts.get('symlinks', 0)}"
            f" symbolic links, {size(counts.get('bytes', 0))}" + (", with marker" if record.goal.marker else "")
        )
        yield f"  root hash {record.goal.root_hash}" + (
            f", published {utc(record.timestamp)}" if record.timestamp else ""
        )
        yield f"  specification {record.goal.spec_sha256[:16]}…, {record.goal.link_mode}s"
    if record is not None and (missing := record.counts.get("missing_object", 0)):
        yield f"  {missing} files left out, because no server had their objects (--allow-missing)"
    if one.state in _STATES:
        yield f"  {_STATES[one.state]}"
    run = one.last_run
    if run is not None and run.get("error"):
        yield f"  last run: {run.get('reason')}, {run.get('end')}: {run.get('error')}"
