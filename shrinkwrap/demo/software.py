"""The software of the demo: this Python's standard library, laid out as the LCG releases are.

::

    lcg/releases/Python/VERSION-HASH/PLATFORM/{bin,lib,share}    an installation, three of them
    lcg/views/LCG_N/PLATFORM/{bin,lib,setup.sh}                  links into one installation
    lcg/views/LCG_N/current -> $(DEMO_PLATFORM)                  a variant symlink
    lcg/contrib/                                                 something beside it

The installations differ in a few files, as builds of one version do: that is what deduplication lives on.
"""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from shrinkwrap.errors import UsageError

#: Another standard library than this Python's, for quick tests.
LIBRARY_VARIABLE: Final = "SHRINKWRAP_DEMO_LIBRARY"
PLATFORM: Final = "x86_64-el9-gcc13-opt"
#: A platform that demo.spec leaves out.
OTHER_PLATFORM: Final = "x86_64-el8-gcc11-opt"
#: What variant symlinks are asked for.
VARIABLE: Final = "DEMO_PLATFORM"

#: What makes builds of one version different names; the number is the length of this.
_BUILDS: Final = ("2fae1", "b07c4", "9d3e8")
_LEFT_OUT: Final = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "ensurepip",
        "idle_test",
        "lib2to3",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    }
)
#: Files beyond this are no part of a library in Python (static libraries, say).
_LARGEST: Final = 8_000_000
#: One module in so many is another one in each build, and one in so many is changed by a revision.
_EVERY: Final = 100
_TIME: Final = (2026, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Library:
    """A standard library on disk.

    Attributes:
        folder: where it lies.
        version: of the Python, such as ``3.11.7``.
        files: paths below ``folder``, sorted.
    """

    folder: str
    version: str
    files: tuple[str, ...]

    @property
    def short(self) -> str:
        """``3.11``"""
        return ".".join(self.version.split(".")[:2])

    def release(self, build: int) -> str:
        """Name of an installation: version and hash; builds are numbered from 1."""
        return f"{self.version}-{_BUILDS[build - 1]}"


def find_library() -> Library:
    """The running Python's standard library. Raises UsageError: it lies in no folder that can be read."""
    folder = os.environ.get(LIBRARY_VARIABLE) or sysconfig.get_path("stdlib") or ""
    files = tuple(sorted(_files(folder)))
    if "os.py" not in files:
        raise UsageError(
            f"this Python ({sys.executable or 'frozen'}) has its standard library in no folder that can be read:"
            f" no os.py in {folder or '(nowhere)'}",
            hint="run the demo with a Python that is installed in the ordinary way",
        )
    return Library(folder, "{}.{}.{}".format(*sys.version_info[:3]), files)


def _files(folder: str) -> Iterator[str]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _LEFT_OUT and not name.startswith("config-")]
        for name in names:
            path = os.path.join(at, name)
            found = os.lstat(path)
            if stat.S_ISREG(found.st_mode) and found.st_size <= _LARGEST and os.access(path, os.R_OK):
                yield os.path.relpath(path, folder)


# ------------------------------------------------------------------------------------------------------ laying it out


def first_revision(top: str, library: Library) -> None:
    """Two builds, and a view of each."""
    _write(top, "lcg/README.md", "# Demo\n\nReleases are in releases/, what sets up an environment in views/.\n")
    _write(top, "lcg/contrib/setup.sh", "# Nothing to set up.\n")
    _write(top, "lcg/contrib/gcc/13.1.0/setup.sh", "# A compiler would be here.\n")
    for folder in ("lcg/releases", "lcg/views"):
        _write(top, f"{folder}/.cvmfscatalog", "")
    for build in (1, 2):
        _build(top, library, build)
        _view(top, library, build)


def second_revision(top: str, library: Library) -> None:
    """A third build and its view; a few files of others change, one goes."""
    _build(top, library, 3)
    _view(top, library, 3)
    _write(top, "lcg/README.md", "# Demo\n\nNow with a third release.\n")
    second = os.path.join(top, installation(library, 2), "lib", f"python{library.short}")
    for name in _some(library, 0)[:3]:
        with open(os.path.join(second, name), "a", encoding="utf-8") as file:
            file.write("\n# Corrected in place.\n")
    os.unlink(os.path.join(second, _some(library, 0)[-1]))


def installation(library: Library, build: int, platform: str = PLATFORM) -> str:
    """Path of an installation, below the top."""
    return f"lcg/releases/Python/{library.release(build)}/{platform}"


def _some(library: Library, offset: int) -> list[str]:
    """A few modules of the library, always the same; other ones for another offset."""
    modules = [name for name in library.files if name.endswith(".py") and not name.startswith("idlelib")]
    return modules[offset::_EVERY] or modules


def _build(top: str, library: Library, build: int) -> None:
    root = installation(library, build)
    lib = f"{root}/lib/python{library.short}"
    changing = set(_some(library, 1))
    made: set[str] = set()
    for name in library.files:
        target = os.path.join(top, lib, name)
        folder = os.path.dirname(target)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        _copy(os.path.join(library.folder, name), target, f"\n# Build {build}.\n" if name in changing else "")
    _archive(top, f"{root}/lib/python{library.short.replace('.', '')}.zip", lib, library)
    _write(top, f"{root}/bin/pydoc3", "#!/usr/bin/env python3\nimport pydoc\n\npydoc.cli()\n", mode=0o755)
    os.link(os.path.join(top, root, "bin/pydoc3"), os.path.join(top, root, f"bin/pydoc{library.short}"))
    _write(top, f"{root}/share/doc/modules.txt", "".join(f"{name}\n" for name in library.files))
    _write(top, f"{installation(library, build, OTHER_PLATFORM)}/BUILD", f"{build}, for another platform\n")
    # Users of a release open its catalog, and no other release's (FORMAT.md §6.11).
    _write(top, f"lcg/releases/Python/{library.release(build)}/.cvmfscatalog", "")


def _view(top: str, library: Library, build: int) -> None:
    view = f"lcg/views/LCG_{100 + build}"
    _write(top, f"{view}/{PLATFORM}/setup.sh", f'# Python {library.release(build)}\nPATH="$PWD/bin:$PATH"\n')
    for name in ("bin", "lib"):
        target = f"../../../releases/Python/{library.release(build)}/{PLATFORM}/{name}"
        os.symlink(target, os.path.join(top, view, PLATFORM, name))
    os.symlink(f"$({VARIABLE})", os.path.join(top, view, "current"))


def _archive(top: str, name: str, lib: str, library: Library) -> None:
    """All of it in one file, which is large enough to be published in chunks."""
    path = os.path.join(top, name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in library.files:
            if file.startswith("idlelib") or not file.endswith(".py"):
                continue
            with open(os.path.join(top, lib, file), "rb") as content:
                archive.writestr(zipfile.ZipInfo(file, _TIME), content.read())
    os.utime(path, ns=(0, 1_767_225_600 * 10**9))


def _copy(source: str, target: str, more: str) -> None:
    """Content, permissions and time of a file."""
    found = os.stat(source)
    with open(source, "rb") as read, open(target, "wb") as write:
        write.write(read.read() + more.encode())
    os.chmod(target, found.st_mode & 0o755 | 0o644)
    os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))


def _write(top: str, name: str, text: str, *, mode: int = 0o644) -> None:
    path = os.path.join(top, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
