"""Promise 5: killed at any instant, the next run makes the tree that it would have made on a quiet day."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.exporting import (
    broken_names,
    differences,
    from_storage,
    groups,
    leftovers,
    published_path,
    selected,
    stored_files,
    unlinked_files,
    words,
)
from support.filesystems import Filesystem, remove_tree
from support.forking import Ended, Forks
from support.golden import Export, Pinned
from support.listing import AS_ROOT, Record, list_tree
from support.servers import RepoServer

pytestmark = pytest.mark.root

#: Where the random choices begin; each failure names its own.
SEED = int(os.environ.get("CI_SEED", "1"))
REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
REVISIONS = (REV1, REV2, REV3)
#: Everything that can become of a path between two revisions, in few paths.
FOLDERS = (b"/special/swap", b"/special/meta", b"/special/hard")
#: Of the calls that change the disk each is tried in long runs, else one of so many.
EVERY = [pytest.param(61, id="some"), pytest.param(1, id="each", marks=pytest.mark.long)]


def some(calls: int, every: int) -> range:
    return range(1 + random.Random(SEED).randrange(every), calls + 1, every)


def damage(base: Path, *between: Pinned, ends: Iterable[Pinned] = ()) -> list[str]:
    """What is wrong in a tree whose run was killed between these revisions.

    Promise 2: each file and link that is to be seen is the whole one of a revision; and what both ``ends`` of an update
    have at a path is there all the time, unless it or a folder above changes between directory and something else.
    """
    fqrn = between[0].fqrn
    known: dict[bytes, list[Record]] = {}
    for at in between:
        for record in selected(at, *FOLDERS):
            known.setdefault(record.path, []).append(record)
    there = list_tree(base / fqrn) if (base / fqrn).exists() else []
    wrong = []
    for record in there:
        same = [one for one in known.get(record.path, []) if one.type == record.type]
        if not same:
            wrong.append(f"{record.path!r}: a {record.type}, which no revision has there")
        elif record.type == "file" and record.sha256 not in {one.sha256 for one in same}:
            wrong.append(f"{record.path!r}: its content is of no revision")
        elif record.type == "symlink" and record.target not in {one.target for one in same}:
            wrong.append(f"{record.path!r}: its target is of no revision")
    paths = {record.path for record in there}
    types = [{one.path: one.type == "dir" for one in selected(at, *FOLDERS)} for at in ends]
    for path in set.intersection(*map(set, types)) if types else ():
        parts = path.split(b"/")
        above = [b"/".join(parts[:number]) or b"/" for number in range(1, len(parts) + 1)]
        if path not in paths and all(len({one[folder] for one in types}) == 1 for folder in above):
            wrong.append(f"{path!r}: gone, though both revisions have it")
    return wrong + broken_names(base, *between)


class Small:
    """Exports of a few paths of a repository from local storage, in forks."""

    def __init__(self, cli: Forks, repos: Path, folder: Path) -> None:
        self._cli = cli
        self._repos = repos
        self._spec = folder / "paths.spec"
        self._spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))

    def run(self, at: Pinned, base: Path, *options: str, **how: Any) -> Ended:
        """Export to a base; ``how`` it is to go as in :meth:`Forks.run`."""
        source = from_storage(at, self._repos, base)
        args = words(at, base, *source, "--keep-suid", "--json", *options, spec=self._spec)
        return self._cli.run(*args, **how)

    def recover(self, at: Pinned, base: Path, *options: str) -> None:
        """Run after a kill: it must end in the golden tree, and fetch nothing that was complete."""
        before = groups(base) if (base / ".data").exists() else set()
        ended = self.run(at, base, *options).ok()
        assert ended.json["counts"].get("fetched", 0) == len(groups(base) - before)
        self.check(at, base, *options)

    def check(self, at: Pinned, base: Path, *options: str) -> None:
        linked = "--link-mode" not in options
        assert differences(base, at, AS_ROOT if linked else AS_ROOT.without_groups(), selected(at, *FOLDERS)) == []
        assert broken_names(base, *REVISIONS) == []
        assert not linked or unlinked_files(base, at.fqrn) == []
        assert leftovers(base) == []


@pytest.fixture
def small(cli: Forks, repos: Path, tmp_path: Path) -> Small:
    return Small(cli, repos, tmp_path)


@pytest.mark.parametrize("every", EVERY)
def test_a_first_export_killed_at_any_call_is_finished_by_the_next(small: Small, every: int, tmp_path: Path) -> None:
    calls = small.run(REV1, tmp_path / "quiet").ok().calls
    for number in some(calls, every):
        base = tmp_path / f"base{number}"
        ended = small.run(REV1, base, die_at=number)
        try:
            assert ended.killed
            if (base / ".data").exists():
                assert damage(base, REV1) == []
            small.recover(REV1, base)
        except BaseException as exc:
            exc.add_note(f"killed at call {number} of {calls}: {ended.last}")
            raise
        remove_tree(base)


@pytest.mark.parametrize(
    ("before", "after", "options"),
    [
        pytest.param(REV1, REV3, (), id="rev1-rev3"),
        pytest.param(REV3, REV2, (), id="rev3-rev2"),
        pytest.param(REV2, REV1, (), id="rev2-rev1"),
        pytest.param(REV1, REV2, ("--link-mode", "copy"), id="rev1-rev2-copies"),
    ],
)
@pytest.mark.parametrize("every", EVERY)
def test_an_update_killed_at_any_call_is_finished_by_the_next_whatever_that_wants(
    small: Small, before: Pinned, after: Pinned, options: tuple[str, ...], every: int, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    small.run(before, base, *options).ok()
    calls = small.run(after, base, *options).ok().calls
    for turn, number in enumerate(some(calls, every)):
        small.run(before, base, *options).ok()
        small.check(before, base, *options)
        if not options:
            forget_unused(base)
        ended = small.run(after, base, *options, die_at=number)
        try:
            assert damage(base, *REVISIONS, ends=(before, after)) == []
            small.recover((after, *REVISIONS)[turn % 4], base, *options)
        except BaseException as exc:
            exc.add_note(f"killed at call {number} of {calls}: {ended.last}")
            raise


def forget_unused(base: Path) -> None:
    """Take out of the store what the tree does not show: one that knows all revisions has nothing to fetch."""
    for file in stored_files(base).values():
        if file.lstat().st_nlink == 1:
            file.unlink()


# ------------------------------------------------------------------------------------------------- random instants


@pytest.mark.parametrize("rounds", [pytest.param(8, id="some"), pytest.param(100, id="many", marks=pytest.mark.long)])
def test_an_export_killed_at_random_instants_always_comes_to_its_tree_and_fetches_nothing_twice(
    rounds: int, cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    server = repo_server.with_files()
    source = ["--server", server.repo(REV1.fqrn), "--keep-suid", "--json"]
    began = time.monotonic()
    cli.run(*words(REV1, tmp_path / "quiet", *source, "--tag", "rev1", spec="slide")).ok()
    quiet = time.monotonic() - began
    base = tmp_path / "base"
    for seed in range(SEED, SEED + rounds):
        chosen = random.Random(seed)
        if chosen.random() < 0.3 and base.exists():
            remove_tree(base)
        wanted = [chosen.choice(REVISIONS) for _ in range(1 + chosen.randrange(3))]
        try:
            for at in wanted:
                args = words(at, base, *source, "--tag", at.rev, spec="slide")
                cli.run(*args, kill_after=chosen.uniform(0, quiet))
            had = groups(base) if (base / ".data").exists() else set()
            if (base / ".data").exists():
                assert broken_names(base, *REVISIONS) == []
            asked = len(server.requests())
            ended = cli.run(*args).ok()
            expected = golden.exported(Export(at, "slide"))
            assert differences(base, at, expected=expected) == []
            assert leftovers(base) == []
            assert unlinked_files(base, at.fqrn) == []
            if ended.json["reason"] == "exported":
                assert ended.json["counts"].get("fetched", 0) == len(groups(base) - had)
            again = {one.path.partition("/")[2] for one in server.requests()[asked:]}
            assert not again & {published_path(name) for name in had}
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {[at.rev for at in wanted]}")
            raise


# ------------------------------------------------------------------------------------------------------ power cuts


def _cut_and_check(made: Filesystem, small: Small, base: Path, at: Pinned, *options: str) -> None:
    made.power_cut()
    # The machine was started anew.
    boot = {"shrinkwrap.tree.base.boot_id": "another", "shrinkwrap.tree.intents.boot_id": "another"}
    small.run(at, base, *options, patches=boot).ok()
    projection = AS_ROOT.without_groups() if options else AS_ROOT
    assert differences(base, at, projection, selected(at, *FOLDERS)) == []
    assert broken_names(base, *REVISIONS) == []
    assert leftovers(base) == []


@pytest.mark.parametrize("mode", ["hardlink", "copy"])
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
@pytest.mark.parametrize("cuts", [pytest.param(4, id="some"), pytest.param(40, id="many", marks=pytest.mark.long)])
def test_after_a_power_cut_no_name_is_believed_that_may_have_lost_its_content(
    kind: str, mode: str, cuts: int, small: Small, make_filesystem: Callable[..., Filesystem]
) -> None:
    made = make_filesystem(kind)
    options = ("--link-mode", mode) if mode != "hardlink" else ()
    for seed in range(SEED, SEED + cuts):
        chosen = random.Random(seed)
        base = made.path / f"base{seed}"
        before, at = chosen.sample(REVISIONS, 2)
        number = 0
        try:
            if chosen.random() < 0.5:
                small.run(before, base, *options).ok()
            if chosen.random() < 0.7:
                number = chosen.randrange(1, 600)
                small.run(at, base, *options, die_at=number)
            else:
                small.run(at, base, *options, kill_after=chosen.uniform(0, 0.3))
            if chosen.random() < 0.3:
                # What the kernel writes on its own account, in an order of its own.
                os.sync()
            _cut_and_check(made, small, base, at, *options)
        except BaseException as exc:
            exc.add_note(f"seed {seed}: {before} to {at}, killed at call {number}")
            raise
        remove_tree(base)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_what_a_finished_export_says_is_there_outlives_a_power_cut(
    kind: str, small: Small, make_filesystem: Callable[..., Filesystem]
) -> None:
    made = make_filesystem(kind)
    base = made.path / "base"
    for at in (REV1, REV3):
        small.run(at, base).ok()
        made.power_cut()
        assert differences(base, at, expected=selected(at, *FOLDERS)) == []
        assert broken_names(base, *REVISIONS) == []
        assert small.run(at, base).ok().json["reason"] == "unchanged"


def test_doubtful_files_are_dropped_only_after_a_start_of_the_machine(small: Small, tmp_path: Path) -> None:
    base = tmp_path / "base"
    calls = small.run(REV1, tmp_path / "quiet").ok().calls
    small.run(REV1, base, die_at=calls * 3 // 4)
    had = stored_files(base)
    # What a power cut may leave: the name, the right size, other bytes.
    victim = max(had.values(), key=lambda file: file.lstat().st_size)
    whole = victim.lstat()
    with victim.open("r+b") as file:
        file.write(bytes(whole.st_size))
    os.utime(victim, ns=(whole.st_mtime_ns, whole.st_mtime_ns))
    boot = {"shrinkwrap.tree.base.boot_id": "another", "shrinkwrap.tree.intents.boot_id": "another"}
    ended = small.run(REV1, base, patches=boot).ok()
    assert ended.json["counts"]["fetched"] == len(groups(base))
    small.check(REV1, base)
