"""``shrinkwrap cat``: the content of a file in a repository, verified."""

from __future__ import annotations

import sys
import tempfile
from typing import IO, TYPE_CHECKING, Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.reading import Cache, Reading, repository_path
from shrinkwrap.errors import MissingObject, UsageError

if TYPE_CHECKING:
    from shrinkwrap.engine.work import Item

_EXAMPLES = """\b
Examples:
  shrinkwrap cat -r sft.cern.ch --server URL /lcg/releases/LCG_105/README
  shrinkwrap cat -r sft.cern.ch --server URL --tag LCG_105 /lcg/mcgen.txt > mcgen.txt
"""
_PIECE = 1 << 20


def register(app: typer.Typer) -> None:
    app.command("cat", epilog=_EXAMPLES)(cat)


def cat(
    repo: opt.Repo,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files in the repository.")],
    files: opt.Config = None,
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = None,
    external: opt.ExternalServers = None,
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    tag: opt.Tag = "",
    revision: opt.RevisionNumber = None,
    at: opt.At = "",
    root_hash: opt.RootHash = "",
    unsigned: opt.Unsigned = False,
    cache: Cache = None,
) -> None:
    """Print files of a repository. Nothing is printed of a file before all of it is verified."""
    from shrinkwrap.cvmfs.entry import kind_of, show
    from shrinkwrap.engine.work import Item, Worker
    from shrinkwrap.snapshot.view import content_of

    wanted = [repository_path(path) for path in paths]
    pin = opt.make_pin(tag, revision, at, root_hash, unsigned)
    reading = Reading(opt.Whence(repo, files, servers, storage, proxy, external, keys, blacklists), pin, cache)
    with reading.snapshot() as (session, snapshot, _):
        for path in wanted:
            found = session.find(snapshot.root, path)
            if found is None:
                raise MissingObject(f"{show(path)}: not in the repository")
            catalog, entry = found
            session.catalogs.release(catalog)
            if not entry.is_file:
                raise UsageError(f"{show(path)}: a {kind_of(entry.mode)}, not a file", hint="links are not followed")
            with _OneFile() as sink:
                result = Worker(session.source, sink).run([Item("file", "file", content_of(entry), path, None)])
                for failure in result.failures:
                    raise failure.error
                sink.print()


class _OneFile:
    """A sink for one file: a temporary file without a name."""

    def __enter__(self) -> _OneFile:
        self._file: IO[bytes] = tempfile.TemporaryFile()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def resolve(self, item: Item) -> bool:
        return False

    def begin(self, item: Item) -> _OneFile:
        return self

    def write_at(self, offset: int, data: bytes, /) -> None:
        self._file.seek(offset)
        self._file.write(data)

    def commit(self, item: Item, file: object, /) -> None:
        self._file.seek(0)

    def discard(self, file: object, /) -> None:
        self._file.truncate(0)

    def derive(self, item: Item, made: Item) -> None:
        raise AssertionError("one file has no variants")

    def end_batch(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self._file.close()

    def print(self) -> None:
        while data := self._file.read(_PIECE):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
