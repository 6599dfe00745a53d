"""``shrinkwrap verify``: whether an export, a copy or an image of one still is what its record says."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say, size

if TYPE_CHECKING:
    from rich.status import Status

    from shrinkwrap.tree.findings import Verified, VerifyResult
    from shrinkwrap.tree.verify import Whence

_EXAMPLES = """\b
Examples:
  shrinkwrap verify /export/cvmfs
  shrinkwrap verify /export/cvmfs -r sft.cern.ch --content --json
  shrinkwrap verify /export/cvmfs --as 2026Q3
  shrinkwrap verify /mnt/image --chain --key /etc/cvmfs/keys/cern.ch
  shrinkwrap verify /export/cvmfs --content --repair --server http://stratum1.example.org/cvmfs/@fqrn@
"""
#: Cases that people are shown of each repository; ``--json`` has more.
_SHOWN = 20
_PERIOD = 10.0


def register(app: typer.Typer) -> None:
    app.command("verify", epilog=_EXAMPLES)(verify)


def verify(
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Destination of exports, a copy, or a mounted image.")],
    repos: Annotated[
        list[str] | None,
        typer.Option("-r", "--repo", metavar="FQRN", help="Only this repository. Several may be named."),
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="The snapshot of this name in DEST.")
    ] = None,
    records: Annotated[
        str, typer.Option("--records", metavar="DIR", help="The folder that .provenance is in, if that is not DEST.")
    ] = "",
    content: Annotated[
        bool, typer.Option("--content", help="Read all files, and compare their checksums; on all cores.")
    ] = False,
    chain: Annotated[
        bool, typer.Option("--chain", help="Follow the signatures, offline: from the master key to the catalogs.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fetch what is broken, and mend the tree; all else stays as it is.")
    ] = False,
    owners: Annotated[
        bool, typer.Option("--owner/--no-owner", help="Compare owners; of a copy they may be others.")
    ] = True,
    workers: Annotated[
        int,
        typer.Option("-j", "--workers", metavar="N", min=0, max=64, help="Processes that read. 0: one for each CPU."),
    ] = 0,
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    external: opt.ExternalServers = None,
    external_proxy: opt.ExternalProxy = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run on this destination to end.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Compare a tree with its record: paths, kinds, modes, owners, sizes, times, link targets, attributes, hard links.

    Nothing is written, and no server is asked unless --repair has something to fetch. Ends with 6 if something differs,
    with 3 if the signatures do not hold.
    """
    from shrinkwrap.errors import UsageError
    from shrinkwrap.tree.verify import VerifyRequest
    from shrinkwrap.tree.verify import Whence as Found
    from shrinkwrap.tree.verify import verify as run

    if not dest:
        raise UsageError("no destination", hint="is a variable not set?")
    if name := opt.given("--as", snapshot):
        from shrinkwrap.tree.snapshots import existing

        dest = existing(dest, name)

    def whence(fqrn: str) -> Whence:
        asked = opt.Whence(
            fqrn, files, servers, storage, proxy, external, keys, blacklists, external_proxy=external_proxy
        )
        settings = asked.settings()
        # A root hash that was taken unsigned is mended without any.
        known = asked.master_keys(settings) if chain or keys or settings.keys else ()
        return Found(known, asked.blacklist(settings), asked.source(settings) if repair else None)

    request = VerifyRequest(
        dest=dest,
        repositories=tuple(repos or ()),
        records=records,
        content=content,
        chain=chain,
        repair=repair,
        owners=owners,
        workers=workers,
        wait=wait,
        whence=whence,
    )
    with _Progress(quiet=quiet or as_json) as progress:
        result = run(request, progress.hooks)
    error = result.error()
    if as_json:
        print_json(result.to_json())
        if error is not None:
            say(f"shrinkwrap: {error.message}")
            raise typer.Exit(error.exit_code)
        return
    if not quiet:
        for line in _lines(result):
            print(clean(line))
    if error is not None:
        raise error


def _lines(result: VerifyResult) -> list[str]:
    """What people read."""
    lines = []
    for one in result.repositories:
        lines.extend(_of_repository(one))
    if result.store is not None:
        store = result.store
        read = store.content or {}
        state = _state(store) if store.differences or store.mended else "all right"
        lines.append(
            f"store: {read.get('files', 0)} stored files that no path shows, {size(read.get('bytes', 0))}: {state}"
        )
        lines.extend(f"  {case}" for case in store.cases[:_SHOWN])
        lines.extend(f"  note: {note}" for note in store.notes)
    return lines


def _of_repository(one: Verified) -> list[str]:
    counts = one.compared
    name = f"{one.fqrn} revision {one.revision}" + (f" ({one.tag})" if one.tag else "")
    holds = (
        f"{counts.get('files', 0)} files, {counts.get('dirs', 0)} directories,"
        f" {counts.get('symlinks', 0)} symbolic links, {size(counts.get('bytes', 0))}"
    )
    lines = [f"{name}: {holds}: {_state(one)}"]
    lines.extend(f"  {case}" for case in one.cases[:_SHOWN])
    more = sum(one.differences.values()) - len(one.cases[:_SHOWN])
    if more > 0:
        lines.append(f"  and {more} more (--json has the first 1,000)")
    if one.content is not None:
        read = one.content
        lines.append(
            f"  contents: {read['files']} files read as {read['inodes']} different ones, {size(read['bytes'])}"
        )
    if one.chain is not None:
        lines.append(f"  signatures: {one.chain.message}")
        lines.extend(f"  broken: {what}: {why}" for what, why in one.chain.problems)
    lines.extend(f"  not looked at ({_UNCHECKED.get(why, why)}): {number}" for why, number in one.unchecked.items())
    lines.extend(f"  note: {note}" for note in one.notes)
    return lines


_UNCHECKED = {
    "shut": "in directories that you may not enter",
    "unreadable": "files that you may not read",
    "attributes": "attributes that you may not read",
    "unknown": "below catalogs that are lost",
}


def _state(one: Verified) -> str:
    number = sum(one.differences.values())
    if number:
        return f"{number} difference{'s' if number != 1 else ''}"
    mended = sum(one.mended.values())
    return f"mended, {mended} difference{'s' if mended != 1 else ''}" if one.mended else "as recorded"


class _Progress:
    """How far it is: a line that changes on a terminal, one every ten seconds in a log."""

    def __init__(self, *, quiet: bool) -> None:
        from shrinkwrap.tree.request import Hooks

        self._quiet = quiet
        self._start = self._last = time.monotonic()
        self._phase = ""
        self._paths = self._files = self._bytes = 0
        self._status: Status | None = None
        self.hooks = Hooks(
            notice=self._notice, phase=self._enter, node=self._node, objects=self._objects, want=lambda: None
        )

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True, highlight=False).status("")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            with suppress(OSError):
                self._status.stop()

    def _notice(self, line: str) -> None:
        if not self._quiet:
            say(f"note: {line}")

    def _enter(self, phase: str) -> None:
        self._phase = phase

    def _node(self, node: object) -> None:
        self._paths += 1
        if not self._paths & 0xFF:
            self._show()

    def _objects(self, files: int, received: int, written: int) -> None:
        self._files += files
        self._bytes += received
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        if self._quiet or now - self._last < (0.1 if self._status is not None else _PERIOD):
            return
        self._last = now
        seconds = max(now - self._start, 1e-6)
        line = f"{self._phase}: {self._paths} paths"
        if self._files:
            line += f", {self._files} files read, {size(self._bytes)}, {size(self._bytes / seconds)}/s"
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(line))
        else:
            say(f"{line}, {seconds:.0f} s")
