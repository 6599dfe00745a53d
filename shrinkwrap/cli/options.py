"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkwrap.errors import UsageError

if TYPE_CHECKING:
    from shrinkwrap.cvmfs.blacklist import Blacklist
    from shrinkwrap.cvmfs.keys import MasterKey
    from shrinkwrap.fetch.source import SourceConfig
    from shrinkwrap.snapshot.client import ClientSettings
    from shrinkwrap.snapshot.repository import Pin

#: Where the keys of a CernVM-FS client lie (FORMAT.md §5.3).
CLIENT_KEYS = "/etc/cvmfs/keys"
#: The folder that /etc/cvmfs is looked for in.
CLIENT_ROOT = "/"

_WHENCE = "Repository"
_PIN = "Snapshot"

Repo = Annotated[
    str, typer.Option("-r", "--repo", metavar="FQRN", help="Repository, e.g. sft.cern.ch.", rich_help_panel=_WHENCE)
]
Servers = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="URL of the repository on a server (@fqrn@ stands for its name). Several are tried in order.",
        rich_help_panel=_WHENCE,
    ),
]
Storage = Annotated[
    str | None,
    typer.Option("--storage", metavar="DIR", help="The repository's storage on local disk, instead of servers."),
]
Config = Annotated[
    list[str] | None,
    typer.Option(
        "-f",
        "--src-config",
        metavar="FILE[:FILE]",
        help="CernVM-FS client configuration. Default: the files of /etc/cvmfs. Options given here win.",
    ),
]
Proxy = Annotated[
    str | None,
    typer.Option(
        "--proxy",
        metavar="LIST",
        help="Proxies: groups separated by ';', members by '|', DIRECT for none (the default without configuration).",
    ),
]
ExternalProxy = Annotated[
    str | None,
    typer.Option("--external-proxy", metavar="LIST", help="Proxies to the external servers. Default: DIRECT."),
]
ExternalServers = Annotated[
    list[str] | None,
    typer.Option(
        "--external-server", metavar="URL", help="Where external files are served by their path. Several are tried."
    ),
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="FILE|DIR", help=f"Master public key, or a folder of *.pub. Default: {CLIENT_KEYS}."),
]
Blacklists = Annotated[
    list[str] | None,
    typer.Option(
        "--blacklist", metavar="FILE", help="Banned certificates and revisions. Default: /etc/cvmfs/blacklist."
    ),
]
Redirects = Annotated[
    bool | None, typer.Option("--follow-redirects", help="Let servers send us elsewhere (up to four times).")
]
Transfers = Annotated[
    int,
    typer.Option(
        *("-j", "--transfers"),
        metavar="N",
        min=0,
        help="Transfers in flight, at most 32 per host. 0: 16, and up to 32 on a slow network.",
    ),
]
Retries = Annotated[
    int | None, typer.Option("--retries", min=0, metavar="N", help="Repetitions after a failed transfer. Default: 1.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", min=0.1, metavar="SECONDS", help="To connect, and for a stalled transfer (10; 5 by proxy)."
    ),
]
Tag = Annotated[str, typer.Option("--tag", metavar="NAME", help="The snapshot of this name.")]
RevisionNumber = Annotated[
    int | None, typer.Option("--revision", metavar="N", min=0, help="The tagged snapshot with this number.")
]
At = Annotated[
    str,
    typer.Option(
        "--at", metavar="DATE", help="The newest tagged snapshot not younger than YYYY-MM-DD or YYYY-MM-DDThh:mm:ssZ."
    ),
]
RootHash = Annotated[
    str,
    typer.Option("--root-hash", metavar="HASH", help="The snapshot with this root catalog, from the signed history."),
]
Unsigned = Annotated[
    bool,
    typer.Option(
        "--accept-unsigned-root-hash",
        help="Take --root-hash without manifest, whitelist and signatures: gives up all trust but the hash.",
    ),
]
Env = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="K=V", help="Variable for variant symlinks; wins over the configuration."),
]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on standard output; its last line is one object.")]


@dataclass(frozen=True, slots=True)
class Whence:
    """Where a repository comes from and how far it is trusted, as options and configuration say together."""

    repo: str
    files: Sequence[str] | None
    servers: Sequence[str] | None
    storage: str | None
    proxy: str | None
    external: Sequence[str] | None
    keys: Sequence[str] | None
    blacklists: Sequence[str] | None
    external_proxy: str | None = None
    transfers: int = 0
    retries: int | None = None
    timeout: float | None = None
    redirects: bool | None = None

    def settings(self) -> ClientSettings:
        """The configuration. Raises UsageError."""
        from shrinkwrap.snapshot.client import client_settings

        if not self.repo:
            raise UsageError("no repository given", hint="-r FQRN, e.g. -r sft.cern.ch")
        return client_settings(self.repo, self.files or (), root=CLIENT_ROOT)

    def source(self, settings: ClientSettings) -> SourceConfig:
        """The source; options win over the configuration. Raises UsageError."""
        if self.servers and self.storage:
            raise UsageError("--server and --storage exclude each other", hint="leave out one of them")
        return settings.source(
            servers=self.servers or (),
            storage=self.storage,
            proxies=self.proxy,
            external_servers=self.external or (),
            external_proxies=self.external_proxy,
            transfers=self.transfers or None,
            retries=self.retries,
            timeout=self.timeout,
            redirects=self.redirects,
        )

    def master_keys(self, settings: ClientSettings) -> tuple[MasterKey, ...]:
        """The keys given, or those that the configuration names. Raises UsageError."""
        return settings.master_keys(self.keys or ())

    def blacklist(self, settings: ClientSettings) -> Blacklist:
        """The blacklists given, or those of the configuration that are there (FORMAT.md §4.5). Raises UsageError."""
        return settings.blacklist(self.blacklists or ())


def notes(settings: ClientSettings) -> list[str]:
    """What people should know of a configuration."""
    return settings.remarks()


def pin_of(pin: Pin, settings: ClientSettings) -> Pin:
    """The pin on the command line, else the one of the configuration. Raises UsageError."""
    return settings.chosen(pin)


def make_pin(tag: str, revision: int | None, at: str, root_hash: str, unsigned: bool) -> Pin:
    """The pin that the options stand for. Raises UsageError."""
    from shrinkwrap.snapshot.repository import Pin

    pin = Pin(tag, revision, at, root_hash, unsigned)
    pin.check()
    return pin


def given(option: str, value: str | None) -> str:
    """The value of an option; empty where that was not used.

    Raises:
        UsageError: it was used with an empty value, which must not mean the same.
    """
    if value == "":
        raise UsageError(f"{option} is empty", hint="leave it out, or name something; is a variable not set?")
    return value or ""


def given_variables(given: Sequence[str] | None) -> dict[bytes, bytes]:
    """What ``--env`` sets. Raises UsageError."""
    values: dict[bytes, bytes] = {}
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--env {pair}: not of the form NAME=VALUE")
        values[os.fsencode(name)] = os.fsencode(value)
    return values
