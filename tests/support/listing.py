"""Listings of directory trees, and what differs between what should be there and what is.

A listing is a list of :class:`Record`; golden listings (``support.golden``) have the same form.
"""

from __future__ import annotations

import bisect
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "chardev",
    stat.S_IFBLK: "blockdev",
}
#: An export leaves these out, and reports that it does.
SPECIAL = frozenset({"fifo", "socket", "chardev", "blockdev"})

#: ``_IOW(0x94, 9, int)`` of linux/fs.h.
_FICLONE = 0x40049409
#: Bytes that the kernel allows for the target of a symlink; XFS holds 1,023 only.
LONGEST_TARGET = 4095
#: Times between these occur in the test repositories; some file systems move what they cannot hold to the
#: nearest.
_WIDEST = (-(2**31), 8_000_000_000)


@dataclass(slots=True)
class Record:
    """One path.

    Attributes:
        path: from the root of the listing, which is ``/`` itself.
        mode: permission bits in octal, four digits.
        mtime, mtime_ns: seconds, and the part below a second in nanoseconds.
        size: bytes; of a symlink the length of its target; means nothing for directories.
        target: of a symlink, else None.
        sha256: of a file's content, else None.
        xattrs: those of the user namespace, by name (with ``user.``).
        inode: device and inode number in a real tree, else None.
        group: in a golden listing the first path of the hard link group that the path is in, else None.
    """

    path: bytes
    type: str
    mode: str
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    size: int
    nlink: int
    target: bytes | None = None
    sha256: str | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    inode: tuple[int, int] | None = None
    group: bytes | None = None


# ------------------------------------------------------------------------------------------------ listing


@contextmanager
def _readable(path: bytes, info: os.stat_result) -> Iterator[None]:
    """Owner's right to read something, lent for a moment: in trees made without root we may own mode 0000."""
    if os.getuid() != info.st_uid or os.access(path, os.R_OK | os.X_OK if stat.S_ISDIR(info.st_mode) else os.R_OK):
        yield
        return
    mode = stat.S_IMODE(info.st_mode)
    os.chmod(path, mode | 0o700)
    try:
        yield
    finally:
        os.chmod(path, mode)


def _sha256(path: bytes) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _user_xattrs(path: bytes) -> dict[bytes, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return {}
        raise
    return {
        os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names if name.startswith("user.")
    }


def list_tree(root: str | bytes | os.PathLike[str], *, content: bool = True) -> list[Record]:
    """Every path of a real tree, ``root`` first, sorted by the bytes of the path. Links are never followed.

    ``content=False`` leaves the SHA-256 sums out. A file is read once, however many names it has.
    """
    top = os.fsencode(root).rstrip(b"/") or b"/"
    sums: dict[tuple[int, int], str] = {}
    records: list[Record] = []

    def visit(path: bytes, name: bytes) -> None:
        info = os.lstat(path)
        kind = _TYPES[stat.S_IFMT(info.st_mode)]
        seconds, below = divmod(info.st_mtime_ns, 10**9)
        record = Record(
            name,
            kind,
            f"{stat.S_IMODE(info.st_mode):04o}",
            info.st_uid,
            info.st_gid,
            seconds,
            below,
            info.st_size,
            info.st_nlink,
            inode=(info.st_dev, info.st_ino),
        )
        records.append(record)
        if kind == "symlink":
            record.target = os.readlink(path)
        elif kind == "file":
            key = (info.st_dev, info.st_ino)
            with _readable(path, info):
                record.xattrs = _user_xattrs(path)
                if content:
                    if key not in sums:
                        sums[key] = _sha256(path)
                    record.sha256 = sums[key]
        elif kind == "dir":
            with _readable(path, info):
                record.xattrs = _user_xattrs(path)
                for child in os.listdir(path):
                    visit(path + b"/" + child, name.rstrip(b"/") + b"/" + child)

    visit(top, b"/")
    records.sort(key=lambda record: record.path)
    return records


# ---------------------------------------------------------------------------------------------- comparing


@dataclass(slots=True, frozen=True)
class Projection:
    """What a repository's listing becomes in the place where it is exported to.

    Attributes:
        uid, gid: of whoever owns everything; None: as in the repository.
        clear: mode bits that nothing has (promise 9: 0o6000 without root).
        mtimes: ``exact``; ``shared``: a file may have the mtime of any path it shares its inode with (a fresh
            export with ``--share-mtime``); ``not of files``: those of files are not looked at (the same,
            after updates).
        whole_seconds: the file system keeps no part of a second.
        times: first and last second that the file system can hold; others become the nearest.
        xattrs: the file system holds user xattrs.
        longest_target: bytes of a symlink's target that the file system can hold; those with longer ones are left out.
        groups: hard link groups of the repository stay together (not so where files are copies).
    """

    uid: int | None = None
    gid: int | None = None
    clear: int = 0
    mtimes: Literal["exact", "shared", "not of files"] = "exact"
    whole_seconds: bool = False
    times: tuple[int, int] | None = None
    xattrs: bool = True
    longest_target: int = LONGEST_TARGET
    groups: bool = True

    def without_setid(self) -> Projection:
        return replace(self, clear=self.clear | 0o6000)

    def sharing_mtimes(self) -> Projection:
        return replace(self, mtimes="shared")

    def without_file_mtimes(self) -> Projection:
        return replace(self, mtimes="not of files")

    def with_whole_seconds(self) -> Projection:
        return replace(self, whole_seconds=True)

    def with_times(self, first: int, last: int) -> Projection:
        return replace(self, times=(first, last))

    def without_xattrs(self) -> Projection:
        return replace(self, xattrs=False)

    def without_groups(self) -> Projection:
        return replace(self, groups=False)

    def on(self, folder: str | os.PathLike[str]) -> Projection:
        """The same on the file system of ``folder``, which is asked what it can hold."""
        seen = probe(folder)
        changed = self
        if not seen.xattrs:
            changed = changed.without_xattrs()
        if not seen.nanoseconds:
            changed = changed.with_whole_seconds()
        if seen.times is not None:
            changed = changed.with_times(*seen.times)
        return replace(changed, longest_target=seen.longest_target)

    def mtime(self, record: Record) -> tuple[int, int]:
        """What the mtime of a record becomes: seconds, nanoseconds."""
        seconds, below = record.mtime, 0 if self.whole_seconds else record.mtime_ns
        if self.times is not None and not self.times[0] < seconds < self.times[1]:
            return min(max(seconds, self.times[0]), self.times[1]), 0
        return seconds, below

    def keeps(self, record: Record) -> bool:
        """Special files are not exported, nor links whose target expands to nothing or is too long to be held."""
        if record.target is not None:
            return 0 < len(record.target) <= self.longest_target
        return record.type not in SPECIAL


#: Nothing is forgiven: an export by root that keeps set-id bits, to a file system that can hold everything.
AS_ROOT = Projection()


def as_user(uid: int, gid: int) -> Projection:
    """An export without root (promise 9): the caller owns everything and no set-id bit is set."""
    return Projection(uid=uid, gid=gid).without_setid()


#: The ordinary user that ``run_cli(user=ORDINARY)`` runs as.
ORDINARY = (12345, 12345)
AS_USER = as_user(*ORDINARY)


@dataclass(slots=True, frozen=True)
class Abilities:
    """What a file system can hold; ``times`` None: every mtime that occurs in the test repositories."""

    xattrs: bool
    nanoseconds: bool
    times: tuple[int, int] | None
    longest_target: int
    reflink: bool


def probe(folder: str | os.PathLike[str]) -> Abilities:
    """Try out, in a scratch folder that is removed again, what the file system of ``folder`` can hold."""
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=folder) as scratch:
        name, other = os.path.join(scratch, "a"), os.path.join(scratch, "b")
        with open(name, "wb") as file:
            file.write(b"x" * 4096)
        try:
            os.setxattr(name, "user.probe", b"1")
            xattrs = True
        except OSError:
            xattrs = False
        os.utime(name, ns=(0, 1_000_000_123))
        nanoseconds = os.stat(name).st_mtime_ns == 1_000_000_123
        edges = []
        for second in _WIDEST:
            os.utime(name, (0, second))
            edges.append(os.stat(name).st_mtime_ns // 10**9)
        with open(name, "rb") as source, open(other, "wb") as target:
            try:
                fcntl.ioctl(target, _FICLONE, source.fileno())
                reflink = True
            except OSError:
                reflink = False
        link = os.path.join(scratch, "link")
        longest_target = bisect.bisect_left(range(LONGEST_TARGET), True, key=lambda size: not _links(link, size + 1))
    times = (edges[0], edges[1])
    return Abilities(xattrs, nanoseconds, None if times == _WIDEST else times, longest_target, reflink)


def _links(path: str, size: int) -> bool:
    """Whether a symlink can have a target of that many bytes."""
    try:
        os.symlink("x" * size, path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return False
    os.unlink(path)
    return True


def compare(expected: Iterable[Record], actual: Iterable[Record], projection: Projection = AS_ROOT) -> list[str]:
    """All differences, one text each; an empty list means that the tree is what it should be.

    ``expected`` are records of the mounted repository, ``actual`` those of :func:`list_tree`. Compared are
    paths, type, mode, owner, mtime with nanoseconds, size (files and symlinks), target, content, user xattrs,
    and that each hard link group is one inode. That files share an inode beyond that is the exporter's right,
    as long as all of the above holds for each of the paths. Link counts and sizes of directories are not
    compared.
    """
    wanted = {record.path: record for record in expected if projection.keeps(record)}
    found = {record.path: record for record in actual}
    differences = [f"{path!r}: missing" for path in wanted if path not in found]
    differences += [f"{path!r}: should not be there ({found[path].type})" for path in found if path not in wanted]

    sharing: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    if projection.mtimes == "shared":
        for path, record in found.items():
            if record.inode is not None and path in wanted:
                sharing[record.inode].add(projection.mtime(wanted[path]))

    inodes: dict[bytes, dict[tuple[int, int] | None, bytes]] = defaultdict(dict)
    for path, want in wanted.items():
        have = found.get(path)
        if have is None:
            continue
        differences += [f"{path!r}: {text}" for text in _differ(want, have, projection, sharing)]
        if want.group is not None:
            inodes[want.group].setdefault(have.inode, path)
    if projection.groups:
        for group, members in inodes.items():
            if len(members) > 1:
                differences.append(
                    f"{group!r}: its hard link group has {len(members)} inodes, at {list(members.values())!r}"
                )
    return differences


def _differ(
    want: Record,
    have: Record,
    projection: Projection,
    sharing: dict[tuple[int, int], set[tuple[int, int]]],
) -> Iterator[str]:
    if want.type != have.type:
        yield f"type should be {want.type}, is {have.type}"
        return
    mode = f"{int(want.mode, 8) & ~projection.clear:04o}"
    # The mode of a link means nothing on Linux: it is always 0777 in a real tree.
    if mode != have.mode and want.type != "symlink":
        yield f"mode should be {mode}, is {have.mode}"
    uid = want.uid if projection.uid is None else projection.uid
    gid = want.gid if projection.gid is None else projection.gid
    if (uid, gid) != (have.uid, have.gid):
        yield f"owner should be {uid}:{gid}, is {have.uid}:{have.gid}"
    yield from _mtimes_differ(want, have, projection, sharing)
    if want.type != "dir" and want.size != have.size:
        yield f"size should be {want.size}, is {have.size}"
    if want.target != have.target:
        yield f"target should be {want.target!r}, is {have.target!r}"
    if want.sha256 != have.sha256:
        yield f"sha256 should be {want.sha256}, is {have.sha256}"
    if projection.xattrs and want.xattrs != have.xattrs:
        yield f"xattrs should be {want.xattrs!r}, are {have.xattrs!r}"


def _mtimes_differ(
    want: Record,
    have: Record,
    projection: Projection,
    sharing: dict[tuple[int, int], set[tuple[int, int]]],
) -> Iterator[str]:
    should, found = projection.mtime(want), (have.mtime, have.mtime_ns)
    if should == found:
        return
    if want.type == "file":
        if projection.mtimes == "not of files":
            return
        if projection.mtimes == "shared" and have.inode is not None and found in sharing[have.inode]:
            return
    yield f"mtime should be {should[0]}.{should[1]:09d}, is {found[0]}.{found[1]:09d}"
