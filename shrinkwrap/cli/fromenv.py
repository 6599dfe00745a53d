"""``shrinkwrap spec from-env``: a specification from an environment that somebody set up."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Final

import typer

from shrinkwrap.cli.output import clean, say
from shrinkwrap.errors import SpecError, UsageError

_TOLD: Final = 20

_FROM_ENV = """\b
Examples:
  env > job.env; shrinkwrap spec from-env job.env -o specs/
  module show ROOT 2>&1 | shrinkwrap spec from-env - -o sft.cern.ch.spec
"""


def register(app: typer.Typer) -> None:
    app.command("from-env", epilog=_FROM_ENV)(from_env)


def from_env(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Output of 'env' or 'module show'; - is standard input.")],
    out: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE|DIR", help="Write there; a folder gets FQRN.spec of each.")
    ] = "",
    every: Annotated[
        bool, typer.Option("--all", help="Take all variables, not only lists of directories (...PATH, ..._DIRS).")
    ] = False,
    mount: Annotated[str, typer.Option("--mount", metavar="DIR", help="Where repositories were mounted.")] = "/cvmfs",
) -> None:
    """Make a specification of the directories that an environment names.

    Each comes out with all that is in it. 'spec closure' adds what these need, 'spec lint -r' tells what is not there.
    """
    from shrinkwrap.cli.writing import write_specs
    from shrinkwrap.spec.grammar import FILE_LIMIT
    from shrinkwrap.survey.environ import lines_for, read_environment

    if not mount.startswith("/"):
        raise UsageError(f"--mount {mount}: not an absolute path")
    try:
        if file == "-":
            text = sys.stdin.buffer.read(FILE_LIMIT + 1)
        else:
            with open(file, "rb") as handle:
                text = handle.read(FILE_LIMIT + 1)
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte in the file's name
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise SpecError(f"{clean(file)}: cannot be read: {reason}") from None
    if len(text) > FILE_LIMIT:
        raise SpecError(f"{clean(file)}: larger than {FILE_LIMIT} bytes", hint="is it the output of 'env'?")
    found = read_environment(text, mount=os.fsencode(mount), every=every)
    for fqrn, name in found.whole.items():
        say(f"note: {name.decode()} names all of {fqrn}: left out")
    if found.passed:
        names = b", ".join(list(found.passed)[:_TOLD]).decode()
        say(f"note: no lists of directories, left out: {names}{', ...' if len(found.passed) > _TOLD else ''} (--all)")
    if not found.paths:
        raise SpecError(f"{clean(file)}: names no directory of a repository", hint="is --mount right? --all takes more")
    source = clean(os.path.basename(file)) if file != "-" else "standard input"
    texts = {
        fqrn: f"# {fqrn}: what {source} names\n".encode(errors="backslashreplace")
        + b"".join(line + b"\n" for line in lines_for(paths))
        for fqrn, paths in sorted(found.paths.items())
    }
    write_specs(texts, out)
