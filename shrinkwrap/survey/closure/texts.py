"""What scripts and the path files of Python ask for."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

#: What the kernel reads of a script (``BINPRM_BUF_SIZE``).
HEAD: Final = 256
#: Most bytes of a file of paths. Files of another kind have the same endings.
TEXT: Final = 64 * 1024
_LINES: Final = 1000
_VERSION: Final = re.compile(rb"(\d{1,2}\.\d{1,3})(?:\.|$)")


class Shebang(NamedTuple):
    """The first line of a script: ``program`` is what ``env`` is to look for, else empty."""

    interpreter: bytes
    program: bytes


def read_shebang(head: bytes) -> Shebang | None:
    """What runs a script; None: it is none."""
    if not head.startswith(b"#!"):
        return None
    words = head[2:HEAD].split(b"\n", 1)[0].split()
    if not words or b"\0" in words[0]:
        return None
    program = b""
    if words[0].rpartition(b"/")[2] == b"env":
        # env -S splits its argument; settings of variables and options come before the program.
        left = [word for word in words[1:] if not word.startswith(b"-") and b"=" not in word]
        program = left[0] if left else b""
    return Shebang(words[0], program)


def read_pth(text: bytes) -> list[bytes]:
    """The paths of a ``.pth`` file; lines of code are left out (site.py executes those)."""
    if len(text) > TEXT or b"\0" in text:
        return []
    found = []
    for line in text.removeprefix(b"\xef\xbb\xbf").splitlines()[:_LINES]:
        line = line.strip()
        if line and not line.startswith((b"#", b"import ", b"import\t")) and len(line) < 4096:
            found.append(line)
    return found


class Venv(NamedTuple):
    """``home``: where the interpreter is that an environment was made with; ``version``: ``3.11``, or empty."""

    home: bytes
    version: bytes


def read_venv(text: bytes) -> Venv | None:
    """What a ``pyvenv.cfg`` says; None: nothing of use."""
    if len(text) > TEXT or b"\0" in text:
        return None
    values: dict[bytes, bytes] = {}
    for line in text.splitlines()[:_LINES]:
        name, equals, value = line.partition(b"=")
        if equals:
            values[name.strip().lower()] = value.strip()
    home = values.get(b"home", b"")
    if not home.startswith(b"/") or len(home) >= 4096:
        return None
    version = _VERSION.match(values.get(b"version", b"") or values.get(b"version_info", b""))
    return Venv(home, b"" if version is None else version[1])
