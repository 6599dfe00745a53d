"""``shrinkwrap spec closure``: what a selection needs and does not have."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say
from shrinkwrap.cli.reading import Cache, Reading
from shrinkwrap.errors import DestinationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shrinkwrap.survey.closure.result import Closure

_TOLD: Final = 100

_CLOSURE = """\b
Examples:
  shrinkwrap spec closure -r sft.cern.ch --server URL -t sft.cern.ch.spec -o closed.spec
  shrinkwrap spec closure -r sft.cern.ch --server URL -t job.spec -o closed/ --strict
  shrinkwrap spec closure -r sft.cern.ch --storage /srv/cvmfs/sft.cern.ch -t job.spec --json
"""


def register(app: typer.Typer) -> None:
    app.command("closure", epilog=_CLOSURE)(closure)


def closure(
    repo: opt.Repo,
    specs: Annotated[
        list[str] | None,
        typer.Option(
            "-t", "--spec-file", metavar="FILE", help="Specification. Several are joined. Default: FQRN.spec."
        ),
    ] = None,
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    tag: opt.Tag = "",
    revision: opt.RevisionNumber = None,
    at: opt.At = "",
    root_hash: opt.RootHash = "",
    unsigned: opt.Unsigned = False,
    env: opt.Env = None,
    cache: Cache = None,
    rules: Annotated[
        str, typer.Option("--spec-rules", metavar="VERSION", help="What '!/path/*' means: as in 2.14, or as in 2.12.")
    ] = "2.14",
    out: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE|DIR",
            help="Write there; a folder gets FQRN.spec of each repository. Default: standard output.",
        ),
    ] = "",
    trees: Annotated[
        bool,
        typer.Option("--trees/--no-trees", help="A link to a directory brings all that is in it, or the directory."),
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 if something stays unresolved.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Add to a specification what its selection needs and does not have.

    What symbolic links lead to, loaders and libraries of programs, interpreters of scripts, paths that Python is told.
    Each addition says why; what is not found is listed. Needs of other repositories become a file for each of them.
    """
    from shrinkwrap.engine.several import read_several
    from shrinkwrap.snapshot.view import ViewOptions
    from shrinkwrap.spec.grammar import parse_many
    from shrinkwrap.survey.closure.close import close
    from shrinkwrap.survey.closure.write import closed_text, other_text
    from shrinkwrap.survey.plan import Wish
    from shrinkwrap.survey.texts import read_texts

    read = read_texts(specs or [f"{repo}.spec"])
    spec = parse_many([(text.name, text.data) for text in read], rules=rules)
    whence = opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists)
    reading = Reading(whence, opt.make_pin(tag, revision, at, root_hash, unsigned), cache)
    with reading.snapshot() as (session, snapshot, settings):
        variables = settings.environment(os.environb, opt.given_variables(env))
        wish = Wish(snapshot.root, spec, ViewOptions(False, 0, 0, keep_suid=True), variables)
        found = close(session, wish, partial(read_several, session), trees=trees)
    text = closed_text(read, spec, found.added)
    others = {fqrn: other_text(fqrn, found.others[fqrn], repo) for fqrn in sorted(found.others)}
    written = _write(repo, text, others, out) if out else {}
    code = 1 if strict and found.unresolved else 0
    if as_json:
        _print_json(repo, found)
        print_json(
            {
                "command": "spec closure",
                "fqrn": repo,
                "root_hash": str(snapshot.root_hash),
                "revision": snapshot.revision,
                "added": len(found.added),
                "others": {fqrn: len(found.others[fqrn]) for fqrn in others},
                "system": len(found.system),
                "unresolved": found.unresolved,
                "rounds": found.rounds,
                "contents_read": found.read,
                "written": written,
                "reason": "warnings" if code else "done",
                "exit_code": code,
            }
        )
    else:
        if not out:
            sys.stdout.flush()
            sys.stdout.buffer.write(text)
            sys.stdout.flush()
        _tell(repo, found)
        for fqrn, path in written.items():
            say(f"{path}: {fqrn}")
        if others and not out:
            say("note: -o writes what other repositories need to have, a file for each")
    if code:
        raise typer.Exit(code)


def _print_json(repo: str, found: Closure) -> None:
    from shrinkwrap.survey.closure.write import line_of

    for fqrn, paths in {repo: found.added, **found.others}.items():
        for one in paths.values():
            line = line_of(one).decode("utf-8", "backslashreplace")
            print_json({"added": line, "fqrn": fqrn, **one.to_json()})
    from shrinkwrap.cvmfs.entry import show

    for name, by in found.system.items():
        print_json({"system": show(name), "for": show(by)})
    for left in found.left.values():
        print_json(left.to_json())


def _tell(repo: str, found: Closure) -> None:
    """What was added and what was not, on standard error: the result itself may go to standard output."""
    from shrinkwrap.cvmfs.entry import show
    from shrinkwrap.survey.closure.write import line_of

    for fqrn, paths in {repo: found.added, **found.others}.items():
        for number, one in enumerate(paths.values()):
            if number == _TOLD:
                say(f"... and {len(paths) - _TOLD} more of {fqrn}")
                break
            where = "" if fqrn == repo else f"/cvmfs/{fqrn}"
            say(f"+ {where}{line_of(one).decode('utf-8', 'backslashreplace')}: {one.why}")
    if found.system:
        shown = ", ".join(show(name) for name in list(found.system)[:_TOLD])
        say(f"from the system: {shown}{', ...' if len(found.system) > _TOLD else ''}")
    for left in list(found.left.values())[:_TOLD]:
        say(f"unresolved: {left.what}: {left.why} [{left.kind}]")
    if found.unresolved > _TOLD:
        say(f"... and {found.unresolved - _TOLD} more: --json lists them")
    elsewhere = sum(map(len, found.others.values()))
    more = f", {elsewhere} in {len(found.others)} other repositories" if elsewhere else ""
    say(f"{len(found.added)} added{more}, {found.unresolved} unresolved")


def _write(repo: str, text: bytes, others: Mapping[str, bytes], out: str) -> dict[str, str]:
    """Files of this repository and of others; the file of each. Raises DestinationError."""
    folder = out.endswith("/") or os.path.isdir(out)
    paths = {repo: os.path.join(out, f"{repo}.spec") if folder else out}
    for fqrn in others:
        paths[fqrn] = os.path.join(out, f"{fqrn}.spec") if folder else f"{out.removesuffix('.spec')}.{fqrn}.spec"
    path = out
    try:
        if folder:
            os.makedirs(out, exist_ok=True)
        for fqrn, path in paths.items():
            with open(path, "wb") as file:
                file.write(text if fqrn == repo else others[fqrn])
    except OSError as exc:
        raise DestinationError(f"{clean(path)}: cannot be written: {exc.strerror}") from None
    return paths
