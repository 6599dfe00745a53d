"""What a plan says is what the listings of mounts say, and what an export then stores."""

from __future__ import annotations

import os
import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from snapshot.walking import components, open_real
from support import golden
from support.exporting import selected
from support.golden import Pinned
from support.listing import Record
from support.repository import Publisher

from shrinkwrap.cvmfs.digest import SHA1, Digest
from shrinkwrap.errors import DestinationError
from shrinkwrap.snapshot.view import DIR, FILE, LINK, Content, Node, ViewOptions
from shrinkwrap.spec.grammar import parse
from shrinkwrap.survey import sums
from shrinkwrap.survey.distinct import Distinct
from shrinkwrap.survey.plan import RATIO, Plan, Wish, survey
from shrinkwrap.survey.sums import DirectorySums, Sum
from shrinkwrap.tree.dry import RATIO as OF_DRY_RUNS

REV3 = Pinned("small.cern.ch", "rev3")
AS_PUBLISHED = ViewOptions(claim=False, uid=0, gid=0, keep_suid=True)
VARIABLES = {os.fsencode(name): os.fsencode(value) for name, value in golden.ENVIRONMENT.items()}


def plan_of(
    repos: Path, at: Pinned, spec: bytes, *, depth: int = 0, view: ViewOptions = AS_PUBLISHED
) -> tuple[Plan, list[tuple[bytes, Sum]]]:
    rows: list[tuple[bytes, Sum]] = []
    with ExitStack() as stack:
        session, root = open_real(stack, repos, at)
        wish = Wish(root, parse(spec), view, VARIABLES)
        plan = survey(session.catalogs, wish, depth=depth, row=lambda path, found: rows.append((path, found)))
        assert session.catalogs.in_use == 0
    return plan, rows


def summed(records: list[Record]) -> Sum:
    files = [record for record in records if record.type == "file"]
    return Sum(
        len(files),
        sum(record.type == "dir" for record in records),
        # A link that leads nowhere at all does not come out.
        sum(record.type == "symlink" and bool(record.target) for record in records),
        sum(record.size for record in files),
    )


@pytest.mark.parametrize("fqrn", ["small", "mixed", "testmigration", "external"])
def test_all_of_a_repository_comes_to_what_its_mount_shows(fqrn: str, repos: Path) -> None:
    at = next(one for one in reversed(golden.pinned()) if one.fqrn == f"{fqrn}.cern.ch")
    plan, _ = plan_of(repos, at, b"/*\n")
    mounted = list(golden.mounted(at))
    assert plan.total == summed(mounted)
    # The same content may be stored in several ways, but no two contents in one.
    contents = {(record.sha256, record.size) for record in mounted if record.type == "file"}
    assert plan.stored.contents >= len(contents)
    assert plan.stored.content_bytes >= sum(length for _, length in contents)
    assert plan.stored.objects >= plan.stored.contents
    assert plan.stored.inode_bytes <= plan.total.bytes
    assert plan.stored.blocks >= plan.stored.inode_bytes


def test_a_line_is_told_what_it_brings_and_what_it_alone_brings(repos: Path) -> None:
    spec = b"/lcg/*\n/lcg/views/*\n^/special/*\n/special/many/*\n!/special/many/f00001\n/no/such/*\n/README\n/README\n"
    plan, _ = plan_of(repos, Pinned("small.cern.ch", "rev1"), spec)
    at = Pinned("small.cern.ch", "rev1")

    def below(folder: bytes) -> list[Record]:
        return [one for one in golden.mounted(at) if one.path == folder or one.path.startswith(folder + b"/")]

    views, lcg = below(b"/lcg/views"), below(b"/lcg")
    many = [one for one in below(b"/special/many") if one.path != b"/special/many/f00001"]
    found = {line.line.text: line for line in plan.lines}
    assert found["/lcg/*"].brings == summed(lcg)
    assert found["/lcg/*"].alone == summed([one for one in lcg if one not in views])
    assert found["/lcg/views/*"].brings == summed(views)
    assert found["/lcg/views/*"].alone == Sum()
    assert found["/special/many/*"].brings == summed(many)
    # The directory itself is one of those that the flat line brings.
    assert found["/special/many/*"].alone == summed(many[1:])
    assert found["!/special/many/f00001"].matched is None
    assert [line.matched for line in plan.lines][-3:] == [0, None, 1]
    assert plan.report.cases["line_without_match"] == [(b"/no/such/*", "<spec>:6")]
    # Entries on the way to others are nobody's.
    everything = Sum()
    for line in plan.lines:
        everything.take(line.alone)
    assert everything.entries < plan.total.entries


def test_numbers_of_lines_do_not_depend_on_how_many_sets_of_them_are_kept(
    repos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = b"/special/*\n/special/names/*\n/**/*.py\n^/special/links/*\n/lcg/*/*/*\n"
    usual, _ = plan_of(repos, REV3, spec)
    monkeypatch.setattr(sums, "_SETS", 2)
    assert plan_of(repos, REV3, spec)[0].lines == usual.lines


def test_a_directory_is_told_with_all_that_lies_below_it_and_comes_after_that(repos: Path) -> None:
    folders = (b"/lcg/releases", b"/special/names", b"/special/empty")
    spec = b"".join(folder + b"/*\n" for folder in folders)
    wanted = selected(REV3, *folders)
    for depth in (1, 3):
        _, rows = plan_of(repos, REV3, spec, depth=depth)
        expected = {}
        for one in wanted:
            if one.type == "dir" and one.path != b"/" and one.path.count(b"/") <= depth:
                inside = [r for r in wanted if r.path == one.path or r.path.startswith(one.path + b"/")]
                expected[one.path] = summed(inside)
        assert dict(rows) == expected
        paths = [path for path, _ in rows]
        for number, path in enumerate(paths):
            assert not any(later.startswith(path + b"/") for later in paths[number:])
        # But for that, the order of the stream: nothing sorts behind what ends a directory here.
        assert paths == sorted(paths, key=lambda path: [*components(path), b"\xff" * 256])


def test_a_directory_named_without_a_star_and_what_cannot_come_out_are_told(repos: Path) -> None:
    plan, _ = plan_of(repos, REV3, b"/lcg/contrib\n/special/empty/dir\n/special/fifo\n/special/links/*\n")
    assert plan.report.cases["directory_without_star"] == [(b"/lcg/contrib", "<spec>:1")]
    assert plan.report.counts["special_file"] == 1
    assert plan.report.counts["unset_variable"] > 0
    # A special file is matched, and brings nothing.
    assert (plan.lines[2].matched, plan.lines[2].brings) == (1, Sum())


def test_files_that_differ_in_their_time_only_share_an_inode_if_that_is_asked_for(repos: Path) -> None:
    spec = b"/special/mtime/*\n"
    apart, _ = plan_of(repos, REV3, spec)
    shared, _ = plan_of(repos, REV3, spec, view=ViewOptions(False, 0, 0, share_mtime=True))
    assert shared.stored.inodes < apart.stored.inodes
    assert shared.stored.contents == apart.stored.contents
    assert shared.total == apart.total


def test_a_dry_run_and_a_plan_estimate_by_the_same_ratio() -> None:
    assert RATIO == OF_DRY_RUNS


# -- parts -----------------------------------------------------------------------------------------------------------


def file(raw: bytes, size: int, kind: str = "z", mtime: int = 0, path: bytes = b"/f") -> Node:
    return Node(path, FILE, 0o644, 0, 0, mtime, (), b"", Content(Digest(SHA1, raw), kind, size, (), None), 0)


def test_contents_and_inodes_are_counted_once_however_many_there_are() -> None:
    dice = random.Random(1)
    nodes = [
        # All digests begin alike, as those of a repository could that wants to fill one bucket.
        file(b"\0" * 12 + dice.randrange(900).to_bytes(8, "big"), 5000, dice.choice("zn"), dice.randrange(3))
        for _ in range(60_000)
    ]
    distinct = Distinct()
    for node in nodes:
        distinct.add(node)
    found = distinct.sum()
    distinct.close()
    contents = {(node.content, 0) for node in nodes}
    inodes = {(node.content, node.mtime_ns) for node in nodes}
    assert (found.contents, found.inodes) == (len(contents), len(inodes))
    assert found.content_bytes == 5000 * len(contents)
    assert found.packed_bytes == 5000 * sum(one.compressed for one, _ in contents if one is not None)
    assert (found.inode_bytes, found.blocks) == (5000 * len(inodes), 8192 * len(inodes))


def test_the_same_digest_of_another_interpretation_or_size_is_another_content() -> None:
    distinct = Distinct()
    for node in (file(b"x" * 20, 5), file(b"x" * 20, 6), file(b"x" * 20, 5, "n"), file(b"x" * 20, 5, "xz")):
        distinct.add(node)
        distinct.add(node)
    assert distinct.sum().contents == 4
    distinct.close()


def test_no_space_for_the_notes_is_said(tmp_path: Path) -> None:
    with pytest.raises(DestinationError, match="notes of what was counted cannot be kept there"):
        Distinct(folder=str(tmp_path / "not there"))


def test_what_stands_after_a_subdirectory_belongs_to_its_own_directory() -> None:
    def node(path: bytes, kind: str) -> Node:
        content = Content(Digest(SHA1, b"x" * 20), "z", 7, (), None) if kind == FILE else None
        return Node(path, kind, 0, 0, 0, 0, (), b"", content)

    rows: list[tuple[bytes, Sum]] = []
    directories = DirectorySums(2)
    for path, kind in (
        (b"", DIR),
        (b"/a", DIR),
        (b"/a/b", DIR),
        (b"/a/b/c", DIR),
        (b"/a/b/c/f", FILE),
        (b"/a/f", FILE),
        (b"/ab", DIR),
        (b"/ab/l", LINK),
        (b"/f", FILE),
    ):
        rows.extend(directories.add(node(path, kind)))
    rows.extend(directories.finish())
    assert rows == [(b"/a/b", Sum(1, 2, 0, 7)), (b"/a", Sum(2, 3, 0, 14)), (b"/ab", Sum(0, 1, 1, 0))]


def test_a_directory_on_the_way_through_a_glob_counts_only_if_something_below_it_comes_out(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "storage")
    root = publisher.tree([b"/a/x/lib", b"/a/y/bin", b"/b/lib"])
    head = publisher.publish(root)
    with publisher.open() as opened:
        wish = Wish(head.root, parse(b"/a/*/lib\n"), AS_PUBLISHED)
        plan = survey(opened.catalogs, wish)
    assert (plan.total.dirs, plan.total.files, plan.lines[0].matched) == (3, 1, 1)
