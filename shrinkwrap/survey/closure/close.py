"""What a selection needs and does not have, round by round until nothing is added."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.entry import Entry, kind_of, show
from shrinkwrap.errors import SpecError
from shrinkwrap.snapshot.session import Session
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.grammar import Mode, Spec, parse
from shrinkwrap.spec.matcher import YES, Matcher
from shrinkwrap.survey.closure import texts
from shrinkwrap.survey.closure.contents import Asked, Contents, Read, of_paths, too_large
from shrinkwrap.survey.closure.elf import Elf, folders_of
from shrinkwrap.survey.closure.places import HERE, LOOP, MISSING, OTHER, Found, Places
from shrinkwrap.survey.closure.result import Added, Closure, Left
from shrinkwrap.survey.closure.texts import Shebang, Venv
from shrinkwrap.survey.explain import HIDDEN, explain
from shrinkwrap.survey.plan import Wish
from shrinkwrap.survey.trace.policy import lines_of

#: Each round goes on from what the one before added: real software needs some five.
ROUNDS: Final = 100
MAX_ADDED: Final = 1_000_000
_KEPT: Final = 10_000
_BATCH: Final = 256
_BATCH_BYTES: Final = 64 * limits.MIB
_REMEMBERED: Final = 1 << 18
_FOLDERS: Final = 256

_LIBRARY: Final = re.compile(rb".*\.so(\.[0-9.]+)?", re.DOTALL)
_PYTHON: Final = re.compile(rb"python\d\.\d{1,3}")
#: Libraries that come with the system's loader, as in the policies for portable wheels; a copy of another release than
#: the loader's would not run.
_OF_SYSTEM: Final = re.compile(
    rb"(lib(c|m|dl|rt|pthread|util|resolv|nsl|anl|mvec|crypt|thread_db|BrokenLocale|gcc_s|stdc\+\+)\.so\.\d+"
    rb"|ld-linux.*|ld64?\.so.*|ld-musl.*|libc\.musl.*|linux-vdso\.so\.\d+)"
)


class _Need(NamedTuple):
    """Why something is looked for."""

    kind: str
    by: bytes
    why: str


def close(session: Session, wish: Wish, read: Read, *, trees: bool = True) -> Closure:
    """Find all that a selection needs and does not have.

    Args:
        read: brings contents of executables, libraries and Python's files of paths.
        trees: a link to a directory brings all that is in it; else the directory alone.

    Raises:
        MissingObject, NetworkError, CorruptObject: a catalog or content cannot be had, or is wrong.
        SpecError: more than :data:`MAX_ADDED` paths are needed.
    """
    return _Closer(session, wish, read, trees).run()


class _Closer:
    def __init__(self, session: Session, wish: Wish, read: Read, trees: bool) -> None:
        self._session = session
        self._wish = wish
        self._contents = Contents(read)
        self._trees = trees
        self._places = Places(session, wish.root, wish.variables)
        self._out = Closure()
        self._matchers: list[Matcher] = []
        self._fresh: dict[bytes, Mode] = {}
        # All but what is excluded.
        hiding = [line for line in wish.spec.lines if not line.mode.includes]
        self._allowed = replace(wish.spec, lines=(*parse(b"/*\n").lines, *hiding))
        self._batch: list[Entry] = []
        self._batch_bytes = 0
        self._sought: set[tuple[bytes, tuple[bytes, ...], bytes]] = set()
        # Libraries that were not where their file looks for them, by name and directory of that.
        self._pending: dict[tuple[bytes, bytes], bytes] = {}
        self._inherited: dict[bytes, None] = {}
        self._folders: dict[bytes, bool] = {}
        self._index: dict[bytes, list[bytes]] = {}
        self._programs: dict[bytes, bytes] = {}
        self._commands: set[bytes] = set()

    def run(self) -> Closure:
        spec = self._wish.spec
        exclusions = b"".join(line.raw + b"\n" for line in self._allowed.lines[1:])
        now: Spec | None = spec
        while now is not None:
            if self._out.rounds >= ROUNDS:
                self._leave("rounds", f"more than {ROUNDS} rounds", b"", "close what came of it once more")
                break
            self._out.rounds += 1
            self._round(Matcher(now))
            self._settle()
            lines = b"".join(line + b"\n" for line in lines_of(self._fresh))
            self._fresh = {}
            # The exclusions of the specification stand after what is added, here and in what is written.
            now = parse(lines + exclusions, rules=spec.rules) if lines else None
        self._finish()
        self._out.read = self._contents.read
        return self._out

    def _round(self, matcher: Matcher) -> None:
        catalogs, root = self._session.catalogs, self._wish.root
        earlier = list(self._matchers)
        self._matchers.append(matcher)
        bring_catalogs(catalogs, root, matcher, None)
        for entry in Walk(catalogs, root, matcher):
            if entry.is_dir or any(_covers(one, entry.path, Mode.EXACT, False) for one in earlier):
                continue
            if entry.is_link:
                self._name(entry)
                found = self._places.follow(self._places.mount + entry.path)
                self._arrive(found, _Need("link", entry.path, f"{show(entry.path)} leads to it"))
            elif entry.is_file:
                self._file(entry)
        self._flush()

    # -- contents ----------------------------------------------------------------------------------------------------

    def _name(self, entry: Entry) -> None:
        """Remember where libraries and commands of the selection are."""
        folder = entry.path.rpartition(b"/")[0]
        if _LIBRARY.fullmatch(entry.name):
            self._folders.setdefault(folder, False)
        elif entry.is_link or entry.mode & 0o111:
            self._commands.add(entry.name)

    def _file(self, entry: Entry) -> None:
        self._name(entry)
        folder, _, name = entry.path.rpartition(b"/")
        executable = bool(entry.mode & 0o111)
        if executable and _PYTHON.fullmatch(name):
            self._library_of_python(entry.path, folder, name)
        paths = of_paths(entry)
        if not (executable or paths or _LIBRARY.fullmatch(name)) or entry.size < 4:
            return
        if paths and entry.size > texts.TEXT:
            return
        if not entry.chunks and (why := too_large(entry)):
            self._leave("too_large", show(entry.path), entry.path, why)
            return
        self._batch.append(entry)
        self._batch_bytes += entry.chunks[0].size if entry.chunks else entry.size
        if len(self._batch) >= _BATCH or self._batch_bytes >= _BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        for entry, asked in self._contents.asked(batch):
            self._take(entry, asked)

    def _take(self, entry: Entry, asked: Asked) -> None:
        """What one file asks for."""
        path, shown = entry.path, show(entry.path)
        folder = self._places.mount + path.rpartition(b"/")[0]
        if isinstance(asked, str):
            self._leave("too_large" if too_large(entry) else "not_sound", shown, path, asked)
        elif isinstance(asked, Elf):
            self._elf(entry, asked, folder)
        elif isinstance(asked, Shebang):
            # The kernel looks at the first line of what it executes only.
            if entry.mode & 0o111:
                self._script(path, asked, folder)
        elif isinstance(asked, Venv):
            self._venv(path, asked)
        elif asked is not None:
            for line in asked:
                found = self._places.follow(line if line.startswith(b"/") else folder + b"/" + line)
                self._arrive(found, _Need("pth", path, f"{shown} names it"), tree=True)

    # -- what files ask for ------------------------------------------------------------------------------------------

    def _elf(self, entry: Entry, asked: Elf, origin: bytes) -> None:
        path = entry.path
        if asked.interpreter:
            need = _Need("interpreter", path, f"{show(path)} is run by it")
            if asked.interpreter.startswith(b"/"):
                found = self._places.follow(asked.interpreter)
                self._arrive(found, need)
                if found.where == HERE:
                    # The loader of a distribution inside a repository looks beside itself.
                    beside = self._places.mount + found.path.rpartition(b"/")[0]
                    above, _, last = beside.rpartition(b"/")
                    self._inherit([beside, above + b"/usr/" + last])
            else:
                self._leave("relative", show(asked.interpreter), path, "an interpreter that is not absolute")
        # Directories of DT_RPATH count for the libraries of libraries too, whoever asks for those.
        inherited = folders_of(asked.rpath, origin, asked.machine)
        self._inherit(inherited)
        folders = tuple(inherited or folders_of(asked.runpath, origin, asked.machine))
        for name in asked.needed:
            key = (name, folders, origin)
            if key not in self._sought:
                if len(self._sought) > _REMEMBERED:
                    self._sought.clear()
                self._sought.add(key)
                self._library(path, name, folders)

    def _inherit(self, folders: Sequence[bytes]) -> None:
        for folder in folders:
            if len(self._inherited) < _FOLDERS:
                self._inherited.setdefault(folder, None)

    def _library(self, by: bytes, name: bytes, folders: Sequence[bytes]) -> None:
        need = _Need("library", by, f"{show(by)} needs {show(name)}")
        if b"/" in name:
            if name.startswith(b"/"):
                self._arrive(self._places.follow(name), need)
            else:
                self._leave("relative", show(name), by, "a library by a path that is not absolute")
            return
        elsewhere: list[Found] = []
        if self._in_one_of(folders, name, need, elsewhere):
            return
        if elsewhere:
            for found in elsewhere:
                self._other(found, need._replace(why=f"{need.why}, which may be there"), Mode.EXACT)
            return
        if len(self._pending) < MAX_ADDED:
            self._pending.setdefault((name, by.rpartition(b"/")[0]), by)

    def _in_one_of(
        self, folders: Sequence[bytes], name: bytes, need: _Need, elsewhere: list[Found] | None = None
    ) -> bool:
        for folder in folders:
            found = self._places.follow(folder + b"/" + name)
            if found.where == HERE and found.entry is not None and found.entry.is_file:
                self._arrive(found, need)
                return True
            if found.where == OTHER and elsewhere is not None:
                elsewhere.append(found)
        return False

    def _settle(self) -> None:
        """Look for the libraries that were not found, where the selection has libraries."""
        for folder, listed in self._folders.items():
            if not listed:
                for entry in self._places.children(folder):
                    if not entry.is_dir and _LIBRARY.fullmatch(entry.name):
                        self._index.setdefault(entry.name, []).append(folder)
                self._folders[folder] = True
        inherited = list(self._inherited)
        for (name, near), by in list(self._pending.items()):
            need = _Need("library", by, f"{show(by)} needs {show(name)}")
            nearest = sorted(self._index.get(name, ()), key=lambda folder: -_common(folder, near))
            beside = [self._places.mount + folder for folder in nearest[:8]]
            if self._in_one_of(inherited, name, need) or self._in_one_of(beside, name, need):
                del self._pending[name, near]

    def _script(self, path: bytes, asked: Shebang, folder: bytes) -> None:
        need = _Need("script", path, f"{show(path)} is run by it")
        if not asked.interpreter.startswith(b"/"):
            self._leave("relative", show(asked.interpreter), path, "an interpreter that is not absolute")
            return
        self._arrive(self._places.follow(asked.interpreter), need)
        if asked.program.startswith(b"/"):
            self._arrive(self._places.follow(asked.program), need)
        elif asked.program and not self._in_one_of([folder], asked.program, need) and len(self._programs) < _KEPT:
            self._programs.setdefault(asked.program, path)

    def _venv(self, path: bytes, asked: Venv) -> None:
        need = _Need("venv", path, f"{show(path)} was made with it")
        python = b"python" + asked.version
        home = self._places.follow(asked.home)
        if home.where != HERE:
            self._arrive(home, need)
            if home.where == OTHER and asked.version:
                self._arrive(self._places.follow(asked.home + b"/../lib/" + python), need)
            return
        names = dict.fromkeys((b"python3", python))
        there = [self._in_one_of([asked.home], name, need) for name in names]
        if not any(there):
            self._leave("dangling", show(asked.home + b"/python3"), path, need.why)
        if asked.version:
            for lib in (b"/../lib/", b"/../lib64/"):
                found = self._places.follow(asked.home + lib + python)
                if found.where == HERE:
                    self._arrive(found, need, tree=True)

    def _library_of_python(self, path: bytes, folder: bytes, name: bytes) -> None:
        """An interpreter does nothing without its own library, which it finds by its place (``getpath``)."""
        above = self._places.mount + folder.rpartition(b"/")[0]
        need = _Need("python", path, f"{show(path)} has its library there")
        if self._places.follow(above + b"/lib/" + name + b"/os.py").where != HERE:
            return
        for lib in (b"/lib/", b"/lib64/"):
            found = self._places.follow(above + lib + name)
            if found.where == HERE:
                self._arrive(found, need, tree=True)

    # -- where it is -------------------------------------------------------------------------------------------------

    def _arrive(self, found: Found, need: _Need, *, tree: bool | None = None) -> None:
        """A path that is needed was followed: take it, and the links on the way."""
        for link in found.links:
            if link.path != need.by:
                self._want(link.path, Mode.EXACT, need._replace(why=f"{need.why}, through this link"))
        for name in found.unset:
            text = name.decode("utf-8", "backslashreplace")
            self._leave("variable", text, need.by, f"the variable {text} has no value: give one with --env")
        entry = found.entry
        if found.where == OTHER:
            self._other(found, need, Mode.EXACT if need.kind in ("interpreter", "script") else Mode.DEEP)
        elif found.where == MISSING:
            self._leave("dangling", show(found.path), need.by, f"{need.why}: it is not in the repository")
        elif found.where == LOOP:
            self._leave("loop", show(found.path), need.by, f"{need.why}: links go round in circles")
        elif found.where != HERE or entry is None:
            if len(self._out.system) < _KEPT:
                self._out.system.setdefault(found.path, need.by)
        elif entry.is_file:
            self._want(found.path, Mode.EXACT, need)
        elif entry.is_dir:
            # A link to a directory that it lies in brings nothing new.
            inside = need.by.startswith(found.path + b"/")
            deep = not inside and (self._trees if tree is None else tree)
            self._want(found.path, Mode.DEEP if deep else Mode.EXACT, need, is_dir=True)
        else:
            self._leave("special", show(found.path), need.by, f"a {kind_of(entry.mode)}, which never comes out")

    def _other(self, found: Found, need: _Need, mode: Mode) -> None:
        if not found.path:
            self._leave("dangling", f"/cvmfs/{found.fqrn}", need.by, "all of another repository: name paths in it")
            return
        if found.fqrn not in self._out.others and len(self._out.others) >= 1000:
            self._leave("dangling", f"/cvmfs/{found.fqrn}", need.by, "one repository too many")
            return
        paths = self._out.others.setdefault(found.fqrn, {})
        if found.path not in paths:
            self._count()
            paths[found.path] = Added(found.path, mode, need.kind, need.by, need.why)

    def _want(self, path: bytes, mode: Mode, need: _Need, *, is_dir: bool = False) -> None:
        part = need.kind == "link"
        if any(_covers(one, path, mode, is_dir, part=part) for one in self._matchers):
            return
        fresh = self._fresh.get(path)
        if fresh is not None and (fresh is mode or fresh is Mode.DEEP):
            return
        if any(self._fresh.get(path[:at]) is Mode.DEEP for at in range(1, len(path)) if path[at : at + 1] == b"/"):
            return
        judged = explain(self._allowed, path, is_dir=is_dir)[-1]
        if judged.verdict != HIDDEN and mode is Mode.DEEP:
            judged = explain(self._allowed, path + b"/\x01", is_dir=False)[-1]
        if judged.verdict == HIDDEN:
            self._leave("excluded", show(path), need.by, f"{need.why}, but {judged.reason}")
            return
        self._count()
        self._fresh[path] = mode
        self._out.added[path] = Added(path, mode, need.kind, need.by, need.why)

    def _count(self) -> None:
        if len(self._out.added) + sum(map(len, self._out.others.values())) >= MAX_ADDED:
            raise SpecError(
                f"the selection needs more than {MAX_ADDED} paths that it does not have",
                hint="name directories (/path/*) in the specification",
            )

    def _leave(self, kind: str, what: str, by: bytes, why: str) -> None:
        if (kind, what) not in self._out.left:
            self._out.unresolved += 1
            if len(self._out.left) < _KEPT:
                self._out.left[kind, what] = Left(kind, what, by, why)

    def _finish(self) -> None:
        for (name, _), by in self._pending.items():
            if _OF_SYSTEM.fullmatch(name):
                self._out.system.setdefault(name, by)
            else:
                why = f"{show(by)} needs it: neither where it looks nor where the selection has libraries"
                self._leave("library", show(name), by, why)
        for name, by in self._programs.items():
            if name not in self._commands:
                self._out.system.setdefault(name, by)


def _covers(matcher: Matcher, path: bytes, mode: Mode, is_dir: bool, *, part: bool = False) -> bool:
    """Whether a specification brings a path: with ``DEEP`` all that is in it too, with ``part`` something of that."""
    step = matcher.root
    names = path.split(b"/")[1:]
    for depth, name in enumerate(names, 1):
        if step.state is None:
            return False
        step = matcher.step(step.state, name, is_dir or depth < len(names))
    if step.included != YES:
        return False
    if mode is not Mode.DEEP:
        return True
    modes = [matcher.spec.lines[index].mode for index in step.lines]
    # What is excluded below it stays out whatever is added.
    if Mode.DEEP in modes or not part:
        return Mode.DEEP in modes
    # Lines that choose from a directory mean what they say: a link to /releases does not bring all releases.
    state = step.state
    below = () if state is None else matcher.names(state) or ()
    return Mode.FLAT in modes or any(
        state is not None and matcher.step(state, name, True).included == YES for name in below
    )


def _common(one: bytes, other: bytes) -> int:
    """Directories that two paths have in common."""
    number = 0
    for first, second in zip(one.split(b"/"), other.split(b"/"), strict=False):
        if first != second:
            break
        number += 1
    return number
