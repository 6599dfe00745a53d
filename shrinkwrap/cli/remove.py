"""``shrinkwrap remove``: a repository's tree and records."""

from __future__ import annotations

from typing import Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say
from shrinkwrap.errors import UsageError

_EXAMPLES = """\b
Examples:
  shrinkwrap remove /export/cvmfs -r sft.cern.ch
  shrinkwrap remove /export/cvmfs -r sft.cern.ch -g --json
  shrinkwrap remove /export/cvmfs --as 2026Q3
"""


def register(app: typer.Typer) -> None:
    app.command("remove", epilog=_EXAMPLES)(remove)


def remove(
    dest: Annotated[str, typer.Argument(metavar="DEST", help="The destination, such as /export/cvmfs.")],
    repo: Annotated[
        str | None,
        typer.Option("-r", "--repo", metavar="FQRN", help="Repository. May be left out with --as: all then."),
    ] = None,
    snapshot: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="In this snapshot; with its last repository it goes, too."),
    ] = None,
    gc: Annotated[
        bool, typer.Option("-g", "--gc", help="Afterwards, remove stored files that nothing needs any more.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run on this destination to end.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Remove the tree of a repository from a destination or from a snapshot in it, and all records of it.

    Its stored files stay until garbage is collected (-g, or shrinkwrap gc). Interrupted, the same command finishes it.
    """
    from shrinkwrap.cli.gc import lines
    from shrinkwrap.tree.remove import remove as run
    from shrinkwrap.tree.remove import remove_snapshot

    fqrn, name = opt.given("-r", repo), opt.given("--as", snapshot)
    if not fqrn and not name:
        raise UsageError("no repository given", hint="-r FQRN, e.g. -r sft.cern.ch; or --as NAME for a whole snapshot")
    if name:
        result = remove_snapshot(dest, name, fqrn, gc=gc, wait=wait)
    else:
        result = run(dest, fqrn, gc=gc, wait=wait)
    if as_json:
        print_json({"command": "remove", **result.to_json(), "reason": "done", "exit_code": 0})
        return
    for line in result.notices:
        say(f"warning: {line}")
    shown = f" (revision {result.revision})" if result.revision else ""
    where = f"{result.dest}/{name}" if name else result.dest
    if result.whole:
        print(clean(f"{where}: snapshot removed, with {', '.join(result.repositories) or 'no repository'}"))
    else:
        print(
            clean(f"{where}: {', '.join(result.repositories)}{shown if len(result.repositories) == 1 else ''} removed")
        )
    if result.garbage is not None:
        for line in lines(result.garbage):
            print(clean(line))
    elif not gc:
        say("note: its stored files stay until garbage is collected: shrinkwrap gc")
