"""What is particular to one run: when, where, by whom, how fast, what was warned of (DESIGN promise 8).

Kept apart from the record and the statement, so that these are the same wherever an export is made. Files, in
``.provenance/<fqrn>/``::

    runs.jsonl, runs.jsonl.1 …    a line a run; the highest number is the oldest
    left-out.jsonl                every path that the last export left out or shows differently

A run never fails for its log: what cannot be written is told as a notice.
"""

from __future__ import annotations

import json
import os
import pwd
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, BinaryIO, Final

from shrinkwrap import __version__
from shrinkwrap.cvmfs import limits
from shrinkwrap.fetch.types import FetchStats
from shrinkwrap.fetch.urls import shown
from shrinkwrap.record.listing import line, text

LOG: Final = b"runs.jsonl"
LEFT_OUT: Final = b"left-out.jsonl"
#: The log is rotated before it grows beyond this, and so many old ones are kept.
LOG_BYTES: Final = 4 * limits.MIB
KEPT: Final = 5
#: Most bytes of one line; a longer one is not a run's.
LINE_BYTES: Final = 1 * limits.MIB
#: Warnings that a run's line keeps, and characters of each.
WARNINGS: Final = 100
WARNING_CHARACTERS: Final = 1000
#: Hosts that a run's line keeps: those asked most.
HOSTS: Final = 100
LEFT_OUT_BYTES: Final = 1 * limits.GIB

Notice = Callable[[str], None]
_APPEND: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FRESH: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class RunFacts:
    """One run.

    Attributes:
        run: its name.
        fqrn: repository.
        start, end: in seconds since the epoch.
        reason, exit_code, error: how it ended; an empty error for one that ended well.
        root_hash, revision, tag: of the snapshot; empty or 0 if it was not reached.
        jobs: transfers in flight that were asked for; 0 if unknown.
        counts: paths and objects; ``left_out``: what was not shown as it is, by kind.
        received, written: bytes.
        stats: of the source.
        destination: abilities of its file system.
        warnings: all of them; the line keeps the first.
    """

    run: str
    fqrn: str
    start: float
    end: float
    reason: str
    exit_code: int = 0
    error: str = ""
    root_hash: str = ""
    revision: int = 0
    tag: str = ""
    jobs: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    received: int = 0
    written: int = 0
    stats: FetchStats = field(default_factory=FetchStats)
    destination: str = ""
    warnings: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """The facts, and those of the machine and the process that asks."""
        seconds = max(self.end - self.start, 0.0)
        objects = self.counts.get("objects", 0)
        hosts: dict[str, int] = {}
        # Several URLs may differ in nothing but the password that is not told.
        for url, requests in self.stats.hosts.items():
            hosts[shown(url)] = hosts.get(shown(url), 0) + requests
        most = sorted(hosts.items(), key=lambda item: (-item[1], item[0]))
        return {
            "run": self.run,
            "fqrn": self.fqrn,
            "start": _time(self.start),
            "end": _time(self.end),
            "seconds": round(seconds, 3),
            "host": os.uname().nodename,
            "user": _user(),
            "uid": os.geteuid(),
            "pid": os.getpid(),
            "versions": versions(),
            "reason": self.reason,
            "exit_code": self.exit_code,
            "error": self.error[:WARNING_CHARACTERS],
            "root_hash": self.root_hash,
            "revision": self.revision,
            "tag": self.tag[:WARNING_CHARACTERS],
            "jobs": self.jobs,
            "counts": dict(sorted(self.counts.items())),
            "left_out": dict(sorted(self.left_out.items())),
            "received": self.received,
            "written": self.written,
            "rates": {
                "received_per_second": round(self.received / seconds) if seconds else 0,
                "objects_per_second": round(objects / seconds, 1) if seconds else 0,
            },
            "requests": self.stats.requests,
            "retries": self.stats.retries,
            "failovers": self.stats.failovers,
            "hosts": dict(most[:HOSTS]),
            "destination": self.destination,
            "warnings": [warning[:WARNING_CHARACTERS] for warning in self.warnings[:WARNINGS]],
            "warnings_in_all": len(self.warnings),
        }


def _time(seconds: float) -> str:
    """RFC 3339 in UTC; the number itself for a time that no calendar has."""
    try:
        when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except (OverflowError, ValueError):
        return str(seconds)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return ""


def versions() -> dict[str, str]:
    """Versions of this tool and of the libraries in use. What was not needed is not loaded for this."""
    found = {
        "shrinkwrap": __version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }
    for module, attribute in (("sqlite3", "sqlite_version"), ("pycurl", "version"), ("isal", "__version__")):
        value = getattr(sys.modules.get(module), attribute, None)
        if isinstance(value, str):
            found[module] = value
    library = getattr(sys.modules.get("shrinkwrap.cvmfs.inflate"), "LIBRARY", None)
    if isinstance(library, str):
        found["inflate"] = library
    return dict(sorted(found.items()))


class RunLog:
    """The log of one repository's runs. Whoever writes holds the lock of the destination.

    Args:
        folder: descriptor of ``.provenance/<fqrn>``, which stays the caller's.
        notice: told if the log cannot be written.
        size, kept: when it is rotated, and how many old ones are kept.
    """

    def __init__(self, folder: int, notice: Notice, *, size: int = LOG_BYTES, kept: int = KEPT) -> None:
        self._folder = folder
        self._notice = notice
        self._size = size
        self._kept = kept

    def add(self, facts: RunFacts) -> None:
        """One more line. Never raises for a log that cannot be written."""
        data = json.dumps(facts.to_json(), separators=(",", ":")).encode() + b"\n"
        if len(data) > LINE_BYTES:
            self._notice(f"the run log takes lines of {LINE_BYTES} bytes, this run's has {len(data)}: left out")
            return
        try:
            self._add(data)
        except OSError as exc:
            self._notice(f"the run log cannot be written ({exc.strerror or exc}); the export is not concerned")

    def _add(self, data: bytes) -> None:
        fd = self._open()
        try:
            whole = _repair(fd)
            if whole is None or (whole and whole + len(data) > self._size):
                os.close(fd)
                fd = -1
                self._rotate()
                fd, whole = self._open(), 0
            try:
                _write(fd, data)
            except OSError:
                # Half a line on a full disk. If that fails too, the next run repairs it.
                with suppress(OSError):
                    os.ftruncate(fd, whole)
                raise
        finally:
            if fd >= 0:
                os.close(fd)

    def _open(self) -> int:
        """The log, made if needed; what stands there and is no file of ours is moved out of the way."""
        try:
            fd = os.open(LOG, _APPEND, 0o644, dir_fd=self._folder)
        except OSError:
            if not _is_odd(LOG, self._folder):
                raise
            self._rotate()
            return os.open(LOG, _APPEND | os.O_EXCL, 0o644, dir_fd=self._folder)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        self._rotate()
        return os.open(LOG, _APPEND | os.O_EXCL, 0o644, dir_fd=self._folder)

    def _rotate(self) -> None:
        for number in range(self._kept, 0, -1):
            younger = _old(number - 1) if number > 1 else LOG
            with suppress(FileNotFoundError):
                os.rename(younger, _old(number), src_dir_fd=self._folder, dst_dir_fd=self._folder)
        if not self._kept:
            with suppress(FileNotFoundError):
                os.unlink(LOG, dir_fd=self._folder)


def _old(number: int) -> bytes:
    return LOG + b".%d" % number


def _is_odd(name: bytes, folder: int) -> bool:
    """Whether something that is not a regular file has the name."""
    try:
        return not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _repair(fd: int) -> int | None:
    """Cut off a last line that has no end: a run that died while writing it. Its bytes say nothing for sure.

    Returns:
        the size of the log then, None if the end of its last whole line is not where a log's must be.
    """
    size = os.fstat(fd).st_size
    window = min(size, LINE_BYTES + 1)
    if size == 0 or os.pread(fd, 1, size - 1) == b"\n":
        return size
    end = os.pread(fd, window, size - window).rfind(b"\n")
    if end < 0 and window < size:
        return None
    whole = size - window + end + 1
    os.ftruncate(fd, whole)
    return whole


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_runs(folder: int, *, kept: int = KEPT) -> Iterator[dict[str, Any]]:
    """The runs that the logs tell of, oldest first. Lines that cannot be read as a run are passed over.

    Args:
        folder: descriptor of ``.provenance/<fqrn>``.

    Raises:
        OSError: a log cannot be read.
    """
    for name in [*(_old(number) for number in range(kept, 0, -1)), LOG]:
        if not _is_file(name, folder):
            continue
        # Not followed and not waited for, should it have become something else meanwhile.
        with os.fdopen(os.open(name, _READ, dir_fd=folder), "rb") as file:
            yield from _runs(file)


def _is_file(name: bytes, folder: int) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _runs(file: BinaryIO) -> Iterator[dict[str, Any]]:
    within = False
    while data := file.readline(LINE_BYTES):
        # The rest of a line that is too long is no line.
        begins, within = not within, not data.endswith(b"\n")
        if not begins or within:
            continue
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


class LeftOut:
    """The full list of what an export leaves out or shows differently, written as it comes, in flat memory.

    It takes the place of the former list only when the export is done. A list that cannot be written, or outgrows its
    cap, is told of once; the export goes on.

    Args:
        folder: descriptor of ``.provenance/<fqrn>``, which stays the caller's.
        notice: told of trouble.
        size: most bytes of the list; a last line says how many cases it does not name.
    """

    def __init__(self, folder: int, notice: Notice, *, size: int = LEFT_OUT_BYTES) -> None:
        self._folder = folder
        self._notice = notice
        self._left = size
        self._more = 0
        self._file: BinaryIO | None = None
        try:
            with suppress(FileNotFoundError):
                os.unlink(LEFT_OUT + b".new", dir_fd=folder)
            self._file = os.fdopen(os.open(LEFT_OUT + b".new", _FRESH, 0o644, dir_fd=folder), "wb")
        except OSError as exc:
            self._fail(exc)

    def add(self, what: str, path: bytes, detail: str = "") -> None:
        """One case: the kind of report, the path, a word more. Never raises for a list that cannot be written."""
        if self._file is None:
            return
        row: dict[str, Any] = {"what": what, **text("path", path or b"/")}
        if detail:
            row["detail"] = detail.encode("utf-8", "backslashreplace").decode()
        data = line(row)
        if self._more or len(data) > self._left:
            self._more += 1
            return
        self._left -= len(data)
        try:
            self._file.write(data)
        except OSError as exc:
            self._fail(exc)

    def commit(self) -> None:
        """The export is done: this is the list now."""
        if self._file is None:
            return
        try:
            if self._more:
                self._file.write(line({"what": "more", "count": self._more}))
            self._file.close()
            os.rename(LEFT_OUT + b".new", LEFT_OUT, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as exc:
            self._fail(exc)
            return
        self._file = None
        if self._more:
            self._notice(f"the list of what was left out is full; it does not name {self._more} cases")

    def discard(self) -> None:
        """The export is not done: the former list stays. Idempotent; does nothing after :meth:`commit`."""
        if self._file is not None:
            self._drop()

    def _fail(self, error: OSError) -> None:
        self._drop()
        self._notice(f"the list of what was left out cannot be written: {error.strerror or error}")

    def _drop(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()
        with suppress(OSError):
            os.unlink(LEFT_OUT + b".new", dir_fd=self._folder)
