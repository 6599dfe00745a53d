"""URLs: checking what is configured, escaping what is asked for, and knowing whose servers they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from shrinkwrap.errors import CorruptObject, UsageError

#: Everything else is percent-encoded with upper-case hex (FORMAT.md §1.5).
_ODD: Final = re.compile(rb"[^0-9A-Za-z/:.@+\-_~\[\],]")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@\s]*@")

#: Production Stratum 1 servers, as host name patterns. They serve whole experiments: the documentation of
#: CernVM-FS asks that mass exports go through a site's proxy, or to a replica of one's own.
_STRATUM1: Final = (
    "cvmfs-stratum-one.cern.ch",
    "cvmfs-stratum-one.ihep.ac.cn",
    "cvmfs-stratum-one.zeuthen.desy.de",
    "cernvmfs.gridpp.rl.ac.uk",
    "cvmfs-egi.gridpp.rl.ac.uk",
    "cvmfs-s1*.opensciencegrid.org",
    "cvmfs*.sdcc.bnl.gov",
    "cvmfs.fnal.gov",
    "cvmfsrep.grid.sinica.edu.tw",
    "cvmfs*.grid.sinica.edu.tw",
    "cvmfs01.grid.sinica.edu.tw",
    "*.openhtc.io",
    "*.eessi.science",
    "*.cvmfs.computecanada.net",
)


def escape_path(path: bytes) -> bytes:
    """``path`` as it stands in a URL.

    Raises:
        CorruptObject: a path that no sound catalog names (a ``..`` component, a NUL).
    """
    if b".." in path and b".." in path.split(b"/"):
        raise CorruptObject(f"refusing to ask for {path[:200]!r}: it has a '..' component")
    if b"\0" in path:
        raise CorruptObject(f"refusing to ask for {path[:200]!r}: it has a NUL byte")
    if _ODD.search(path) is None:
        return path
    return _ODD.sub(lambda match: b"%%%02X" % match.group()[0], path)


def shown(url: str) -> str:
    """``url`` for messages, without a user name or password."""
    return _CREDENTIALS.sub("", url)


def check_server(url: str) -> str:
    """A server URL without its trailing slashes; ``http``, ``https`` or ``file``.

    Raises:
        UsageError: anything else.
    """
    hint = "write it like http://server.example.org/cvmfs/repository.example.org"
    if not url.isascii() or re.search(r"[\s\x00-\x1f\x7f?#]", url):
        raise UsageError(
            f"server URL {shown(url)!r} has characters that cannot stand in the URL of a repository",
            hint=hint,
        )
    scheme, host, port_fits = _split(url)
    if scheme == "file":
        if host not in ("", "localhost") or not url.lower().startswith("file://"):
            raise UsageError(f"server URL {shown(url)!r} is not a local folder", hint="write file:///folder")
    elif scheme not in ("http", "https") or not host or not port_fits:
        raise UsageError(f"server URL {shown(url)!r} is not a usable http://, https:// or file:// URL", hint=hint)
    return url.rstrip("/")


def check_proxy(url: str) -> str:
    """A proxy URL with its scheme; only ``http`` and ``https`` proxies are known.

    Raises:
        UsageError: anything else.
    """
    full = url if "://" in url else f"http://{url}"
    scheme, host, port_fits = _split(full)
    odd = not full.isascii() or re.search(r"[\s\x00-\x1f\x7f?#]", full)
    if odd or scheme not in ("http", "https") or not host or not port_fits:
        raise UsageError(f"proxy {shown(url)!r} is not a usable URL", hint="write it like http://proxy:3128")
    return full.rstrip("/")


def _split(url: str) -> tuple[str, str, bool]:
    """Scheme, host name and whether the port is one."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return "", "", False
    try:
        return parts.scheme.lower(), host, parts.port != 0
    except ValueError:
        return parts.scheme.lower(), host, False


def folder_of(url: str) -> bytes:
    """The folder that a ``file://`` URL names."""
    return unquote_to_bytes(urlsplit(url).path) or b"/"


def expand(url: str, fqrn: str) -> str:
    """``@fqrn@`` and ``@org@`` (the first label of the name) replaced (FORMAT.md §8.2)."""
    return url.replace("@fqrn@", fqrn).replace("@org@", fqrn.partition(".")[0])


def production_stratum1(url: str) -> bool:
    """Is this one of the servers that everybody's jobs depend on?"""
    host = _split(url)[1].rstrip(".")
    return any(fnmatchcase(host, pattern) for pattern in _STRATUM1)


def stratum1_warning(urls: Iterable[str]) -> str:
    """What to tell somebody who exports from production servers without a proxy; empty if none is one."""
    hosts = sorted({_split(url)[1] for url in urls if production_stratum1(url)})
    if not hosts:
        return ""
    return (
        f"{', '.join(hosts)}: production Stratum 1, asked directly. Mass exports should go through a "
        "site's proxy (CVMFS_HTTP_PROXY) or to a replica of your own; please keep -j small otherwise"
    )
