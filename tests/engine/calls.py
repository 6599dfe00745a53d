"""What tests have processes do. Importable by them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from shrinkwrap import errors


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def parent() -> int:
    return os.getppid()


def length(value: bytes) -> int:
    return len(value)


def both(value: bytes, size: int) -> tuple[int, bytes]:
    return len(value), bytes(size)


def nap(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def hang(started: str = "") -> None:
    """Never answers; says that it began by making a file."""
    if started:
        Path(started).touch()
    while True:
        time.sleep(60)


def hang_with_a_descendant(started: str) -> None:
    """Has a process of its own, which holds what it inherited."""
    done = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False, stdin=subprocess.DEVNULL
    )
    Path(started).write_text(str(done.pid))
    hang()


def meet(gate: str, mine: str, other: str) -> bool:
    """True if another process does the same at the same time."""
    Path(gate, mine).touch()
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if Path(gate, other).exists():
            return True
        time.sleep(0.005)
    return False


def fail(name: str, message: str, hint: str) -> None:
    raise getattr(errors, name)(message, hint=hint)


def fail_with(kind: type[BaseException], *args: Any) -> None:
    raise kind(*args)


def open_file(path: str) -> int:
    return os.open(path, os.O_RDONLY)


def link(one: str, two: str) -> None:
    os.link(one, two)


def leave(code: int) -> None:
    os._exit(code)


def exit_in_the_ordinary_way(code: int) -> None:
    sys.exit(code)


def unpicklable() -> Any:
    return lambda: None


class Unpackable(Exception):
    """Can be pickled but not unpickled, as many classes of errors."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


class OddError(Exception):
    """Cannot be pickled, nor shown."""

    def __reduce__(self) -> Any:
        raise TypeError("no")

    def __str__(self) -> str:
        raise ValueError("no")


class Surprise:
    """Can be packed, and raises when it is unpacked."""

    def __reduce__(self) -> Any:
        return (length, (1,))


def fail_to_unpack() -> None:
    raise Unpackable("one", "two")


def fail_oddly() -> None:
    raise OddError


def surprise() -> Surprise:
    return Surprise()


def modules(*names: str) -> dict[str, str]:
    """Where modules were imported from."""
    return {name: str(getattr(__import__(name), "__file__", "")) for name in names}


def paths() -> list[str]:
    return sys.path


def files() -> list[str]:
    """What is open in the process, inherited from the test run's own descriptors 0 to 2 left out."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            if int(name) > 2:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


class Streamed:
    """A function that is handed further calls while it is at work; what it gives shows which came together."""

    def __reduce__(self) -> str:
        return "streamed"

    def stream(self, calls: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        gate, _ = first = next(calls)
        until = time.monotonic() + 30
        while not os.path.exists(gate) and time.monotonic() < until:
            time.sleep(0.005)
        together = [first, *calls]
        for _, value in together:
            if value == "raise":
                raise ValueError("no")
            if value == "silence":
                return
            yield len(together), value


streamed = Streamed()
