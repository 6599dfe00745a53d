"""``shrinkwrap demo``: a tour with a repository of one's own."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, size

if TYPE_CHECKING:
    from rich.console import Console

    from shrinkwrap.demo.steps import Demo, Outcome

_EXAMPLES = """\b
Examples:
  shrinkwrap demo
  shrinkwrap demo /tmp/tour
  shrinkwrap demo /tmp/tour --force --json
"""


def register(app: typer.Typer) -> None:
    app.command("demo", epilog=_EXAMPLES)(demo)


def demo(
    folder: Annotated[
        str,
        typer.Argument(metavar="[DIR]", help="New or empty folder. Default: one in the folder for temporary files."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="DIR holds a former demo, which is made anew.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Publish a small repository, serve and export it, change it and export what changed. Takes less than a minute.

    The software in it is the standard library of the Python that runs this, laid out as the LCG releases are. All of it
    stays in one folder; the end tells what is there, what each step cost, and how to go on by hand.
    """
    from shrinkwrap.demo.software import find_library
    from shrinkwrap.demo.steps import STEPS, Demo

    library = find_library()
    made = Demo(os.path.abspath(folder or tempfile.mkdtemp(prefix="shrinkwrap-demo-")), library, force=force)
    screen = _Screen(quiet=as_json)
    outcomes: list[Outcome] = []
    with made:
        screen.line(f"Everything is in {made.folder}")
        for number, step in enumerate(STEPS, 1):
            title = f"[{number}/{len(STEPS)}] {step.title}"
            with screen.busy(title):
                outcome = made.do(step)
            screen.step(title, outcome)
            outcomes.append(outcome)
    if as_json:
        steps = [
            {"name": one.name, "seconds": round(one.seconds, 3), "requests": one.requests, **one.figures}
            for one in outcomes
        ]
        print_json(
            {
                "command": "demo",
                "dir": made.folder,
                "steps": steps,
                "warnings": made.notices,
                "reason": "done",
                "exit_code": 0,
            }
        )
        return
    for style, line in _summary(made, outcomes):
        screen.line(line, style)


class _Screen:
    """Lines on standard output; on a terminal with colours, and with a spinner beside what takes long."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console: Console | None = None
        if not quiet and sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False, soft_wrap=True)

    def line(self, text: str, style: str = "") -> None:
        if self._quiet:
            return
        if self._console is None:
            print(clean(text), flush=True)
        else:
            from rich.text import Text

            self._console.print(Text(clean(text), style))

    @contextmanager
    def busy(self, title: str) -> Iterator[None]:
        if self._console is None:
            yield
            return
        from rich.text import Text

        with self._console.status(Text(title)):
            yield

    def step(self, title: str, outcome: Outcome) -> None:
        self.line(f"{title} ({outcome.seconds:.1f} s)", "bold")
        width = self._console.width if self._console is not None else 1000
        for line in textwrap.wrap(outcome.text, width - 1, initial_indent="      ", subsequent_indent="      "):
            self.line(line)


def _summary(demo: Demo, outcomes: list[Outcome]) -> Iterator[tuple[str, str]]:
    """What a newcomer should know at the end: style and text of each line."""
    by_name: dict[str, Any] = {one.name: one.figures for one in outcomes}
    first, last = by_name["export"], by_name["export-nothing"]
    yield "", ""
    yield "bold", "What an export costs"
    yield "", "                    requests   objects   received    time"
    for one in outcomes:
        if "fetched" in one.figures:
            yield (
                "",
                f"  {one.name:<16}  {one.requests:>8}  {one.figures['fetched']:>8}"
                f"  {size(one.figures['received_bytes']):>9}  {one.seconds:>4.1f} s",
            )
    if last["fetched"] == 0 and next(one.requests for one in outcomes if one.name == "export-nothing") == 1:
        yield "", "  The last one asked for the signed manifest, and that was all it needed."
    yield "", ""
    yield "bold", "What it comes to"
    yield "", f"  {last['files']} files of {size(last['bytes'])} in the tree"
    yield "", f"  {last['different_files']} files of {size(last['different_bytes'])} on disk: equal ones are one inode"
    yield "", f"  {size(first['received_bytes'])} over the network for the first export, compressed"
    for line in demo.notices:
        yield "yellow", f"  note: {line}"
    yield "", ""
    yield "bold", "What there is"
    yield "", f"  {demo.folder}"
    for name, what in _THERE:
        yield "", f"    {name:<26}{what}"
    yield "", ""
    yield "bold", "Go on by hand"
    yield "", f"  cd {shlex.quote(demo.folder)}"
    if program := _program_folder():
        yield "", f"  PATH={shlex.quote(program)}:$PATH"
    for command in COMMANDS:
        yield "cyan", f"  {command}"


_THERE: Final = (
    ("software/", "what was published"),
    ("srv/demo.example.org/", "the repository, as a web server has it"),
    ("srv/keys/", "its keys"),
    ("demo.spec", "which paths are exported; made to be read"),
    ("demo.conf", "where the repository is, for the commands below"),
    ("export/demo.example.org/", "the tree"),
    ("export/.data/", "the store behind it: each content once"),
    ("export/.provenance/", "what it was made from"),
)
#: To go on by hand.
COMMANDS: Final = (
    "ls -l export/demo.example.org/lcg/views/LCG_103/",
    "shrinkwrap tags -r demo.example.org -f demo.conf",
    "shrinkwrap ls -r demo.example.org -f demo.conf -l /lcg/releases/Python",
    "shrinkwrap cat -r demo.example.org -f demo.conf --tag first /lcg/README.md",
    "shrinkwrap export -r demo.example.org -f demo.conf -t demo.spec -z export",
    "shrinkwrap status export",
    "shrinkwrap verify export --content --chain -f demo.conf",
    "shrinkwrap serve srv",
)


def _program_folder() -> str:
    """The folder of the command that is running; empty if a shell finds it by itself, or it has none."""
    called = sys.argv[0] if os.path.basename(sys.argv[0]) == "shrinkwrap" else sys.executable
    folder = os.path.dirname(os.path.abspath(called))
    command = os.path.join(folder, "shrinkwrap")
    found = shutil.which("shrinkwrap")
    if not os.path.isfile(command) or (found is not None and os.path.samefile(found, command)):
        return ""
    return folder
