"""Summaries say what an export shows of each catalog, and put together they are the export."""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from snapshot.walking import matcher, open_real
from support import golden
from support.golden import Pinned
from support.repository import CatalogBuilder, Opened, Publisher
from support.trees import VARIABLES, Tree, build, specs, trees

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.entry import Entry
from shrinkwrap.errors import CorruptObject
from shrinkwrap.record import collect as module
from shrinkwrap.record.collect import Collector
from shrinkwrap.record.listing import entry_line, entry_row, line
from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import Case, Keys, Summary, Totals, file_name
from shrinkwrap.record.sums import PACKED, WIDTH, Sums
from shrinkwrap.snapshot.session import Session
from shrinkwrap.snapshot.view import Report, View, ViewOptions
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.grammar import Mode, parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.aim import tally

slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
OPTIONS = ViewOptions(claim=False, uid=0, gid=0)
NO_STAR = "directory_without_star"


class Files(dict[str, bytes]):
    """Files by name, as a folder of summaries holds them."""

    def write(self, name: str, pieces: Iterator[bytes]) -> None:
        self[name] = b"".join(pieces)

    def read(self, name: str) -> io.BytesIO | None:
        return io.BytesIO(self[name]) if name in self else None

    @property
    def store(self) -> SummaryStore:
        return SummaryStore(self.read)


def content_sum(path: bytes) -> bytes:
    return hashlib.md5(path, usedforsecurity=False).digest()


def nonzero(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count}


def always(path: bytes) -> bool:
    return True


def sum_up(
    opened: Opened | Session,
    root: NestedRef,
    spec: bytes,
    files: Files,
    *,
    values: Mapping[bytes, bytes] | None = None,
    reuse: Callable[[str], Summary | None] | None = None,
    known: SummaryStore | None = None,
    read: Callable[[bytes], bool] = always,
) -> tuple[str, Totals]:
    """Walk, and write the summaries; the root's key, and the numbers of all.

    Args:
        read: whether the content of a file is read, so that its checksum is known.
    """
    values = values or {}
    chosen = matcher(spec)
    report = Report()
    view = View(OPTIONS, values, report)
    packed = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Sums(folder) as sums,
        Collector(chosen, b"options", values, opened.catalogs, folder, reuse=reuse) as collector,
    ):
        report.told = collector.special
        for entry in Walk(opened.catalogs, root, chosen, count=collector.given, borders=collector):
            node = view.node(entry)
            if node is not None:
                ordinal = collector.add(node, entry_line(entry, node.target))
                assert (ordinal >= 0) == entry.is_file
                if entry.is_file and read(entry.path):
                    packed.append(PACKED.pack(ordinal, content_sum(entry.path)))
        random.Random(1).shuffle(packed)
        sums.put_many(b"".join(packed))
        key = collector.finish(sums, files.write, known)
        assert key == collector.root
        return key, collector.total


@dataclass
class Plain:
    """The same by the plainest means: all in memory, no catalogs told apart."""

    given: list[tuple[bytes, tuple[int, ...]]] = field(default_factory=list)
    rows: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    cases: list[Case] = field(default_factory=list)
    report: Report = field(default_factory=Report)
    matched: dict[bytes, int] = field(default_factory=dict)


def plainly(
    opened: Opened | Session, root: NestedRef, spec: bytes, values: Mapping[bytes, bytes], tree: Tree | None = None
) -> Plain:
    out = Plain()
    chosen = matcher(spec)
    out.report.told = lambda what, path, detail: out.cases.append(Case(what, path, detail))
    view = View(OPTIONS, values, out.report)

    def count(lines: tuple[int, ...], entry: Entry) -> None:
        out.given.append((entry.path, lines))
        for number in lines:
            raw = chosen.spec.lines[number].raw
            out.matched[raw] = out.matched.get(raw, 0) + 1

    directories = set()
    for entry in Walk(opened.catalogs, root, chosen, count=count):
        if entry.is_dir:
            directories.add(entry.path)
        node = view.node(entry)
        if node is not None:
            data = line(entry_row(entry, node.target))
            out.rows.append((data, content_sum(entry.path) if entry.is_file else None))
            tally(node, out.counts)
    for path, lines in out.given if tree is not None else ():
        assert tree is not None
        exact = [number for number in lines if chosen.spec.lines[number].mode is Mode.EXACT]
        comes_out_empty = not any(other.startswith(path + b"/") for other, _ in out.given)
        # One with a catalog of its own counts as not empty: it need not have been fetched.
        if exact and path in directories and comes_out_empty and (tree.children(path) or path in tree.mounts):
            raw = chosen.spec.lines[exact[0]].raw
            out.cases.append(Case(NO_STAR, path, raw.decode("utf-8", "surrogateescape")))
            out.report.counts[NO_STAR] = out.report.counts.get(NO_STAR, 0) + 1
    return out


def made(tree: Tree, folder: str) -> tuple[Publisher, NestedRef]:
    publisher = Publisher(Path(folder) / "storage")
    return publisher, build(publisher, tree).ref()


# -- what they say -----------------------------------------------------------------------------------------------


@slow
@given(trees(), specs(), st.sampled_from(VARIABLES))
def test_put_together_summaries_are_what_the_walk_gave(tree: Tree, spec: bytes, values: Mapping[bytes, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        publisher, root = made(tree, folder)
        files = Files()
        with publisher.open() as opened:
            expected = plainly(opened, root, spec, values, tree)
            catalogs = len(opened.source.requests)
            key, total = sum_up(opened, root, spec, files, values=values)
    store = files.store
    assert len(files) == total.counts.pop("catalogs") == catalogs
    assert nonzero(total.counts) == nonzero(expected.counts)
    assert total.given == len(expected.given)
    assert total.entries == len(expected.rows)
    assert total.matched == expected.matched
    assert total.left_out == expected.report.counts
    assert total.variables == expected.report.variables
    listing = b"".join(data for data, _ in expected.rows)
    assert b"".join(store.listing(key)) == listing
    assert store.sha256(key) == hashlib.sha256(listing).hexdigest()
    assert list(store.rows(key)) == expected.rows
    cases = list(store.cases(key))
    assert [case for case in cases if case.what != NO_STAR] == [case for case in expected.cases if case.what != NO_STAR]
    assert [case for case in cases if case.what == NO_STAR] == [case for case in expected.cases if case.what == NO_STAR]
    assert store.whole(key)


def test_cases_are_told_in_the_order_of_the_stream(publisher: Publisher) -> None:
    mounts = (b"/b", b"/b/n", b"/d")
    folders = dict.fromkeys((b"/b", b"/b/n", b"/d", b"/e", b"/e/f"), "dir")
    leaves = dict.fromkeys((b"/a", b"/b/a", b"/b/n/a", b"/b/z", b"/c", b"/d/a", b"/z"), "fifo")
    root = publisher.publish(build(publisher, Tree({**folders, **leaves}, mounts))).root
    files = Files()
    with publisher.open() as opened:
        key, total = sum_up(opened, root, b"/a\n/b/*\n/c\n/d\n/e\n/z", files)
    star = [Case(NO_STAR, b"/d", "/d"), Case(NO_STAR, b"/e", "/e")]
    assert [case for case in files.store.cases(key) if case not in star] == [
        Case("special_file", path, "fifo") for path in sorted(leaves) if path != b"/d/a"
    ]
    assert [case for case in files.store.cases(key) if case in star] == star
    assert total.left_out == {"special_file": 6, NO_STAR: 2}


def test_a_directory_named_without_its_catalog_is_told_and_the_catalog_not_opened(publisher: Publisher) -> None:
    root = publisher.publish(publisher.tree([b"/a/f"], [b"/a"], store=False)).root
    files = Files()
    with publisher.open() as opened:
        key, _ = sum_up(opened, root, b"/a", files)
        assert len(opened.source.requests) == len(files) == 1
    assert list(files.store.cases(key)) == [Case(NO_STAR, b"/a", "/a")]


@slow
@given(trees(), specs())
def test_the_numbers_of_a_catalog_are_the_sum_of_its_own_and_of_those_inside(tree: Tree, spec: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        publisher, root = made(tree, folder)
        files = Files()
        with publisher.open() as opened:
            key, total = sum_up(opened, root, spec, files)
            paths = [path for path, _ in plainly(opened, root, spec, {}).given]
    store = files.store
    keys = list(store.keys(key))
    assert sorted(map(file_name, keys)) == sorted(files)
    assert store.total(key) == total
    for one in keys:
        summary = store.get(one)
        assert summary is not None
        again = Totals()
        again.add(summary.own)
        for child in summary.children:
            inside = store.total(child.key)
            assert inside is not None
            again.add(inside)
        assert again == summary.total
        assert again.given == sum(path.startswith(summary.mount + b"/") or not summary.mount for path in paths)
        mounts = [child.mount for child in summary.children]
        assert all(mount.startswith(summary.mount + b"/") for mount in mounts)


@pytest.mark.parametrize("at", golden.params([at for at in golden.pinned() if at.fqrn == "small.cern.ch"]))
def test_the_summaries_of_a_real_repository_give_its_listing(at: Pinned, repos: Path) -> None:
    values = {name.encode(): value.encode() for name, value in golden.ENVIRONMENT.items()}
    files = Files()
    with ExitStack() as stack:
        session, root = open_real(stack, repos, at)
        expected = plainly(session, root, b"/*", values)
        key, total = sum_up(session, root, b"/*", files, values=values)
    assert list(files.store.rows(key)) == expected.rows
    assert list(files.store.cases(key)) == expected.cases
    assert total.left_out == expected.report.counts
    assert total.counts["catalogs"] == len(files) > 1
    assert total.matched == {b"/*": total.given}


# -- passing by --------------------------------------------------------------------------------------------------


@slow
@given(trees(), specs(), st.sampled_from(VARIABLES), st.randoms(use_true_random=False))
def test_with_catalogs_passed_by_the_others_have_the_same_summaries_to_the_byte(
    tree: Tree, spec: bytes, values: Mapping[bytes, bytes], choice: random.Random
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        publisher, root = made(tree, folder)
        files, again = Files(), Files()
        with publisher.open() as opened:
            key, total = sum_up(opened, root, spec, files, values=values)
        known = sorted(files.store.keys(key))
        chosen = set(choice.sample(known, choice.randint(0, len(known))))

        def reuse(key: str) -> Summary | None:
            return files.store.get(key) if key in chosen else None

        with publisher.open() as opened:
            found = sum_up(opened, root, spec, again, values=values, reuse=reuse)
            assert len(opened.source.requests) == len(again)
            assert opened.catalogs.in_use == 0
    assert found == (key, total)
    assert all(files[name] == data for name, data in again.items())
    assert not chosen & {name.replace("/", "") for name in again}


def all_but_the_root_again(publisher: Publisher, tree: Tree, spec: bytes) -> tuple[Files, Files]:
    """Summaries of a walk, and those of one that passes by all that is mounted in the root."""
    root = publisher.publish(build(publisher, tree)).root
    files, again = Files(), Files()
    with publisher.open() as opened:
        key, total = sum_up(opened, root, spec, files)
        assert sum_up(opened, root, spec, again, reuse=lambda one: None if one == key else files.store.get(one)) == (
            key,
            total,
        )
    assert list(again) == [file_name(key)]
    return files, again


def test_directories_that_waited_are_of_the_catalog_that_has_them(publisher: Publisher) -> None:
    kinds = {b"/p": "dir", b"/p/a": "dir", b"/p/a/lib": "dir", b"/p/b": "dir", b"/p/b/lib": "file", b"/z": "dir"}
    files, again = all_but_the_root_again(publisher, Tree(kinds, (b"/p/a", b"/p/b", b"/z")), b"/*/*/lib\n/*/no")
    own = {}
    for one in files:
        summary = files.store.get(one.replace("/", ""))
        assert summary is not None
        own[summary.mount] = (summary.own.given, summary.own.entries)
    assert own == {b"": (4, 4), b"/p/a": (1, 1), b"/p/b": (1, 1), b"/z": (0, 0)}
    assert files.items() >= again.items()


def test_a_named_directory_with_something_below_in_a_catalog_passed_by_is_not_empty(publisher: Publisher) -> None:
    kinds = {b"/a": "dir", b"/a/x": "dir", b"/a/x/f": "file", b"/b": "dir", b"/b/x": "file"}
    files, again = all_but_the_root_again(publisher, Tree(kinds, (b"/a", b"/b")), b"/a\n/a/*/f\n/b\n/b/*/f")
    assert files.items() >= again.items()
    key = next(iter(again)).replace("/", "")
    assert list(files.store.cases(key)) == [Case(NO_STAR, b"/b", "/b")]


def three_deep(publisher: Publisher, inner: Callable[[CatalogBuilder], None] | None = None) -> NestedRef:
    """``/a`` and ``/a/b`` have catalogs of their own, and a link that uses V lies in the inner one."""
    kinds = {b"/a": "dir", b"/a/b": "dir", b"/a/b/l": "variant", b"/a/f": "file", b"/z": "file"}
    root = build(publisher, Tree(kinds, (b"/a", b"/a/b")))
    if inner is not None:
        inner(root.children[0].child.children[0].child)
    return publisher.publish(root).root


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher(tmp_path / "storage")


def test_other_values_of_variables_used_anywhere_below_are_seen_from_above(publisher: Publisher) -> None:
    root = three_deep(publisher)
    files = Files()
    with publisher.open() as opened:
        key, _ = sum_up(opened, root, b"/*", files, values={b"V": b"x"})
    store = files.store
    for one in store.keys(key):
        assert store.same_variables(one, {b"V": b"x"})
        assert store.same_variables(one, {b"V": b"x", b"ANOTHER": b"y"})
        assert not store.same_variables(one, {b"V": b"y"})
        assert not store.same_variables(one, {})
    with publisher.open() as opened:
        key, _ = sum_up(opened, root, b"/*", files)
    assert store.same_variables(key, {})
    assert not store.same_variables(key, {b"V": b""}), "unset is not empty"
    assert not store.same_variables("ab" * 20, {}), "there is no such summary"


def test_a_summary_that_was_written_anew_with_other_values_is_not_taken_for_the_old_one(publisher: Publisher) -> None:
    root = three_deep(publisher)
    old, new = Files(), Files()
    with publisher.open() as opened:
        key, _ = sum_up(opened, root, b"/*", old, values={b"V": b"x"})
        assert sum_up(opened, root, b"/*", new, values={b"V": b"y"})[0] == key
    inner = file_name(list(old.store.keys(key))[-1])
    mixed = Files({**old, inner: new[inner]})
    assert mixed.store.get(key) is not None
    assert not mixed.store.whole(key)
    assert mixed.store.sha256(key) is None
    with pytest.raises(CorruptObject, match="missing, broken or that of another run"):
        list(mixed.store.listing(key))


# -- keys --------------------------------------------------------------------------------------------------------


def key_at(spec: bytes, ref: NestedRef, *, rules: str = "2.14", options: bytes = b"o") -> str:
    """Of a catalog at ``/a``, or the root."""
    chosen = Matcher(parse(spec, rules=rules))
    state = chosen.root.state
    if ref.mount and state is not None:
        state = chosen.step(state, b"a", True).state
    return Keys(chosen, options).key(ref, state)


def test_a_key_stands_for_all_that_decides_what_comes_out(publisher: Publisher) -> None:
    ref = three_deep(publisher)._replace(mount=b"/a")
    spec = b"/a/*\n/b"
    key = key_at(spec, ref)
    assert len(bytes.fromhex(key)) == 20
    assert key_at(spec, ref._replace(size=7)) == key, "what is only a hint"
    other = three_deep(publisher, lambda inner: inner.file(b"/a/b/new", store=False))
    keys = {
        key,
        key_at(spec, ref._replace(digest=other.digest)),
        key_at(spec, ref._replace(mount=b"/c")),
        key_at(spec, ref, rules="2.12"),
        key_at(spec, ref, options=b"p"),
        key_at(b"^/a/*\n/b", ref),
        key_at(b"/a/*\n!/a/b", ref),
        key_at(b"/a/c*", ref),
    }
    assert len(keys) == 8


def test_lines_that_have_nothing_to_say_below_a_mount_do_not_change_its_key(publisher: Publisher) -> None:
    ref = three_deep(publisher)._replace(mount=b"/a")
    key = key_at(b"/a/*", ref)
    assert key_at(b"/b\n/a/*\n/c/*\n!/d", ref) == key
    root = ref._replace(mount=b"")
    assert key_at(b"/b\n/a/*", root) != key_at(b"/a/*", root)


def test_lines_that_do_the_same_under_another_name_have_another_key(publisher: Publisher) -> None:
    # Else what the one matched would be missing from the count of the other, which would look as if it matched nothing.
    ref = three_deep(publisher)._replace(mount=b"/a")
    one, other = matcher(b"/a/*"), matcher(b"/*")
    assert one.root.state is not None
    assert other.root.state is not None
    below = one.step(one.root.state, b"a", True).state, other.step(other.root.state, b"a", True).state
    assert below[0] is not None
    assert below[1] is not None
    assert one.fingerprint(below[0]) == other.fingerprint(below[1])
    assert key_at(b"/a/*", ref) != key_at(b"/*", ref)
    assert len({key_at(spec, ref._replace(mount=b"")) for spec in (b"/", b"", b"^/")}) == 3


# -- checksums ---------------------------------------------------------------------------------------------------


def test_checksums_that_a_run_lacks_are_those_of_an_earlier_one(publisher: Publisher) -> None:
    paths = [b"/a/%d" % number for number in range(5)] + [b"/b/%d" % number for number in range(5)] + [b"/c"]
    root = publisher.publish(publisher.tree(paths, [b"/a"], store=False)).root
    first, second, alone = Files(), Files(), Files()

    def even(path: bytes) -> bool:
        return path[-1] % 2 == 0

    def odd(path: bytes) -> bool:
        return not even(path)

    with publisher.open() as opened:
        key, _ = sum_up(opened, root, b"/*", first, read=even)
        sum_up(opened, root, b"/*", alone, read=odd)
        sum_up(opened, root, b"/*", second, read=odd, known=first.store)
        expected = plainly(opened, root, b"/*", {})
    assert list(second.store.rows(key)) == expected.rows
    sums = {content_sum(path) for path in paths}
    assert {value for _, value in first.store.rows(key)} - {None} == {content_sum(path) for path in filter(even, paths)}
    assert {value for _, value in alone.store.rows(key)} - {None} == {content_sum(path) for path in filter(odd, paths)}
    assert {value for _, value in second.store.rows(key)} - {None} == sums
    # What is broken there is no reason to fail here.
    for name in first:
        first[name] = first[name][:-1]
    with publisher.open() as opened:
        sum_up(opened, root, b"/*", second, read=odd, known=first.store)
    assert second == alone


# -- size --------------------------------------------------------------------------------------------------------


def test_a_listing_of_many_frames_has_its_children_and_checksums_in_their_places(publisher: Publisher) -> None:
    names = [b"/%s-%05d" % (b"x" * 60, number) for number in range(6000)]
    folders = [b"/%s-%05d" % (b"x" * 60, number) + b"-dir" for number in range(0, 6000, 1500)]
    tree = publisher.tree([*names, *(folder + b"/f" for folder in folders)], folders, store=False)
    root = publisher.publish(tree).root
    files = Files()
    with publisher.open() as opened:
        expected = plainly(opened, root, b"/*", {})
        key, _ = sum_up(opened, root, b"/*", files)
    summary = files.store.get(key)
    assert summary is not None
    assert len(list(files.store.frames(key, summary.listing))) > 3
    assert summary.sums.raw == 6000 * WIDTH
    assert list(files.store.rows(key)) == expected.rows


def test_catalogs_many_levels_deep_are_summed_up(publisher: Publisher) -> None:
    mounts = [b"/d" * depth for depth in range(1, 15)]
    root = publisher.publish(publisher.tree([mount + b"/f" for mount in mounts], mounts, store=False)).root
    files = Files()
    with publisher.open() as opened:
        expected = plainly(opened, root, b"/*", {})
        key, total = sum_up(opened, root, b"/*", files)
    assert list(files.store.rows(key)) == expected.rows
    assert total.counts["catalogs"] == 15


def test_cases_beyond_the_cap_are_counted_only(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {b"/%03d" % number: "fifo" for number in range(100)}
    root = publisher.publish(build(publisher, Tree(kinds, ()))).root
    monkeypatch.setattr(module, "CASES_BYTES", 1000)
    files = Files()
    with publisher.open() as opened:
        key, total = sum_up(opened, root, b"/*", files)
    assert total.left_out == {"special_file": 100}
    kept = list(files.store.cases(key))
    assert 0 < len(kept) < 100
    assert kept == [Case("special_file", b"/%03d" % number, "fifo") for number in range(len(kept))]


def test_a_summary_that_nobody_would_read_is_not_written(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    root = three_deep(publisher)
    files = Files()
    monkeypatch.setattr(module, "META_BYTES", 10)
    with publisher.open() as opened:
        key, total = sum_up(opened, root, b"/*", files)
    assert not files
    assert total.counts["files"] == 2
    assert files.store.total(key) is None


def test_what_the_destination_cannot_hold_is_no_case_of_a_summary(publisher: Publisher, tmp_path: Path) -> None:
    chosen = matcher(b"/*")
    with publisher.open() as opened, Collector(chosen, b"", {}, opened.catalogs, str(tmp_path)) as collector:
        root = three_deep(publisher)
        for entry in Walk(opened.catalogs, root, chosen, count=collector.given, borders=collector):
            collector.special("link_too_long", entry.path, "9 bytes")
            collector.special("set_id_stripped", entry.path, "4755")
        assert collector.total.left_out == {"set_id_stripped": collector.total.given}


# -- damage ------------------------------------------------------------------------------------------------------


def test_a_file_that_is_broken_anywhere_is_no_summary(publisher: Publisher) -> None:
    root = three_deep(publisher)
    files = Files()
    with publisher.open() as opened:
        key, _ = sum_up(opened, root, b"/*", files)
    name = file_name(key)
    good = files[name]
    store = files.store
    for position in range(len(good)):
        files[name] = good[:position] + bytes((good[position] ^ 0x10,)) + good[position + 1 :]
        assert store.get(key) is None, f"byte {position}"
    for size in range(len(good)):
        files[name] = good[:size]
        assert store.get(key) is None, f"{size} bytes"
    for data in (good + b"\0", good * 2, b"", bytes(len(good)), b"{}"):
        files[name] = data
        assert store.get(key) is None
        assert store.sha256(key) is None
        assert list(store.keys(key)) == []
        assert not store.whole(key)
    files[name] = good
    assert store.get(key) is not None


def test_the_file_of_another_key_is_no_summary(publisher: Publisher) -> None:
    root = three_deep(publisher)
    files = Files()
    with publisher.open() as opened:
        key, _ = sum_up(opened, root, b"/*", files)
    other = key[:-1] + ("0" if key[-1] != "0" else "1")
    files[file_name(other)] = files[file_name(key)]
    assert files.store.get(other) is None
    for odd in ("", "..", "../../etc/passwd", key.upper(), key + "0", "é" * 40):
        assert files.store.get(odd) is None


def test_a_file_that_cannot_be_read_is_no_summary() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError("input/output error")

    def refuse(name: str) -> io.BytesIO | None:
        raise PermissionError("permission denied")

    for store in (SummaryStore(lambda name: Failing()), SummaryStore(refuse), SummaryStore(lambda name: None)):
        assert store.get("ab" * 20) is None
        assert store.total("ab" * 20) is None


def test_without_one_of_the_summaries_inside_nothing_is_made_up(publisher: Publisher) -> None:
    root = three_deep(publisher)
    files = Files()
    with publisher.open() as opened:
        key, total = sum_up(opened, root, b"/*", files)
    inner = list(files.store.keys(key))[-1]
    del files[file_name(inner)]
    store = files.store
    assert store.total(key) == total, "the numbers stand in the summary itself"
    assert store.sha256(key) is None
    assert not store.whole(key)
    assert inner not in store.keys(key)
    for iterate in (store.listing, store.rows, store.cases):
        with pytest.raises(CorruptObject):
            list(iterate(key))


def test_nothing_is_left_in_the_scratch_folder(publisher: Publisher, tmp_path: Path) -> None:
    root = three_deep(publisher)
    folder = tmp_path / "scratch"
    folder.mkdir()
    chosen = matcher(b"/*")
    with publisher.open() as opened, Collector(chosen, b"", {}, opened.catalogs, str(folder)) as collector:
        for _ in Walk(opened.catalogs, root, chosen, count=collector.given, borders=collector):
            assert list(folder.iterdir()) == []
    collector.close()
    assert list(folder.iterdir()) == []
