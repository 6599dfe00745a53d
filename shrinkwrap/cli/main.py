"""The ``shrinkwrap`` command: collects the commands, turns errors into one line and an exit code."""

from __future__ import annotations

import copy
import gc
import io
import os
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from shrinkwrap import __version__
from shrinkwrap.cli import (
    cat,
    demo,
    diff,
    export,
    image,
    info,
    ls,
    output,
    plan,
    publish,
    remove,
    serve,
    spec,
    status,
    tags,
    verify,
)
from shrinkwrap.cli import gc as garbage
from shrinkwrap.errors import DestinationError, Interrupted, ShrinkwrapError, UsageError

#: What the option parser raises; which package that class comes from depends on the release of typer.
_ParserError = cast(type[Exception], typer.BadParameter.__base__)


class _ReaderGoneError(Exception):
    """Whoever read our output has gone (``| head``)."""


class _Commands(TyperGroup):
    """Ends that typer would turn into exit codes of its own become errors of ours."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _interrupted() from None
        except BrokenPipeError:
            raise _ReaderGoneError from None


app = typer.Typer(
    name="shrinkwrap",
    cls=_Commands,
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
    epilog=(
        "\b\nExample:\n"
        "  shrinkwrap export -r sft.cern.ch --server http://stratum1.example.org/cvmfs/sft.cern.ch \\\n"
        "      -t sft.cern.ch.spec -z /export/cvmfs\n"
    ),
)
export.register(app)
plan.register(app)
spec.register(app)
image.register(app)
ls.register(app)
cat.register(app)
info.register(app)
tags.register(app)
diff.register(app)
status.register(app)
verify.register(app)
garbage.register(app)
remove.register(app)
publish.register(app)
serve.register(app)
demo.register(app)
_NAMES = (
    "export",
    "plan",
    "spec",
    "image",
    "ls",
    "cat",
    "info",
    "tags",
    "diff",
    "status",
    "verify",
    "gc",
    "remove",
    "publish",
    "serve",
    "demo",
)


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
    words = sys.argv[1:]
    open_standard_streams()
    # Before anything is parsed: what the parser refuses has to end in an object too.
    output.json_command = _command_in(words) if "--json" in words else None
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that is not UTF-8 must not stop a listing.
        sys.stdout.reconfigure(errors="backslashreplace")
    # What a stream of entries leaves behind are tuples without circles: looking for some every 700 of them is in vain.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    try:
        signal.signal(signal.SIGTERM, _stop)
        code = _run(words or ["--help"])
    except (_ReaderGoneError, BrokenPipeError):
        output.give_up(sys.stdout)  # nothing more to say, and nobody to say it to
        code = 0
    except KeyboardInterrupt:
        code = output.fail(_interrupted())
    sys.exit(code)


def open_standard_streams() -> None:
    """What the caller has closed (``>&-``) leads nowhere; a file of ours would get its number otherwise."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
            os.set_inheritable(number, True)
    # Python has no objects for those that were closed when it started.
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 - lives as long as the process
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115


def _run(words: list[str]) -> int:
    """Run a command line; its exit code."""
    try:
        code = int(_with_only(words[0])(args=words, prog_name="shrinkwrap", standalone_mode=False) or 0)
        sys.stdout.flush()
        return code
    except ShrinkwrapError as exc:
        return output.fail(exc)
    except _ParserError as exc:
        name = _command_in(words)
        said = getattr(exc, "format_message", exc.__str__)()
        return output.fail(UsageError(said, hint=f"see shrinkwrap {name}{' ' if name else ''}--help"))
    except (BrokenPipeError, _ReaderGoneError):
        raise
    except OSError as exc:
        what = os.fsdecode(exc.filename) if isinstance(exc.filename, str | bytes) else "output"
        code = output.fail(DestinationError(f"{what}: {exc.strerror or exc}"))
        if what == "output":
            output.give_up(sys.stdout)
        return code
    except Exception as exc:  # noqa: BLE001 - exit code 1, Python's own, would mean something else
        traceback.print_exc()
        return output.fail(
            ShrinkwrapError(f"internal error: {type(exc).__name__}: {exc}", hint="please report it, with these lines")
        )


def _with_only(name: str) -> typer.Typer:
    """The application with one command, or all of it for any other word.

    The options of all commands take longer to prepare than a run that finds nothing new takes for all else.
    """
    if name not in _NAMES:
        return app
    one = copy.copy(app)
    one.registered_commands = [command for command in app.registered_commands if command.name == name]
    one.registered_groups = [group for group in app.registered_groups if group.name == name]
    return one


def _command_in(words: list[str]) -> str:
    return next((word for word in words if word in _NAMES), "")


def _interrupted() -> Interrupted:
    return Interrupted("interrupted", hint="what came is kept; the next run goes on from there")


def _stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM is Ctrl-C by other means."""
    raise KeyboardInterrupt
