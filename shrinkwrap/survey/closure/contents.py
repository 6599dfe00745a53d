"""What the contents of files ask for, each content looked into once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import IO, Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.errors import CorruptObject
from shrinkwrap.snapshot.view import Content, content_of
from shrinkwrap.survey.closure import texts
from shrinkwrap.survey.closure.elf import MAGIC, Elf, read_elf
from shrinkwrap.survey.closure.texts import Shebang, Venv, read_pth, read_shebang, read_venv

Take = Callable[[int, IO[bytes]], None]
#: Brings contents of regular files: each is taken with its number, in any order.
Read = Callable[[Sequence[Entry], Take], None]
#: Text: why nothing is known.
Asked = Elf | Shebang | Venv | list[bytes] | str | None

#: Files above this are not looked into.
MAX_FILE: Final = 1 * limits.GIB
_REMEMBERED: Final = 1 << 18
_SITES: Final = (b"site-packages", b"dist-packages")
#: Of a file whose first piece is not enough.
_MORE: Final = "more"


class Contents:
    """Looks into files.

    Attributes:
        read: contents that were brought.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._known: dict[tuple[Content, bytes], Asked] = {}
        self.read = 0

    def asked(self, batch: Sequence[Entry]) -> Iterator[tuple[Entry, Asked]]:
        """What each file of a batch asks for."""
        keys = [(content_of(entry), entry.name if of_paths(entry) else b"") for entry in batch]
        new: dict[tuple[Content, bytes], Entry] = {}
        for entry, key in zip(batch, keys, strict=True):
            if key not in self._known:
                new.setdefault(key, entry)
        entries = list(new.values())
        in_pieces = [len(entry.chunks) > 1 for entry in entries]
        # Of a file in pieces the first tells what it is: most that are large are data, whatever their mode.
        heads = [_head(entry) if pieces else entry for entry, pieces in zip(entries, in_pieces, strict=True)]
        answers = self._bring(heads, in_pieces)
        for number, entry in enumerate(entries):
            if answers[number] == _MORE:
                answers[number] = too_large(entry) or self._bring([entry], [False])[0]
        found = {key: self._known[key] for key in keys if key in self._known}
        found.update(zip(new, answers, strict=True))
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        self._known.update(found)
        for entry, key in zip(batch, keys, strict=True):
            yield entry, found[key]

    def _bring(self, entries: Sequence[Entry], heads: Sequence[bool]) -> list[Asked]:
        found: list[Asked] = [None] * len(entries)

        def take(number: int, file: IO[bytes]) -> None:
            found[number] = _asked(entries[number], file, heads[number])

        if entries:
            self.read += len(entries)
            self._read(entries, take)
        return found


def too_large(entry: Entry) -> str:
    """Why a file is not looked into; empty: it is."""
    return f"{entry.size} bytes: not looked into" if entry.size > MAX_FILE else ""


def of_paths(entry: Entry) -> bool:
    """Whether Python reads a file for paths."""
    if entry.name.endswith(b".pth"):
        return entry.path.split(b"/")[-2] in _SITES
    return entry.name == b"pyvenv.cfg"


def _head(entry: Entry) -> Entry:
    """The first piece of a file as one of its own; pieces are verified each by itself."""
    return entry._replace(chunks=entry.chunks[:1], size=entry.chunks[0].size, hash=None)


def _asked(entry: Entry, file: IO[bytes], head: bool) -> Asked:
    """What a content asks for; ``_MORE`` of a first piece that is not enough, other text: what is wrong with it."""
    begin = file.read(texts.HEAD)
    if of_paths(entry):
        whole = begin + file.read(texts.TEXT)
        return read_venv(whole) if entry.name == b"pyvenv.cfg" else read_pth(whole)
    if begin.startswith(MAGIC):
        if head:
            return _MORE
        try:
            return read_elf(file)
        except CorruptObject as exc:
            return exc.message
    return read_shebang(begin)
