"""The configuration of a CernVM-FS client, read from its files: what an exporter makes of it (FORMAT.md §8)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from shrinkwrap.cvmfs.blacklist import Blacklist, read_blacklists
from shrinkwrap.cvmfs.entry import show
from shrinkwrap.cvmfs.history import parse_date
from shrinkwrap.cvmfs.keys import MasterKey, read_keys
from shrinkwrap.cvmfs.options import (
    Parameter,
    boolean,
    encode,
    fill,
    has_auto,
    join_proxies,
    last,
    number,
    shorten,
    split_list,
)
from shrinkwrap.cvmfs.owners import FILE_LIMIT as MAP_LIMIT
from shrinkwrap.cvmfs.owners import OwnerMap, parse_owner_map
from shrinkwrap.cvmfs.parameters import unknown, why_ignored
from shrinkwrap.cvmfs.trust import check_fqrn
from shrinkwrap.errors import UsageError
from shrinkwrap.fetch.source import MAX_TRANSFERS_PER_HOST, SourceConfig
from shrinkwrap.snapshot.configfiles import FOLDER, ConfigFiles, read_regular
from shrinkwrap.snapshot.repository import Pin

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_NO_PROXY: Final = (
    "--proxy DIRECT, or CVMFS_HTTP_PROXY=DIRECT in the configuration, to go without one; better, name the site's proxy"
)


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What a configuration comes to. Picklable. Times in seconds.

    Attributes:
        fqrn: the repository.
        files: those that were read, in order; empty without any configuration.
        notes: what was not understood or left out, a line each.
        servers, external_servers: URLs with templates filled in, no more than CVMFS_MAX_SERVERS.
        proxies: text for :func:`~shrinkwrap.fetch.mirrors.parse_proxies`, fall-back groups included; None if none is
            configured, with which the reference refuses to mount.
        external_proxies: likewise, DIRECT unless configured.
        proxies_origin: ``file:line`` of ``proxies``.
        timeout_proxy, timeout_direct: to connect, and of a stall.
        low_speed_limit: bytes per second.
        max_retries, backoff_init, backoff_max: of transfers.
        proxy_reset_after, host_reset_after: 0 for never.
        max_servers, external_max_servers: 0 for all.
        keys: files and folders with master keys; empty if there are none anywhere.
        blacklists: files that may exist.
        root_hash, tag, date: pins as they are written; :meth:`pin` knows which one counts.
        alt_root_path: root catalog and certificate are fetched from their alternative paths.
        uid_map, gid_map: None for "as in the repository".
        claim_ownership: everything belongs to the user who runs this; the maps do not count then.
        world_readable: everybody may read everything.
        cache_dir: a folder for catalogs, if one is configured.
        variables: all parameters by name, for variant symlinks (FORMAT.md §9).
        unknown: parameters that begin with CVMFS_ and are not known at all, with their origin.
        ignored: known ones that an exporter has no use for, and why.
        in_force: name, value and origin of everything that holds, sorted by name.
    """

    fqrn: str
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    proxies: str | None = None
    proxies_origin: str = ""
    external_servers: tuple[str, ...] = ()
    external_proxies: str = "DIRECT"
    timeout_proxy: int = 5
    timeout_direct: int = 5
    low_speed_limit: int = 1024
    max_retries: int = 1
    backoff_init: int = 2
    backoff_max: int = 10
    proxy_reset_after: int = 300
    host_reset_after: int = 1800
    follow_redirects: bool = False
    max_servers: int = 0
    external_max_servers: int = 0
    keys: tuple[str, ...] = ()
    blacklists: tuple[str, ...] = ()
    root_hash: str = ""
    tag: str = ""
    date: str = ""
    alt_root_path: bool = False
    uid_map: OwnerMap | None = None
    gid_map: OwnerMap | None = None
    claim_ownership: bool = False
    world_readable: bool = False
    cache_dir: str | None = None
    variables: Mapping[bytes, bytes] = field(default_factory=dict)
    unknown: tuple[tuple[str, str], ...] = ()
    ignored: tuple[tuple[str, str], ...] = ()
    in_force: tuple[tuple[str, str, str], ...] = ()

    def pin(self) -> Pin:
        """The snapshot that is asked for: root hash before tag before date before head (FORMAT.md §7.2).

        The root hash has to be in the signed history, other than in the reference: who wants to trust a bare hash
        says so on the command line.
        """
        if self.root_hash:
            return Pin(root_hash=self.root_hash)
        if self.tag:
            return Pin() if self.tag == "trunk" else Pin(tag=self.tag)
        return Pin(at=self.date)

    def chosen(self, pin: Pin) -> Pin:
        """A pin that was given, else the one of the configuration. Raises UsageError."""
        if not pin.follows_head:
            return pin
        configured = self.pin()
        configured.check()
        return configured

    def master_keys(self, given: Sequence[str] = ()) -> tuple[MasterKey, ...]:
        """Keys from the files and folders that are given, else from those of the configuration. Raises UsageError."""
        files = given or self.keys
        if not files:
            raise UsageError(
                f"no master key for {self.fqrn}: /{FOLDER}/keys has none",
                hint="--key FILE.pub; for *.cern.ch they come with the package cvmfs-config-default",
            )
        return tuple(read_keys(files))

    def blacklist(self, given: Sequence[str] = ()) -> Blacklist:
        """The blacklists given, or those of the configuration that are there (FORMAT.md §4.5). Raises UsageError."""
        return read_blacklists(given or self.blacklists)

    def remarks(self) -> list[str]:
        """What people should know of the configuration, a line each."""
        unknown = (f"{origin}: {name} is no parameter that CernVM-FS knows" for name, origin in self.unknown)
        return [*self.notes, *unknown]

    def environment(self, process: Mapping[bytes, bytes], given: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Variables for variant symlinks: the process's, over them the configuration's, over both the ``given``."""
        return {**process, **self.variables, **given}

    def source(
        self,
        *,
        servers: Sequence[str] = (),
        storage: str | None = None,
        proxies: str | None = None,
        external_servers: Sequence[str] = (),
        external_proxies: str | None = None,
        transfers: int | None = None,
        retries: int | None = None,
        timeout: float | None = None,
        redirects: bool | None = None,
    ) -> SourceConfig:
        """Where the bytes come from; what is given wins over what is configured.

        Raises:
            UsageError: no server. No proxy, as in the reference, unless nothing goes over the network, or everything
                is given on the command line and no configuration file was read. Proxy discovery (``auto``).
        """
        if servers and storage:
            raise UsageError("servers and a storage folder are given", hint="leave out one of them")
        hosts = tuple(servers) or (() if storage else self.servers)
        if not hosts and not storage:
            where = f"none in {', '.join(self.files)}" if self.files else f"there is no configuration in /{FOLDER}"
            raise UsageError(
                f"no server for {self.fqrn}: {where}",
                hint=f"--server http://HOST/cvmfs/{self.fqrn} --key FILE.pub, or -f FILE with CVMFS_SERVER_URL,"
                " CVMFS_PUBLIC_KEY and CVMFS_HTTP_PROXY, or --storage DIR",
            )
        local = storage is not None or all(url.lower().startswith("file:") for url in hosts)
        chain = proxies if proxies is not None else self.proxies
        if local and proxies is None:
            chain = "DIRECT"
        if chain is None:
            if self.files:
                raise UsageError(
                    f"no proxy for {self.fqrn}: CVMFS_HTTP_PROXY is not set in {', '.join(self.files)}", hint=_NO_PROXY
                )
            chain = "DIRECT"
        _no_discovery(chain, "--proxy" if proxies is not None else self.proxies_origin)
        outside = tuple(external_servers) or self.external_servers
        outside_chain = self.external_proxies if external_proxies is None else external_proxies
        if outside:
            _no_discovery(
                outside_chain, "CVMFS_EXTERNAL_HTTP_PROXY" if external_proxies is None else "--external-proxy"
            )
        configured = bool(self.files)
        defaults = SourceConfig(self.fqrn)
        return SourceConfig(
            self.fqrn,
            servers=hosts,
            storage=storage,
            proxies=chain,
            external_servers=outside,
            external_proxies=outside_chain if outside else "DIRECT",
            transfers=transfers or defaults.transfers,
            most_transfers=0 if transfers else MAX_TRANSFERS_PER_HOST,
            timeout_direct=timeout or (self.timeout_direct if configured else defaults.timeout_direct),
            timeout_proxy=timeout or self.timeout_proxy,
            low_speed_limit=self.low_speed_limit,
            max_retries=self.max_retries if retries is None else retries,
            backoff_init=self.backoff_init,
            backoff_max=self.backoff_max,
            proxy_reset_after=self.proxy_reset_after,
            host_reset_after=self.host_reset_after,
            follow_redirects=self.follow_redirects if redirects is None else redirects,
        )


def _no_discovery(chain: str, origin: str) -> None:
    if has_auto(chain):
        raise UsageError(
            f"{origin}: proxy 'auto' asks for discovery by PAC file, which is not supported",
            hint="name the proxy of the site: --proxy http://PROXY:3128, or CVMFS_HTTP_PROXY; DIRECT to use none",
        )


def client_settings(
    fqrn: str,
    files: Sequence[str] = (),
    *,
    root: str = "/",
    environ: Mapping[bytes, bytes] | None = None,
) -> ClientSettings:
    """Read the configuration for a repository.

    Args:
        files: lists of files as ``-f`` takes them, ``a.conf:b.local``, relative to the working directory. They are
            read by the simple reader, and nothing else is. Without any the files of ``/etc/cvmfs`` count, in the
            order of the client (FORMAT.md §8.1), those of a config repository included where it is mounted.
        root: the folder that stands for ``/``; values are not changed by it.
        environ: what files of ``/etc/cvmfs`` see as environment; that of the process if None.

    Raises:
        UsageError: a file of ``-f`` that cannot be read, or a value that makes no sense; the message names file and
            line.
    """
    check_fqrn(fqrn)
    if files:
        return _settings(fqrn, ConfigFiles(root).given(files), root, fuse=False)
    variables = {_text(name): _text(value) for name, value in (os.environb if environ is None else environ).items()}
    return _settings(fqrn, ConfigFiles(root).installed(fqrn, variables), root, fuse=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


class _Values:
    """Parameters with their templates filled in, and what they mean."""

    def __init__(self, found: Mapping[str, Parameter], fqrn: str, notes: list[str]) -> None:
        self.found = {name: one._replace(value=fill(one.value, fqrn)) for name, one in found.items()}
        self._notes = notes

    def text(self, name: str, default: str = "") -> str:
        """An empty value is no value."""
        parameter = self.found.get(name)
        return (parameter.meant if parameter is not None else "") or default

    def origin(self, name: str) -> str:
        return self.found[name].origin if name in self.found else ""

    def number(self, name: str, default: int, *, lowest: int = 0) -> int:
        return number(self.found[name], lowest=lowest) if self.text(name) else default

    def on(self, name: str) -> bool:
        if not self.text(name):
            return False
        value = boolean(self.text(name))
        if value is None:
            one = self.found[name]
            self._notes.append(f"{one.origin}: {name} is {shorten(one.value)}, neither yes nor no: taken as no")
        return bool(value)

    def urls(self, name: str, most: int) -> tuple[str, ...]:
        urls = split_list(self.text(name), ";")
        return urls[:most] if most else urls

    def owners(self, name: str) -> OwnerMap | None:
        file = self.text(name)
        if not file:
            return None
        try:
            data = read_regular(file, MAP_LIMIT)
        except OSError as exc:
            raise UsageError(
                f"{self.origin(name)}: {name}: {show(os.fsencode(file))} cannot be read: {exc.strerror or exc}",
                hint="create the map, or take the parameter out",
            ) from None
        return parse_owner_map(data, file)


def _settings(fqrn: str, files: ConfigFiles, root: str, *, fuse: bool) -> ClientSettings:
    found = last(files.parsed)
    notes = list(files.notes)
    values = _Values(found, fqrn, notes)
    max_servers = values.number("CVMFS_MAX_SERVERS", 0)
    external_max = values.number("CVMFS_EXTERNAL_MAX_SERVERS", 0)
    timeout_proxy = values.number("CVMFS_TIMEOUT", 5, lowest=1)
    timeout_direct = values.number("CVMFS_TIMEOUT_DIRECT", 5, lowest=1)
    variables = {encode(name): encode(one.value) for name, one in values.found.items()}
    if fuse and files.names:
        variables[b"CVMFS_FQRN"] = encode(fqrn)  # on the fuse path only (FORMAT.md §9)
    if values.text("CVMFS_CACHE_DIR") and values.text("CVMFS_CACHE_BASE"):
        notes.append(f"{values.origin('CVMFS_CACHE_DIR')}: CVMFS_CACHE_DIR wins over CVMFS_CACHE_BASE")
    proxies, origin = _proxies(values)
    external_proxies = join_proxies(
        values.text("CVMFS_EXTERNAL_HTTP_PROXY", "DIRECT"), values.text("CVMFS_EXTERNAL_FALLBACK_PROXY")
    )
    ignored = ((name, why_ignored(name)) for name in sorted(values.found))
    return ClientSettings(
        fqrn,
        files=tuple(files.names),
        servers=values.urls("CVMFS_SERVER_URL", max_servers),
        proxies=proxies,
        proxies_origin=origin,
        external_servers=values.urls("CVMFS_EXTERNAL_URL", external_max),
        external_proxies=external_proxies or "DIRECT",
        timeout_proxy=timeout_proxy,
        timeout_direct=timeout_direct,
        low_speed_limit=values.number("CVMFS_LOW_SPEED_LIMIT", 1024),
        max_retries=values.number("CVMFS_MAX_RETRIES", 1),
        backoff_init=values.number("CVMFS_BACKOFF_INIT", 2),
        backoff_max=values.number("CVMFS_BACKOFF_MAX", 10),
        proxy_reset_after=values.number("CVMFS_PROXY_RESET_AFTER", 300),
        host_reset_after=values.number("CVMFS_HOST_RESET_AFTER", 1800),
        follow_redirects=values.on("CVMFS_FOLLOW_REDIRECTS"),
        max_servers=max_servers,
        external_max_servers=external_max,
        keys=_keys(values, fqrn, root),
        blacklists=(values.text("CVMFS_BLACKLIST", os.path.join(root, FOLDER, "blacklist")), *files.blacklists),
        **_pins(values, notes),
        alt_root_path=values.on("CVMFS_ALT_ROOT_PATH"),
        uid_map=values.owners("CVMFS_UID_MAP"),
        gid_map=values.owners("CVMFS_GID_MAP"),
        claim_ownership=values.on("CVMFS_CLAIM_OWNERSHIP"),
        world_readable=values.on("CVMFS_WORLD_READABLE"),
        cache_dir=values.text("CVMFS_CACHE_DIR") or values.text("CVMFS_CACHE_BASE") or None,
        variables=variables,
        unknown=tuple((name, one.origin) for name, one in sorted(values.found.items()) if unknown(name)),
        ignored=tuple((name, why) for name, why in ignored if why is not None),
        in_force=tuple((name, one.value, one.origin) for name, one in sorted(values.found.items())),
        notes=tuple(notes),
    )


def _proxies(values: _Values) -> tuple[str | None, str]:
    """The chain of proxies and where it comes from; None without CVMFS_HTTP_PROXY, whatever the fall-back says."""
    normal = values.text("CVMFS_HTTP_PROXY")
    if not normal:
        return None, ""
    chain = join_proxies(normal, values.text("CVMFS_FALLBACK_PROXY"))
    return chain or None, values.origin("CVMFS_HTTP_PROXY")


def _pins(values: _Values, notes: list[str]) -> dict[str, str]:
    """Root hash, tag and date; tells which of several does not count."""
    names = ("CVMFS_ROOT_HASH", "CVMFS_REPOSITORY_TAG", "CVMFS_REPOSITORY_DATE")
    given = [name for name in names if values.text(name)]
    notes.extend(f"{values.origin(name)}: {name} does not count: {given[0]} wins" for name in given[1:])
    date = values.text(names[2])
    if date:
        if _DATE.fullmatch(date) is None:
            raise UsageError(
                f"{values.origin(names[2])}: {names[2]} is {shorten(date)}; YYYY-MM-DDThh:mm:ssZ is expected"
            )
        parse_date(date)
    return {"root_hash": values.text(names[0]), "tag": values.text(names[1]), "date": date}


def _keys(values: _Values, fqrn: str, root: str) -> tuple[str, ...]:
    """CVMFS_PUBLIC_KEY wins over CVMFS_KEYS_DIR (FORMAT.md §5.3); else the folders of a client that have keys."""
    files = split_list(values.text("CVMFS_PUBLIC_KEY"), ":")
    if files:
        return files
    folder = values.text("CVMFS_KEYS_DIR")
    if folder:
        return (folder,)
    base = os.path.join(root, FOLDER, "keys")
    domain = fqrn.partition(".")[2]
    folders = [os.path.join(base, domain), base] if domain else [base]
    return tuple(one for one in folders if _has_keys(one))


def _has_keys(folder: str) -> bool:
    try:
        return any(name.endswith(".pub") for name in os.listdir(folder))
    except OSError:
        return False
