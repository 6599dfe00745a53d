"""The spec files that come with shrinkwrap (``specs/`` in the source tree, ``shrinkwrap/specs/`` when installed)."""

from __future__ import annotations

import os
from typing import Final

from shrinkwrap.errors import UsageError

_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def folder() -> str:
    """Where they lie. Raises UsageError: they were not installed."""
    for found in (os.path.join(_PACKAGE, "specs"), os.path.join(os.path.dirname(_PACKAGE), "specs")):
        if os.path.isfile(os.path.join(found, "demo.spec")):
            return found
    raise UsageError(f"the spec files are not where {_PACKAGE} is installed", hint="install shrinkwrap anew")


def shipped(name: str) -> str:
    """Path of one of them, by its name without ``.spec``. Raises UsageError: there is none."""
    where = folder()
    names = sorted(file.removesuffix(".spec") for file in os.listdir(where) if file.endswith(".spec"))
    if name not in names:
        raise UsageError(f"no spec file {name!r} comes with shrinkwrap", hint=f"there are {', '.join(names)}")
    return os.path.join(where, f"{name}.spec")
