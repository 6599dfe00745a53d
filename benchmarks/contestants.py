"""The commands that bring a repository, or copies of what an export of it makes, to a destination."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

from serving import compiled
from synthetic import Repository

_HERE = os.path.dirname(os.path.abspath(__file__))


@dataclass(frozen=True)
class Contestant:
    """One line of the table.

    Attributes:
        name: what it is called.
        command: makes the command for a destination and a file for its phases.
        stdin: file that it reads.
        content: bytes that count for its MB/s.
    """

    name: str
    command: Callable[[str, str], list[str]]
    content: int
    stdin: str = os.devnull

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("ours")


@dataclass(frozen=True)
class Setting:
    """What all contestants are told.

    Attributes:
        port: of the server.
        cache: for programs that have to be compiled.
        work: folder for configurations.
        transfers: in flight at a time; 0: ours is not told.
    """

    repository: Repository
    port: int
    cache: str
    work: str
    transfers: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{os.path.basename(self.repository.storage)}"


#: All names, in the order of the table; those after the first ones copy what an export has made.
NAMES = ("ours 1", "ours 2", "ours 4", "cvmfs_shrinkwrap", "curl", "inflate", "tar x", "cp -a", "rsync -aH")


def ours(setting: Setting, workers: int, name: str = "") -> Contestant:
    """Our export, with so many workers (0: one for each CPU)."""
    repository = setting.repository

    def command(dest: str, phases: str) -> list[str]:
        return [
            *(sys.executable, os.path.join(_HERE, "phased.py"), phases, "export", "-r", repository.fqrn),
            *("--server", setting.url, "--key", repository.key, "-t", repository.spec, "-z", dest),
            *(("-j", str(setting.transfers)) if setting.transfers else ()),
            *("--workers", str(workers), "--json"),
        ]

    return Contestant(name or f"ours {workers}", command, repository.content)


def make(name: str, setting: Setting) -> Contestant | str:
    """A contestant, or why there is none."""
    if name.startswith("ours "):
        return ours(setting, int(name.partition(" ")[2]))
    return _MAKERS[name](setting)


def _original(setting: Setting) -> Contestant | str:
    """The original: a program for the machine. Ours of the same name is a script."""
    program = _find_original()
    if program is None:
        return "no original cvmfs_shrinkwrap on the PATH"
    repository = setting.repository
    config = os.path.join(setting.work, "original.config")
    cache = os.path.join(setting.work, "original-cache")
    with open(config, "w", encoding="utf-8") as file:
        file.write(
            f"CVMFS_REPOSITORIES={repository.fqrn}\nCVMFS_REPOSITORY_NAME={repository.fqrn}\n"
            f"CVMFS_SERVER_URL={setting.url}\nCVMFS_HTTP_PROXY=DIRECT\nCVMFS_CACHE_BASE={cache}\n"
            f"CVMFS_KEYS_DIR={os.path.dirname(repository.key)}\nCVMFS_SHARED_CACHE=no\nCVMFS_QUOTA_LIMIT=-1\n"
        )

    def command(dest: str, _: str) -> list[str]:
        shutil.rmtree(cache, ignore_errors=True)
        return [
            *(program, "-r", repository.fqrn, "-f", config, "-t", repository.spec, "-x", dest),
            *("-j", str(setting.transfers)),
        ]

    return Contestant("cvmfs_shrinkwrap", command, repository.content)


def _find_original() -> str | None:
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, "cvmfs_shrinkwrap")
        if os.path.isfile(path) and os.access(path, os.X_OK):
            with open(path, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    return path
    return None


def _curl(setting: Setting) -> Contestant | str:
    """All objects, written nowhere: the network's limit."""
    if shutil.which("curl") is None:
        return "no curl on the PATH"
    urls = os.path.join(setting.work, "urls")
    with open(urls, "w", encoding="utf-8") as file:
        for path in setting.repository.list_objects():
            file.write(f'url = "{setting.url}/{path}"\noutput = "/dev/null"\n')
    words = ["curl", "-q", "-s", "-f", "--noproxy", "*", "--parallel", "--parallel-max", str(setting.transfers)]
    return Contestant("curl", lambda *_: [*words, "-K", urls], setting.repository.stored)


def _inflate(setting: Setting) -> Contestant | str:
    """All objects from the storage, inflated and written: the limit of disk and CPU."""
    program = compiled("inflate", setting.cache, "z")
    if program is None:
        return "no C compiler, or no zlib for it"
    listed = os.path.join(setting.work, "objects")
    with open(listed, "w", encoding="utf-8") as file:
        file.writelines(f"{path}\n" for path in setting.repository.list_objects())
    processes = str(len(os.sched_getaffinity(0)))
    storage = setting.repository.storage
    unique = setting.repository.unique
    return Contestant("inflate", lambda dest, _: [program, storage, dest, processes], unique, listed)


def _tree(setting: Setting) -> str:
    """What an export makes, kept beside the repository."""
    home = setting.repository.home
    tree = os.path.join(home, "exported", setting.repository.fqrn)
    if not os.path.exists(tree):
        part = os.path.join(home, "exported.part")
        shutil.rmtree(part, ignore_errors=True)
        command = ours(setting, 0).command(part, os.devnull)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        os.rename(part, os.path.dirname(tree))
    return tree


def _tar(setting: Setting) -> Contestant | str:
    if shutil.which("tar") is None:
        return "no tar on the PATH"
    archive = os.path.join(setting.repository.home, "tree.tar")
    if not os.path.exists(archive):
        subprocess.run(["tar", "-cf", archive + ".part", "-C", _tree(setting), "."], check=True)
        os.rename(archive + ".part", archive)
    return Contestant("tar x", lambda dest, _: ["tar", "-xf", archive, "-C", dest], setting.repository.content)


def _copy(setting: Setting) -> Contestant | str:
    tree = _tree(setting)
    return Contestant("cp -a", lambda dest, _: ["cp", "-a", tree, f"{dest}/tree"], setting.repository.content)


def _rsync(setting: Setting) -> Contestant | str:
    if shutil.which("rsync") is None:
        return "no rsync on the PATH"
    tree = _tree(setting)
    return Contestant("rsync -aH", lambda dest, _: ["rsync", "-aH", f"{tree}/", dest], setting.repository.content)


_MAKERS: dict[str, Callable[[Setting], Contestant | str]] = {
    "cvmfs_shrinkwrap": _original,
    "curl": _curl,
    "inflate": _inflate,
    "tar x": _tar,
    "cp -a": _copy,
    "rsync -aH": _rsync,
}
