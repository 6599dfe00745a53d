"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from shrinkwrap.errors import UsageError

if TYPE_CHECKING:
    from shrinkwrap.cvmfs.blacklist import Blacklist
    from shrinkwrap.cvmfs.keys import MasterKey
    from shrinkwrap.fetch.source import SourceConfig
    from shrinkwrap.snapshot.repository import Pin

#: Where the keys of a CernVM-FS client lie (FORMAT.md §5.3).
CLIENT_KEYS = "/etc/cvmfs/keys"
CLIENT_BLACKLIST = "/etc/cvmfs/blacklist"

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
Proxy = Annotated[
    str,
    typer.Option(
        "--proxy",
        metavar="LIST",
        help="Proxies: groups separated by ';', members by '|', DIRECT for none.",
    ),
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
    bool, typer.Option("--follow-redirects", help="Let servers send us elsewhere (up to four times).")
]
Transfers = Annotated[
    int,
    typer.Option(
        "-j", "--transfers", metavar="N", min=0, help="Transfers in flight, at most 32 per host. 0: the default, 16."
    ),
]
Retries = Annotated[int, typer.Option("--retries", min=0, metavar="N", help="Repetitions after a failed transfer.")]
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
    typer.Option("--env", metavar="K=V", help="Variable for variant symlinks; goes before the environment."),
]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on standard output; its last line is one object.")]


def source_config(
    repo: str,
    servers: Sequence[str] | None,
    storage: str | None,
    proxy: str,
    external: Sequence[str] | None,
    *,
    transfers: int,
    retries: int,
    timeout: float | None,
    redirects: bool,
) -> SourceConfig:
    """The source that the options describe. Raises UsageError."""
    from shrinkwrap.cvmfs.trust import check_fqrn
    from shrinkwrap.fetch.source import SourceConfig

    if not repo:
        raise UsageError("no repository given", hint="-r FQRN, e.g. -r sft.cern.ch")
    check_fqrn(repo)
    if bool(servers) == bool(storage):
        raise UsageError(
            "--server and --storage exclude each other" if servers else f"no server given for {repo}",
            hint=f"--server http://HOST/cvmfs/{repo} (several are tried in order), or --storage DIR",
        )
    defaults = SourceConfig(repo)
    return SourceConfig(
        repo,
        servers=tuple(servers or ()),
        storage=storage,
        proxies=proxy,
        external_servers=tuple(external or ()),
        transfers=transfers or defaults.transfers,
        max_retries=retries,
        timeout_direct=timeout or defaults.timeout_direct,
        timeout_proxy=timeout or defaults.timeout_proxy,
        follow_redirects=redirects,
    )


def master_keys(repo: str, given: Sequence[str] | None) -> tuple[MasterKey, ...]:
    """The keys given, or those of a CernVM-FS client on this machine. Raises UsageError."""
    from shrinkwrap.cvmfs.keys import read_keys

    if given:
        return tuple(read_keys(given))
    domain = repo.partition(".")[2]
    folders = [folder for folder in (os.path.join(CLIENT_KEYS, domain), CLIENT_KEYS) if _has_keys(folder)]
    if not folders:
        raise UsageError(
            f"no master key for {repo}: {CLIENT_KEYS} has none",
            hint="--key FILE.pub; for *.cern.ch they come with the package cvmfs-config-default",
        )
    return tuple(read_keys(folders))


def _has_keys(folder: str) -> bool:
    return os.path.isdir(folder) and any(name.endswith(".pub") for name in os.listdir(folder))


def site_blacklist(given: Sequence[str] | None) -> Blacklist:
    """The blacklists given, or the one of a CernVM-FS client on this machine (FORMAT.md §4.5). Raises UsageError."""
    from shrinkwrap.cvmfs.blacklist import read_blacklists

    return read_blacklists(given or ([CLIENT_BLACKLIST] if os.path.exists(CLIENT_BLACKLIST) else []))


def make_pin(tag: str, revision: int | None, at: str, root_hash: str, unsigned: bool) -> Pin:
    """The pin that the options stand for. Raises UsageError."""
    from shrinkwrap.snapshot.repository import Pin

    pin = Pin(tag, revision, at, root_hash, unsigned)
    pin.check()
    return pin


def variables(given: Sequence[str] | None) -> dict[bytes, bytes]:
    """Values for variant symlinks: the environment, and ``--env`` before it. Raises UsageError."""
    values = dict(os.environb)
    for pair in given or ():
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--env {pair}: not of the form NAME=VALUE")
        values[os.fsencode(name)] = os.fsencode(value)
    return values
