"""Specifications that commands make: one to standard output or a file, several to a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

from shrinkwrap.cli.output import clean, say
from shrinkwrap.errors import DestinationError, UsageError


def write_specs(texts: Mapping[str, bytes], out: str) -> None:
    """Write them.

    Args:
        texts: by repository.
        out: a file; a folder (which exists, or ends in a slash) for ``FQRN.spec`` of each; empty: standard output.

    Raises:
        UsageError: several, and no folder. DestinationError: it cannot be written.
    """
    folder = bool(out) and (out.endswith("/") or os.path.isdir(out))
    if len(texts) > 1 and not folder:
        raise UsageError(
            f"there are {len(texts)} repositories: {', '.join(sorted(texts))}", hint="-o DIR/ for a file of each"
        )
    try:
        if folder:
            os.makedirs(out, exist_ok=True)
        for fqrn, text in texts.items():
            if not out:
                sys.stdout.flush()
                sys.stdout.buffer.write(text)
                sys.stdout.flush()
                continue
            path = os.path.join(out, f"{fqrn}.spec") if folder else out
            with open(path, "wb") as file:
                file.write(text)
            say(f"{path}: {fqrn}")
    except OSError as exc:
        raise DestinationError(f"{clean(out) or 'output'}: cannot be written: {exc.strerror}") from None
