"""What differs between two snapshots, held against listings of both and against walks that leave nothing out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshot.walking import components, matcher, open_real, paths, walk
from support import golden
from support.golden import Export, Pinned
from support.listing import Record
from support.repository import Opened, Publisher

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.snapshot.both import Both
from shrinkwrap.snapshot.diff import ADDED, ASPECTS, CHANGED, REMOVED, Change, Diff, Shown, Side
from shrinkwrap.snapshot.tally import ByDirectory, Tally
from shrinkwrap.snapshot.view import ViewOptions
from shrinkwrap.snapshot.walk import Walk

#: By path: added, removed, or what changed.
Found = dict[bytes, tuple[str, frozenset[str]]]


def found_in(changes: Iterable[Change]) -> Found:
    listed = list(changes)
    found = {change.path: (change.kind, frozenset(change.what)) for change in listed}
    assert len(found) == len(listed), "a path twice"
    assert list(found) == sorted(found, key=components)
    return found


def between(
    opened: Opened, old: NestedRef, new: NestedRef, old_spec: bytes = b"/*", new_spec: bytes | None = None
) -> Diff:
    first, second = matcher(old_spec), matcher(old_spec if new_spec is None else new_spec)
    return Diff(Side(opened.catalogs, old, first), Side(opened.catalogs, new, second))


# -- real repositories -----------------------------------------------------------------------------------------------


def truth(old: Sequence[Record], new: Sequence[Record]) -> Found:
    """The difference of two listings of mounts, said in the plainest way."""
    before = {record.path.rstrip(b"/"): record for record in old}
    after = {record.path.rstrip(b"/"): record for record in new}
    found: Found = {}
    for path in before.keys() | after.keys():
        if path not in before:
            found[path] = (ADDED, frozenset())
        elif path not in after:
            found[path] = (REMOVED, frozenset())
        elif what := _aspects(before[path], after[path]):
            found[path] = (CHANGED, frozenset(what))
    return found


def _aspects(old: Record, new: Record) -> set[str]:
    if old.type != new.type:
        return {"type"}
    pairs = {
        "content": (old.sha256, new.sha256),
        "size": (old.size, new.size) if old.type == "file" else (0, 0),
        "target": (old.target, new.target),
        "mode": (old.mode, new.mode),
        "owner": ((old.uid, old.gid), (new.uid, new.gid)),
        "mtime": ((old.mtime, old.mtime_ns), (new.mtime, new.mtime_ns)),
        "xattr": (old.xattrs, new.xattrs),
        "links": ((old.nlink, old.group), (new.nlink, new.group)) if old.type == "file" else (0, 0),
    }
    return {name for name, (one, two) in pairs.items() if one != two}


def held_against_the_truth(found: Found, wanted: Found) -> None:
    assert found.keys() == wanted.keys()
    for path, (kind, what) in wanted.items():
        # That a file is stored otherwise now says nothing of its content.
        unclear = "storage" in found[path][1]
        assert (found[path][0], found[path][1] - {"storage"}) == (kind, what - ({"content"} if unclear else set())), (
            path
        )


def real_diff(
    old: Pinned, new: Pinned, repos: Path, spec: bytes = b"/*", view: ViewOptions | None = None
) -> tuple[list[Change], Diff]:
    with ExitStack() as stack:
        session, before = open_real(stack, repos, old)
        after = open_real(stack, repos, new)[1]
        sides = [Side(session.catalogs, root, matcher(spec), view) for root in (before, after)]
        diff = Diff(*sides)
        changes = list(diff)
        assert session.catalogs.in_use == 0
    return changes, diff


_PAIRS = ["small rev1 rev2", "small rev3 rev1", "rmd160 rev1 rev2", "plain rev2 rev1", "mixed rev1 rev3"]
_MORE = [
    *("small rev2 rev1", "small rev2 rev3", "small rev3 rev2", "small rev1 rev3", "mixed rev3 rev2"),
    *("shake128 rev1 rev2", "shake128 rev2 rev1", "testmigration rev2 rev3", "testmigration rev3 rev2"),
]


@pytest.mark.parametrize("pair", [*_PAIRS, *(pytest.param(pair, marks=pytest.mark.long) for pair in _MORE)])
def test_the_diff_of_two_revisions_is_the_difference_of_their_mounts(pair: str, repos: Path) -> None:
    name, *revisions = pair.split()
    old, new = (Pinned(f"{name}.cern.ch", rev) for rev in revisions)
    changes, _ = real_diff(old, new, repos)
    wanted = truth(golden.mounted(old), golden.mounted(new))
    assert wanted
    held_against_the_truth(found_in(changes), wanted)
    # Bytes too, by the listings alone.
    tally = Tally()
    for change in changes:
        tally.add(change)
    sizes = [{one.path: one.size for one in golden.mounted(at) if one.type == "file"} for at in (old, new)]
    assert tally.gained - tally.lost == sum(sizes[1].values()) - sum(sizes[0].values())


@pytest.mark.parametrize("spec", ["meta", "slide"])
def test_a_spec_on_both_sides_leaves_out_what_it_does_not_select(spec: str, repos: Path) -> None:
    old, new = Export(Pinned("small.cern.ch", "rev1"), spec), Export(Pinned("small.cern.ch", "rev3"), spec)
    changes, _ = real_diff(old.at, new.at, repos, golden.spec_file(spec).read_bytes())
    wanted = truth(golden.exported(old), golden.exported(new))
    assert wanted
    held_against_the_truth(found_in(changes), wanted)


def test_exports_show_what_their_options_make_of_entries(repos: Path) -> None:
    old, new = Pinned("small.cern.ch", "rev1"), Pinned("small.cern.ch", "rev2")
    whole = found_in(real_diff(old, new, repos)[0])
    claimed = found_in(real_diff(old, new, repos, view=ViewOptions(claim=True, uid=7, gid=7))[0])
    gone = frozenset({"owner", "links"})
    wanted = {path: (kind, what - gone) for path, (kind, what) in whole.items()}
    assert any("owner" in what for _, what in whole.values())
    assert claimed == {path: one for path, one in wanted.items() if one[0] != CHANGED or one[1]}


def test_a_snapshot_does_not_differ_from_itself_and_costs_no_catalog(repos: Path) -> None:
    at = Pinned("small.cern.ch", "rev2")
    changes, diff = real_diff(at, at, repos)
    assert changes == []
    assert (diff.read, diff.skipped) == (0, 1)


# -- catalogs that both sides have -----------------------------------------------------------------------------------


def asked(opened: Opened) -> list[str]:
    """Catalogs that were asked for."""
    return sorted(path for path in opened.source.requests if path.endswith("C"))


def names_of(*refs: NestedRef | None) -> list[str]:
    return sorted(ref.digest.object_path("C") for ref in refs if ref is not None and ref.digest is not None)


def two_revisions(publisher: Publisher) -> tuple[NestedRef, NestedRef]:
    """``/same`` with ``/same/deep`` is in both; ``/other`` differs; ``/new`` becomes a catalog around ``/new/old``."""
    files = [b"/f", b"/same/f", b"/same/deep/f", b"/other/f", b"/new/old/f"]
    mounts = [b"/same", b"/same/deep", b"/other", b"/new/old"]
    old = publisher.tree(files, mounts, store=False).ref()
    new = publisher.tree([*files, b"/other/g"], [*mounts, b"/new"], store=False).ref()
    return old, new


def test_catalogs_that_both_have_are_never_fetched(publisher: Publisher) -> None:
    old, new = two_revisions(publisher)
    with publisher.open() as opened:
        diff = between(opened, old, new)
        assert found_in(diff) == {b"/other/g": (ADDED, frozenset())}
        # The roots, /other of both sides, /new of one. Not /same, and not /new/old in spite of what is around it.
        assert len(asked(opened)) == len(set(asked(opened))) == 5
        assert {*names_of(old, new)} <= {*asked(opened)}
        assert (diff.read, diff.skipped) == (5, 2)


def test_where_the_specs_differ_a_catalog_is_read(publisher: Publisher) -> None:
    old, new = two_revisions(publisher)
    with publisher.open() as opened:
        diff = between(opened, old, new, b"/same/*\n", b"/same/*\n!/same/deep/f\n")
        assert found_in(diff) == {b"/same/deep/f": (REMOVED, frozenset())}
        assert (diff.read, diff.skipped) == (6, 0)
    with publisher.open() as opened:
        # The numbers of the lines make no difference.
        diff = between(opened, old, new, b"/same/*\n", b"/f\n/same/*\n")
        assert found_in(diff) == {b"/f": (ADDED, frozenset())}
        assert (diff.read, diff.skipped) == (2, 1)


def test_a_directory_on_the_way_through_a_glob_comes_out_only_with_something_below(publisher: Publisher) -> None:
    """The catalog is the same, nothing of it is selected, and the directory above it has changed."""
    roots = []
    for mode in (0o755, 0o700):
        root = publisher.catalog()
        root.dir(b"/a", mode=mode)
        nested = publisher.catalog(b"/a/n")
        nested.file(b"/a/n/f", b"", store=False)
        root.nest(nested)
        roots.append(root.ref())
    with publisher.open() as opened:
        assert found_in(between(opened, roots[0], roots[1], b"/**/none\n")) == {}
        assert found_in(between(opened, roots[0], roots[1], b"/**/f\n")) == {b"/a": (CHANGED, frozenset({"mode"}))}


def test_owners_that_do_not_count_do_not_keep_catalogs_from_being_skipped(publisher: Publisher) -> None:
    old, new = two_revisions(publisher)
    views = [ViewOptions(claim=True, uid=uid, gid=uid) for uid in (1, 2)]

    def diff(opened: Opened, *ignore: str) -> Diff:
        sides = [
            Side(opened.catalogs, root, matcher(b"/*"), view) for root, view in zip((old, new), views, strict=True)
        ]
        return Diff(*sides, ignore=ignore)

    with publisher.open() as opened:
        every = found_in(diff(opened))
        assert every.pop(b"/other/g") == (ADDED, frozenset())
        assert {*every.values()} == {(CHANGED, frozenset({"owner"}))}
        assert {*every} == {*paths(opened, old)}
    with publisher.open() as opened:
        without = diff(opened, "owner")
        assert found_in(without) == {b"/other/g": (ADDED, frozenset())}
        assert without.skipped == 2


@pytest.mark.parametrize("value", [b"x", None])
def test_links_through_a_variable_of_another_value_differ(publisher: Publisher, value: bytes | None) -> None:
    root = publisher.catalog()
    root.link(b"/l", b"$(V)/b")
    view = ViewOptions(claim=True, uid=1, gid=1)
    with publisher.open() as opened:
        sides = [Side(opened.catalogs, root.ref(), matcher(b"/*"), view, {b"V": one}) for one in (b"a", value)]
        assert found_in(Diff(*sides)) == {b"/l": (CHANGED, frozenset({"target"}))}
        assert found_in(Diff(sides[0], sides[0])) == {}


NAMES = [b"a", b"a-b", b"ab", b"b"]
way = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(
    lambda names: b"".join(b"/" + name for name in names)
)
lines = st.builds(
    lambda sign, path, star: sign + path + star + b"\n",
    st.sampled_from([b"", b"", b"", b"^", b"!"]),
    st.lists(st.sampled_from([*NAMES, b"*", b"a*", b"**"]), min_size=1, max_size=3).map(
        lambda names: b"".join(b"/" + name for name in names)
    ),
    st.sampled_from([b"", b"/*"]),
)
specs = st.one_of(st.just(b"/*\n"), st.just(b"/\n"), st.lists(lines, min_size=1, max_size=3).map(b"".join))


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Files, and mounts of catalogs: directories that some file is in."""
    drawn = draw(st.sets(way, min_size=1, max_size=8))
    files = [one for one in drawn if not any(other.startswith(one + b"/") for other in drawn)]
    above = {b"".join(b"/" + name for name in one.split(b"/")[1:depth]) for one in files for depth in range(2, 5)}
    inside = sorted(one for one in above if any(file.startswith(one + b"/") for file in files))
    return sorted(files), draw(st.lists(st.sampled_from(inside), max_size=3, unique=True)) if inside else []


def clash(one: bytes, other: bytes) -> bool:
    """Whether they cannot both be files of one tree."""
    return one == other or one.startswith(other + b"/") or other.startswith(one + b"/")


quick = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(trees(), trees(), st.booleans(), specs, specs | st.none())
def test_whatever_is_skipped_the_diff_is_that_of_two_whole_walks(
    old_tree: tuple[list[bytes], list[bytes]],
    new_tree: tuple[list[bytes], list[bytes]],
    grown: bool,
    old_spec: bytes,
    other_spec: bytes | None,
) -> None:
    if grown:
        # Most catalogs are the same on both sides.
        more = [one for one in new_tree[0] if not any(clash(one, other) for other in old_tree[0])]
        new_tree = [*old_tree[0], *more], old_tree[1]
    new_spec = old_spec if other_spec is None else other_spec
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(Path(folder) / "storage")
        old = publisher.tree(*old_tree, store=False).ref()
        # Directories change as well, so that one which comes out wrongly is seen.
        changed = publisher.tree(*new_tree, store=False)
        changed.change(b"", mtime=17)
        new = changed.ref()
        with publisher.open() as opened:
            before = {entry.path: entry for entry in walk(opened, old, old_spec)}
            after = {entry.path: entry for entry in walk(opened, new, new_spec)}
            found = found_in(between(opened, old, new, old_spec, new_spec))
        assert {path for path, (kind, _) in found.items() if kind == ADDED} == after.keys() - before.keys()
        assert {path for path, (kind, _) in found.items() if kind == REMOVED} == before.keys() - after.keys()
        assert {path for path, (kind, _) in found.items() if kind == CHANGED} == {
            path
            for path in before.keys() & after.keys()
            if (before[path].mode, before[path].hash, before[path].mtime_ns)
            != (after[path].mode, after[path].hash, after[path].mtime_ns)
        }


@quick
@given(trees(), specs, specs)
def test_both_selects_the_files_that_two_specifications_select(
    tree: tuple[list[bytes], list[bytes]], one: bytes, two: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(Path(folder) / "storage")
        root = publisher.tree(*tree, store=False).ref()
        with publisher.open() as opened:
            first, second = ({entry.path for entry in walk(opened, root, spec)} for spec in (one, two))
            both = [entry.path for entry in Walk(opened.catalogs, root, Both(matcher(one), matcher(two)))]
    assert both == sorted(set(both), key=components)
    files = {*tree[0]}
    assert {*both} & files == first & second & files
    assert {*both} <= first & second


# -- what changed ----------------------------------------------------------------------------------------------------


def test_each_aspect_of_an_entry_is_told(publisher: Publisher) -> None:
    def root(new: bool) -> NestedRef:
        made = publisher.catalog()

        def file(name: bytes, content: bytes = b"one", **fields: Any) -> None:
            made.file(name, content, store=False, **fields)

        file(b"/content", b"two" if new else b"one")
        file(b"/size", b"three" if new else b"one")
        file(b"/storage", compressed=not new)
        file(b"/mode", mode=0o600 if new else 0o644)
        file(b"/owner", gid=5 if new else 0)
        file(b"/mtime", mtimens=5 if new else 4)
        file(b"/xattr", xattr=b"\1\1\6\1user.av" if new else None)
        file(b"/same")
        made.link(b"/target", b"new" if new else b"old")
        made.special(b"/device", 0o020000, rdev=0x105 if new else 0x103)
        made.special(b"/fifo", 0o010000)
        if new:
            made.dir(b"/type")
        else:
            file(b"/type")
        ref: NestedRef = made.ref()
        return ref

    with publisher.open() as opened:
        old, new = root(False), root(True)
        found = found_in(between(opened, old, new))
        assert found.pop(b"/size") == (CHANGED, frozenset({"content", "size"}))
        assert found == {b"/" + name.encode(): (CHANGED, frozenset({name})) for name in {*ASPECTS} - {"size", "links"}}
        for name in ("mtime", "mode", "type"):
            sides = [Side(opened.catalogs, one, matcher(b"/*")) for one in (old, new)]
            assert b"/" + name.encode() not in found_in(Diff(*sides, ignore=[name]))


def grouped(publisher: Publisher, groups: dict[bytes, int]) -> NestedRef:
    """Files by name, each in a group with that number."""
    root = publisher.catalog()
    numbers = list(groups.values())
    for name, number in groups.items():
        root.file(name, b"one", store=False, hardlinks=number << 32 | numbers.count(number))
    ref: NestedRef = root.ref()
    return ref


def test_hard_link_groups_are_compared_by_who_is_in_them_not_by_their_numbers(publisher: Publisher) -> None:
    old = grouped(publisher, {b"/a/p": 1, b"/a/q": 1, b"/a/r": 2, b"/a/s": 2})
    renumbered = grouped(publisher, {b"/a/p": 7, b"/a/q": 7, b"/a/r": 5, b"/a/s": 5})
    swapped = grouped(publisher, {b"/a/p": 1, b"/a/q": 2, b"/a/r": 1, b"/a/s": 2})
    with publisher.open() as opened:
        assert found_in(between(opened, old, renumbered)) == {}
        told = (CHANGED, frozenset({"links"}))
        assert found_in(between(opened, old, swapped)) == {b"/a/q": told, b"/a/r": told, b"/a/s": told}


def test_a_file_in_chunks_differs_where_a_chunk_does(publisher: Publisher) -> None:
    roots = []
    for pieces in ([b"one", b"two"], [b"one", b"twO"], [b"on", b"etwo"], [b"one", b"two"]):
        root = publisher.catalog()
        root.file(b"/f", pieces=pieces, store=False)
        root.dir(b"/" + b"".join(pieces[:1]))
        roots.append(root.ref())
    with publisher.open() as opened:
        assert found_in(between(opened, roots[0], roots[1]))[b"/f"] == (CHANGED, frozenset({"content"}))
        # Cut otherwise: only who has both can tell.
        assert found_in(between(opened, roots[0], roots[2]))[b"/f"] == (CHANGED, frozenset({"storage"}))
        assert found_in(between(opened, roots[0], roots[3])) == {}


# -- sums ------------------------------------------------------------------------------------------------------------


@given(st.sets(way, max_size=12), st.integers(1, 4))
def test_sums_by_directory_are_those_of_all_that_lies_below(files: set[bytes], depth: int) -> None:
    changes = [Change(path, ADDED, (), None, _file(path)) for path in sorted(files, key=components)]
    rows = ByDirectory(depth)
    found = [row for change in changes for row in rows.add(change)] + list(rows.finish())
    listed = [path for path, _ in found]
    assert len({*listed}) == len(listed)
    above = {b"/".join(path.split(b"/")[: level + 1]) for path in files for level in range(1, path.count(b"/"))}
    assert {*listed} == {path for path in above if path.count(b"/") <= depth}
    for path, tally in found:
        inside = [one for one in files if one.startswith(path + b"/")]
        assert tally.added == {"files": len(inside)}
        assert tally.bytes_added == sum(len(one) for one in inside)


def _file(path: bytes) -> Shown:
    return Shown(path, "file", 0o644, 0, 0, 0, len(path), (), b"", None, (1, b""), 0)
