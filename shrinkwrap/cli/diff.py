"""``shrinkwrap diff``: what differs between two snapshots or exports of a repository."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.changes import HEAD, print_change, print_row, sums
from shrinkwrap.cli.output import clean, print_json, say
from shrinkwrap.cli.reading import Cache, Reading
from shrinkwrap.errors import UsageError

if TYPE_CHECKING:
    from shrinkwrap.snapshot.client import ClientSettings
    from shrinkwrap.snapshot.repository import Pin
    from shrinkwrap.snapshot.session import Session
    from shrinkwrap.snapshot.tally import Tally
    from shrinkwrap.tree.compare import Comparison, Live, Recorded

_EXAMPLES = """\b
Sides:
  LCG_105, tag:LCG_105    a tag
  rev:105                 a revision that is tagged, or the head's
  date:2026-05-01         the newest tagged revision not younger
  hash:ff95…              a root hash
  head                    the newest revision
  /export/cvmfs           an export: its destination, or the tree in it (with / or ./ before)
  .../sft.cern.ch/record.json   a record; what lies beside it is used too
\b
Examples:
  shrinkwrap diff -r sft.cern.ch --server URL LCG_105 LCG_106 -t sft.cern.ch.spec
  shrinkwrap diff -r sft.cern.ch --server URL LCG_105 LCG_106 --by-directory 2
  shrinkwrap diff /export/cvmfs/sft.cern.ch --server URL
  shrinkwrap diff /export/cvmfs/sft.cern.ch /mnt/other/cvmfs/sft.cern.ch --no-owner --exit-code
"""
#: How ``--exit-code`` ends if something differs, as diff(1) and git do.
_DIFFERENT: Final = 1


def register(app: typer.Typer) -> None:
    app.command("diff", epilog=_EXAMPLES)(diff)


def diff(
    old: Annotated[str, typer.Argument(metavar="[FROM]", help="One side, see below.")] = "",
    new: Annotated[str, typer.Argument(metavar="[TO]", help="The other side. Default: the head.")] = "",
    old_option: Annotated[str, typer.Option("--from", metavar="SIDE", help="The same as FROM.")] = "",
    new_option: Annotated[str, typer.Option("--to", metavar="SIDE", help="The same as TO.")] = "",
    repo: Annotated[
        str, typer.Option("-r", "--repo", metavar="FQRN", help="Repository. Default: that of the export.")
    ] = "",
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    unsigned: Annotated[
        bool, typer.Option("--accept-unsigned-root-hash", help="Take hash:... without any signature.")
    ] = False,
    specs: Annotated[
        list[str] | None,
        typer.Option("-t", "--spec-file", metavar="FILE", help="Compare only what this selects. Several are joined."),
    ] = None,
    rules: Annotated[
        str, typer.Option("--spec-rules", metavar="VERSION", help="What '!/path/*' means: as in 2.14, or as in 2.12.")
    ] = "2.14",
    env: opt.Env = None,
    cache: Cache = None,
    mtime: Annotated[bool, typer.Option("--mtime/--no-mtime", help="Compare times of modification.")] = True,
    owners: Annotated[bool, typer.Option("--owner/--no-owner", help="Compare owners.")] = True,
    by_directory: Annotated[
        int,
        typer.Option(
            "--by-directory", metavar="DEPTH", min=0, max=4096, help="Sums by directory, down to DEPTH, instead."
        ),
    ] = 0,
    stat: Annotated[bool, typer.Option("--stat", help="Totals only.")] = False,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if something differs.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Tell what was added, removed and changed between two revisions of a repository, or exports of it.

    From catalogs alone: no file is fetched, and no tree is looked at. Catalogs that both sides have are not fetched
    either. An export is what its record says, seen with its own specification and options; a revision beside it is
    looked at as if it were exported in the same way. Two exports need no server.
    """
    from shrinkwrap.snapshot.tally import ByDirectory, Tally
    from shrinkwrap.spec.grammar import read_files
    from shrinkwrap.tree.compare import compared

    asked = _Asked(_one("FROM", "--from", old, old_option), _one("TO", "--to", new, new_option), repo, unsigned)
    given = opt.given_variables(env)
    spec = read_files(specs, rules=rules) if specs else None
    for line in spec.warnings if spec is not None else ():
        say(f"note: {line}")
    tally = Tally()
    with ExitStack() as stack:
        sides = _Sides(asked, opt.Whence(repo, files, servers, storage, proxy, None, keys, blacklists), cache, stack)
        found = stack.enter_context(
            compared(
                sides.old.side,
                sides.new.side,
                spec=spec,
                variables=sides.variables(given),
                source=sides.source,
                ignore=[name for name, counts in (("mtime", mtime), ("owner", owners)) if not counts],
            )
        )
        rows = ByDirectory(by_directory)
        if by_directory and not (stat or as_json):
            print(HEAD)
        for change in found:
            tally.add(change)
            if stat:
                continue
            if not by_directory:
                print_change(change, as_json)
                continue
            for row in rows.add(change):
                print_row(*row, as_json)
        for row in rows.finish():
            print_row(*row, as_json)
    differ = any(tally.entries)
    code = _DIFFERENT if differ and exit_code else 0
    if as_json:
        print_json(_result(sides, found, tally, code))
    else:
        for line in _totals(sides, found, tally):
            print(clean(line))
    if code:
        raise typer.Exit(code)


def _one(argument: str, option: str, first: str, second: str) -> str:
    if first and second:
        raise UsageError(f"{argument} and {option} are both given", hint="leave out one of them")
    return first or second


# -- sides -----------------------------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    old: str
    new: str
    repo: str
    unsigned: bool


class _Known(NamedTuple):
    """A side, and what is told of it."""

    side: Live | Recorded
    told: dict[str, Any]

    def __str__(self) -> str:
        told = self.told
        name = f"revision {told['revision']}" if told["revision"] else f"root hash {told['root_hash']}"
        return (
            name + (f" ({told['tag']})" if told["tag"] else "") + (f" in {told['export']}" if "export" in told else "")
        )


class _Sides:
    """Both sides, found and opened."""

    def __init__(self, asked: _Asked, whence: opt.Whence, cache: str | None, stack: ExitStack) -> None:
        from shrinkwrap.snapshot.repository import Pin

        if not asked.old:
            raise UsageError("nothing to compare", hint="shrinkwrap diff FROM [TO]; --help lists what a side can be")
        wanted = [_side(text, asked.unsigned) for text in (asked.old, asked.new)]
        recorded = [self._recorded(one, asked.repo) if isinstance(one, str) else None for one in wanted]
        self.fqrn = asked.repo or next((one.side.fqrn for one in recorded if one is not None), "")
        pins = [one or Pin() for one in wanted if not isinstance(one, str)]
        if asked.unsigned and not any(pin.unsigned for pin in pins):
            raise UsageError("--accept-unsigned-root-hash goes with hash:... only", hint="leave it out")
        self.settings: ClientSettings | None = None
        session: Session | None = None
        if pins or whence.servers or whence.storage or whence.files:
            whence = opt.Whence(
                self.fqrn,
                whence.files,
                whence.servers,
                whence.storage,
                whence.proxy,
                None,
                whence.keys,
                whence.blacklists,
            )
            self.settings = settings = whence.settings()
            # Keys are needed for what is to be signed.
            first = next((pin for pin in pins if not pin.unsigned), pins[0] if pins else None)
            reading = Reading(whence, first or Pin(root_hash="0" * 40, unsigned=True), cache)
            session = stack.enter_context(reading.session(settings))
        self.source = None if session is None else session.source
        known = []
        for one, record in zip(wanted, recorded, strict=True):
            if record is not None:
                known.append(record)
                continue
            assert session is not None
            assert self.settings is not None
            assert not isinstance(one, str)
            # What is configured holds where nothing is said; "head" is the head.
            known.append(self._live(session, opt.pin_of(Pin(), self.settings) if one is None else one))
        self.old, self.new = known

    def variables(self, given: dict[bytes, bytes]) -> dict[bytes, bytes]:
        return {} if self.settings is None else self.settings.environment(os.environb, given)

    def _recorded(self, path: str, repo: str) -> _Known:
        from shrinkwrap.tree.compare import find_record

        found = find_record(path, repo)
        record = found.record
        if found.unfinished:
            say(
                f"note: {path}: a run was cut off, or is under way: the tree is not what the record says; compared is"
                " the record"
            )
        if found.gaps:
            say(
                f"note: {path}: its tree lacks {found.gaps} files whose objects no server had (--allow-missing); they"
                " are compared as if they were there"
            )
        told = {
            "export": path,
            "revision": record.revision,
            "tag": record.tag,
            "root_hash": record.goal.root_hash,
            "spec_sha256": record.goal.spec_sha256,
            "missing_object": found.gaps,
        }
        return _Known(found, told)

    def _live(self, session: Session, pin: Pin) -> _Known:
        from shrinkwrap.tree.compare import Live

        found = session.snapshot(pin)
        told = {"revision": found.revision, "tag": found.tag, "root_hash": str(found.root_hash)}
        return _Known(Live(self.fqrn, session.catalogs, found.root, session.source), told)


def _side(text: str, unsigned: bool) -> Pin | str | None:
    """A pin, the path of an export, or None where nothing was said. Raises UsageError."""
    from shrinkwrap.snapshot.repository import Pin

    if not text:
        return None
    kind, colon, rest = text.partition(":")
    if colon and kind in ("tag", "rev", "date", "hash", "export", "record"):
        if not rest:
            raise UsageError(f"{text}: nothing after the colon", hint="--help lists what a side can be")
        if kind in ("export", "record"):
            return rest
        pin = Pin(tag=rest)
        if kind == "date":
            pin = Pin(at=rest)
        elif kind == "hash":
            pin = Pin(root_hash=rest, unsigned=unsigned)
        elif kind == "rev":
            if not (rest.isascii() and rest.isdigit() and len(rest) < 20):
                raise UsageError(f"{text}: a revision is a number", hint=f"tag:{rest} if that is a tag")
            pin = Pin(revision=int(rest))
        pin.check()
        return pin
    if text == "head":
        return Pin()
    if text in (".", "..") or text.startswith(("/", "./", "../")):
        return text
    # Tags may have slashes in them (FORMAT.md §7.2), so only what is there is a path.
    if ("/" in text or text.endswith(".json")) and "\0" not in text and os.path.lexists(text):
        return text
    return Pin(tag=text)


def _result(sides: _Sides, found: Comparison, tally: Tally, code: int) -> dict[str, Any]:
    return {
        "command": "diff",
        "fqrn": sides.fqrn,
        "from": sides.old.told,
        "to": sides.new.told,
        "differ": any(tally.entries),
        **tally.to_json(),
        "catalogs": {"read": found.diff.read, "skipped": found.diff.skipped},
        "reason": "different" if code else "done",
        "exit_code": code,
    }


def _totals(sides: _Sides, found: Comparison, tally: Tally) -> Iterator[str]:
    yield f"{sides.fqrn}: {sides.old} -> {sides.new}"
    yield from sums(tally)
    yield f"  catalogs: {found.diff.read} read, {found.diff.skipped} skipped that both have"
