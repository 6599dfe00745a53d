"""Which parameters of a client's configuration an exporter uses, and why it has no use for the others (FORMAT.md §8.3).

``docs/configuration.md`` shows the same tables.
"""

from __future__ import annotations

from typing import Final

#: Parameters that are used, and what for.
USED: Final[dict[str, str]] = {
    "CVMFS_SERVER_URL": "URLs of the repository, separated by `;`, tried in order",
    "CVMFS_HTTP_PROXY": "groups of proxies separated by `;`, members by a vertical bar; `DIRECT` for none",
    "CVMFS_FALLBACK_PROXY": "groups added at the end; `DIRECT` then no longer counts in the normal list",
    "CVMFS_MAX_SERVERS": "how many of the servers are used at most, from the front; 0 for all",
    "CVMFS_TIMEOUT": "seconds, by proxy (5)",
    "CVMFS_TIMEOUT_DIRECT": "seconds, without a proxy (5; `default.conf` says 10)",
    "CVMFS_LOW_SPEED_LIMIT": "bytes per second below which a transfer is broken off (1024)",
    "CVMFS_MAX_RETRIES": "repetitions after a failed transfer (1)",
    "CVMFS_BACKOFF_INIT": "seconds to wait before the first repetition, at most (2)",
    "CVMFS_BACKOFF_MAX": "seconds to wait before any repetition, at most (10)",
    "CVMFS_FOLLOW_REDIRECTS": "follow up to four redirects (no)",
    "CVMFS_PROXY_RESET_AFTER": "seconds until a proxy that failed gets another chance; 0 for never",
    "CVMFS_HOST_RESET_AFTER": "seconds until a server that failed gets another chance; 0 for never",
    "CVMFS_EXTERNAL_URL": "servers of external files, separated by `;`",
    "CVMFS_EXTERNAL_HTTP_PROXY": "proxies to those (`DIRECT`; never those of `CVMFS_HTTP_PROXY`)",
    "CVMFS_EXTERNAL_FALLBACK_PROXY": "as `CVMFS_FALLBACK_PROXY`, for external servers",
    "CVMFS_EXTERNAL_MAX_SERVERS": "as `CVMFS_MAX_SERVERS`, for external servers",
    "CVMFS_PUBLIC_KEY": "files with master keys, separated by `:`; wins over `CVMFS_KEYS_DIR`",
    "CVMFS_KEYS_DIR": "a folder of `*.pub`",
    "CVMFS_BLACKLIST": "banned certificates and revisions (`/etc/cvmfs/blacklist`)",
    "CVMFS_ROOT_HASH": "the snapshot with this root catalog; wins over tag and date",
    "CVMFS_REPOSITORY_TAG": "the snapshot of this name; wins over the date",
    "CVMFS_REPOSITORY_DATE": "the newest tagged snapshot not younger, `YYYY-MM-DDThh:mm:ssZ`",
    "CVMFS_ALT_ROOT_PATH": "root catalog and certificate under `.cvmfsalt-…`",
    "CVMFS_UID_MAP": "a file that maps owners",
    "CVMFS_GID_MAP": "a file that maps groups",
    "CVMFS_CLAIM_OWNERSHIP": "everything belongs to whoever runs the export; wins over the maps",
    "CVMFS_WORLD_READABLE": "everybody may read everything",
    "CVMFS_CACHE_BASE": "where catalogs are kept between runs",
    "CVMFS_CACHE_DIR": "the same; wins over `CVMFS_CACHE_BASE`",
    "CVMFS_CONFIG_REPOSITORY": "a repository with more configuration, used where it is mounted (`/etc/cvmfs` only)",
    "CVMFS_MOUNT_DIR": "where that repository is looked for (`/cvmfs`)",
}

_MOUNT: Final = "concerns a mounted file system"
_CACHE: Final = "concerns the cache of a mount"
_DNS: Final = "names are resolved by the system"
_LOG: Final = "messages go to the terminal"
_GEO: Final = "servers are tried in the order given"
_AUTHZ: Final = "no credentials are presented; repositories that demand them are refused"
_UPDATE: Final = "each run asks for the head once"
_DESCRIPTORS: Final = "catalogs are closed after use"
_EXTERNAL: Final = "external files have the time-outs of all others"
_TELEMETRY: Final = "nothing is sent but requests for objects"

#: Parameters without a use here, and why. A name that ends in ``*`` stands for all that begin like it.
IGNORED: Final[dict[str, str]] = {
    "CVMFS_EXTERNAL_TIMEOUT": _EXTERNAL,
    "CVMFS_EXTERNAL_TIMEOUT_DIRECT": _EXTERNAL,
    "CVMFS_64BIT_INODES": _MOUNT,
    "CVMFS_ALIEN_CACHE": _CACHE,
    "CVMFS_AUTHZ_*": _AUTHZ,
    "CVMFS_AUTO_UPDATE": _UPDATE,
    "CVMFS_BASE_ENV": "guards default.conf against being read twice",
    "CVMFS_CACHE_*": _CACHE,
    "CVMFS_CATALOG_WATERMARK": _DESCRIPTORS,
    "CVMFS_CHECK_PERMISSIONS": _MOUNT,
    "CVMFS_CLIENT_PROFILE": "used by the configuration files themselves",
    "CVMFS_CONFIG_REPO_DEFAULT_ENV": "used by the configuration files themselves",
    "CVMFS_CONFIG_REPO_REQUIRED": _MOUNT,
    "CVMFS_CPU_AFFINITY": _MOUNT,
    "CVMFS_DEBUGLOG": _LOG,
    "CVMFS_DEFAULT_DOMAIN": "repositories are named in full",
    "CVMFS_DNS_*": _DNS,
    "CVMFS_ENFORCE_ACLS": _MOUNT,
    "CVMFS_FQRN": "set by the client itself; a variable for link targets",
    "CVMFS_FUSE_*": _MOUNT,
    "CVMFS_HIDE_MAGIC_XATTRS": _MOUNT,
    "CVMFS_HTTP_TRACING*": _TELEMETRY,
    "CVMFS_IGNORE_SIGNATURE": "has no effect in the client either: signatures are always checked",
    "CVMFS_INFLUX_*": _TELEMETRY,
    "CVMFS_INITIAL_GENERATION": _MOUNT,
    "CVMFS_INSTRUMENT_FUSE": _MOUNT,
    "CVMFS_IPFAMILY_PREFER": _DNS,
    "CVMFS_KCACHE_TIMEOUT": _MOUNT,
    "CVMFS_LIBRARY_PATH": _MOUNT,
    "CVMFS_MAX_EXTERNAL_SERVERS": "the client reads CVMFS_EXTERNAL_MAX_SERVERS",
    "CVMFS_MAX_IPADDR_PER_PROXY": _DNS,
    "CVMFS_MAX_TTL": _UPDATE,
    "CVMFS_MEMCACHE_SIZE": _MOUNT,
    "CVMFS_MOUNT_RW": _MOUNT,
    "CVMFS_NFILES": _DESCRIPTORS,
    "CVMFS_NFS_*": _MOUNT,
    "CVMFS_OOM_SCORE_ADJ": _MOUNT,
    "CVMFS_PAC_URLS": "discovery of proxies by PAC file is not supported",
    "CVMFS_PROXY_SHARD": "requests go to one proxy of a group",
    "CVMFS_PROXY_TEMPLATE": _GEO,
    "CVMFS_QUOTA_LIMIT": _CACHE,
    "CVMFS_RELOAD_SOCKETS": _MOUNT,
    "CVMFS_REPOSITORIES": "the repository is named on the command line",
    "CVMFS_REPOSITORY_NAME": "the repository is named on the command line",
    "CVMFS_SEND_INFO_HEADER": _TELEMETRY,
    "CVMFS_SERVER_CACHE_MODE": _MOUNT,
    "CVMFS_SHARED_CACHE": _CACHE,
    "CVMFS_STATFS_CACHE_TIMEOUT": _MOUNT,
    "CVMFS_STRICT_MOUNT": _MOUNT,
    "CVMFS_SUID": "--keep-suid says whether set-id bits are kept",
    "CVMFS_SYSLOG_*": _LOG,
    "CVMFS_SYSTEMD_NOKILL": _MOUNT,
    "CVMFS_TELEMETRY_*": _TELEMETRY,
    "CVMFS_TRACEBUFFER*": "access is traced by mounts only",
    "CVMFS_TRACEFILE": "access is traced by mounts only (the reference exporter refuses to run with it)",
    "CVMFS_TRUSTED_CERTS": "not read by the client either",
    "CVMFS_USER": _MOUNT,
    "CVMFS_USE_CDN": "used by the configuration files themselves",
    "CVMFS_USE_GEOAPI": _GEO,
    "CVMFS_USE_OPENHTC": "used by the configuration files themselves",
    "CVMFS_USE_SSL_SYSTEM_CA": "https always uses the system's certificates",
    "CVMFS_USYSLOG": _LOG,
    "CVMFS_WORKSPACE": _CACHE,
    "CVMFS_XATTR_*": _MOUNT,
    "X509_*": "https always uses the system's certificates; no credentials are presented",
    "_CVMFS_DEVEL_IGNORE_SIGNATURE_FAILURES": "contents are always checked",
}

_FAMILIES: Final = tuple(sorted((name[:-1], why) for name, why in IGNORED.items() if name.endswith("*")))


def why_ignored(name: str) -> str | None:
    """Why a known parameter is not used; None if it is used, or not known."""
    if name in USED:
        return None
    if name in IGNORED:
        return IGNORED[name]
    return next((why for beginning, why in _FAMILIES if name.startswith(beginning)), None)


def unknown(name: str) -> bool:
    """Whether a name looks like a parameter of CernVM-FS but is none; others are variables for link targets."""
    return name.startswith("CVMFS_") and name not in USED and why_ignored(name) is None
