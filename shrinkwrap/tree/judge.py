"""A tree as it lies there, held against what it is to show (docs/verify.md)."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.record.record import Goal
from shrinkwrap.snapshot.merge import merge
from shrinkwrap.snapshot.view import DIR, FILE, LINK, Node, Xattrs
from shrinkwrap.tree import marker
from shrinkwrap.tree.aim import tally
from shrinkwrap.tree.before import namer
from shrinkwrap.tree.beneath import Folders
from shrinkwrap.tree.expected import Expected
from shrinkwrap.tree.findings import Verified
from shrinkwrap.tree.looking import Looking, Seen
from shrinkwrap.tree.place import HARDLINK
from shrinkwrap.tree.probe import Abilities
from shrinkwrap.tree.request import Hooks
from shrinkwrap.tree.scrub import BROKEN, DIFFERS, SHUT, Item, Scrub
from shrinkwrap.tree.sink import MAX_OVERFLOW
from shrinkwrap.tree.spill import Spill
from shrinkwrap.tree.tolerance import Attributes, Owners, Times

_WORDS: Final = {FILE: "file", DIR: "directory", LINK: "symbolic link", marker.MARKER: "file"}
#: Link targets of this length all file systems hold (XFS: 1,023 bytes).
_SHORT_TARGET: Final = 1023
_CAPABILITY: Final = b"security.capability"


class Circumstances(NamedTuple):
    """What is known of the place and of how the export got there.

    Attributes:
        at_home: the export is where it was made: its store is beside it.
        abilities: of the file system that it was made on; None if no log tells.
        lost: kinds of things that the log says the file system did not hold (``xattr_lost``, ``link_fallback``, ...).
        store: descriptor of the store; -1 if it is not there, or not for us to look at.
        owners: whether they are compared.
    """

    at_home: bool
    abilities: Abilities | None
    lost: frozenset[str]
    store: int
    owners: bool


class _Read(NamedTuple):
    """A file whose content is read, and the name of the stored file that its inode is, if it is one."""

    path: bytes
    stored: str


class _Below:
    """A directory that is not as expected: what belongs below it is counted, not listed."""

    __slots__ = ("expected", "found", "number", "path", "what")

    def __init__(self, what: str, path: bytes, expected: str, found: str) -> None:
        self.what = what
        self.path = path
        self.expected = expected
        self.found = found
        self.number = 0


class Judge:
    """Compares one tree.

    Args:
        goal: of its record.
        tree: name of the tree; ``folder``: descriptor of the destination, which it is in.
        known: see :class:`Circumstances`.
        verified: takes what is found.
        hooks: told how it gets on.
        broken: takes names of stored files whose content is broken, a record each.

    Attributes:
        scrub: takes files whose content is to be read; None: none are.
    """

    def __init__(
        self,
        goal: Goal,
        folder: int,
        tree: bytes,
        known: Circumstances,
        verified: Verified,
        hooks: Hooks,
        broken: Spill,
    ) -> None:
        self._goal = goal
        self._tree = tree
        self._known = known
        self._verified = verified
        self._hooks = hooks
        self._names = namer(goal)
        self._broken_names = broken
        self._looking = Looking(folder, tree, self._shut_out, self._broken)
        self._shut: bytes | None = None
        self._below: _Below | None = None
        self._times = Times(verified, known.abilities, at_home=known.at_home)
        self._owners = Owners(verified, groups=goal.view.uid == 0, at_home=known.at_home)
        self._attributes = Attributes(verified, known.abilities, lost="xattr_lost" in known.lost, at_home=known.at_home)
        self._linked = goal.link_mode == HARDLINK and known.store >= 0
        self._shards = Folders(known.store, 256)
        self._long_links = 0
        self.scrub: Scrub | None = None

    def close(self) -> None:
        """Idempotent."""
        self._looking.close()
        self._shards.clear()

    def compare(self, expected: Expected) -> None:
        """All of the tree. Raises what :class:`Expected` and :class:`Scrub` do, OSError."""
        for seen, node in merge(self._looking, expected):
            if node is None:
                assert seen is not None
                self._surplus(seen, expected)
            elif not self._skipped(node):
                self._leave()
                if seen is None:
                    self._missing(node)
                else:
                    self._both(seen, node, expected)
        self._leave()
        if self.scrub is not None:
            self.scrub.finish()
        self._times.settle()
        if self._known.owners:
            self._owners.settle()
        self._attributes.settle()
        if self._long_links:
            self._verified.note(
                f"{self._long_links} links with long targets are missing: the file system did not hold them"
            )

    # -- paths on one side -------------------------------------------------------------------------------------------

    def _surplus(self, seen: Seen, expected: Expected) -> None:
        if seen.kind == DIR:
            self._looking.prune()
        if expected.unknown is not None and _within(seen.path, expected.unknown):
            self._verified.skip("unknown")
            return
        self._leave()
        self._verified.add("surplus", seen.path, found=_word(seen))

    def _missing(self, node: Node) -> None:
        if node.kind == LINK and len(node.target) > _SHORT_TARGET and "link_too_long" in self._known.lost:
            self._long_links += 1
            return
        if node.kind == DIR:
            self._below = _Below("missing", node.path, _WORDS[DIR], "")
        else:
            self._verified.add("missing", node.path, _WORDS[node.kind])

    def _skipped(self, node: Node) -> bool:
        """Whether a path lies below something that was told of already."""
        if self._shut is not None and _within(node.path, self._shut):
            self._verified.skip("shut")
            return True
        if self._below is not None and _within(node.path, self._below.path):
            self._below.number += 1
            return True
        return False

    def _leave(self) -> None:
        """The directory that was not as expected, and all that belongs below it, has been passed."""
        below, self._below = self._below, None
        if below is not None:
            more = f" with {below.number} paths in it" if below.number else ""
            self._verified.add(below.what, below.path, below.expected + more, below.found)

    def _shut_out(self, path: bytes) -> None:
        self._shut = path

    def _broken(self, path: bytes, why: str) -> None:
        self._verified.add("unreadable", path, found=why)
        self._shut = path

    # -- paths on both sides -----------------------------------------------------------------------------------------

    def _both(self, seen: Seen, node: Node, expected: Expected) -> None:
        path, info = node.path, seen.info
        if seen.kind != node.kind and not (seen.kind == FILE and node.kind == marker.MARKER):
            if seen.kind == DIR:
                self._looking.prune()
            if node.kind == DIR:
                self._below = _Below("kind", path, _WORDS[DIR], _word(seen))
            else:
                self._verified.add("kind", path, _WORDS[node.kind], _word(seen))
            return
        tally(node, self._verified.compared)
        self._hooks.node(node)
        before = sum(self._verified.differences.values())
        if node.kind != LINK and stat.S_IMODE(info.st_mode) != node.mode:
            self._verified.add("mode", path, f"{node.mode:04o}", f"{stat.S_IMODE(info.st_mode):04o}")
        if self._known.owners:
            self._owners.compare(path, node.uid, node.gid, info)
        self._times.see(info)
        if node.kind != FILE or not self._goal.view.share_mtime:
            self._times.compare(path, node.mtime_ns, info.st_mtime_ns)
        if node.kind == LINK:
            self._target(node)
        elif node.kind == marker.MARKER:
            self._marker(path)
        else:
            self._xattrs(node)
            if node.kind == FILE:
                self._file(node, info, expected, sound=before == sum(self._verified.differences.values()))

    def _target(self, node: Node) -> None:
        folder, name = self._looking.place(node.path)
        try:
            target = os.readlink(name, dir_fd=folder)
        except OSError as exc:
            self._verified.add("unreadable", node.path, found=exc.strerror or str(exc))
            return
        if target != node.target:
            self._verified.add("target", node.path, show(node.target), show(target))

    def _marker(self, path: bytes) -> None:
        folder, name = self._looking.place(path)
        text = None
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                text = os.read(fd, len(marker.TEXT) + 1)
            finally:
                os.close(fd)
        except PermissionError:
            self._verified.skip("unreadable")
            return
        except OSError as exc:
            self._verified.add("unreadable", path, found=exc.strerror or str(exc))
            return
        if text != marker.TEXT:
            self._verified.add("content", path)

    def _xattrs(self, node: Node) -> None:
        folder, name = self._looking.place(node.path)
        try:
            found = _read_xattrs(b"/proc/self/fd/%d/%s" % (folder, name))
        except PermissionError:
            if node.xattrs:
                self._verified.skip("attributes")
            return
        except OSError as exc:
            self._verified.add("unreadable", node.path, found=exc.strerror or str(exc))
            return
        self._attributes.compare(node.path, tuple(sorted(node.xattrs)), found)

    # -- files -------------------------------------------------------------------------------------------------------

    def _file(self, node: Node, info: os.stat_result, expected: Expected, *, sound: bool) -> None:
        content = node.content
        assert content is not None
        if info.st_size != content.size:
            self._verified.add("size", node.path, f"{content.size} bytes", f"{info.st_size} bytes")
            sound = False
        name = ""
        if self._linked:
            name = self._stored_as(node, info, sound=sound)
        if self.scrub is not None and info.st_size == content.size:
            item = Item(self._tree + node.path, content.size, expected.sum, None if expected.sum else content)
            links = info.st_nlink - (1 if name else 0)
            self.scrub.want(item, _Read(node.path, name), info, links=links)

    def _stored_as(self, node: Node, info: os.stat_result, *, sound: bool) -> str:
        """Name of the stored file that the inode is; empty if it is none."""
        stored = self._names(node)
        shard, _, rest = stored.partition("/")
        try:
            folder = self._shards.fd(shard.encode())
        except OSError:
            folder = -1
        number = 0
        while folder >= 0 and number < MAX_OVERFLOW:
            try:
                other = os.stat(f"{rest}~{number}" if number else rest, dir_fd=folder, follow_symlinks=False)
            except OSError:
                break
            if (other.st_dev, other.st_ino) == (info.st_dev, info.st_ino):
                return stored
            number += 1
        if sound and not ("link_fallback" in self._known.lost and info.st_nlink == 1):
            if number:
                self._verified.add("hard_link", node.path, found="another inode")
            else:
                self._verified.add("not_stored", node.path, stored)
        return ""

    def tell(self, verdict: str, why: str, token: object) -> None:
        """What came of reading a file's content; see :class:`Scrub`."""
        assert isinstance(token, _Read)
        if verdict == SHUT:
            self._verified.skip("unreadable")
        elif verdict in (DIFFERS, BROKEN):
            self._verified.add("content" if verdict == DIFFERS else "unreadable", token.path, found=why)
            if token.stored:
                self._broken_names.append((token.stored,))


def _within(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder + b"/")


def _word(seen: Seen) -> str:
    return _WORDS.get(seen.kind, "special file")


def _read_xattrs(place: bytes) -> Xattrs:
    """``user.*`` attributes and file capabilities, sorted; none where they are not supported. Raises OSError."""
    try:
        names = [os.fsencode(name) for name in os.listxattr(place, follow_symlinks=False)]
    except OSError as exc:
        if exc.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return ()
        raise
    pairs = []
    for name in sorted(names):
        if name.startswith(b"user.") or name == _CAPABILITY:
            try:
                pairs.append((name, os.getxattr(place, name, follow_symlinks=False)))
            except OSError as exc:
                if exc.errno != errno.ENODATA:  # taken away meanwhile
                    raise
    return tuple(pairs)
