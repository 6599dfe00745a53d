"""What ``strace -f`` prints: calls with paths, with the working directories and descriptors that they go by.

``strace -f -e trace=%file,%desc,%process -o FILE CMD`` records all that is needed. With ``-y`` nothing has to be
remembered, since descriptors come with their paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from shrinkwrap.survey.trace.touched import How, Place, Touched, normal

_LINE: Final = re.compile(
    rb"(?:\[pid +(\d+)\] +|(\d+) +)?(?:\d[\d:.]*\s+)?(?:(\w+)\(|<\.\.\. (\w+) resumed>)(.*)", re.DOTALL
)
_RESULT: Final = re.compile(rb"\)\s+= (-?\d+|0x[0-9a-f]+|\?)(?:<([^>]*)>)?(?: ([A-Z0-9]+) \(.*\))?[^=]*\Z", re.DOTALL)
_STRING: Final = re.compile(rb'"((?:[^"\\]|\\.)*+)"(\.\.\.)?', re.DOTALL)
_DESCRIPTOR: Final = re.compile(rb"\s*(AT_FDCWD|-?\d+)(?:<((?:[^>\\]|\\.)*)>)?")
_ESCAPE: Final = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9a-f]{2})|(.))", re.DOTALL)
_LETTERS: Final = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"v": b"\v", b"f": b"\f", b"a": b"\a", b"b": b"\b"}

_PATH_FIRST: Final = frozenset(
    b"open creat execve stat stat64 lstat lstat64 access readlink chdir statfs statfs64 getxattr lgetxattr listxattr"
    b" llistxattr chroot uselib".split()
)
_FOLDER_FIRST: Final = frozenset(
    b"openat openat2 execveat newfstatat fstatat64 faccessat faccessat2 readlinkat statx name_to_handle_at".split()
)
_OPENING: Final = frozenset(b"open openat openat2 creat".split())
_RUNNING: Final = frozenset(b"execve execveat".split())
_FORKING: Final = frozenset(b"clone clone3 fork vfork".split())
#: What a call ends with that found nothing there.
_NOTHING: Final = frozenset(b"ENOENT ENOTDIR ELOOP ENAMETOOLONG".split())
#: A call that waits for its end, and processes that are remembered.
_UNFINISHED: Final = b"<unfinished ...>"


class _Process:
    """Where a process is, and what its descriptors stand for."""

    __slots__ = ("cwd", "files", "guessed")

    def __init__(self, cwd: bytes | None, files: dict[int, bytes], guessed: bool = False) -> None:
        self.cwd = cwd
        self.files = files
        self.guessed = guessed


def read_strace(lines: Iterable[bytes], name: str, place: Place, *, cwd: bytes | None = None) -> Touched:
    """Read the output of strace.

    Args:
        lines: with their line feeds or without.
        name: of the file, for messages.
        cwd: where the first process was started; None: nobody knows.
    """
    reader = _Reader(name, place, cwd)
    for line in lines:
        reader.line(line.rstrip(b"\n"))
    return reader.finish()


class _Reader:
    def __init__(self, name: str, place: Place, cwd: bytes | None) -> None:
        self._name = name
        self._place = place
        self._start = cwd
        self._processes: dict[int, _Process] = {}
        self._waiting: dict[int, bytes] = {}
        self._last = 0
        self._calls = 0
        self._relative = 0
        self._guessed: set[int] = set()
        self._cut = 0
        self.touched = Touched()

    def line(self, line: bytes) -> None:
        found = _LINE.match(line)
        if found is None:
            return
        pid = int(found[1] or found[2] or 0)
        call, text = found[3] or found[4], found[5]
        if found[4]:
            text = self._waiting.pop(pid, b"") + text
        if text.endswith(_UNFINISHED):
            self._waiting[pid] = text.removesuffix(_UNFINISHED)
            self._process(pid)
            return
        result = _RESULT.search(text)
        process = self._process(pid)
        self._last = pid
        if result is None:
            return
        self._calls += 1
        self._call(pid, process, call, text[: result.start()], result)

    def _process(self, pid: int) -> _Process:
        process = self._processes.get(pid)
        if process is None:
            parent = self._processes.get(self._last)
            if parent is None:
                process = _Process(self._start, {})
            else:
                # Who made it was not recorded: most likely the one that was heard of last.
                process = _Process(parent.cwd, dict(parent.files), True)
            self._processes[pid] = process
        return process

    def _call(self, pid: int, process: _Process, call: bytes, text: bytes, result: re.Match[bytes]) -> None:
        value = result[1]
        number = int(value) if value.lstrip(b"-").isdigit() else 0
        failed = number < 0
        if call in _FORKING:
            if number > 0:
                child = _Process(process.cwd, dict(process.files))
                known = self._processes.get(number)
                if known is None or known.guessed:
                    self._processes[number] = child
            return
        if call in _PATH_FIRST or call in _FOLDER_FIRST:
            if not (failed and result[3] in _NOTHING):
                self._path_call(pid, process, call, text, number, failed)
            return
        if failed:
            return
        if call in (b"fchdir", b"getdents64", b"getdents", b"dup", b"dup2", b"dup3", b"close", b"fcntl", b"fcntl64"):
            self._descriptor_call(process, call, text, number)

    def _path_call(self, pid: int, process: _Process, call: bytes, text: bytes, number: int, failed: bool) -> None:
        base = process.cwd
        if call in _FOLDER_FIRST:
            folder = _DESCRIPTOR.match(text)
            if folder is None:
                return
            if folder[2] is not None:
                base = _unescaped(folder[2])
            elif folder[1] != b"AT_FDCWD":
                base = process.files.get(int(folder[1]))
            text = text[folder.end() :].lstrip(b", ")
        string = _STRING.match(text)
        if string is None:
            return
        path = _unescaped(string[1])
        if string[2]:
            self._cut += 1
            return
        if not path and call in _FOLDER_FIRST:
            return  # the descriptor itself, of which was told when it was opened
        if not path.startswith(b"/"):
            if base is None:
                # Shells look where they are before they do anything: that is no path that a job needs.
                self._relative += normal(b"/" + path) != b"" or call in _OPENING
                return
            if process.guessed and call not in _FOLDER_FIRST:
                self._guessed.add(pid)
            path = base + b"/" + path
        path = normal(path)
        if not failed and call == b"chdir":
            process.cwd = path
        how = How.SEEN
        if call in _OPENING and not failed:
            how = How.LISTED if b"O_DIRECTORY" in text else How.OPENED
            if b"O_PATH" in text:
                how = How.SEEN
            process.files[number] = path
        elif call in _RUNNING:
            how = How.OPENED
        self._touch(path, how)

    def _descriptor_call(self, process: _Process, call: bytes, text: bytes, number: int) -> None:
        found = _DESCRIPTOR.match(text)
        if found is None or found[1] == b"AT_FDCWD":
            return
        descriptor = int(found[1])
        path = _unescaped(found[2]) if found[2] is not None else process.files.get(descriptor)
        if call == b"close":
            process.files.pop(descriptor, None)
        elif path is None:
            return
        elif call == b"fchdir":
            process.cwd = path
        elif call.startswith(b"getdents"):
            self._touch(path, How.LISTED)
        elif not call.startswith(b"fcntl") or b"F_DUPFD" in text:
            process.files[number] = path

    def _touch(self, path: bytes, how: How) -> None:
        found = self._place.split(path)
        if found is not None:
            self.touched.add(*found, how)

    def finish(self) -> Touched:
        touched, name = self.touched, self._name
        if not self._calls:
            touched.problems.append(
                f"{name}: no system call in it; strace -f -e trace=%file,%desc,%process -o FILE CMD"
            )
        if self._relative:
            touched.problems.append(
                f"{name}: {self._relative} relative paths of a process whose working directory is not known;"
                " --cwd DIR if that is where the command was started"
            )
        if self._cut:
            touched.problems.append(f"{name}: {self._cut} paths are cut short; strace -s 4096 writes them whole")
        if self._guessed:
            touched.notes.append(
                f"{name}: who started {len(self._guessed)} of the processes was not recorded (%process): they are"
                " taken to have begun where the one before them was"
            )
        return touched


def _unescaped(text: bytes) -> bytes:
    """A string as strace prints it, as bytes."""
    if b"\\" not in text:
        return text

    def plain(found: re.Match[bytes]) -> bytes:
        if found[1]:
            return bytes([int(found[1], 8) & 0xFF])
        if found[2]:
            return bytes([int(found[2], 16)])
        return _LETTERS.get(found[3], found[3])

    return _ESCAPE.sub(plain, text)
