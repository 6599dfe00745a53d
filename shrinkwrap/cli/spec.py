"""``shrinkwrap spec``: what a specification file says, what is odd about it, and how two of them differ."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkwrap.cli import closure, fromenv, tracing
from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json
from shrinkwrap.cli.reading import Cache, Reading, repository_path
from shrinkwrap.errors import DestinationError, UsageError

if TYPE_CHECKING:
    from shrinkwrap.snapshot.repository import Revision
    from shrinkwrap.snapshot.session import Session
    from shrinkwrap.spec.grammar import Spec
    from shrinkwrap.survey.findings import Finding
    from shrinkwrap.survey.plan import Wish

_app = typer.Typer(rich_markup_mode=None, help="Look at specification files.")

Files = Annotated[list[str], typer.Argument(metavar="FILE...", help="Specification files, joined in this order.")]
Specs = Annotated[
    list[str] | None,
    typer.Option(
        "-t", "--spec-file", metavar="FILE", help="The specification. Several are joined. Default: FQRN.spec."
    ),
]
Rules = Annotated[
    str, typer.Option("--spec-rules", metavar="VERSION", help="What '!/path/*' means: as in 2.14, or as in 2.12.")
]
Repo = Annotated[str, typer.Option("-r", "--repo", metavar="FQRN", help="Look into this repository too.")]


def register(app: typer.Typer) -> None:
    tracing.register(_app)
    closure.register(_app)
    fromenv.register(_app)
    app.add_typer(_app, name="spec")


# -- lint ------------------------------------------------------------------------------------------------------------

_LINT = """\b
Examples:
  shrinkwrap spec lint sft.cern.ch.spec
  shrinkwrap spec lint sft.cern.ch.spec -r sft.cern.ch --server URL --strict
  shrinkwrap spec lint base.spec more.spec --spec-rules 2.12 --json
"""


@_app.command("lint", epilog=_LINT)
def lint(
    paths: Files,
    repo: Repo = "",
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
    rules: Rules = "2.14",
    notes: Annotated[
        bool, typer.Option("--notes/--no-notes", help="Tell what is superfluous or odd elsewhere too.")
    ] = True,
    strict: Annotated[bool, typer.Option("--strict", help="End with 1 if there is a warning.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Tell what is odd about specification files: where, why, and what to write instead.

    Lines that decide nothing, that mean something else than they seem to, or that other tools and rules take otherwise.
    With -r also lines that match nothing, and directories that come out empty for want of /*.
    """
    from shrinkwrap.errors import SpecError
    from shrinkwrap.survey import lint as linting
    from shrinkwrap.survey.findings import ERROR, NOTE, WARNING
    from shrinkwrap.survey.texts import read_texts

    texts = read_texts(paths)
    whence = opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists)
    spec, found = linting.lint(texts, rules=rules)
    told = None
    if _wants_repository(whence):
        reading = Reading(whence, opt.make_pin(tag, revision, at, root_hash, unsigned), cache)
        with _wish(reading, spec, opt.given_variables(env)) as (session, snapshot, wish):
            _, more = linting.lint_against(session, wish, found)
            told = snapshot
        found = linting.in_order([*found, *more], texts)
    found = [one for one in found if notes or one.severity != NOTE]
    numbers = Counter(one.severity for one in found)
    code = SpecError.exit_code if numbers[ERROR] else 1 if strict and numbers[WARNING] else 0
    _print_findings(found, as_json)
    if as_json:
        print_json(
            {
                "command": "spec lint",
                "files": [text.name for text in texts],
                "rules": rules,
                "root_hash": None if told is None else str(told.root_hash),
                "findings": {kind: numbers[kind] for kind in (ERROR, WARNING, NOTE)},
                "reason": {0: "done", 1: "warnings"}.get(code, SpecError.reason),
                "exit_code": code,
            }
        )
    else:
        print(_counted(numbers))
    if code:
        raise typer.Exit(code)


def _print_findings(found: Sequence[Finding], as_json: bool) -> None:
    for one in found:
        if as_json:
            print_json(one.to_json())
        else:
            print(clean(str(one)))
            print(clean(f"    {one.fix}"))


def _counted(numbers: Counter[str]) -> str:
    words = [f"{number} {kind}{'s' if number != 1 else ''}" for kind, number in sorted(numbers.items())]
    return ", ".join(words) if words else "nothing odd"


# -- fmt -------------------------------------------------------------------------------------------------------------

_FMT = """\b
Examples:
  shrinkwrap spec fmt sft.cern.ch.spec
  shrinkwrap spec fmt --check *.spec
  shrinkwrap spec fmt --write *.spec
"""


@_app.command("fmt", epilog=_FMT)
def fmt(
    paths: Annotated[list[str], typer.Argument(metavar="FILE...", help="Specification files.")],
    check: Annotated[bool, typer.Option("--check", help="Change nothing; end with 1 if a file would change.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write the files anew.")] = False,
) -> None:
    """Write specification files in their canonical form; what they select stays the same.

    Without --check or --write the result goes to standard output. Comments and the order of lines stay.
    """
    from shrinkwrap.survey.layout import formatted
    from shrinkwrap.survey.texts import read_texts

    if check and write:
        raise UsageError("--check and --write exclude each other", hint="leave out one of them")
    if not check and not write and len(paths) > 1:
        raise UsageError("several files, and no --check or --write", hint="to standard output goes one file")
    texts = read_texts(paths)
    # All are read before one is written.
    changed = [
        (path, text, new) for path, text in zip(paths, texts, strict=True) if (new := formatted(text)) != text.data
    ]
    if not check and not write:
        _print_bytes(formatted(texts[0]))
        return
    for path, text, new in changed:
        if write:
            _replace(path, new)
        print(clean(f"{'written' if write else 'would change'}: {text.name}"))
    if check and changed:
        raise typer.Exit(1)


def _print_bytes(data: bytes) -> None:
    """To standard output as they are: names of files are bytes."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _replace(path: str, data: bytes) -> None:
    """Put a new file in the place of one: whole, or not at all; a link stays one. Raises DestinationError."""
    place = os.path.realpath(path)
    temporary = ""
    try:
        mode = stat.S_IMODE(os.stat(place).st_mode)
        handle, temporary = tempfile.mkstemp(prefix=".shrinkwrap-", dir=os.path.dirname(place))
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(temporary, place)
    except OSError as exc:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)
        raise DestinationError(f"{path}: cannot be written: {exc.strerror}") from None


# -- explain ---------------------------------------------------------------------------------------------------------

_EXPLAIN = """\b
Examples:
  shrinkwrap spec explain /lcg/views/LCG_105 -t sft.cern.ch.spec
  shrinkwrap spec explain /lcg/views/LCG_105/setup.sh -r sft.cern.ch --server URL
"""


@_app.command("explain", epilog=_EXPLAIN)
def explain(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Path in the repository.")],
    specs: Specs = None,
    repo: Repo = "",
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
    cache: Cache = None,
    rules: Rules = "2.14",
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if the path does not come out.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Tell which line of a specification decides about a path, directory by directory, and why.

    With a server or storage also whether the path is in the repository, and what is in its way there.
    """
    from shrinkwrap.cvmfs.entry import show
    from shrinkwrap.spec.grammar import read_files
    from shrinkwrap.survey import explain as explaining

    wanted = repository_path(path)
    if not specs and not repo:
        raise UsageError("no specification given", hint="-t FILE, or -r FQRN for FQRN.spec")
    spec = read_files(specs or [f"{repo}.spec"], rules=rules)
    whence = opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists)
    if servers or storage or files or (repo and specs):
        reading = Reading(whence, opt.make_pin(tag, revision, at, root_hash, unsigned), cache)
        with reading.snapshot() as (session, snapshot, _):
            judged = explaining.explain_in(session, snapshot.root, spec, wanted)
    else:
        judged = explaining.explain(spec, wanted)
    out = explaining.comes_out(judged)
    code = 1 if exit_code and out is False else 0
    if as_json:
        for one in judged[:-1]:
            print_json(one.to_json())
        print_json(
            {
                "command": "spec explain",
                **judged[-1].to_json(),
                "comes_out": out,
                "reason": "left_out" if code else "done",
                "exit_code": code,
            }
        )
    else:
        for one in judged:
            print(
                clean(
                    f"{show(one.path)}: {one.verdict}"
                    + (f" ({one.there or 'not there'})" if one.there is not None else "")
                )
            )
            print(clean(f"    {one.reason}"))
        words = {True: "comes out", False: "does not come out", None: "comes out if something below it does"}
        print(clean(f"=> {show(wanted)} {words[out]}"))
    if code:
        raise typer.Exit(code)


# -- diff ------------------------------------------------------------------------------------------------------------

_DIFF = """\b
Examples:
  shrinkwrap spec diff old.spec new.spec -r sft.cern.ch --server URL
  shrinkwrap spec diff old.spec new.spec -r sft.cern.ch --server URL --by-directory 2
  shrinkwrap spec diff a.spec a.spec --from-rules 2.12 -r sft.cern.ch --server URL --stat
"""


@_app.command("diff", epilog=_DIFF)
def diff(
    old: Annotated[str, typer.Argument(metavar="FROM", help="One specification file.")],
    new: Annotated[str, typer.Argument(metavar="TO", help="The other one.")],
    repo: opt.Repo,
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
    cache: Cache = None,
    rules: Annotated[
        str, typer.Option("--spec-rules", metavar="VERSION", help="Rules of both, 2.14 or 2.12.")
    ] = "2.14",
    old_rules: Annotated[str, typer.Option("--from-rules", metavar="VERSION", help="Rules of FROM, if others.")] = "",
    by_directory: Annotated[
        int,
        typer.Option(
            "--by-directory", metavar="DEPTH", min=0, max=4096, help="Sums by directory, down to DEPTH, instead."
        ),
    ] = 0,
    only_sums: Annotated[bool, typer.Option("--stat", help="Totals only.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if something differs.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Tell which paths of a repository, and how many bytes, only one of two specifications selects.

    '-' stands before what only FROM brings, '+' before what only TO does. Catalogs for which both say the same are not
    looked into.
    """
    from shrinkwrap.cli.changes import HEAD, print_change, print_row, sums
    from shrinkwrap.snapshot.diff import Diff, Side
    from shrinkwrap.snapshot.tally import ByDirectory, Tally
    from shrinkwrap.spec.grammar import read_files
    from shrinkwrap.spec.matcher import Matcher

    specs = [read_files([path], rules=given or rules) for path, given in ((old, old_rules), (new, ""))]
    whence = opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists)
    reading = Reading(whence, opt.make_pin(tag, revision, at, root_hash, unsigned), cache)
    tally, rows = Tally(), ByDirectory(by_directory)
    with reading.snapshot() as (session, snapshot, _):
        sides = [Side(session.catalogs, snapshot.root, Matcher(spec)) for spec in specs]
        found = Diff(*sides)
        if by_directory and not (only_sums or as_json):
            print(HEAD)
        for change in found:
            tally.add(change)
            if only_sums:
                continue
            if not by_directory:
                print_change(change, as_json)
                continue
            for row in rows.add(change):
                print_row(*row, as_json)
        for row in rows.finish():
            print_row(*row, as_json)
    differ = any(tally.entries)
    code = 1 if differ and exit_code else 0
    if as_json:
        print_json(
            {
                "command": "spec diff",
                "fqrn": repo,
                "root_hash": str(snapshot.root_hash),
                "revision": snapshot.revision,
                "from": {"file": old, "sha256": specs[0].sha256, "rules": specs[0].rules},
                "to": {"file": new, "sha256": specs[1].sha256, "rules": specs[1].rules},
                "differ": differ,
                **tally.to_json(),
                "catalogs": {"read": found.read, "skipped": found.skipped},
                "reason": "different" if code else "done",
                "exit_code": code,
            }
        )
    else:
        print(clean(f"{repo} revision {snapshot.revision}: {old} -> {new}"))
        for line in sums(tally):
            print(clean(line))
        print(f"  catalogs: {found.read} read, {found.skipped} skipped for which both say the same")
    if code:
        raise typer.Exit(code)


# -- repositories ----------------------------------------------------------------------------------------------------


def _wants_repository(whence: opt.Whence) -> bool:
    return bool(whence.repo or whence.servers or whence.storage or whence.files)


@contextmanager
def _wish(reading: Reading, spec: Spec, given: dict[bytes, bytes]) -> Iterator[tuple[Session, Revision, Wish]]:
    """The repository, open, a snapshot, and what the specification selects of it, as it is published."""
    from shrinkwrap.snapshot.view import ViewOptions
    from shrinkwrap.survey.plan import Wish

    with reading.snapshot() as (session, snapshot, settings):
        variables = settings.environment(os.environb, given)
        yield session, snapshot, Wish(snapshot.root, spec, ViewOptions(False, 0, 0, keep_suid=True), variables)
