"""Contents held against their checksums, on all cores; each inode is read once (docs/verify.md).

XXH3 tells damage, not malice: it is what the summaries have. A file whose checksum is not known is stored again as its
publisher did, and held against the digest that the signed catalog names; that proves more, and takes longer.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Final, NamedTuple, Self

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest
from shrinkwrap.engine.dispatch import workers_for
from shrinkwrap.engine.pool import Processes
from shrinkwrap.snapshot.view import Content
from shrinkwrap.tree.adopt import proves
from shrinkwrap.tree.beneath import DIRECTORY, Folders
from shrinkwrap.tree.shardsums import ShardSums, checksum_of, name_of

#: Files and bytes that are handed over at once.
_BATCH_FILES: Final = 512
_BATCH_BYTES: Final = 32 * limits.MIB
#: Up to so much no other processes are started.
_ALONE_FILES: Final = 2_000
_ALONE_BYTES: Final = 64 * limits.MIB
#: Batches under way, for each process.
_AHEAD: Final = 3
#: Inodes with several links that are remembered.
_INODES: Final = 1 << 16
_SHUT: Final = (errno.EACCES, errno.EPERM)
#: Of a stored file: digits, algorithm, interpretation, size; metadata and the number of an overflow file follow.
_NAME: Final = re.compile(r"([0-9a-f]{38})([rs]?)(x?c?[zn])([0-9]{1,20})\.[0-9a-f]+(?:~[0-9]+)?")
_ALGORITHMS: Final = {"": SHA1, "r": RMD160, "s": SHAKE128}
_SHARD: Final = re.compile(r"[0-9a-f]{2}")

SAME: Final = "same"
PROVED: Final = "proved"
UNPROVED: Final = "not_proved"
DIFFERS: Final = "differs"
SHUT: Final = "shut"
BROKEN: Final = "broken"


class Item(NamedTuple):
    """A file to be read: its path beneath a folder, its size, its checksum; its content, if that is not known."""

    path: bytes
    size: int
    sum: bytes
    content: Content | None


Verdict = tuple[str, str]
#: Told of a file's verdict, of what the system said, and of what it was wanted with.
Tell = Callable[[str, str, object], None]


def check(folder: str, items: list[Item]) -> list[Verdict]:
    """Read some files.

    Returns:
        of each a verdict, and what the system said if it is :data:`BROKEN`.

    Raises:
        OSError: the folder itself cannot be opened.
    """
    root = os.open(folder, DIRECTORY)
    try:
        folders = Folders(root)
        try:
            return [_check(folders, item) for item in items]
        finally:
            folders.clear()
    finally:
        os.close(root)


def _check(folders: Folders, item: Item) -> Verdict:
    parent, _, name = item.path.rpartition(b"/")
    try:
        # Not blocking: somebody may have put a pipe there meanwhile.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(name, flags, dir_fd=folders.fd(parent))
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_size != item.size:
                return DIFFERS, ""
            if item.sum:
                return (SAME if checksum_of(fd) == item.sum else DIFFERS), ""
            return _prove(fd, item.content), ""
        finally:
            os.close(fd)
    except OSError as exc:
        return (SHUT, "") if exc.errno in _SHUT else (BROKEN, exc.strerror or str(exc))


def _prove(fd: int, content: Content | None) -> str:
    if content is None or ("c" in content.kind and not content.chunks):
        return UNPROVED
    if proves(fd, content):
        return PROVED
    # Another library of the publisher's may have made another zlib stream of the same bytes; there is but one way to
    # store them as they are.
    return UNPROVED if content.compressed else DIFFERS


class Scrub:
    """Hands files to processes, batch by batch, and tells what came of them in the order in which they were wanted.

    Args:
        folder: that the paths are beneath.
        workers: processes; 1 for this one alone, 0 for one for each CPU.
        tell: told of each file.
        progress: told of files and bytes that were read.
    """

    def __init__(self, folder: str, workers: int, tell: Tell, progress: Callable[[int, int], None]) -> None:
        self._folder = folder
        self._workers = workers_for(workers)
        self._tell = tell
        self._progress = progress
        self._processes: Processes | None = None
        self._flying: deque[tuple[list[Item], list[object], Future[list[Verdict]]]] = deque()
        self._items: list[Item] = []
        self._tokens: list[object] = []
        self._batch = 0
        self._known: OrderedDict[tuple[int, int, bytes], None] = OrderedDict()
        self.counts = {"files": 0, "inodes": 0, "bytes": 0}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they do. Idempotent."""
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
            self._processes = None

    def want(self, item: Item, token: object, info: os.stat_result, *, links: int) -> None:
        """One more file.

        Args:
            token: given back with the verdict.
            links: that other paths may have, as far as they are read here: with more than one the inode is remembered.

        Raises:
            OSError: the folder cannot be read. WorkerDied: a process did.
        """
        self.counts["files"] += 1
        if links > 1:
            key = (info.st_dev, info.st_ino, item.sum)
            if key in self._known:
                self._known.move_to_end(key)
                return
            self._known[key] = None
            if len(self._known) > _INODES:
                self._known.popitem(last=False)
        self.counts["inodes"] += 1
        self.counts["bytes"] += item.size
        self._items.append(item)
        self._tokens.append(token)
        self._batch += item.size
        if len(self._items) >= _BATCH_FILES or self._batch >= _BATCH_BYTES:
            self._send()

    def finish(self) -> None:
        """All files were named: the verdicts that are not known yet. Raises what :meth:`want` does."""
        self._send()
        while self._flying:
            self._land()

    def _send(self) -> None:
        if not self._items:
            return
        items, tokens = self._items, self._tokens
        self._items, self._tokens, self._batch = [], [], 0
        few = self.counts["inodes"] <= _ALONE_FILES and self.counts["bytes"] <= _ALONE_BYTES
        if self._workers == 1 or (self._processes is None and few):
            self._said(items, tokens, check(self._folder, items))
            return
        if self._processes is None:
            self._processes = Processes(self._workers)
        while len(self._flying) >= self._workers * _AHEAD:
            self._land()
        self._flying.append((items, tokens, self._processes.submit(check, self._folder, items)))

    def _land(self) -> None:
        items, tokens, future = self._flying.popleft()
        self._said(items, tokens, future.result())

    def _said(self, items: list[Item], tokens: list[object], verdicts: list[Verdict]) -> None:
        for token, (verdict, why) in zip(tokens, verdicts, strict=True):
            self.counts[verdict] = self.counts.get(verdict, 0) + 1
            self._tell(verdict, why, token)
        self._progress(len(items), sum(item.size for item in items))


def stored_items(data: int) -> Iterator[tuple[Item, os.stat_result]]:
    """Stored files that no path shows: those with one link. All others are read by their paths.

    What has not the name of a stored file is left out.

    Args:
        data: descriptor of the store.

    Raises:
        OSError: it cannot be read.
    """
    listing = os.open(b".", DIRECTORY, dir_fd=data)
    try:
        shards = sorted(name for name in os.listdir(listing) if _SHARD.fullmatch(name))
    finally:
        os.close(listing)
    for shard in shards:
        sums = ShardSums(data, shard)
        folder = os.open(shard, DIRECTORY, dir_fd=data)
        try:
            for name in sorted(os.listdir(folder)):
                parts = _NAME.fullmatch(name)
                try:
                    info = os.stat(name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if parts is None or info.st_nlink > 1:
                    continue
                digest = Digest(_ALGORITHMS[parts[2]], bytes.fromhex(shard + parts[1]))
                size = int(parts[4])
                path = f"{shard}/{name}"
                known = sums.get(name_of(path.partition(".")[0])) or b""
                content = None if known else Content(digest, parts[3], size, (), None, None)
                yield Item(path.encode(), size, known, content), info
        finally:
            os.close(folder)
