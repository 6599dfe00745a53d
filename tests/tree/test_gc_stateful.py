"""Whatever is exported, killed, removed and collected in whatever order: nothing that is needed goes, all else does."""

from __future__ import annotations

import hashlib
import os
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from support.forking import Forks
from support.listing import list_tree
from tree.collecting import FQRN, OTHER, REVISIONS, SPECS, Places, wanted

from shrinkwrap.errors import DestinationError
from shrinkwrap.record.record import Goal
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.gc import GcResult

#: Where the random choices begin; each failure names its own.
SEED = int(os.environ.get("CI_SEED", "1"))
BASES = ("a", "b")
STEPS = 30


class Shown(NamedTuple):
    """What a goal is, in the terms of the tests."""

    revision: int
    spec: str
    link_mode: str


class Machine:
    """Two destinations with one store, two repositories, and somebody who does anything at any time.

    Attributes:
        history: what was done.
    """

    def __init__(self, places: Places, cli: Forks, seed: int) -> None:
        self.places = places
        self.history: list[str] = []
        self._cli = cli
        self._chosen = random.Random(seed)
        for name in BASES:
            self._export(name, FQRN, 0, "all", "hardlink", gc=False)

    # -- steps -------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        chosen = self._chosen
        doing: list[tuple[Callable[[], None], int]] = [
            (self.export, 8),
            (self.killed_export, 4),
            (self.collect, 6),
            (self.killed_collection, 2),
            (self.remove, 2),
            (self.killed_removal, 1),
        ]
        ((do, _),) = chosen.choices(doing, [weight for _, weight in doing])
        do()
        self.check()

    def export(self) -> None:
        name, fqrn, revision, spec, mode = self._choice()
        self._export(name, fqrn, revision, spec, mode, gc=self._chosen.random() < 0.3)

    def _export(self, name: str, fqrn: str, revision: int, spec: str, mode: str, *, gc: bool) -> None:
        self.history.append(f"export {name} {fqrn} {revision} {spec} {mode}{' -g' if gc else ''}")
        result = self.places.export(name, revision, fqrn=fqrn, spec=spec, store="store", link_mode=mode, gc=gc)
        assert self.shown(name, fqrn) == Shown(revision, spec, mode)
        if result.garbage is not None:
            self.check_collected(result.garbage)

    def killed_export(self) -> None:
        name, fqrn, revision, spec, mode = self._choice()
        number = self._chosen.randrange(20, 190)
        self.history.append(f"export {name} {fqrn} {revision} {spec} {mode} killed at {number}")
        words = self.places.words(name, revision, "--link-mode", mode, "-g", fqrn=fqrn, spec=spec)
        self._cli.run(*words, "-y", str(self.places.base("store")), die_at=number)

    def collect(self) -> None:
        name, full = self._chosen.choice(BASES), self._chosen.random() < 0.3
        self.history.append(f"gc {name}{' --full' if full else ''}")
        needed = self.needed() & self.contents()
        grace = 3600 if self._chosen.random() < 0.2 else 0
        before = self.places.stored(name).keys()
        dry = self.places.gc(name, full=full, grace=grace, dry_run=True)
        assert self.places.stored(name).keys() == before
        told = self.places.gc(name, full=full, grace=grace)
        assert (told.objects, told.bytes) == (dry.objects, dry.bytes)
        assert len(self.places.stored(name)) == len(before) - told.objects
        assert needed <= self.contents()
        if grace:
            assert told.objects == 0
        else:
            self.check_collected(told)

    def killed_collection(self) -> None:
        name, number = self._chosen.choice(BASES), self._chosen.randrange(2, 40)
        self.history.append(f"gc {name} --full killed at {number}")
        needed = self.needed() & self.contents()
        self._cli.run("gc", str(self.places.base(name)), "--full", die_at=number)
        assert needed <= self.contents()

    def remove(self) -> None:
        name, fqrn, *_ = self._choice()
        self.history.append(f"remove {name} {fqrn}")
        there = any(one.fqrn == fqrn for one in self.places.status(name).repositories)
        try:
            self.places.remove(name, fqrn=fqrn)
            assert there
        except DestinationError:
            assert not there
        assert self.shown(name, fqrn) is None
        assert not (self.places.base(name) / fqrn).exists()

    def killed_removal(self) -> None:
        name, fqrn, *_ = self._choice()
        number = self._chosen.randrange(2, 60)
        self.history.append(f"remove {name} {fqrn} killed at {number}")
        self._cli.run("remove", str(self.places.base(name)), "-r", fqrn, die_at=number)

    def _choice(self) -> tuple[str, str, int, str, str]:
        chosen = self._chosen
        return (
            chosen.choice(BASES),
            chosen.choice((FQRN, FQRN, OTHER)),
            chosen.randrange(len(REVISIONS)),
            chosen.choice(("all", "all", "some")),
            chosen.choice(("hardlink", "hardlink", "hardlink", "copy")),
        )

    # -- what must hold ----------------------------------------------------------------------------------------------

    def _in_words(self, fqrn: str, goal: Goal) -> Shown:
        (spec,) = (name for name, text in SPECS.items() if text == goal.spec)
        return Shown(self.places.roots[fqrn].index(goal.root_hash), spec, goal.link_mode)

    def shown(self, name: str, fqrn: str) -> Shown | None:
        """What the record says that a tree shows; None if there is none, or the tree is between two states."""
        for one in self.places.status(name).repositories:
            if one.fqrn == fqrn and one.record is not None and one.intent is None:
                return self._in_words(fqrn, one.record.goal)
        return None

    def goals(self, name: str, fqrn: str) -> list[Shown]:
        """What record and open intent name."""
        found = []
        for one in self.places.status(name).repositories:
            if one.fqrn == fqrn:
                found += [one.record.goal] if one.record is not None else []
                found += [one.intent.goal] if one.intent is not None and one.intent.goal is not None else []
        return [self._in_words(fqrn, goal) for goal in found]

    def check(self) -> None:
        """Each tree is what its record says, linked to the store, which has all that the record needs."""
        contents = self.contents()
        inodes = {info.st_ino for info in self.places.stored("a").values()}
        for name in BASES:
            for fqrn in (FQRN, OTHER):
                shown = self.shown(name, fqrn)
                if shown is None:
                    continue
                assert self.places.tree(name, fqrn) == wanted(shown.revision, shown.spec)
                assert needs(shown) <= contents
                if shown.link_mode == "hardlink":
                    files = [one for one in list_tree(self.places.base(name) / fqrn) if one.type == "file"]
                    assert {one.inode[1] for one in files if one.inode} <= inodes

    def contents(self) -> set[str]:
        return {name.partition(".")[0] for name in self.places.stored("a")}

    def needed(self) -> set[str]:
        """Contents that records and open intents need."""
        goals = [goal for name in BASES for fqrn in (FQRN, OTHER) for goal in self.goals(name, fqrn)]
        return {content for goal in goals for content in needs(goal)}

    def check_collected(self, told: GcResult) -> None:
        """What no path shows is needed by copies or an open intent; where a run was cut off, after a look at all."""
        is_open = [one.intent for name in BASES for one in self.places.status(name).repositories if one.intent]
        if is_open and not told.full:
            return
        left = {one.partition(".")[0] for one in self.places.garbage("a")}
        allowed: set[str] = set()
        for name in BASES:
            for fqrn in (FQRN, OTHER):
                shown = self.shown(name, fqrn)
                for goal in self.goals(name, fqrn):
                    if shown is None or goal.link_mode == "copy":
                        allowed |= needs(goal)
        assert left <= allowed

    def finish(self) -> None:
        """Whatever happened, it can all be made right."""
        for name in BASES:
            self._export(name, FQRN, 1, "all", "hardlink", gc=False)
            self.remove_quietly(name)
        for name in BASES:
            told = self.places.gc(name)
            assert told.notices == []
        assert self.places.garbage("a") == set()
        self.check()

    def remove_quietly(self, name: str) -> None:
        if any(one.fqrn == OTHER for one in self.places.status(name).repositories):
            self.places.remove(name, fqrn=OTHER)


def needs(shown: Shown) -> set[str]:
    """The contents that a tree needs, as stored files are named up to their metadata."""
    found = set()
    for data in wanted(shown.revision, shown.spec).values():
        digest = hashlib.sha1(zlib.compress(data), usedforsecurity=False).hexdigest()
        found.add(f"{digest[:2]}/{digest[2:]}z{len(data)}")
    return found


@pytest.mark.parametrize("turn", [0, 1, *(pytest.param(one, marks=pytest.mark.long) for one in range(2, 40))])
def test_nothing_that_is_needed_goes_and_all_else_does(
    turn: int, cli: Forks, repositories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing here is about power cuts.
    monkeypatch.setattr(Base, "sync", lambda self: None)
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    seed = SEED * 1000 + turn
    machine = Machine(Places(tmp_path, repositories), cli, seed)
    try:
        for _ in range(STEPS):
            machine.step()
        machine.finish()
    except BaseException as exc:
        exc.add_note(f"seed {seed}: " + "; ".join(machine.history))
        raise
