"""What a closure comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.spec.grammar import Mode


@dataclass(frozen=True, slots=True)
class Added:
    """A path that the selection needs.

    Attributes:
        path: in its repository.
        mode: ``DEEP`` for a tree.
        kind: ``link``, ``interpreter``, ``library``, ``script``, ``pth``, ``venv`` or ``python``.
        by: what needs it.
        why: in words.
    """

    path: bytes
    mode: Mode
    kind: str
    by: bytes
    why: str

    def to_json(self) -> dict[str, Any]:
        return {
            "path": show(self.path),
            "tree": self.mode is Mode.DEEP,
            "kind": self.kind,
            "for": show(self.by),
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Left:
    """What is needed and is not added.

    Attributes:
        kind: ``dangling``, ``loop``, ``special``, ``variable``, ``library``, ``excluded``, ``relative``, ``too_large``,
            ``not_sound`` or ``rounds``.
        what: its name, for people.
        by: what needs it.
        why: in words.
    """

    kind: str
    what: str
    by: bytes
    why: str

    def to_json(self) -> dict[str, Any]:
        return {"unresolved": self.what, "kind": self.kind, "for": show(self.by), "why": self.why}


@dataclass(slots=True)
class Closure:
    """What came of it.

    Attributes:
        added: by path.
        others: what other repositories need to have, by name of the repository and path. Nobody looked there.
        system: what the machine needs to have (paths, libraries, programs), with one path that needs it.
        left: what stays unresolved; the first 10,000 of it, ``unresolved`` counts all.
        rounds: that were gone.
        read: contents that were looked into.
    """

    added: dict[bytes, Added] = field(default_factory=dict)
    others: dict[str, dict[bytes, Added]] = field(default_factory=dict)
    system: dict[bytes, bytes] = field(default_factory=dict)
    left: dict[tuple[str, str], Left] = field(default_factory=dict)
    unresolved: int = 0
    rounds: int = 0
    read: int = 0
