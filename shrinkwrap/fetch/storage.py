"""A repository's storage on local disk, and sources put together."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final

from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, ShrinkwrapError, UsageError
from shrinkwrap.fetch.intake import Intake, bad_span, name_of, no_external
from shrinkwrap.fetch.types import FetchStats, Outcome, Request, Source

_STEP: Final = 256 * 1024


class StorageSource:
    """Folders that hold a repository as a web server would serve it; the later ones stand in for the first.

    Symbolic links in a storage are followed, wherever they lead: sites spread storages over disks with them,
    and what is read has to fit its digest in any case.

    Args:
        folders: absolute or relative to the current one, in order of preference.
        external: they hold external files, by their paths in the repository, and nothing else is asked for.
        stats: to be shared with another source.

    Raises:
        UsageError: there is no such folder.
    """

    def __init__(self, folders: Sequence[bytes], *, external: bool = False, stats: FetchStats | None = None) -> None:
        for folder in folders:
            if not os.path.isdir(folder):
                raise UsageError(
                    f"{os.fsdecode(folder)!r} is not a folder with a repository's storage",
                    hint="name the folder that holds .cvmfspublished and data/",
                )
        self._folders = tuple(os.path.abspath(folder) for folder in folders)
        self._distrusted: set[int] = set()
        self._current = 0
        self._external = external
        self.stats = FetchStats() if stats is None else stats

    @property
    def host(self) -> str:
        return os.fsdecode(self._folders[self._current])

    def control(self, name: str, limit: int) -> bytes:
        pieces: list[bytes] = []
        outcome = self._serve(Request(name.encode("utf-8", "surrogateescape"), _Gather(pieces), limit))
        if outcome.error is not None:
            raise outcome.error
        return b"".join(pieces)

    def next_host(self) -> bool:
        self._distrusted.add(self._current)
        for number in range(len(self._folders)):
            if number not in self._distrusted:
                self._current = number
                return True
        return False

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        for request in requests:
            yield self._serve(request)

    def close(self) -> None:
        """Nothing is kept open between two requests."""

    def _serve(self, request: Request) -> Outcome:
        """Read one object from the first folder that has it intact."""
        errors: list[ShrinkwrapError] = []
        count = len(self._folders)
        folder = b""
        intake = Intake()
        if request.external != self._external:
            return Outcome(request, no_external(request), 0, self.host)
        for step in range(count):
            folder = self._folders[(self._current + step) % count]
            self.stats.requests += 1
            try:
                self._read(folder, request, intake)
            except (CorruptObject, MissingObject, NetworkError) as exc:
                errors.append(exc)
            else:
                host = os.fsdecode(folder)
                self.stats.received += intake.received
                self.stats.hosts[host] = self.stats.hosts.get(host, 0) + 1
                return Outcome(request, None, intake.received, host)
        return Outcome(request, _worst(errors), intake.received, os.fsdecode(folder))

    def _read(self, folder: bytes, request: Request, intake: Intake) -> None:
        error = bad_span(request)
        if error is not None:
            raise error
        shown = name_of(request)
        path = _beneath(folder, request)
        try:
            # Not blocking: somebody may have put a pipe there.
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingObject(f"{shown}: not in {os.fsdecode(folder)!r}") from None
        except OSError as exc:
            raise NetworkError(f"{shown}: cannot be read in {os.fsdecode(folder)!r}: {exc.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise MissingObject(f"{shown}: not a regular file in {os.fsdecode(folder)!r}")
            if request.span is not None:
                os.lseek(file, request.span[0], os.SEEK_SET)
            intake.begin(request)
            intake.partial = True
            left = request.limit + 1 if request.span is None else request.span[1]
            while left > 0:
                try:
                    data = os.read(file, min(_STEP, left))
                except OSError as exc:
                    raise NetworkError(f"{shown}: cannot be read in {os.fsdecode(folder)!r}: {exc.strerror}") from None
                if not data:
                    break
                left -= len(data)
                if intake.write(data) is not None and intake.raised is not None:
                    raise intake.raised
            intake.finish()
        except CorruptObject as exc:
            raise CorruptObject(
                f"{shown}: {exc.message} (in {os.fsdecode(folder)!r})",
                hint="the storage is damaged there: check it, or name another",
            ) from None
        finally:
            os.close(file)


class RoutedSource:
    """One source for a repository and another for its external files.

    Requests are handed on in runs of one kind, so that each source draws them lazily; the two do not work at
    a time. They were made to share their ``stats``.
    """

    def __init__(self, main: Source, external: Source) -> None:
        self._main = main
        self._external = external
        self.stats = main.stats

    @property
    def host(self) -> str:
        return self._main.host

    def control(self, name: str, limit: int) -> bytes:
        return self._main.control(name, limit)

    def next_host(self) -> bool:
        return self._main.next_host()

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        for external, run in groupby(requests, key=lambda request: request.external):
            yield from (self._external if external else self._main).fetch(run)

    def close(self) -> None:
        self._main.close()
        self._external.close()


class _Gather:
    """A body that keeps its bytes in a list."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def start(self) -> None:
        self._pieces.clear()

    def write(self, data: bytes, /) -> None:
        self._pieces.append(data)

    def finish(self) -> None:
        """Whatever is there is all."""


def _beneath(folder: bytes, request: Request) -> bytes:
    """The file that a request asks for; never one outside of ``folder`` by its name."""
    path = request.path
    if request.external:
        path = path.lstrip(b"/")
    if not path or path.startswith(b"/") or b"\0" in path or b".." in path.split(b"/"):
        raise CorruptObject("the path leads out of the storage")
    return folder + b"/" + path


def _worst(errors: list[ShrinkwrapError]) -> ShrinkwrapError:
    """One error for all folders: corrupt if any is, missing only if all are."""
    for kind in (CorruptObject, NetworkError, MissingObject):
        found = [error for error in errors if isinstance(error, kind)]
        if found:
            return kind("; ".join(error.message for error in found), hint=found[0].hint)
    raise AssertionError("there is at least one folder")
