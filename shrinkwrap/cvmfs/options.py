"""Configuration files of a CernVM-FS client: parameters, where they come from, and what their values mean.

Two readers exist because the reference has two (FORMAT.md §8.2): :func:`read_simple` for files that are named on the
command line, here, and :func:`~shrinkwrap.cvmfs.shellconf.read_shell` for those of ``/etc/cvmfs``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.limits import MIB
from shrinkwrap.errors import UsageError

#: The largest file of real sites has a few kilobytes.
FILE_LIMIT: Final = 1 * MIB

_TRUE: Final = frozenset({"yes", "on", "1", "true"})
_FALSE: Final = frozenset({"no", "off", "0", "false"})
_PREFIX: Final = re.compile(r"(?:export|readonly|eval)[ \t]+")
#: Counts and seconds beyond this are mistakes.
_HIGHEST: Final = 10**9


class Parameter(NamedTuple):
    """One assignment. ``origin`` is ``file:line``; values keep bytes that are not UTF-8 as surrogates."""

    name: str
    value: str
    origin: str

    @property
    def meant(self) -> str:
        """The value for settings: a pair of quotes that the simple reader leaves stands for nothing."""
        return "" if self.value in ('""', "''") else self.value


@dataclass(frozen=True, slots=True)
class Parsed:
    """The assignments of one file in order, the last one for a name wins; ``notes`` tell what was not understood."""

    parameters: tuple[Parameter, ...]
    notes: tuple[str, ...] = ()


def decode(data: bytes, file: str) -> str:
    """The text of a configuration file; bytes that are not UTF-8 survive a way back (``surrogateescape``).

    Raises:
        UsageError: a NUL byte in it, or larger than :data:`FILE_LIMIT`.
    """
    if len(data) > FILE_LIMIT:
        raise UsageError(f"{file}: larger than {FILE_LIMIT} bytes; this is not a configuration file")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise UsageError(f"{file}:{line}: a NUL byte; this is not a configuration file")
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that :func:`decode` made ``text`` from."""
    return text.encode("utf-8", "surrogateescape")


def read_simple(data: bytes, file: str) -> Parsed:
    """Read a file as libcvmfs and the exporter do (FORMAT.md §8.2): no shell, every branch of an ``if`` counts.

    ``#`` starts a comment anywhere, quoted or not. One outer pair of quotes is removed from values longer than two
    characters. Names with a blank are skipped, which is how the lines of an ``if`` vanish.

    Raises:
        UsageError: see :func:`decode`.
    """
    parameters: list[Parameter] = []
    notes: list[str] = []
    shell = False
    for number, raw in enumerate(decode(data, file).split("\n"), 1):
        line = raw.removesuffix("\r").partition("#")[0].strip(" \t")
        shell = shell or line.startswith(("if ", "if\t", "case ", "for ", "while "))
        line = _PREFIX.sub("", line, count=1) if _PREFIX.match(line) else line
        name, equals, value = line.partition("=")
        if not equals or not name or " " in name or "\t" in name:
            continue
        value = _unquoted(value.strip(" \t"))
        parameters.append(Parameter(name, value, f"{file}:{number}"))
        if re.search(r"\$[A-Za-z_{]|\$\((?!\()[^)]*[ ]|`", value):
            notes.append(
                f"{file}:{number}: {name} holds shell syntax, which is not interpreted in a file named with -f: it"
                " stays as it is written"
            )
    if shell:
        notes.append(
            f"{file}: conditions are not interpreted in a file named with -f: the assignments of all branches are"
            " taken, the last one wins"
        )
    return Parsed(tuple(parameters), tuple(notes))


def _unquoted(value: str) -> str:
    if len(value) > 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value


def fill(value: str, fqrn: str) -> str:
    """``@fqrn@`` and ``@org@`` (the first label of the name) replaced; other templates stay (FORMAT.md §8.2)."""
    return value.replace("@fqrn@", fqrn).replace("@org@", fqrn.partition(".")[0])


def boolean(text: str) -> bool | None:
    """yes, on, 1, true or no, off, 0, false in any case; None for everything else (FORMAT.md §8.2)."""
    word = text.strip(" \t").lower()
    return True if word in _TRUE else False if word in _FALSE else None


def split_list(text: str, separator: str) -> tuple[str, ...]:
    """The members of a list, trimmed, without empty ones."""
    return tuple(part for part in (raw.strip(" \t") for raw in text.split(separator)) if part)


def number(parameter: Parameter, *, lowest: int = 0) -> int:
    """The value as a whole number.

    Raises:
        UsageError: anything but digits, or out of range.
    """
    text = parameter.meant.strip(" \t")
    if re.fullmatch(r"[0-9]{1,10}", text) and lowest <= int(text) <= _HIGHEST:
        return int(text)
    raise UsageError(
        f"{parameter.origin}: {parameter.name} is {shorten(parameter.value)}; a whole number is expected,"
        f" {lowest} or more"
    )


def last(parsed: Iterable[Parsed]) -> dict[str, Parameter]:
    """What is in force after all these files: for each name its last assignment (FORMAT.md §8.1)."""
    found: dict[str, Parameter] = {}
    for one in parsed:
        for parameter in one.parameters:
            found[parameter.name] = parameter
    return found


def shorten(text: str) -> str:
    """A value as it can stand in a message."""
    return ascii(text if len(text) <= 100 else text[:97] + "...")


def join_proxies(normal: str, fallback: str) -> str:
    """The chain of proxies with its fall-back groups (FORMAT.md §8.3).

    ``DIRECT`` is dropped from the fall-back; if anything is left of that, from the normal list as well.
    """
    added = _groups(fallback, keep_direct=False)
    return ";".join("|".join(group) for group in [*_groups(normal, keep_direct=not added), *added])


def _groups(text: str, *, keep_direct: bool) -> list[tuple[str, ...]]:
    groups = [
        tuple(member for member in split_list(part, "|") if keep_direct or member != "DIRECT")
        for part in text.split(";")
    ]
    return [group for group in groups if group]


def has_auto(proxies: str) -> bool:
    """Whether a chain of proxies asks for discovery by PAC file."""
    return any(member.lower() == "auto" for group in _groups(proxies, keep_direct=True) for member in group)
