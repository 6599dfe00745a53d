"""The tour: a list of steps, each of which does something real and says what came of it.

A command that is to be part of the tour gets a :class:`Step` in :data:`STEPS`.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from shrinkwrap import api
from shrinkwrap.cvmfs import limits
from shrinkwrap.demo import software
from shrinkwrap.demo.specs import shipped
from shrinkwrap.errors import UsageError
from shrinkwrap.publish import ChunkLimits, publish
from shrinkwrap.publish.serve import Server, serving

FQRN: Final = "demo.example.org"
#: What makes a folder one of ours.
_MARK: Final = ".shrinkwrap-demo"
_OURS: Final = ("software", "srv", "export", "demo.spec", "demo.conf", _MARK)
#: What ends or splits a value of a configuration file (docs/configuration.md).
_NOT_WRITABLE: Final = re.compile(r"[:#'\"\\$@\x00-\x1f\x7f]|\s$")
#: Smaller chunks than usual, so that a file of the demo has some.
_CHUNKS: Final = ChunkLimits(limits.MIB, 2 * limits.MIB, 4 * limits.MIB)
#: Nobody signs the whitelist of a demo again.
_WHITELIST_DAYS: Final = 3650


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a step.

    Attributes:
        name: of the step.
        text: for people, a line.
        seconds: wall time.
        requests: that the server answered meanwhile; None if it was not up.
        figures: numbers by name.
    """

    name: str
    text: str
    seconds: float
    requests: int | None
    figures: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its name, what it is about to do in words for people, and what does it."""

    name: str
    title: str
    run: Callable[[Demo], tuple[str, dict[str, int]]]


@dataclass(slots=True)
class Demo:
    """The folder of a demo, and the server that runs as long as the block.

    Attributes:
        folder: absolute; holds all of the demo.
        library: what is published.
        force: a former demo in the folder is made anew.
        server: None until it was started.
        notices: what people should know, collected from the steps.

    Raises (on entering the block):
        UsageError: the folder cannot be used.
    """

    folder: str
    library: software.Library
    force: bool = False
    server: Server | None = None
    notices: list[str] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        _prepare(self.folder, force=self.force)
        _configure(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server = None
        self._stack.close()

    def at(self, *names: str) -> str:
        """A path in the folder."""
        return os.path.join(self.folder, *names)

    @property
    def key(self) -> str:
        """The master public key."""
        return self.at("srv", "keys", f"{FQRN}.pub")

    def serve(self) -> Server:
        """Start the server."""
        self.server = self._stack.enter_context(serving([self.at("srv", FQRN)]))
        return self.server

    def do(self, step: Step) -> Outcome:
        """Do a step, one of :data:`STEPS` in their order. Raises ShrinkwrapError."""
        start = time.monotonic()
        before = self.server.counts() if self.server is not None else None
        text, figures = step.run(self)
        seconds = time.monotonic() - start
        requests = None
        if before is not None and self.server is not None:
            requests = (self.server.counts() - before).requests
        return Outcome(step.name, text, seconds, requests, figures)


# ------------------------------------------------------------------------------------------------------- the folder


def _prepare(folder: str, *, force: bool) -> None:
    """An empty folder with our mark. Raises UsageError, OSError."""
    if _NOT_WRITABLE.search(folder):
        raise UsageError(
            f"the name of {folder!r} cannot be written in a configuration file",
            hint="name a folder without quotes, colons and #",
        )
    os.makedirs(folder, exist_ok=True)
    mark = os.path.join(folder, _MARK)
    names = os.listdir(folder)
    if names and not os.path.isfile(mark):
        raise UsageError(f"{folder} is not empty, and no demo was made there", hint="name a new folder, or none")
    if names and not force:
        raise UsageError(f"{folder} has a demo already", hint="--force makes it anew; everything of it is replaced")
    for name in _OURS:
        if name in names and name != _MARK:
            _remove(os.path.join(folder, name))
    with open(mark, "w", encoding="utf-8") as file:
        file.write("made by shrinkwrap demo, which may replace what it made here\n")


def _remove(path: str) -> None:
    if not os.path.isdir(path) or os.path.islink(path):
        os.unlink(path)
        return
    for at, folders, _ in os.walk(path):  # what was exported may be without write permission
        for name in folders:
            inner = os.path.join(at, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(path)


def _configure(demo: Demo) -> None:
    """demo.spec, and a configuration that makes commands short."""
    shutil.copyfile(shipped("demo"), demo.at("demo.spec"))
    with open(demo.at("demo.conf"), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"CVMFS_SERVER_URL=file://{quote(os.fsencode(demo.at('srv', FQRN)))}\n")
        file.write(f"CVMFS_PUBLIC_KEY={demo.key}\nCVMFS_HTTP_PROXY=DIRECT\n")
        file.write(f"{software.VARIABLE}={software.PLATFORM}\n")


# --------------------------------------------------------------------------------------------------------- the steps


Done = tuple[str, dict[str, int]]


def _lay_out(demo: Demo) -> Done:
    software.first_revision(demo.at("software"), demo.library)
    made = _measure(demo.at("software"))
    text = f"{made.files} files, {_mb(made.size)}: the library of Python {demo.library.version} as two releases"
    return text, {"files": made.files, "bytes": made.size}


def _publish_first(demo: Demo) -> Done:
    return _publish(demo, "first")


def _publish_second(demo: Demo) -> Done:
    software.second_revision(demo.at("software"), demo.library)
    return _publish(demo, "second")


def _publish(demo: Demo, tag: str) -> Done:
    storage = demo.at("srv", FQRN)
    before = _measure(os.path.join(storage, "data"))
    published = publish(
        demo.at("software"),
        storage=storage,
        fqrn=FQRN,
        keys=demo.at("srv", "keys"),
        tag=tag,
        mirror=True,
        chunks=_CHUNKS,
        whitelist_days=_WHITELIST_DAYS,
    )
    source = _measure(demo.at("software"))
    after = _measure(os.path.join(storage, "data"))
    figures = {
        "revision": published.revision,
        "files": source.files,
        "bytes": source.size,
        "new_objects": after.files - before.files,
        "new_bytes": after.size - before.size,
    }
    text = (
        f"revision {published.revision}: {source.files} files, {_mb(source.size)};"
        f" {figures['new_objects']} new objects, {_mb(figures['new_bytes'])} compressed"
    )
    return text, figures


def _serve(demo: Demo) -> Done:
    server = demo.serve()
    return f"at {server.url(FQRN)}, until the demo ends", {"port": server.port}


def _export(demo: Demo) -> Done:
    _, done = _export_into(demo)
    text = (
        f"{done['files']} files, {_mb(done['bytes'])}; on disk {done['different_files']} different ones,"
        f" {_mb(done['different_bytes'])}; {_mb(done['received_bytes'])} received, compressed"
    )
    return text, done


def _export_again(demo: Demo) -> Done:
    _, done = _export_into(demo)
    text = (
        f"{done['added']} paths added, {done['changed']} changed, {done['removed']} removed,"
        f" with {done['fetched']} objects fetched, {_mb(done['received_bytes'])} received"
    )
    return text, done


def _verify(demo: Demo) -> Done:
    with api.Repository(FQRN, config=[demo.at("demo.conf")]) as repository:
        result = api.verify(demo.at("export"), repository, content=True, chain=True)
    result.check()
    (tree,) = result.repositories
    assert tree.content is not None, "asked for"
    assert tree.chain is not None, "asked for"
    read = tree.content
    text = (
        f"{read['files']} files, {_mb(read['bytes'])} read as {read['inodes']} different ones: as recorded; signatures"
        f" {tree.chain.message}"
    )
    return text, {"files": read["files"], "different_files": read["inodes"], "bytes": read["bytes"]}


def _export_nothing(demo: Demo) -> Done:
    result, done = _export_into(demo)
    return f"{result.reason}: the tree is revision {result.revision}, and so is the signed head of the repository", done


def _collect(demo: Demo) -> Done:
    found = api.gc(demo.at("export"))
    demo.notices += [line for line in found.notices if line not in demo.notices]
    text = (
        f"{found.objects} stored files, {_mb(found.bytes)}: the tree shows them no more;"
        f" {found.kept_objects} catalogs of the first revision"
    )
    return text, {"removed_files": found.objects, "removed_bytes": found.bytes, "removed_catalogs": found.kept_objects}


#: The tour. Each step finds what those before it made.
STEPS: Final[tuple[Step, ...]] = (
    Step("software", "lay out some software", _lay_out),
    Step("publish", "publish it: a signed repository", _publish_first),
    Step("serve", "serve the repository over HTTP", _serve),
    Step("export", "export what demo.spec selects", _export),
    Step("publish-again", "publish a second revision", _publish_second),
    Step("export-again", "export again: what changed", _export_again),
    Step("verify", "verify paths, contents and signatures", _verify),
    Step("export-nothing", "and again: nothing changed", _export_nothing),
    Step("gc", "remove what no tree shows any more", _collect),
)


def _export_into(demo: Demo) -> tuple[api.ExportResult, dict[str, int]]:
    assert demo.server is not None, "a step before has started it"
    servers = [demo.server.url(FQRN)]
    with api.Repository(FQRN, servers=servers, config=[demo.at("demo.conf")]) as repository:
        result = api.export(repository, api.Spec.from_files(demo.at("demo.spec")), demo.at("export"))
    demo.notices += [line for line in result.warnings() if line not in demo.notices]
    tree = _measure(demo.at("export", FQRN))
    return result, {
        "revision": result.revision,
        "files": tree.files,
        "bytes": tree.size,
        "different_files": tree.inodes,
        "different_bytes": tree.inode_size,
        "fetched": result.counts.get("fetched", 0),
        "received_bytes": result.bytes.get("received", 0),
        "added": result.counts.get("added", 0),
        "changed": result.counts.get("changed", 0),
        "removed": result.counts.get("removed", 0),
    }


@dataclass(slots=True)
class _Measured:
    """Regular files below a folder: as names, and as inodes."""

    files: int = 0
    size: int = 0
    inodes: int = 0
    inode_size: int = 0


def _measure(folder: str) -> _Measured:
    measured = _Measured()
    seen: set[int] = set()
    for at, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(at, name))
            if not stat.S_ISREG(found.st_mode):
                continue
            measured.files += 1
            measured.size += found.st_size
            if found.st_ino not in seen:
                seen.add(found.st_ino)
                measured.inodes += 1
                measured.inode_size += found.st_size
    return measured


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
