"""The ordered stream of entries, and the catalogs that it takes."""

from __future__ import annotations

import stat
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshot.walking import components, matcher, open_real, paths, walk
from spec.selecting import select, tree_of
from support import golden
from support.repository import BIND, HIDDEN, NESTED, CatalogBuilder, Publisher

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.errors import CatalogError, MissingObject
from shrinkwrap.snapshot import walk as module
from shrinkwrap.snapshot.walk import Walk, bring_catalogs, order_key

slow = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

#: Sorted otherwise when whole paths are compared: ``a-b`` and ``a!`` before ``a/b``.
NAMES = [b"a", b"a-b", b"a!", b"ab", b"A", b"b", b"\xff", b"\x01"]


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[bytes], list[bytes]]:
    """Paths (directories end in /) and mounts."""
    way = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)
    directories = {tuple(one[:depth]) for one in draw(st.lists(way, max_size=8)) for depth in range(1, len(one) + 1)}
    files = {tuple(one) for one in draw(st.lists(way, max_size=10))} - directories
    files = {one for one in files if all(one[:depth] in directories or depth == 0 for depth in range(len(one)))}
    mounts = draw(st.lists(st.sampled_from(sorted(directories)), max_size=4, unique=True)) if directories else []
    join = [b"".join(b"/" + name for name in one) for one in sorted(files)]
    join += [b"".join(b"/" + name for name in one) + b"/" for one in sorted(directories)]
    return join, [b"".join(b"/" + name for name in one) for one in mounts]


def build(folder: str, tree: tuple[list[bytes], list[bytes]]) -> tuple[Publisher, NestedRef]:
    publisher = Publisher(Path(folder) / "storage")
    return publisher, publisher.tree(tree[0], tree[1], store=False).ref()


# -- order -------------------------------------------------------------------------------------------------------


@slow
@given(trees())
def test_the_stream_is_in_the_order_of_components_whatever_catalogs_it_comes_from(
    tree: tuple[list[bytes], list[bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        publisher, root = build(folder, tree)
        expected = sorted({b"", *(path.rstrip(b"/") for path in tree[0])}, key=components)
        with publisher.open() as opened:
            assert paths(opened, root) == expected
            assert sorted(expected, key=order_key) == expected


lines = st.builds(
    lambda sign, way, star: sign + b"".join(b"/" + name for name in way) + star,
    st.sampled_from([b"", b"", b"^", b"!"]),
    st.lists(st.sampled_from([b"a", b"a-b", b"ab", b"b", b"*", b"a*", b"**"]), min_size=1, max_size=3),
    st.sampled_from([b"", b"/*"]),
)


@slow
@given(trees(), st.lists(lines, min_size=1, max_size=4))
def test_a_walk_gives_what_the_matcher_selects_and_opens_the_catalogs_that_were_brought(
    tree: tuple[list[bytes], list[bytes]], spec_lines: list[bytes]
) -> None:
    spec = b"\n".join(spec_lines)
    selected = {b"".join(b"/" + name for name in path) for path in select(matcher(spec), tree_of(tree[0]))}
    with tempfile.TemporaryDirectory() as folder:
        publisher, root = build(folder, tree)
        with publisher.open() as opened:
            found = paths(opened, root, spec)
            assert found == sorted({b"", *selected}, key=components)
            on_the_way = sorted(opened.source.requests)
        with publisher.open() as opened:
            number, entries = bring_catalogs(opened.catalogs, root, matcher(spec))
            assert sorted(opened.source.requests) == on_the_way
            assert number == len(on_the_way)
            assert entries >= len(found)
            assert paths(opened, root, spec) == found
            assert len(opened.source.requests) == number
            assert opened.catalogs.in_use == 0


# -- prune -------------------------------------------------------------------------------------------------------

PRUNED = [b"/a/b/c/f", b"/a/b/g", b"/a/z", b"/a-b/f", b"/b/f"]


def pruned(publisher: Publisher, spec: bytes, at: bytes, mounts: list[bytes]) -> tuple[list[bytes], int]:
    """Paths of a walk that is pruned at one path, and the number of catalogs it took."""
    root = publisher.publish(publisher.tree(PRUNED, mounts, store=False)).root
    with publisher.open() as opened:
        stream = walk(opened, root, spec)
        found = []
        for entry in stream:
            found.append(entry.path)
            if entry.path == at:
                stream.prune()
        assert opened.catalogs.in_use == 0
        return found, len(opened.source.requests)


@pytest.mark.parametrize("mounts", [[], [b"/a"], [b"/a/b"], [b"/a", b"/a/b", b"/a/b/c"]])
@pytest.mark.parametrize("spec", [b"/*", b"/a/*\n/b/*\n/a-b/*", b"/**"])
@pytest.mark.parametrize("at", [b"", b"/a", b"/a/b", b"/a/b/c", b"/a/b/g", b"/b"])
def test_nothing_below_a_pruned_directory_comes_out(
    publisher: Publisher, mounts: list[bytes], spec: bytes, at: bytes
) -> None:
    everything, _ = pruned(publisher, spec, b"/nowhere", mounts)
    assert len(everything) == 11
    found, requests = pruned(publisher, spec, at, mounts)
    assert found == [path for path in everything if not path.startswith(at + b"/")]
    assert requests == 1 + sum(not (mount + b"/").startswith(at + b"/") for mount in mounts)


@pytest.mark.parametrize("mounts", [[], [b"/a/b"], [b"/a", b"/a/b", b"/a/b/c"]])
@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (b"/nowhere", [b"", b"/a", b"/a/b", b"/a/b/c", b"/a/b/c/f", b"/a-b", b"/a-b/f", b"/b", b"/b/f"]),
        (b"/a", [b"", b"/a", b"/a-b", b"/a-b/f", b"/b", b"/b/f"]),
        (b"/a/b", [b"", b"/a", b"/a/b", b"/a-b", b"/a-b/f", b"/b", b"/b/f"]),
        (b"/a/b/c", [b"", b"/a", b"/a/b", b"/a/b/c", b"/a-b", b"/a-b/f", b"/b", b"/b/f"]),
    ],
)
def test_directories_that_waited_for_something_below_can_be_pruned_too(
    publisher: Publisher, mounts: list[bytes], at: bytes, expected: list[bytes]
) -> None:
    assert pruned(publisher, b"/**/f", at, mounts)[0] == expected


# -- selection ---------------------------------------------------------------------------------------------------


def test_directories_on_the_way_through_a_glob_come_out_with_something_below_only(publisher: Publisher) -> None:
    tree = [b"/p/one/lib/x", b"/p/two/bin/x", b"/p/three/", b"/p/lib", b"/p/deep/a/lib/y", b"/p/four/lib/"]
    root = publisher.publish(publisher.tree(tree, [b"/p/one", b"/p/two", b"/p/three"])).root
    with publisher.open() as opened:
        assert paths(opened, root, b"/p/*/lib/*") == [
            b"",
            b"/p",
            b"/p/four",
            b"/p/four/lib",
            b"/p/one",
            b"/p/one/lib",
            b"/p/one/lib/x",
        ]
        assert paths(opened, root, b"/*/nothing") == [b""]


def test_a_spec_of_names_looks_up_and_does_not_list(publisher: Publisher) -> None:
    root = publisher.tree([b"/d/a", b"/d/b"], store=False)
    root.raw(b"/d/a", name=b"a/../../evil", md5path_1=1)
    root.loose = True
    head = publisher.publish(root).root
    with publisher.open() as opened:
        assert paths(opened, head, b"/d/a\n/d/c\n/d/.\n/d/..") == [b"", b"/d", b"/d/a"]
        with pytest.raises(CatalogError, match="impossible name"):
            paths(opened, head, b"/d/*")
        assert opened.catalogs.in_use == 0


def test_catalogs_that_the_spec_cannot_reach_are_never_fetched(publisher: Publisher) -> None:
    mounts = [b"/a", b"/a/x", b"/b", b"/c/d"]
    builder = publisher.tree([b"/a/f", b"/a/x/f", b"/b/f", b"/c/d/f"], mounts, store=False)
    root = publisher.publish(builder).root
    for spec, count in (
        (b"/a/f", 2),
        (b"/a", 1),
        (b"^/a/*", 2),
        (b"/a/*", 3),
        (b"/*\n!/a", 3),
        (b"/*\n!/a/x", 4),
        (b"/c/*/f", 2),
        (b"/c/e*/f", 1),
        (b"/*/x/f", 4),
        (b"/nowhere", 1),
        (b"", 1),
    ):
        for bring in (False, True):
            with publisher.open() as opened:
                if bring:
                    bring_catalogs(opened.catalogs, root, matcher(spec))
                else:
                    paths(opened, root, spec)
                assert len(opened.source.requests) == count, (spec, bring)


@pytest.mark.parametrize(
    ("line", "more"),
    [
        (b"/no/such/path", 0),
        (b"/one/a/deeper/*", 0),
        (b"/two/x-*/y", 1),  # whether it does is known inside only
        (b"!/two/a", 0),
        (b"/three", 0),
        (b"/two/a/*", 1),
        (b"/two/b/c", 1),
        (b"/t*/b/c", 2),
    ],
)
def test_a_line_more_costs_no_catalog_more_unless_it_matches_there(
    publisher: Publisher, line: bytes, more: int
) -> None:
    mounts = [b"/one", b"/two", b"/three"]
    root = publisher.tree(
        [b"%s/%s/%s" % (mount, folder, name) for mount in mounts for folder in (b"a", b"b") for name in (b"c", b"d")],
        mounts,
    )
    publisher.publish(root)
    asked = []
    for spec in (b"/one/*", b"/one/*\n" + line):
        with publisher.open() as opened:
            bring_catalogs(opened.catalogs, root.ref(), matcher(spec))
            asked.append(sorted(opened.source.requests))
    assert len(asked[1]) == len(asked[0]) + more
    assert set(asked[0]) <= set(asked[1])


def test_a_catalog_that_is_not_needed_may_be_missing(publisher: Publisher) -> None:
    builder = publisher.tree([b"/a/f", b"/b/f"], [b"/a", b"/b"], store=False)
    root = publisher.publish(builder).root
    with publisher.open() as opened:
        lost = opened.catalogs.open(root).nested[b"/b"].digest
    assert lost is not None
    publisher.storage.remove(lost, "C")
    with publisher.open() as opened:
        assert paths(opened, root, b"/a/*") == [b"", b"/a", b"/a/f"]
        for ask in (lambda: paths(opened, root), lambda: bring_catalogs(opened.catalogs, root, matcher(b"/*"))):
            with pytest.raises(MissingObject, match=lost.object_path("C")):
                ask()
        assert opened.catalogs.in_use == 0


def test_the_lines_that_bring_an_entry_are_counted_when_it_comes_out(publisher: Publisher) -> None:
    root = publisher.publish(publisher.tree([b"/a/b/f", b"/a/g", b"/c/x/", b"/d/f"], [b"/a"], store=False)).root
    spec = b"/a/*\n/*/*/f\n^/c/*\n/d\n/nowhere"
    counts: dict[int, list[bytes]] = {}

    def count(lines: tuple[int, ...], entry: Entry) -> None:
        for line in lines:
            counts.setdefault(line, []).append(entry.path)

    with publisher.open() as opened:
        list(Walk(opened.catalogs, root, matcher(spec), count=count))
    assert counts == {
        0: [b"/a", b"/a/b", b"/a/b/f", b"/a/g"],
        1: [b"/a/b/f"],
        2: [b"/c", b"/c/x"],
        3: [b"/d"],
    }


# -- hidden entries and bind mounts --------------------------------------------------------------------------------


def with_snapshots(publisher: Publisher) -> NestedRef:
    """A repository with ``/.cvmfs/snapshots/v1``, as CVMFS_VIRTUAL_DIR makes it."""
    old = publisher.tree([b"/lib/old", b"/lib/sub/f"], [b"/lib"], store=False)
    old.write()
    virtual = publisher.catalog(b"/.cvmfs")
    virtual.dir(b"/.cvmfs/snapshots")
    virtual.nest(old, at=b"/.cvmfs/snapshots/v1", bind=True)
    new = publisher.tree([b"/lib/new"], [b"/lib"], store=False)
    new.nest(virtual, flags=1 | NESTED | HIDDEN)
    return publisher.publish(new).root


def test_hidden_entries_are_never_listed_and_their_catalogs_never_fetched(publisher: Publisher) -> None:
    root = with_snapshots(publisher)
    for spec in (b"/*", b"/**", b"/*\n/lib/new", b"/*/*/*\n/lib/*", b"^/*\n/lib/*"):
        with publisher.open() as opened:
            assert paths(opened, root, spec) == [b"", b"/lib", b"/lib/new"], spec
            assert bring_catalogs(opened.catalogs, root, matcher(spec))[0] == len(opened.source.requests) == 2


def test_hidden_entries_come_out_when_a_line_names_them_or_something_below(publisher: Publisher) -> None:
    root = with_snapshots(publisher)
    snapshot = b"/.cvmfs/snapshots/v1"
    with publisher.open() as opened:
        assert bring_catalogs(opened.catalogs, root, matcher(snapshot + b"/*"))[0] == 4
        assert paths(opened, root, snapshot + b"/*") == [
            b"",
            b"/.cvmfs",
            b"/.cvmfs/snapshots",
            snapshot,
            snapshot + b"/lib",
            snapshot + b"/lib/old",
            snapshot + b"/lib/sub",
            snapshot + b"/lib/sub/f",
        ]
        assert len(opened.source.requests) == 4
        assert paths(opened, root, b"/.cvmfs") == [b"", b"/.cvmfs"]
        assert paths(opened, root, b"/lib/*\n/.cvmfs") == [b"", b"/.cvmfs", b"/lib", b"/lib/new"]


def test_a_hidden_file_or_directory_inside_a_listed_one_stays_out(publisher: Publisher) -> None:
    builder = publisher.tree([b"/d/seen", b"/d/h/f", b"/d/hf", b"/d/h/n/f"], [b"/d/h/n"], store=False)
    builder.change(b"/d/h", flags=1 | HIDDEN)
    builder.change(b"/d/hf", flags=4 | HIDDEN)
    root = publisher.publish(builder).root
    with publisher.open() as opened:
        for spec in (b"/d/*", b"/d/*/*", b"/**/f\n/d/seen"):
            assert [path for path in paths(opened, root, spec) if b"/h" in path] == []
        assert bring_catalogs(opened.catalogs, root, matcher(b"/*"))[0] == 1
        assert paths(opened, root, b"/d/h/n/*\n/d/hf") == [
            *(b"", b"/d", b"/d/h", b"/d/h/n", b"/d/h/n/f"),
            b"/d/hf",
        ]


def test_bind_mounts_of_bind_mounts_do_not_multiply_without_end(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = publisher.tree([b"/f"], store=False)
    for _ in range(12):
        above = publisher.catalog()
        for name in (b"/x", b"/y"):
            above.nest(builder, at=name, bind=True)
        builder = above
    root = publisher.publish(builder).root
    monkeypatch.setattr(module, "MAX_CATALOGS", 200)
    with publisher.open() as opened, pytest.raises(CatalogError, match="more than 200 catalogs"):
        bring_catalogs(opened.catalogs, root, matcher(b"/*"))


# -- transitions -------------------------------------------------------------------------------------------------


def notices(publisher: Publisher, builder: CatalogBuilder, spec: bytes = b"/*") -> list[str]:
    root = publisher.publish(builder).root
    told: list[str] = []
    with publisher.open() as opened:
        list(walk(opened, root, spec, notice=told.append))
    return told


@pytest.mark.parametrize(
    "difference",
    [
        {"mode": 0o700},
        {"mtime": 5},
        {"mtimens": 5},
        {"size": 12288},
        {"uid": 5},
        {"gid": 5},
        {"hardlinks": 9},
        {"xattrs": {b"user.a": b"b"}},
        {"flags": 1 | NESTED | 0x80},
    ],
    ids=str,
)
def test_a_transition_that_parent_and_child_describe_differently_is_told(
    publisher: Publisher, difference: dict[str, Any]
) -> None:
    child = publisher.catalog(b"/d/n")
    child.file(b"/d/n/f", store=False)
    builder = publisher.catalog()
    builder.nest(child, **difference)
    (told,) = notices(publisher, builder)
    assert told.startswith("/d/n: the catalog mounted there describes it differently")


def test_the_parents_copy_of_a_transition_counts(publisher: Publisher) -> None:
    child = publisher.catalog(b"/n")
    builder = publisher.catalog()
    builder.nest(child, mode=0o700, uid=77)
    root = publisher.publish(builder).root
    with publisher.open() as opened:
        entry = list(walk(opened, root))[1]
    assert (entry.mode & 0o7777, entry.uid) == (0o700, 77)


def test_a_child_root_that_does_not_say_that_it_is_one_is_told(publisher: Publisher) -> None:
    child = publisher.catalog(b"/n")
    child.change(b"/n", flags=1)
    builder = publisher.catalog()
    builder.nest(child)
    assert len(notices(publisher, builder)) == 1


def test_sound_transitions_are_not_told(publisher: Publisher) -> None:
    child = publisher.catalog(b"/n")
    child.dir(b"/n/d")
    child.change(b"/n", xattrs={b"user.a": b"b"}, mode=0o700)
    hidden = publisher.catalog(b"/h")
    builder = publisher.catalog()
    builder.nest(child)
    builder.nest(hidden, flags=1 | NESTED | HIDDEN)
    builder.nest(publisher.tree([b"/x"], store=False), at=b"/bound", bind=True, mode=0o500)
    assert notices(publisher, builder, b"/*\n/h/*") == []


@pytest.mark.parametrize("flag", [NESTED, BIND])
def test_a_mount_point_that_is_not_registered_is_told(publisher: Publisher, flag: int) -> None:
    builder = publisher.catalog()
    builder.dir(b"/n", flags=1 | flag)
    (told,) = notices(publisher, builder)
    assert told.startswith("/n: marked as the mount point of a catalog that is not registered")


def test_the_registration_counts_and_not_the_flag(publisher: Publisher) -> None:
    child = publisher.catalog(b"/n")
    child.link(b"/n/l", b"t")
    builder = publisher.catalog()
    builder.nest(child, flags=1)
    root = publisher.publish(builder).root
    with publisher.open() as opened:
        assert paths(opened, root) == [b"", b"/n", b"/n/l"]


@pytest.mark.parametrize("digest", ["", "0" * 40, None])
def test_a_catalog_without_a_hash_is_an_error_for_those_who_need_it(publisher: Publisher, digest: str | None) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", store=False)
    builder.nest(publisher.catalog(b"/n"), registered={"sha1": digest})
    root = publisher.publish(builder).root
    with publisher.open() as opened:
        assert paths(opened, root, b"/f\n/n") == [b"", b"/f", b"/n"]
        assert bring_catalogs(opened.catalogs, root, matcher(b"/f\n/n"))[0] == 1
        for ask in (lambda: paths(opened, root), lambda: bring_catalogs(opened.catalogs, root, matcher(b"/*"))):
            with pytest.raises(CatalogError, match="the catalog of /n has no hash"):
                ask()
        assert opened.catalogs.in_use == 0


def test_catalogs_at_paths_that_are_no_directories_are_not_fetched(publisher: Publisher) -> None:
    builder = publisher.tree([b"/file", b"/n/x"], store=False)
    for mount in (b"/file", b"/gone", b"/n/in", b"/n"):
        builder.nested_rows.append((mount, "ab" * 20, 0))
    builder.nested_rows.pop()
    root = publisher.publish(builder).root
    with publisher.open() as opened:
        assert bring_catalogs(opened.catalogs, root, matcher(b"/*"))[0] == 1
        assert paths(opened, root) == [b"", b"/file", b"/n", b"/n/x"]


def test_of_mounts_inside_each_other_the_outer_one_counts(publisher: Publisher) -> None:
    outer = publisher.tree([b"/n/in/"], [b"/n"], store=False)
    outer.nested_rows.append((b"/n/in", "ab" * 20, 0))
    outer.dir(b"/n/in")
    root = publisher.publish(outer).root
    with publisher.open() as opened:
        assert bring_catalogs(opened.catalogs, root, matcher(b"/*"))[0] == 2
        assert paths(opened, root) == [b"", b"/n", b"/n/in"]
        found = opened.session.find(root, b"/n/in")
        assert found is not None
        assert found[0].mount == b"/n"
        opened.catalogs.release(found[0])


# -- bounds ------------------------------------------------------------------------------------------------------


def test_directories_inside_each_other_have_a_limit(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    root = publisher.publish(publisher.tree([b"/d" * 7 + b"/f"], store=False)).root
    with publisher.open() as opened:
        monkeypatch.setattr(limits, "PATH_DEPTH", 7)
        assert len(paths(opened, root)) == 9
        monkeypatch.setattr(limits, "PATH_DEPTH", 6)
        with pytest.raises(CatalogError, match="more than 6 directories inside each other"):
            paths(opened, root)


def test_catalogs_inside_each_other_have_a_limit(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [b"/d" * depth for depth in range(1, 6)]
    root = publisher.publish(publisher.tree([b"/d" * 5 + b"/f"], mounts, store=False)).root
    with publisher.open() as opened:
        monkeypatch.setattr(limits, "CATALOG_DEPTH", 6)
        assert len(paths(opened, root)) == 7
        assert bring_catalogs(opened.catalogs, root, matcher(b"/*"))[0] == 6
        monkeypatch.setattr(limits, "CATALOG_DEPTH", 5)
        for ask in (lambda: paths(opened, root), lambda: bring_catalogs(opened.catalogs, root, matcher(b"/*"))):
            with pytest.raises(CatalogError, match="more than 5 catalogs inside each other"):
                ask()
        assert opened.catalogs.in_use == 0


def test_a_walk_that_is_given_up_gives_its_catalogs_back(publisher: Publisher) -> None:
    root = publisher.publish(publisher.tree([b"/a/b/f"], [b"/a", b"/a/b"], store=False)).root
    with publisher.open() as opened:
        stream = iter(walk(opened, root))
        while next(stream).path != b"/a/b/f":
            assert opened.catalogs.in_use > 0
        assert opened.catalogs.in_use == 3
        stream.close()  # type: ignore[attr-defined]
        assert opened.catalogs.in_use == 0


def test_a_bad_row_ends_the_walk_and_gives_the_catalogs_back(publisher: Publisher) -> None:
    builder = publisher.tree([b"/a/b/f"], [b"/a"], store=False)
    builder.children[0].child.change(b"/a/b/f", size=-1)
    root = publisher.publish(builder).root
    with publisher.open() as opened:
        with pytest.raises(CatalogError, match="/a/b/f"):
            paths(opened, root)
        assert opened.catalogs.in_use == 0


def test_two_walks_of_one_catalog_do_not_disturb_each_other(publisher: Publisher) -> None:
    root = publisher.publish(publisher.tree([b"/a/b", b"/a/c", b"/d"], [b"/a"], store=False)).root
    with publisher.open() as opened:
        pairs = zip(walk(opened, root), walk(opened, root), strict=True)
        assert all(one == two for one, two in pairs)
        assert len(opened.source.requests) == 2


# -- real repositories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_a_whole_walk_is_the_reference_mount_in_the_order_of_components(at: golden.Pinned, repos: Path) -> None:
    wanted = golden.mounted(at)
    told: list[str] = []
    with ExitStack() as stack:
        session, root = open_real(stack, repos, at)
        entries = list(walk(session, root, notice=told.append))
        number, count = bring_catalogs(session.catalogs, root, matcher(b"/*"))
    assert told == []
    assert [entry.path or b"/" for entry in entries] == sorted(
        (record.path for record in wanted), key=lambda path: components(path.rstrip(b"/"))
    )
    records = {record.path: record for record in wanted}
    for entry in entries:
        record = records[entry.path or b"/"]
        assert f"{entry.mode & 0o7777:04o}" == record.mode
        assert divmod(entry.mtime_ns, 10**9) == (record.mtime, record.mtime_ns), entry.path
        assert entry.link_count == record.nlink
        if stat.S_ISREG(entry.mode) or entry.is_dir:
            assert entry.size == record.size
        if entry.uid >= 0:
            assert (entry.uid, entry.gid) == (record.uid, record.gid)
    # Transition directories are counted in both catalogs.
    assert count in (0, len(entries) + number - 1)


@pytest.mark.parametrize("chosen", golden.params([one for one in golden.exports() if one.spec != "full"]))
def test_walks_give_the_paths_of_the_reference_exports(chosen: golden.Export, repos: Path) -> None:
    spec = matcher(golden.spec_file(chosen.spec).read_bytes(), rules="2.12")
    with ExitStack() as stack:
        session, root = open_real(stack, repos, chosen.at)
        found = list(Walk(session.catalogs, root, spec))
    expected = sorted(golden.exported_paths(chosen), key=lambda path: components(path.rstrip(b"/")))
    kinds = [entry for entry in found if entry.is_dir or entry.is_file or entry.is_link]
    assert [entry.path or b"/" for entry in kinds] == expected
