"""Layers by subtree: few enough, complete, and those of what did not change stay as they are."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image.making import Maker

from shrinkwrap.errors import UsageError
from shrinkwrap.image.layers import Plan, Sorter, ancestors, plan_layers, single_layer, weigh
from shrinkwrap.snapshot.walk import order_key

MIB = 1 << 20


def releases(count: int, packages: int = 20, seed: int = 1) -> dict[bytes, int]:
    """Catalogs of a repository with releases, each with packages; a release's weights do not depend on the others."""
    weights = {b"": 1000, b"/sft.cern.ch": 5000, b"/sft.cern.ch/lcg": 5000}
    for release in range(count):
        draw = random.Random(f"{seed} {release}")
        top = b"/sft.cern.ch/lcg/releases/LCG_%d" % (100 + release)
        weights[top] = 10_000
        for package in range(packages):
            weights[top + b"/package%d" % package] = draw.choice([1, 3, 10, 40]) * MIB
    return weights


def layer_contents(plan: Plan) -> dict[bytes, frozenset[bytes]]:
    """The catalogs of each layer, by the layer's path."""
    found: dict[int, set[bytes]] = {}
    for path, number in plan.number.items():
        found.setdefault(number, set()).add(path)
    return {plan.layers[number].path: frozenset(paths) for number, paths in found.items()}


@pytest.mark.parametrize("limit", [1, 2, 10, 100])
def test_there_are_never_more_layers_than_allowed(limit: int) -> None:
    for count in (0, 1, 5, 60):
        plan = plan_layers(releases(count), limit=limit)
        assert 1 <= len(plan.layers) <= limit
        assert set(plan.number.values()) == set(range(len(plan.layers)))


def test_a_light_repository_is_one_layer() -> None:
    assert len(plan_layers({b"": 100, b"/a": 100, b"/b": 100}).layers) == 1
    assert len(plan_layers({}).layers) == 1


def test_a_new_release_leaves_the_layers_of_others_as_they_are() -> None:
    before, after = plan_layers(releases(40)), plan_layers(releases(41))
    assert before.threshold == after.threshold
    old, new = layer_contents(before), layer_contents(after)
    kept = set(old.values()) & set(new.values())
    assert len(old) > 20
    assert len(kept) >= len(old) - 2


def test_a_package_that_grows_changes_few_layers() -> None:
    weights = releases(40)
    before = layer_contents(plan_layers(weights))
    grown = dict(weights)
    grown[b"/sft.cern.ch/lcg/releases/LCG_120/package7"] += 5 * MIB
    after = layer_contents(plan_layers(grown))
    assert len(set(before.values()) & set(after.values())) >= len(before) - 3


def test_the_order_in_which_catalogs_are_named_does_not_matter() -> None:
    weights = releases(30)
    names = list(weights)
    random.Random(3).shuffle(names)
    assert plan_layers({name: weights[name] for name in names}) == plan_layers(weights)


@pytest.mark.parametrize(("limit", "lightest"), [(0, 1), (1, 0), (-1, 1)])
def test_limits_that_make_no_sense_are_refused(limit: int, lightest: int) -> None:
    with pytest.raises(UsageError, match="at least one"):
        plan_layers({}, limit=limit, lightest=lightest)


def test_weights_are_what_lies_in_a_catalog_itself() -> None:
    make = Maker()
    make.file(b"/r/a/file", b"x" * 1000)
    make.file(b"/r/a/nested/file", b"y" * 100)
    make.file(b"/r/a-b", b"z")
    found = weigh(make.stream(), {b"/r", b"/r/a/nested", b"/r/absent", b"/r/a-b"})
    assert found == {b"": 512, b"/r": 4 * 512 + 1000 + 1, b"/r/a/nested": 2 * 512 + 100}


def test_ancestors_are_told_from_the_top() -> None:
    assert ancestors(b"/a/b/c") == [b"/a", b"/a/b"]
    assert ancestors(b"/a") == ancestors(b"") == []


TREES = st.dictionaries(
    st.lists(st.sampled_from([b"a", b"a-b", b"b", b"c"]), min_size=1, max_size=5).map(
        lambda names: b"/" + b"/".join(names)
    ),
    st.integers(0, 100),
    max_size=40,
)


@given(weights=TREES, limit=st.integers(1, 12), lightest=st.integers(1, 50))
def test_each_layer_comes_in_one_piece_and_below_those_above_it(
    weights: dict[bytes, int], limit: int, lightest: int
) -> None:
    plan = plan_layers(weights, limit=limit, lightest=lightest)
    assert len(plan.layers) <= limit
    assert set(plan.number) == {b"", *weights}
    make = Maker()
    for path in weights:
        make.folder(path)
    sorter = Sorter(plan)
    closed: set[int] = set()
    current = None
    for entry in make.stream():
        number, _ = sorter.layer(entry)
        assert number == plan.number.get(entry.path, number)
        if plan.layers[number].scattered:
            continue
        # What is compressed at once is never gone back to.
        assert number not in closed
        if current not in (None, number):
            closed.add(current)  # type: ignore[arg-type]
        current = number
    for path, number in plan.number.items():
        for above in ancestors(path):
            if above in plan.number:
                assert plan.number[above] >= number
    firsts = [order_key(layer.path) for layer in plan.layers]
    assert firsts == sorted(firsts, reverse=True)


def test_one_layer_has_everything() -> None:
    sorter = Sorter(single_layer())
    make = Maker()
    make.file(b"/r/a", b"")
    assert {sorter.layer(entry) for entry in make.stream()} == {(0, False)}
