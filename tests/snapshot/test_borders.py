"""A walk tells where catalogs begin and end, and passes by those that it is told to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from snapshot.walking import matcher, paths
from support.repository import Opened, Publisher
from support.trees import Tree, build, specs, trees

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.matcher import State

slow = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Told:
    """What a walk says of its catalogs, in one list with its entries."""

    def __init__(self, left_out: Mapping[bytes, int] | None = None) -> None:
        self.left_out = left_out or {}
        self.events: list[tuple[str, bytes]] = []
        self.inside: list[bytes] = []

    def enter(self, ref: NestedRef, state: State | None) -> int | None:
        self.events.append(("enter", ref.mount))
        self.inside.append(ref.mount)
        return self.left_out.get(ref.mount)

    def leave(self) -> None:
        self.events.append(("leave", self.inside.pop()))


def told(opened: Opened, root: NestedRef, spec: bytes, borders: Told, prune: bytes | None = None) -> list[bytes]:
    """The paths of a walk, which are among what it tells as well."""
    walk = Walk(opened.catalogs, root, matcher(spec), borders=borders)
    for entry in walk:
        borders.events.append(("entry", entry.path))
        if entry.path == prune:
            walk.prune()
    return [path for what, path in borders.events if what == "entry"]


@contextmanager
def opened(tree: Tree) -> Iterator[tuple[Opened, NestedRef]]:
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(Path(folder) / "storage")
        root = build(publisher, tree).ref()
        with publisher.open() as parts:
            yield parts, root


def below(path: bytes, mount: bytes) -> bool:
    return path.startswith(mount + b"/")


@slow
@given(trees(), specs())
def test_each_entry_comes_between_enter_and_leave_of_its_catalog_but_for_directories_that_waited(
    tree: Tree, spec: bytes
) -> None:
    borders = Told()
    with opened(tree) as (parts, root):
        expected = paths(parts, root, spec)
        assert told(parts, root, spec, borders) == expected
        entered = [mount for what, mount in borders.events if what == "enter"]
        assert len(entered) == len(set(entered)) == len(set(parts.source.requests))
    assert borders.inside == []
    inside: list[bytes] = []
    for what, path in borders.events:
        if what == "enter":
            assert path == b"" or below(path, inside[-1])
            inside.append(path)
        elif what == "leave":
            assert inside.pop() == path
        elif below(path, inside[-1]):
            assert path.rpartition(b"/")[0] not in tree.mounts or path.rpartition(b"/")[0] == inside[-1]
        else:
            assert inside[-1] == path or below(inside[-1], path)


@slow
@given(trees(), specs())
def test_a_catalog_that_is_passed_by_is_not_opened_and_nothing_else_changes(tree: Tree, spec: bytes) -> None:
    with opened(tree) as (parts, root):
        everything = paths(parts, root, spec)
    for mount in tree.mounts:
        borders = Told({mount: sum(below(path, mount) for path in everything)})
        with opened(tree) as (parts, root):
            found = told(parts, root, spec, borders)
            entered = [path for what, path in borders.events if what == "enter"]
            assert len(parts.source.requests) == len(entered) - entered.count(mount)
            assert parts.catalogs.in_use == 0
        assert found == [path for path in everything if not below(path, mount)]
        assert borders.inside == []


@pytest.mark.parametrize("number", [0, 1])
def test_a_directory_on_the_way_to_a_catalog_that_is_passed_by_comes_out_if_anything_below_it_does(
    publisher: Publisher, number: int
) -> None:
    tree = publisher.tree([b"/p/a/lib/f", b"/p/b/lib/f"], [b"/p/a"], store=False)
    root = publisher.publish(tree).root
    with publisher.open() as parts:
        found = told(parts, root, b"/*/*/lib", Told({b"/p/a": number}))
    assert found == [b"", b"/p", *[b"/p/a"] * number, b"/p/b", b"/p/b/lib"]


def test_a_root_that_is_passed_by_is_not_opened(publisher: Publisher) -> None:
    root = publisher.publish(publisher.tree([b"/a/f"], store=False)).root
    borders = Told({b"": 3})
    with publisher.open() as parts:
        assert told(parts, root, b"/*", borders) == []
        assert parts.source.requests == []
    assert borders.events == [("enter", b""), ("leave", b"")]


@pytest.mark.parametrize("spec", [b"/*", b"/**/f"])
@pytest.mark.parametrize("passed", [{}, {b"/a/b/c": 1}])
@pytest.mark.parametrize("at", [b"", b"/a", b"/a/b", b"/a/b/c"])
def test_a_walk_that_is_pruned_leaves_every_catalog_that_it_entered(
    publisher: Publisher, spec: bytes, passed: dict[bytes, int], at: bytes
) -> None:
    tree = publisher.tree([b"/a/b/c/f", b"/b/f"], [b"/a", b"/a/b", b"/a/b/c", b"/b"], store=False)
    root = publisher.publish(tree).root
    borders = Told(passed)
    with publisher.open() as parts:
        found = told(parts, root, spec, borders, prune=at)
        assert parts.catalogs.in_use == 0
    assert borders.inside == []
    assert at in found
    assert not any(below(path, at) for path in found)
    assert (b"/b/f" in found) == (at != b"")


def test_a_spec_that_selects_the_root_alone_has_the_root_catalog_entered_and_left(publisher: Publisher) -> None:
    root = publisher.publish(publisher.tree([b"/a/f"], store=False)).root
    borders = Told()
    with publisher.open() as parts:
        told(parts, root, b"/", borders)
    assert borders.events == [("enter", b""), ("entry", b""), ("leave", b"")]
