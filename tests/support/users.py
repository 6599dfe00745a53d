"""Running Python as an ordinary user, who cannot look into the home folder of whoever runs the tests."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from support.filesystems import own_namespace
from support.processes import dying_with_parent, need


def reaches(user: tuple[int, int], path: Path) -> bool:
    """Whether that user may read what lies at ``path`` (and search it, if it is a folder)."""
    test = [need("test"), "-r", str(path), "-a", "(", "!", "-d", str(path), "-o", "-x", str(path), ")"]
    return subprocess.run([*dying_with_parent(*user), *test], check=False).returncode == 0


@functools.cache
def _mirrored(folder: Path) -> Path:
    """The same folder at a place that everybody can reach: a bind mount that only this test run sees."""
    if reason := own_namespace():
        pytest.skip(f"other users cannot reach {folder}, and {reason}")
    point = Path(tempfile.mkdtemp(prefix="shrinkwrap-mirror-"))
    done = subprocess.run(
        [need("mount"), "--bind", str(folder), str(point)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        point.rmdir()
        pytest.skip(f"other users cannot reach {folder}, and it cannot be mounted elsewhere: {done.stderr.strip()}")

    owner = os.getpid()

    def undo() -> None:
        if os.getpid() == owner:  # not in a forked child
            subprocess.run([need("umount"), "-l", str(point)], check=False)
            with suppress(OSError):
                point.rmdir()

    atexit.register(undo)
    return point


def _open_to(user: tuple[int, int], folder: Path) -> Path:
    return folder if reaches(user, folder) else _mirrored(folder)


@functools.cache
def python_for(user: tuple[int, int] | None, checkout: Path) -> tuple[str, Mapping[str, str]]:
    """Interpreter and variables with which that user runs what is in ``checkout``; None: ourselves.

    Where the interpreter lies in a place closed to others (``/root``), it is shown to them elsewhere.
    """
    if user is None or user[0] == os.getuid():
        return sys.executable, {"PYTHONPATH": str(checkout)}
    code = _open_to(user, checkout)
    if reaches(user, Path(sys.executable)) and reaches(user, Path(sys.base_prefix)):
        return sys.executable, {"PYTHONPATH": str(code)}
    base = _open_to(user, Path(sys.base_prefix))
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = _open_to(user, Path(sysconfig.get_path("platlib")))
    # Started outside its virtual environment, it has to be told of it, and where its own shared library is: another
    # build of the same version may be installed.
    return shutil.which(name, path=str(base / "bin")) or sys.executable, {
        "PYTHONPATH": f"{code}{os.pathsep}{libraries}",
        "LD_LIBRARY_PATH": str(base / "lib"),
    }
