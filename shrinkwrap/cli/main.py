"""The ``shrinkwrap`` command: collects the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shrinkwrap import __version__
from shrinkwrap.cli import cat, export, info, ls, tags
from shrinkwrap.cli.output import fail
from shrinkwrap.errors import Interrupted, ShrinkwrapError

app = typer.Typer(
    name="shrinkwrap",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=(
        "Turn subtrees of CernVM-FS repositories (/cvmfs/...) into verified trees"
        " for machines that cannot mount them.\n\n"
        "Exit codes: 0 done, 1 warnings under --strict, 2 usage, 3 trust, 4 network, 5 missing object,"
        " 6 corrupt object, 7 spec, 8 destination, 9 locked, 10 interrupted."
    ),
)
export.register(app)
ls.register(app)
cat.register(app)
info.register(app)
tags.register(app)


def _version(value: bool) -> None:
    if value:
        print(f"shrinkwrap {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Nothing of its own: the commands do the work."""


def run() -> None:
    """Entry point of the console script."""
    try:
        app()
    except ShrinkwrapError as exc:
        sys.exit(fail(exc))
    except KeyboardInterrupt:
        sys.exit(fail(Interrupted("interrupted", hint="what came is kept; the next run goes on from there")))
    except BrokenPipeError:
        # Whoever read our output has gone (`| head`): nothing more to say, and nobody to say it to.
        sys.stderr.close()
        sys.exit(0)
