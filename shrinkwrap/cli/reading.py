"""What the commands that only read share: options in one bundle, an open repository, a pinned snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.output import say

if TYPE_CHECKING:
    from shrinkwrap.snapshot.client import ClientSettings
    from shrinkwrap.snapshot.repository import Pin, Revision
    from shrinkwrap.snapshot.session import Session

Cache = Annotated[
    str | None, typer.Option("--cache", metavar="DIR", help="Keep catalogs there between runs. Default: nowhere.")
]


@dataclass(frozen=True, slots=True)
class Reading:
    """The shared options of one call."""

    whence: opt.Whence
    pin: Pin
    cache: str | None

    @contextmanager
    def session(self, settings: ClientSettings | None = None) -> Iterator[Session]:
        """The repository, open."""
        from shrinkwrap.snapshot.session import open_session

        settings = settings or self.whence.settings()
        for line in opt.notes(settings):
            _note(line)
        config = self.whence.source(settings)
        keys = () if self.pin.unsigned else self.whence.master_keys(settings)
        blacklist = self.whence.blacklist(settings)
        with open_session(config, keys, blacklist=blacklist, cache=self.cache, notice=_note) as session:
            yield session

    @contextmanager
    def snapshot(self) -> Iterator[tuple[Session, Revision, ClientSettings]]:
        """The repository, open, the snapshot that is asked for, and the configuration that says so."""
        settings = self.whence.settings()
        with self.session(settings) as session:
            yield session, session.snapshot(opt.pin_of(self.pin, settings)), settings


def _note(line: str) -> None:
    say(f"note: {line}")


def repository_path(text: str) -> bytes:
    """A path on the command line as one in the repository. Raises UsageError."""
    from shrinkwrap.snapshot import session

    return session.repository_path(text)
