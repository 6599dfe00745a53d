"""``shrinkwrap ls``: what a repository holds, without exporting it."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkwrap.cli import options as opt
from shrinkwrap.cli.reading import Cache, Reading, repository_path
from shrinkwrap.cvmfs import limits
from shrinkwrap.errors import CatalogError, MissingObject

if TYPE_CHECKING:
    from shrinkwrap.cvmfs.catalog import Catalog, NestedRef
    from shrinkwrap.cvmfs.entry import Entry
    from shrinkwrap.snapshot.session import Session

_EXAMPLES = """\b
Examples:
  shrinkwrap ls -r sft.cern.ch --server URL /lcg/releases/gcc
  shrinkwrap ls -r sft.cern.ch --server URL --tag LCG_105 -l -R /lcg/views
"""
_NS = 10**9


def register(app: typer.Typer) -> None:
    app.command("ls", epilog=_EXAMPLES)(ls)


def ls(
    repo: opt.Repo,
    path: Annotated[str, typer.Argument(metavar="[PATH]", help="Path in the repository.")] = "/",
    servers: opt.Servers = None,
    storage: opt.Storage = None,
    proxy: opt.Proxy = "DIRECT",
    keys: opt.Keys = None,
    blacklists: opt.Blacklists = None,
    tag: opt.Tag = "",
    revision: opt.RevisionNumber = None,
    at: opt.At = "",
    root_hash: opt.RootHash = "",
    unsigned: opt.Unsigned = False,
    env: opt.Env = None,
    cache: Cache = None,
    long: Annotated[bool, typer.Option("-l", "--long", help="Mode, owner, size and time too.")] = False,
    recursive: Annotated[bool, typer.Option("-R", "--recursive", help="All below the path.")] = False,
    everything: Annotated[bool, typer.Option("-a", "--all", help="Hidden entries too.")] = False,
    as_json: opt.Json = False,
) -> None:
    """List a path of a repository, from its signed catalogs alone."""
    wanted = repository_path(path)
    pin = opt.make_pin(tag, revision, at, root_hash, unsigned)
    reading = Reading(repo, servers, storage, proxy, None, keys, blacklists, pin, cache)
    values = opt.variables(env)
    with reading.snapshot() as (session, snapshot):
        for entry in _listed(session, snapshot.root, wanted, recursive, everything):
            if as_json:
                print(json.dumps(record(entry, values)))
            else:
                name = entry.path if recursive or entry.path == wanted else entry.name
                print(_long(entry, name, values) if long else _shown(name))


def _listed(session: Session, root: NestedRef, path: bytes, recursive: bool, everything: bool) -> Iterator[Entry]:
    from shrinkwrap.cvmfs.entry import show

    found = session.find(root, path)
    if found is None:
        raise MissingObject(f"{show(path)}: not in the repository", hint="'shrinkwrap ls' of its parent shows what is")
    catalog, entry = found
    # The directories that the listing is in: the catalog of each, and what is left of its children.
    stack: list[tuple[Catalog, Iterator[Entry]]] = [(catalog, iter([entry]))]
    try:
        if entry.is_dir:
            if recursive:
                yield entry
            stack[0] = (catalog, catalog.children(path))
        while stack:
            catalog, entries = stack[-1]
            child = next(entries, None)
            if child is None:
                session.catalogs.release(stack.pop()[0])
            elif not child.is_hidden or everything or child.path == path:
                yield child
                if recursive and child.is_dir:
                    if len(stack) > limits.PATH_DEPTH:
                        raise CatalogError(f"{show(child.path)[:200]}: too many directories inside each other")
                    below = session.catalogs.open(catalog.nested.get(child.path, catalog.ref))
                    stack.append((below, below.children(child.path)))
    finally:
        for catalog, _ in stack:
            session.catalogs.release(catalog)


def record(entry: Entry, variables: dict[bytes, bytes]) -> dict[str, Any]:
    """An entry as one object of a listing: type, mode in octal, owner, time, size, link count, target, hash, xattrs."""
    from shrinkwrap.cvmfs.digest import Digest
    from shrinkwrap.cvmfs.entry import UNCOMPRESSED, kind_of
    from shrinkwrap.cvmfs.variants import expand
    from shrinkwrap.cvmfs.xattr import parse_xattrs

    kind = kind_of(entry.mode)
    seconds, nanoseconds = divmod(entry.mtime_ns, _NS)
    target = expand(entry.target, variables) if kind == "symlink" else b""
    out: dict[str, Any] = _text("path", entry.path or b"/")
    out["type"] = kind
    out["mode"] = f"{stat.S_IMODE(entry.mode):04o}"
    out["uid"] = max(entry.uid, 0)
    out["gid"] = max(entry.gid, 0)
    out["mtime"] = seconds
    out["mtime_ns"] = nanoseconds
    out["size"] = len(target) if kind == "symlink" else entry.size if kind in ("file", "dir") else 0
    out["nlink"] = entry.link_count
    if kind in ("chardev", "blockdev"):
        # The column holds the device number (FORMAT.md §6.5).
        out["rdev"] = [os.major(entry.size), os.minor(entry.size)]
    if kind == "symlink":
        out.update(_text("target", target))
        if target != entry.target:
            out.update(_text("rawlink", entry.target))
    if kind == "file":
        if entry.hash is not None:
            out["hash"] = str(Digest(entry.algorithm, entry.hash))
        if len(entry.chunks) > 1:
            out["chunks"] = len(entry.chunks)
        out["compression"] = "none" if entry.compression == UNCOMPRESSED else "zlib"
        if entry.is_external:
            out["external"] = 1
    attributes = parse_xattrs(entry.xattr)
    if attributes:
        out["xattrs"] = dict(_attribute(name, value) for name, value in attributes)
    return out


def _text(key: str, raw: bytes) -> dict[str, str]:
    """Bytes as text where they are UTF-8, else escaped, with the true bytes beside."""
    try:
        return {key: raw.decode()}
    except UnicodeDecodeError:
        return {key: raw.decode("utf-8", "backslashreplace"), f"{key}_b64": base64.b64encode(raw).decode()}


def _attribute(name: bytes, value: bytes) -> tuple[str, str]:
    key = name.decode("utf-8", "backslashreplace")
    try:
        return key, value.decode()
    except UnicodeDecodeError:
        return f"{key}#b64", base64.b64encode(value).decode()


def _shown(path: bytes) -> str:
    from shrinkwrap.cvmfs.entry import show

    return show(path)


def _long(entry: Entry, name: bytes, variables: dict[bytes, bytes]) -> str:
    from shrinkwrap.cvmfs.variants import expand

    try:
        when = datetime.fromtimestamp(entry.mtime_ns // _NS, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        when = str(entry.mtime_ns // _NS)
    target = f" -> {_shown(expand(entry.target, variables))}" if entry.is_link else ""
    owner = f"{max(entry.uid, 0):>5} {max(entry.gid, 0):>5}"
    return f"{stat.filemode(entry.mode)} {owner} {entry.size:>12} {when} {_shown(name)}{target}"
