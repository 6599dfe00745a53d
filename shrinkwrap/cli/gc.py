"""``shrinkwrap gc``: remove what nothing needs any more."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say, size
from shrinkwrap.errors import UsageError

if TYPE_CHECKING:
    from shrinkwrap.tree.gc import GcResult

_EXAMPLES = """\b
Examples:
  shrinkwrap gc /export/cvmfs
  shrinkwrap gc /export/cvmfs --dry-run
  shrinkwrap gc /export/cvmfs --full --grace 7d --json
"""

Dest = Annotated[str, typer.Argument(metavar="[DEST]", help="The destination [/export/cvmfs].", show_default=False)]

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")


def register(app: typer.Typer) -> None:
    app.command("gc", epilog=_EXAMPLES)(gc)


def gc(
    dest: Dest = "/export/cvmfs",
    full: Annotated[
        bool, typer.Option("--full", help="Look at all of the store, not only at what was dropped lately.")
    ] = False,
    grace: Annotated[
        str,
        typer.Option(
            "--grace", metavar="TIME", help="Keep what lost its last path less than so long ago: 90s, 30m, 12h, 7d, 2w."
        ),
    ] = "",
    dry: Annotated[bool, typer.Option("--dry-run", help="Tell what would be removed; touch nothing.")] = False,
    forget: Annotated[
        list[str] | None,
        typer.Option("--forget", metavar="DIR", help="A destination that shared the store and is gone for good."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run on this destination to end.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Remove stored files, catalogs and summaries that no path and no record needs any more.

    Usually only what was dropped since the last time is looked at. Nothing is removed while a destination that uses the
    same store cannot be reached.
    """
    from shrinkwrap.tree.gc import gc as collect

    result = collect(dest, full=full, grace=seconds_of(grace), dry_run=dry, wait=wait, forget=forget or ())
    if as_json:
        print_json({"command": "gc", **result.to_json(), "reason": "done", "exit_code": 0})
        return
    for line in result.notices:
        say(f"warning: {line}")
    for line in lines(result):
        print(clean(line))


def seconds_of(text: str) -> int:
    """Seconds of a time span; 0 for none. Raises UsageError."""
    if text in ("", "0"):
        return 0
    found = _SPAN.fullmatch(text)
    if found is None:
        raise UsageError(f"--grace {text}: no span of time", hint="a number and s, m, h, d or w, such as 7d")
    return int(found[1]) * _UNITS[found[2]]


def lines(result: GcResult) -> list[str]:
    """What people read of a collection."""
    verb = "would be removed" if result.dry_run else "removed"
    stay = []
    if result.needed:
        stay.append(f"{result.needed} stay for exports that have copies of them, or were cut off")
    if result.young:
        stay.append(f"{result.young} stay for the grace period")
    return [
        f"{result.store}: {result.objects} stored files of {size(result.bytes)} {verb}"
        + "".join(f"; {words}" for words in stay),
        f"{result.dest}: {result.kept_objects} catalogs and the like ({size(result.kept_bytes)}) and"
        f" {result.summaries} summaries ({size(result.summary_bytes)}) {verb}",
    ]
