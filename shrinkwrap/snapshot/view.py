"""How an export shows catalog entries: owners, modes, variables, what cannot be shown (DESIGN promises 6 and 9)."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct
from typing import ClassVar, Final, NamedTuple

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest, digest_of
from shrinkwrap.cvmfs.entry import FLAG_CHUNKED, FLAG_EXTERNAL, UNCOMPRESSED, Chunk, Entry, kind_of
from shrinkwrap.cvmfs.owners import HIGHEST, OwnerMap
from shrinkwrap.cvmfs.variants import expand
from shrinkwrap.cvmfs.xattr import parse_xattrs

DIR: Final = "d"
FILE: Final = "f"
LINK: Final = "l"

#: The kernel's number for owners that cannot be told.
NOBODY: Final = 65534
_SET_ID: Final = stat.S_ISUID | stat.S_ISGID
_META: Final = Struct("<IQQ")
#: Nanoseconds of any time that a catalog can hold have 93 bits and a sign.
_MTIME_BYTES: Final = 16
_META_NAMES: Final = 4096
#: How a name marks the algorithm, by its number.
_TAGS: Final = {SHA1: "", RMD160: "r", SHAKE128: "s"}

#: Flags of a file that is not one plain zlib object named by SHA-1: chunked, external, algorithm, compression.
_UNUSUAL: Final = FLAG_CHUNKED | FLAG_EXTERNAL | 0x3F00

Xattrs = tuple[tuple[bytes, bytes], ...]


class Content(NamedTuple):
    """The bytes of a file, named by a digest *and its interpretation* (DESIGN, identity).

    The same digest can stand for other bytes under another interpretation; in a store that several repositories share
    one of them could otherwise plant content in another's export. ``kind`` is one of the codes of :func:`content_of`.
    """

    digest: Digest
    kind: str
    size: int
    chunks: tuple[Chunk, ...]
    #: Path in the repository of an external file, which is its address too (FORMAT.md §1.4).
    external: bytes | None
    #: Bulk hash beside a list of chunks. No part of the identity: only the original names its stored files by it.
    bulk: Digest | None = None

    @property
    def compressed(self) -> bool:
        return self.kind.endswith("z")


class Node(NamedTuple):
    """One path as it is to come out.

    ``mode`` holds the low twelve bits; ``target`` is expanded; ``number`` counts the files of a stream, from 0 on.
    """

    path: bytes
    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: Xattrs
    target: bytes
    content: Content | None
    number: int = -1

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]


def content_of(entry: Entry) -> Content:
    """The content of a regular file's entry.

    Kinds: ``z`` zlib and ``n`` verbatim objects, with ``c`` before for a list of chunks and ``x`` for external ones.
    A list of chunks is named by the digest over the chunks' raw digests in order (FORMAT.md §2.3), never by the bulk
    hash that may stand beside it: nobody checks the chunks against that.
    """
    if not entry.flags & _UNUSUAL and entry.hash is not None:
        return Content(Digest(SHA1, entry.hash), "z", entry.size, (), None, None)
    kind = "n" if entry.compression == UNCOMPRESSED else "z"
    algorithm = entry.algorithm
    bulk = None
    if entry.chunks:
        kind = "c" + kind
        digest = digest_of(algorithm, b"".join(chunk.raw for chunk in entry.chunks))
        bulk = None if entry.hash is None else Digest(algorithm, entry.hash)
    else:
        assert entry.hash is not None  # the catalog refuses such rows
        digest = Digest(algorithm, entry.hash)
    external = None
    if entry.is_external:
        kind = "x" + kind
        external = entry.path
    return Content(digest, kind, entry.size, entry.chunks, external, bulk)


def object_name(content: Content, node: Node, *, share_mtime: bool) -> str:
    """Name of a stored file below ``.data``: ``ab/<38 hex>[r|s]<kind><size>.<metadata>``.

    The metadata that a hard link shares is part of it: mode, owner, mtime with nanoseconds, extended attributes. It
    is a cryptographic hash, because a repository must not be able to craft a file that takes another one's place.
    """
    digest = content.digest
    text = digest.raw.hex()
    shared = (node.mode, node.uid, node.gid, 0 if share_mtime else node.mtime_ns, node.xattrs)
    meta = _meta_names.get(shared)
    if meta is None:
        meta = _meta_name(shared)
    return f"{text[:2]}/{text[2:]}{_TAGS[digest.algorithm]}{content.kind}{content.size}.{meta}"


#: Names of metadata that came lately: the files of a package often have the same.
_meta_names: dict[tuple[int, int, int, int, Xattrs], str] = {}


def _meta_name(shared: tuple[int, int, int, int, Xattrs]) -> str:
    mode, uid, gid, mtime_ns, xattrs = shared
    meta = blake2b(_META.pack(mode, uid, gid), digest_size=20)
    meta.update(mtime_ns.to_bytes(_MTIME_BYTES, "little", signed=True))
    for name, value in xattrs:
        meta.update(b"%d %d " % (len(name), len(value)))
        meta.update(name)
        meta.update(value)
    if len(_meta_names) >= _META_NAMES:
        _meta_names.clear()
    found = _meta_names[shared] = meta.hexdigest()
    return found


@dataclass(slots=True)
class Report:
    """What an export leaves out or shows differently. Each list keeps the first :attr:`KEEP` cases, counts all."""

    KEEP: ClassVar[int] = 1000
    counts: dict[str, int] = field(default_factory=dict)
    cases: dict[str, list[tuple[bytes, str]]] = field(default_factory=dict)
    #: Told of every case as it comes: kind, path, detail.
    told: Callable[[str, bytes, str], None] | None = None
    #: Variables that link targets use, with their values; None for those that are not set.
    variables: dict[bytes, bytes | None] = field(default_factory=dict)

    def add(self, what: str, path: bytes, detail: str = "") -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        cases = self.cases.setdefault(what, [])
        if len(cases) < self.KEEP:
            cases.append((path, detail))
        if self.told is not None:
            self.told(what, path, detail)


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """What changes how entries are shown; part of a record's identity.

    Attributes:
        claim: everything belongs to whoever runs the export (always so without root).
        uid, gid: of that user; entries of old catalogs without owners get them too (FORMAT.md §6.3).
        keep_suid: keep set-user-id and set-group-id bits and file capabilities.
        share_mtime: files that differ in nothing but their mtime share one inode.
        uid_map, gid_map: other owners (FORMAT.md §8.4); ``claim`` wins over them. A number that no file can have
            becomes :data:`NOBODY`.
        world_readable: everybody may read everything (FORMAT.md §6.5).
    """

    claim: bool
    uid: int
    gid: int
    keep_suid: bool = False
    share_mtime: bool = False
    uid_map: OwnerMap | None = None
    gid_map: OwnerMap | None = None
    world_readable: bool = False


class View:
    """Turns entries into nodes.

    Args:
        options: see there.
        variables: values for variant symlinks, by name.
        report: told of everything that is not shown as it is.

    Attributes:
        files: so far.
    """

    def __init__(self, options: ViewOptions, variables: Mapping[bytes, bytes], report: Report) -> None:
        self._options = options
        self._variables = variables
        self._report = report
        self.files = 0

    def node(self, entry: Entry) -> Node | None:
        """The entry as it is to come out; None for one that cannot (reported)."""
        kind = entry.mode & 0o170000
        target = b""
        content = None
        number = -1
        if kind == stat.S_IFREG:
            code = FILE
            number = self.files
            self.files = number + 1
            content = content_of(entry)
        elif kind == stat.S_IFDIR:
            code = DIR
        elif kind == stat.S_IFLNK:
            code = LINK
            target = self._target(entry)
            if not target or b"\0" in target:
                self._report.add("empty_link_target", entry.path, entry.target.decode("utf-8", "backslashreplace"))
                return None
        else:
            self._report.add("special_file", entry.path, kind_of(entry.mode))
            return None
        options = self._options
        mode = entry.mode & 0o7777
        if mode & _SET_ID and not options.keep_suid and code != LINK:
            self._report.add("set_id_stripped", entry.path, f"{mode:04o}")
            mode &= ~_SET_ID
        if options.world_readable and code != LINK:
            mode |= 0o555 if code == DIR else 0o444
        uid, gid = entry.uid, entry.gid
        if options.claim or uid < 0:
            uid, gid = options.uid, options.gid
        else:
            if options.uid_map is not None:
                uid = options.uid_map.map(uid)
            if options.gid_map is not None:
                gid = options.gid_map.map(gid)
            # To chown(2) the highest number means "as it is": the file would stay with whoever runs the export.
            if uid > HIGHEST:
                uid = NOBODY
            if gid > HIGHEST:
                gid = NOBODY
        xattrs: Xattrs = ()
        if entry.xattr is not None and code != LINK:
            xattrs = tuple(pair for pair in parse_xattrs(entry.xattr) if self._shows(pair[0], entry.path))
        return Node(entry.path, code, mode, uid, gid, entry.mtime_ns, xattrs, target, content, number)

    def _target(self, entry: Entry) -> bytes:
        if b"$(" not in entry.target:
            return entry.target
        used: dict[bytes, bytes | None] = {}
        target = expand(entry.target, self._variables, used)
        for name, value in used.items():
            self._report.variables[name] = value
            if value is None:
                self._report.add("unset_variable", entry.path, name.decode("utf-8", "backslashreplace"))
        return target

    def _shows(self, name: bytes, path: bytes) -> bool:
        if name.startswith(b"user."):
            return True
        if name == b"security.capability" and self._options.keep_suid:
            return True
        # Labels of the publisher's machine (SELinux, ACLs, trusted.*) mean nothing here, and may be dangerous.
        self._report.add("xattr_left_out", path, name.decode("utf-8", "backslashreplace"))
        return False
