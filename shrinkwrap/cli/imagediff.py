"""``shrinkwrap image diff``: what differs between two images."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json

_DIFFERENT = 1

_EXAMPLES = """\b
Examples:
  shrinkwrap image diff sft-monday.squashfs sft-tuesday.squashfs
  shrinkwrap image diff --stat --no-mtime old.sif new.squashfs
"""


def register(images: typer.Typer) -> None:
    images.command("diff", epilog=_EXAMPLES)(diff)


def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="An image.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another one.")],
    mtime: Annotated[bool, typer.Option("--mtime/--no-mtime", help="Compare times of modification.")] = True,
    owners: Annotated[bool, typer.Option("--owner/--no-owner", help="Compare owners.")] = True,
    stat: Annotated[bool, typer.Option("--stat", help="Totals only.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if something differs.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Tell what was added, removed and changed between two images (squashfs, or SIF with one).

    Everything is looked at but /.provenance, what the images say of themselves, and which files are hard links.
    """
    from shrinkwrap.cli.changes import print_change, sums
    from shrinkwrap.image.differ import changes
    from shrinkwrap.image.inspect import open_image
    from shrinkwrap.snapshot.tally import Tally

    tally = Tally()
    with ExitStack() as stack:
        one, two = (stack.enter_context(open_image(path)) for path in (old, new))
        ignore = [name for name, counts in (("mtime", mtime), ("owner", owners)) if not counts]
        for change in changes(one, two, ignore):
            tally.add(change)
            if not stat:
                print_change(change, as_json)
    differ = any(tally.entries)
    code = _DIFFERENT if differ and exit_code else 0
    if as_json:
        told = {"command": "image diff", "from": old, "to": new, "differ": differ, **tally.to_json()}
        print_json({**told, "reason": "different" if code else "done", "exit_code": code})
    else:
        print(clean(f"{old} -> {new}"))
        for line in sums(tally):
            print(clean(line))
    if code:
        raise typer.Exit(code)
