"""Paths of repositories in an environment: output of ``env``, text of ``module show``."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from shrinkwrap.spec.grammar import Mode
from shrinkwrap.survey.trace.policy import lines_of
from shrinkwrap.survey.trace.touched import Place, normal

_SETTING: Final = re.compile(rb"(?:export |declare -x )?([A-Za-z_]\w{0,255})=")
#: ``prepend-path PATH /dir``, ``prepend_path("PATH","/dir")``, ``setenv X /dir``.
_MODULE: Final = re.compile(rb"\s*(?:(?:prepend|append)[-_]path|setenv)[\s(\"'{]+([A-Za-z_]\w{0,255})")
_PATH_LIKE: Final = re.compile(rb"\w*(PATH|PATHS|_DIRS)", re.IGNORECASE)
#: Where somebody happened to be.
_OF_THE_SHELL: Final = (b"PWD", b"OLDPWD", b"_")


class Environment(NamedTuple):
    """What an environment names.

    Attributes:
        paths: by repository, those in it, with the variable that names each first.
        whole: repositories that are named as a whole, with the variable; no line is made of those.
        passed: variables that name paths of repositories and are no lists of directories.
    """

    paths: dict[str, dict[bytes, bytes]]
    whole: dict[str, bytes]
    passed: dict[bytes, None]


def read_environment(text: bytes, *, mount: bytes = b"/cvmfs", every: bool = False) -> Environment:
    """Find paths of repositories in the values of variables.

    Args:
        text: lines ``NAME=value`` (or ended by NUL, as of ``env -0``), or of modules.
        mount: the folder of all repositories.
        every: of all variables; else of lists of directories only (``...PATH``, ``..._DIRS``): a variable such as
            ``RELEASES=/cvmfs/REPOSITORY/releases`` would bring all of them.
    """
    place = Place(mount.rstrip(b"/"))
    in_value = re.compile(re.escape(place.mount) + rb"/[^:;,\s\"'(){}<>|&$`]{1,4096}")
    found = Environment({}, {}, {})
    name = b""
    for line in re.split(rb"[\n\0]", text):
        begun = _SETTING.match(line) or _MODULE.match(line)
        if begun is not None:
            name = begun[1]
        if name in _OF_THE_SHELL:
            continue
        for match in in_value.finditer(line):
            split = place.split(normal(match[0]))
            if split is None:
                continue
            fqrn, path = split
            if not (every or _PATH_LIKE.fullmatch(name)):
                found.passed[name] = None
            elif not path:
                found.whole.setdefault(fqrn, name)
            else:
                found.paths.setdefault(fqrn, {}).setdefault(path, name)
    return found


def lines_for(paths: dict[bytes, bytes]) -> list[bytes]:
    """The lines of a specification: each path with all that is in it."""
    return list(lines_of(dict.fromkeys(paths, Mode.DEEP)))
