"""Calling the command line in this process: as quick as a function, with nothing left out but the process."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from unittest import mock

from support.cli import Result, Word, run_cli

from shrinkwrap.cli.main import run

__all__ = ["Result", "call", "run_cli"]


def call(*args: Word, env: dict[str, str] | None = None, entry: Callable[[], None] = run) -> Result:
    """What :func:`~support.cli.run_cli` does, without a process of its own.

    Args:
        env: the whole environment, but for PATH.
        entry: the entry point of the console script.
    """
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    words = ["shrinkwrap", *(os.fsdecode(word) for word in args)]
    environment = {"PATH": os.defpath, "COLUMNS": "120", **(env or {})}
    before = signal.getsignal(signal.SIGTERM)
    code: object = None
    try:
        with (
            mock.patch.object(sys, "argv", words),
            mock.patch.dict(os.environ, environment, clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            entry()
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert isinstance(code, int), code
    out.flush()
    written = out.buffer
    assert isinstance(written, io.BytesIO)
    return Result(code, written.getvalue().decode("utf-8", "backslashreplace"), err.getvalue())
