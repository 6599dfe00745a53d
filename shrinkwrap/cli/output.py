"""What all commands print in the same way: errors, notices, JSON."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from shrinkwrap.errors import ShrinkwrapError, SpecError

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def clean(text: str) -> str:
    """Text for a terminal on one line: whatever a terminal would act on becomes an escape sequence in letters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def say(text: str) -> None:
    """A line for people, beside the results: on standard error.

    Nobody reading it (a full disk below a log, ``2>&1 | head``) is no reason to break off the work.
    """
    try:
        print(clean(text), file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """What is in the stream's buffers, and what follows, goes nowhere: Python would complain of it when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def print_json(value: Any) -> None:
    """One object on one line of standard output."""
    print(json.dumps(value, sort_keys=False), flush=True)


#: The command of a call with --json: an error ends in an object then, too.
json_command: str | None = None


def fail(error: ShrinkwrapError, program: str = "shrinkwrap") -> int:
    """Say what went wrong and what to do; the exit code."""
    # The wrong lines of a specification come one below the other; other messages are one line, whatever they quote.
    first, *more = error.message.split("\n") if isinstance(error, SpecError) else [error.message]
    say(f"{program}: {first}")
    for line in more:
        say(line)
    if error.hint:
        say(f"  hint: {error.hint}")
    if json_command is not None:
        value = {
            "command": json_command,
            "reason": error.reason,
            "error": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
        }
        # The output itself may be what went wrong.
        with suppress(OSError):
            print_json(value)
    return error.exit_code


def size(number: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in _UNITS:
        if number < 1000 or unit == _UNITS[-1]:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError
