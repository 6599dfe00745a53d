"""What the commands that only read share: options in one bundle, an open repository, a pinned snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import say
from shrinkwrap.errors import UsageError

if TYPE_CHECKING:
    from shrinkwrap.snapshot.repository import Pin, Revision
    from shrinkwrap.snapshot.session import Session

Cache = Annotated[
    str | None, typer.Option("--cache", metavar="DIR", help="Keep catalogs there between runs. Default: nowhere.")
]


@dataclass(frozen=True, slots=True)
class Reading:
    """The shared options of one call."""

    repo: str
    servers: list[str] | None
    storage: str | None
    proxy: str
    external: list[str] | None
    keys: list[str] | None
    blacklists: list[str] | None
    pin: Pin
    cache: str | None
    transfers: int = 0
    timeout: float | None = None
    redirects: bool = False

    @contextmanager
    def session(self) -> Iterator[Session]:
        """The repository, open."""
        from shrinkwrap.snapshot.session import open_session

        config = opt.source_config(
            self.repo,
            self.servers,
            self.storage,
            self.proxy,
            self.external,
            transfers=self.transfers,
            retries=1,
            timeout=self.timeout,
            redirects=self.redirects,
        )
        keys = () if self.pin.unsigned else opt.master_keys(self.repo, self.keys)
        blacklist = opt.site_blacklist(self.blacklists)
        with open_session(config, keys, blacklist=blacklist, cache=self.cache, notice=_note) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[tuple[Session, Revision]]:
        """The repository, open, and the snapshot that is asked for."""
        with self.session() as session:
            yield session, session.repository.resolve(self.pin)


def _note(line: str) -> None:
    say(f"note: {line}")


def repository_path(text: str) -> bytes:
    """A path on the command line as one in the repository. Raises UsageError."""
    import os

    raw = os.fsencode(text)
    if not raw.startswith(b"/"):
        raise UsageError(f"{text}: not a path in the repository", hint="paths begin with /")
    return b"".join(b"/" + name for name in raw.split(b"/") if name)
