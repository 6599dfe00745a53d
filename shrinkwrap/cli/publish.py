"""``shrinkwrap publish``: a directory or an archive becomes a revision of a signed repository."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import clean, print_json, say, size
from shrinkwrap.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

    from shrinkwrap.cvmfs.owners import OwnerMap
    from shrinkwrap.publish.request import Published

_EXAMPLES = """\b
Examples:
  shrinkwrap publish release/ -r demo.example.org --storage srv/demo.example.org
  shrinkwrap publish LCG_105.tar.zst -r demo.example.org --storage srv/demo.example.org \\
      --base-dir /lcg/LCG_105 --tag LCG_105 --message 'first build' --catalogs '/lcg/*'
  curl -s URL | shrinkwrap publish - -r demo.example.org --storage srv/demo.example.org --base-dir /nightly --mirror
  shrinkwrap publish -r demo.example.org --storage srv/demo.example.org --delete /lcg/LCG_97 --gc
  shrinkwrap publish -r demo.example.org --storage srv/demo.example.org
"""


def register(app: typer.Typer) -> None:
    app.command("publish", epilog=_EXAMPLES)(publish)


def publish(
    repo: opt.Repo,
    storage: Annotated[
        str, typer.Option("--storage", metavar="DIR", help="Folder of the repository; made at first use.")
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A directory, a tar archive (plain, gz, xz, bz2, zst), or - for an archive on standard input."
            " Without: sign anew, tag, delete or collect garbage.",
            show_default=False,
        ),
    ] = None,
    keys: Annotated[
        str,
        typer.Option("--keys", metavar="DIR", help="Folder of the keys, made at first use. Default: keys/ beside DIR."),
    ] = "",
    base: Annotated[
        str, typer.Option("--base-dir", metavar="PATH", help="Where in the repository the source goes. Default: /.")
    ] = "",
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Paths below the base directory that the source lacks are deleted.")
    ] = False,
    delete: Annotated[
        list[str] | None,
        typer.Option("--delete", metavar="PATH", help="Delete this first, with all below. Repeatable."),
    ] = None,
    whiteouts: Annotated[
        bool,
        typer.Option("--whiteouts", help="Carry out the deletions of a container layer (.wh. names and the like)."),
    ] = False,
    uid: Annotated[int | None, typer.Option("--uid", metavar="N", min=0, help="Owner of all entries.")] = None,
    gid: Annotated[int | None, typer.Option("--gid", metavar="N", min=0, help="Group of all entries.")] = None,
    uid_map: Annotated[
        str, typer.Option("--uid-map", metavar="FILE", help="Other owners: lines '<from> <to>', or '* <to>'.")
    ] = "",
    gid_map: Annotated[str, typer.Option("--gid-map", metavar="FILE", help="The same for groups.")] = "",
    tag: Annotated[str, typer.Option("--tag", metavar="NAME", help="A name for the revision.")] = "",
    message: Annotated[str, typer.Option("--message", metavar="TEXT", help="What is said of the tag.")] = "",
    catalogs: Annotated[
        list[str] | None,
        typer.Option(
            "--catalogs",
            metavar="PATTERN",
            help="Directories that get a catalog of their own, as in .cvmfsdirtab: /lcg/*/x86_64-*. Repeatable.",
        ),
    ] = None,
    max_entries: Annotated[
        int, typer.Option("--max-entries", metavar="N", min=0, help="Split catalogs with more entries. 0: never.")
    ] = 0,
    chunk: Annotated[
        str, typer.Option("--chunk", metavar="MIN:AVG:MAX", help="Sizes of the chunks of big files.")
    ] = "4M:8M:16M",
    no_chunk: Annotated[bool, typer.Option("--no-chunk", help="Keep all files whole.")] = False,
    hash_name: Annotated[
        str, typer.Option("--hash", metavar="NAME", help="sha1, rmd160 or shake128. Default: as before, sha1 at first.")
    ] = "",
    compression: Annotated[str, typer.Option("--compression", metavar="NAME", help="Of files: zlib or none.")] = "zlib",
    ttl: Annotated[
        int | None,
        typer.Option("--ttl", metavar="SECONDS", min=1, help="Until clients look again. Default: as before, 240."),
    ] = None,
    days: Annotated[
        float, typer.Option("--whitelist-days", metavar="DAYS", help="Until the whitelist expires.")
    ] = 30.0,
    metainfo: Annotated[str, typer.Option("--metainfo", metavar="FILE", help="JSON object about the repository.")] = "",
    gc: Annotated[
        bool, typer.Option("--gc", help="Afterwards, drop the objects that neither the head nor a tag leads to.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Make a new revision even if nothing has changed.")] = False,
    workers: Annotated[int, typer.Option("--workers", metavar="N", min=0, help="Processes. 0: one for each CPU.")] = 0,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another publisher on this storage to end.")] = False,
    period: Annotated[
        float,
        typer.Option(
            "-p",
            "--stat-period",
            metavar="SECONDS",
            min=0,
            help="Between progress lines where there is no terminal; 0: none.",
        ),
    ] = 10.0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Publish a directory or a tar archive as the next revision of a signed repository.

    The source's entries are put over what the base directory holds; paths that it lacks stay, unless --mirror is given.
    Keys, certificate and whitelist are made at first use. Readers see the old revision until the new one is complete.
    """
    from shrinkwrap.publish.cut import parse_limits
    from shrinkwrap.publish.publisher import publish as run_publish

    if source == "":
        raise UsageError("SOURCE is empty", hint="is a variable not set?")
    if no_chunk and chunk != "4M:8M:16M":
        raise UsageError("--chunk and --no-chunk exclude each other", hint="leave out one of them")
    sizes = None if no_chunk else parse_limits(chunk)
    with PublishProgress(period=period, quiet=quiet or as_json) as progress:
        result = run_publish(
            source,
            storage=storage,
            fqrn=repo,
            keys=keys or None,
            base_dir=base,
            tag=tag,
            message=message,
            hash=hash_name,
            compression=compression,
            chunks=sizes,
            catalogs=catalogs or (),
            max_entries=max_entries,
            uid=uid,
            gid=gid,
            uid_map=_owner_map(uid_map),
            gid_map=_owner_map(gid_map),
            whiteouts=whiteouts,
            delete=delete or (),
            mirror=mirror,
            gc=gc,
            ttl=ttl,
            whitelist_days=days,
            workers=workers,
            metainfo=_read(metainfo) if metainfo else None,
            force=force,
            wait=wait,
            hooks=progress.hooks,
        )
    if as_json:
        print_json({**result.to_json(), "exit_code": 0})
    elif not quiet:
        for line in progress.summary(result):
            say(line)


def _owner_map(file: str) -> OwnerMap | None:
    from shrinkwrap.cvmfs.owners import parse_owner_map

    return parse_owner_map(_read(file), file) if file else None


def _read(file: str) -> bytes:
    try:
        with open(file, "rb") as stream:
            return stream.read((16 << 20) + 1)
    except (OSError, ValueError) as exc:
        raise UsageError(f"{file}: cannot be read: {getattr(exc, 'strerror', None) or exc}") from None


class PublishProgress:
    """Shows how a publication gets on.

    Args:
        period: seconds between lines where there is no terminal; 0: none.
        quiet: show nothing.
    """

    def __init__(self, *, period: float, quiet: bool) -> None:
        from shrinkwrap.publish.request import PublishHooks

        self._period = period
        self._quiet = quiet
        self._start = self._last = time.monotonic()
        self._phase = "start"
        self._bars: Bars | None = None
        self._task: Any = None
        self.hooks = PublishHooks() if quiet else PublishHooks(self._notice, self._enter, self._show)

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
            self._task = self._bars.add_task("start", total=None, text="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _notice(self, line: str) -> None:
        if self._bars is not None:
            from rich.text import Text

            self._bars.console.print(Text(f"note: {clean(line)}"))
        else:
            say(f"note: {line}")

    def _enter(self, name: str) -> None:
        self._phase = name
        if self._bars is not None:
            self._bars.update(self._task, description=name, text="")

    def _show(self, counts: Counter[str]) -> None:
        now = time.monotonic()
        period = 0.1 if self._bars is not None else self._period
        if not period or now - self._last < period:
            return
        self._last = now
        text = self._text(counts, max(now - self._start, 1e-6))
        if self._bars is not None:
            self._bars.update(self._task, text=text)
        else:
            say(f"{self._phase}: {text}, {now - self._start:.0f} s")

    def _text(self, counts: Counter[str], seconds: float) -> str:
        if self._phase != "objects":
            return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
        content = counts["bytes"]
        return (
            f"{counts['files']} files, {size(content)}, {counts['objects']} objects stored"
            f" ({counts['new_objects']} new, {size(counts['written'])}), {size(content / seconds)}/s"
        )

    def summary(self, result: Published) -> list[str]:
        """What people read at the end."""
        seconds = time.monotonic() - self._start
        counts, sizes = result.counts, result.bytes
        what = f"{result.fqrn} revision {result.revision}" + (f" ({', '.join(result.tags)})" if result.tags else "")
        said = {
            "published": "published",
            "signed": "signed anew",
            "unchanged": "nothing new; the whitelist was renewed",
        }
        lines = [f"{what}: {said[result.reason]}, {seconds:.1f} s"]
        if counts["files"] or counts["dirs"]:
            lines.append(
                f"source: {counts['files']} files, {counts['dirs']} directories, {counts['symlinks']} symbolic links,"
                f" {size(sizes['content'])}; {counts['new_objects']} new objects, {size(sizes['objects'])};"
                f" {len(result.catalogs)} catalogs, {size(sizes['catalogs'])}"
            )
        if counts["collected"]:
            lines.append(f"garbage: {counts['collected']} objects, {size(sizes['collected'])}")
        lines.append(f"root hash {result.root_hash}")
        lines.append(f"public key: {result.public_key}")
        return lines


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<8}", markup=False),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        console=Console(stderr=True, highlight=False),
        transient=True,
    )
