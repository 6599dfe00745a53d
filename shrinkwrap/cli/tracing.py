"""``shrinkwrap spec trace`` and ``spec check``: specifications from what a job touched, and against it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Final

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say
from shrinkwrap.cli.reading import Cache, Reading
from shrinkwrap.errors import DestinationError, SpecError, UsageError

if TYPE_CHECKING:
    from shrinkwrap.cvmfs.catalog import NestedRef
    from shrinkwrap.snapshot.session import Session
    from shrinkwrap.spec.grammar import Spec
    from shrinkwrap.survey.trace.touched import How, Touched

_TOLD: Final = 100

Traces = Annotated[list[str], typer.Argument(metavar="TRACE...", help="Traces, of any kind that is known; joined.")]
Kind = Annotated[str, typer.Option("--format", metavar="KIND", help="tracer, strace or list. Default: as it looks.")]
Mount = Annotated[str, typer.Option("--mount", metavar="DIR", help="Where repositories were mounted.")]
Cwd = Annotated[str, typer.Option("--cwd", metavar="DIR", help="Where a command was started that strace followed.")]
Repo = Annotated[
    str, typer.Option("-r", "--repo", metavar="FQRN", help="The repository, of traces that do not name it.")
]
Incomplete = Annotated[
    bool, typer.Option("--allow-incomplete", help="Take a trace that is truncated or not flushed for what it has.")
]


def register(app: typer.Typer) -> None:
    app.command("trace", epilog=_TRACE)(trace)
    app.command("check", epilog=_CHECK)(check)


_TRACE = """\b
Examples:
  CVMFS_TRACEFILE=/tmp/trace.csv in the client's configuration; after the job:
  shrinkwrap spec trace /tmp/trace.csv -r sft.cern.ch -o sft.cern.ch.spec
  strace -f -e trace=%file,%desc,%process -o job.strace ./job.sh
  shrinkwrap spec trace job.strace --policy parent -o specs/
  shrinkwrap spec trace job.strace -r sft.cern.ch --server URL --policy package --percent 20
"""


def trace(
    traces: Traces,
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
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="exact; parent: all beside an opened file too; package: whole releases.",
        ),
    ] = "exact",
    percent: Annotated[
        float, typer.Option("--percent", min=0, max=100, help="Of a release's files, to take it whole (package).")
    ] = 10,
    out: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE|DIR", help="Write there; a folder gets FQRN.spec of each.")
    ] = "",
    kind: Kind = "",
    mount: Mount = "/cvmfs",
    cwd: Cwd = "",
    incomplete: Incomplete = False,
) -> None:
    """Make a specification of what a job touched.

    Directories that were listed come out with what is directly in them, all else alone. A trace that is not complete is
    refused: an export made of it would lack files without a word. With a server or storage, links on the way are
    followed in the repository.
    """
    from shrinkwrap.survey.trace import policy as policies

    if policy not in policies.POLICIES:
        raise UsageError(f"--policy {policy}: unknown", hint=f"one of {', '.join(policies.POLICIES)}")
    touched = _touched(traces, repo, kind, mount, cwd, incomplete)
    whence = opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists)
    texts: dict[str, bytes] = {}
    with ExitStack() as stack:
        reading = Reading(whence, opt.make_pin(tag, revision, at, root_hash, unsigned), cache)
        opened = _opened(reading, stack)
        if policy == policies.PACKAGE and opened is None:
            raise UsageError("--policy package needs the repository", hint="-r FQRN with --server or --storage")
        for fqrn in sorted(touched.paths):
            here = opened if fqrn == repo else None
            paths: Mapping[bytes, How] = touched.paths[fqrn]
            if here is not None:
                paths = _followed(here, paths)
            else:
                say(f"note: {fqrn}: links on the way are not followed: no server or storage of it is given")
            wanted = policies.points(paths, policy)
            if policy == policies.PACKAGE and here is not None:
                wanted.update(policies.packages(*here, paths, percent=percent))
            texts[fqrn] = _text(traces, fqrn, policy, policies.lines_of(wanted))
    if not texts:
        raise SpecError("the trace touches no repository", hint="is --mount right?")
    _write(texts, out)


def _text(traces: list[str], fqrn: str, policy: str, lines: Iterable[bytes]) -> bytes:
    names = ", ".join(os.path.basename(one) for one in traces)
    head = f"# {fqrn}: what {clean(names)} touched, policy {policy}\n".encode(errors="backslashreplace")
    return head + b"".join(line + b"\n" for line in lines)


def _write(texts: Mapping[str, bytes], out: str) -> None:
    """To files, or one to standard output. Raises DestinationError, UsageError."""
    folder = bool(out) and (out.endswith("/") or os.path.isdir(out))
    if len(texts) > 1 and not folder:
        raise UsageError(
            f"the trace touches {len(texts)} repositories: {', '.join(sorted(texts))}",
            hint="-o DIR/ for a file of each",
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
            number = text.count(b"\n") - 1
            say(f"{path}: {number} line{'s' if number != 1 else ''}")
    except OSError as exc:
        raise DestinationError(f"{out or 'output'}: cannot be written: {exc.strerror}") from None


def _touched(traces: list[str], repo: str, kind: str, mount: str, cwd: str, incomplete: bool) -> Touched:
    """What the traces tell. Raises SpecError if they are not complete."""
    from shrinkwrap.survey.trace.reading import read_traces
    from shrinkwrap.survey.trace.touched import Place

    place = Place(os.fsencode(mount.rstrip("/")), repo)
    touched = read_traces(traces, place, kind=kind, cwd=os.fsencode(cwd) if cwd else None)
    for line in touched.notes:
        say(f"note: {line}")
    if touched.problems and not incomplete:
        raise SpecError(
            "the trace is not complete:\n  " + "\n  ".join(touched.problems),
            hint="what it lacks would be missing in every export; record it anew, or --allow-incomplete",
        )
    for line in touched.problems:
        say(f"warning: {line}")
    return touched


def _opened(reading: Reading, stack: ExitStack) -> tuple[Session, NestedRef] | None:
    """The repository, if it is said where it is."""
    whence = reading.whence
    if not (whence.servers or whence.storage or whence.files):
        return None
    session, snapshot, _ = stack.enter_context(reading.snapshot())
    return session, snapshot.root


def _followed(opened: tuple[Session, NestedRef], paths: Mapping[bytes, How]) -> Mapping[bytes, How]:
    from shrinkwrap.cvmfs.entry import show
    from shrinkwrap.survey.trace.policy import resolved

    found = resolved(*opened, paths)
    for target in found.outside[:_TOLD]:
        say(f"note: a link leads out of the repository: {show(target)}")
    if found.gone:
        say(f"note: {len(found.gone)} paths were looked for in vain, such as {show(found.gone[0])}: left out")
    return found.paths


_CHECK = """\b
Examples:
  shrinkwrap spec check job.strace -t sft.cern.ch.spec -r sft.cern.ch --server URL
  shrinkwrap spec check /tmp/trace.csv -t sft.cern.ch.spec -r sft.cern.ch
  shrinkwrap spec check job.strace --export /export/cvmfs -r sft.cern.ch
"""


def check(
    traces: Traces,
    repo: Repo = "",
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
    cache: Cache = None,
    rules: Annotated[
        str, typer.Option("--spec-rules", metavar="VERSION", help="What '!/path/*' means: as in 2.14, or as in 2.12.")
    ] = "2.14",
    kind: Kind = "",
    mount: Mount = "/cvmfs",
    cwd: Cwd = "",
    incomplete: Incomplete = False,
    exported: Annotated[
        str, typer.Option("--export", metavar="DIR", help="Against the specification that this export was made with.")
    ] = "",
    as_json: opt.Json = False,
) -> None:
    """Tell whether all that a job touched comes out of a specification; ends with 1 if something does not."""
    from shrinkwrap.cvmfs.entry import show
    from shrinkwrap.spec.grammar import read_files
    from shrinkwrap.survey.trace.inside import missing

    if exported and specs:
        raise UsageError("--export and -t exclude each other", hint="leave out one of them")
    touched = _touched(traces, repo, kind, mount, cwd, incomplete)
    fqrn = repo or (next(iter(touched.paths)) if len(touched.paths) == 1 else "")
    if not fqrn:
        raise UsageError(
            f"the trace touches {len(touched.paths)} repositories", hint="-r FQRN says whose specification it is"
        )
    spec = _spec_of(exported, fqrn) if exported else read_files(specs or [f"{fqrn}.spec"], rules=rules)
    paths: Mapping[bytes, How] = touched.paths.get(fqrn, {})
    whence = opt.Whence(fqrn, files, servers, storage, proxy, None, keys, blacklists)
    with ExitStack() as stack:
        opened = _opened(Reading(whence, opt.make_pin(tag, revision, at, root_hash, unsigned), cache), stack)
        if opened is not None:
            paths = _followed(opened, paths)
        else:
            say("note: links on the way are not followed: no server or storage is given")
    number = 0
    for one in missing(spec, paths):
        number += 1
        if as_json:
            print_json({"path": show(one.path), "why": one.reason})
        else:
            print(clean(f"{show(one.path)}: {one.reason}"))
    code = 1 if number else 0
    if as_json:
        print_json(
            {
                "command": "spec check",
                "fqrn": fqrn,
                "touched": len(paths),
                "missing": number,
                "reason": "left_out" if code else "done",
                "exit_code": code,
            }
        )
    else:
        print(f"{len(paths)} paths touched, {number} of them do not come out")
    if code:
        raise typer.Exit(code)


def _spec_of(exported: str, fqrn: str) -> Spec:
    """What an export was made with. Raises DestinationError, UsageError."""
    from shrinkwrap.spec.grammar import parse
    from shrinkwrap.tree.records import Records

    try:
        with Records(exported) as records:
            kept = records.kept(fqrn) if fqrn in records.names() else None
    except OSError as exc:
        raise DestinationError(f"{clean(exported)}: cannot be read: {exc.strerror}") from None
    if kept is None or kept.record is None:
        found = "a record that cannot be read" if kept is not None and kept.unreadable else "no record"
        raise UsageError(f"{clean(exported)}: {found} of {fqrn}", hint="name the folder that the export was made in")
    if kept.intent is not None:
        say(f"warning: {exported}: a run for {fqrn} was cut off, or is under way")
    goal = kept.record.goal
    return parse(goal.spec, file=f"{clean(exported)} ({fqrn})", rules=goal.rules)
