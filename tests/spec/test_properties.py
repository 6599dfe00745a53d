"""Many made-up specifications and trees, against the rules of docs/spec-files.md applied one path at a time."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec.selecting import Path, Tree, all_paths, by_the_rules, select, tree_of

from shrinkwrap.spec.grammar import RULES, Spec, parse
from shrinkwrap.spec.matcher import IF_BELOW, NO, Matcher, State, Step

NAMES = [b"a", b"b", b"ab", b"c"]
GLOBS = [b"*", b"?", b"a*", b"*b", b"[ab]", b"[!a]", b"**", b"**"]
UNIVERSE = tree_of(
    b"/" + b"/".join(way) + b"/"
    for way in [(x, y, z) for x in [b"a", b"b", b"ab", b"*"] for y in [b"a", b"ab", b"a*"] for z in [b"a", b"b"]]
)

literal_line = st.builds(
    lambda sign, names, end: sign + b"/" + b"/".join(names) + (end if names else end.lstrip(b"/")),
    st.sampled_from([b"", b"", b"", b"^", b"!", b"!"]),
    st.lists(st.sampled_from(NAMES), max_size=4),
    st.sampled_from([b"", b"/*", b"/*", b"*", b"/"]),
)
globbed_line = st.builds(
    lambda sign, names, end: sign + b"/" + b"/".join(names) + end,
    st.sampled_from([b"", b"", b"^", b"!", b"!"]),
    st.lists(st.sampled_from(NAMES + GLOBS), min_size=1, max_size=4),
    st.sampled_from([b"", b"/*", b"/*", b"*", b"/"]),
)
literal_specs = st.lists(literal_line, max_size=8)
specs = st.lists(st.one_of(literal_line, globbed_line), max_size=8)
trees = st.lists(
    st.builds(
        lambda names, end: b"/" + b"/".join(names) + end,
        st.lists(st.sampled_from([*NAMES, b"*", b"a*"]), min_size=1, max_size=5),
        st.sampled_from([b"", b"/"]),
    ),
    max_size=12,
).map(tree_of)
rule_sets = st.sampled_from(RULES)

many = settings(
    max_examples=3000 if os.environ.get("CI_LONG") else 80,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def states_of(matcher: Matcher, tree: Tree) -> dict[Path, Step]:
    """The answers for all entries, never pruned by names()."""
    found: dict[Path, Step] = {(): matcher.root}
    for path, is_dir in all_paths(tree):
        above = found.get(path[:-1])
        if above is not None and above.state is not None:
            found[path] = matcher.step(above.state, path[-1], is_dir)
    return found


def behaviour(matcher: Matcher, state: State) -> list[tuple[Path, int, bool]]:
    """All that a state has to say about a tree that holds every name there is."""
    seen: list[tuple[Path, int, bool]] = []
    found: dict[Path, Step] = {(): Step(NO, state, False, ())}
    for path, is_dir in all_paths(UNIVERSE):
        above = found.get(path[:-1])
        if above is not None and above.state is not None:
            step = found[path] = matcher.step(above.state, path[-1], is_dir)
            seen.append((path, step.included, step.named))
    return seen


@many
@given(literal_specs, trees, rule_sets)
def test_literal_specifications_select_what_the_rules_say(lines: list[bytes], tree: Tree, rules: str) -> None:
    spec = parse(b"\n".join(lines), rules=rules)
    assert select(Matcher(spec), tree) == by_the_rules(spec, tree)


@many
@given(specs, trees, rule_sets)
def test_specifications_with_globs_select_what_the_rules_say(lines: list[bytes], tree: Tree, rules: str) -> None:
    spec = parse(b"\n".join(lines), rules=rules)
    assert select(Matcher(spec), tree) == by_the_rules(spec, tree)


@many
@given(specs, rule_sets)
def test_on_a_full_tree_too(lines: list[bytes], rules: str) -> None:
    spec = parse(b"\n".join(lines), rules=rules)
    assert select(Matcher(spec), UNIVERSE) == by_the_rules(spec, UNIVERSE)


@many
@given(specs, rule_sets)
def test_names_never_misses_a_child_that_can_come_out(lines: list[bytes], rules: str) -> None:
    matcher = Matcher(parse(b"\n".join(lines), rules=rules))
    for path, step in states_of(matcher, UNIVERSE).items():
        if step.state is None:
            continue
        names = matcher.names(step.state)
        if names is not None:
            assert list(names) == sorted(set(names))
            for name in [*NAMES, b"*", b"**", b"a*", b"zzz", b""]:
                answer = matcher.step(step.state, name, True)
                assert answer.included == NO or name in names, (path, name)


@many
@given(specs, rule_sets)
def test_everything_is_said_only_where_all_comes_out(lines: list[bytes], rules: str) -> None:
    matcher = Matcher(parse(b"\n".join(lines), rules=rules))
    for step in states_of(matcher, UNIVERSE).values():
        if step.state is not None and matcher.everything(step.state):
            for name in [*NAMES, b"*", b"zzz"]:
                assert matcher.step(step.state, name, True)[:3] == (1, step.state, False)
                assert matcher.step(step.state, name, True).lines == matcher.inherited(step.state)


@many
@given(specs, rule_sets)
def test_only_directories_come_out_for_what_is_below_them(lines: list[bytes], rules: str) -> None:
    matcher = Matcher(parse(b"\n".join(lines), rules=rules))
    for step in states_of(matcher, UNIVERSE).values():
        if step.state is not None:
            for name in [*NAMES, b"zzz"]:
                assert matcher.step(step.state, name, False).included != IF_BELOW


@many
@given(specs, specs, trees, st.integers(0, 8), rule_sets)
def test_lines_for_one_place_change_nothing_elsewhere(
    lines: list[bytes], others: list[bytes], tree: Tree, at: int, rules: str
) -> None:
    elsewhere = [line.replace(b"/", b"/zz/", 1) for line in others if not line.startswith((b"/*", b"/**", b"!/*"))]
    plain = Matcher(parse(b"\n".join(lines), rules=rules))
    more = Matcher(parse(b"\n".join([*lines[:at], *elsewhere, *lines[at:]]), rules=rules))
    assert select(plain, tree) == select(more, tree)
    before, after = states_of(plain, tree), states_of(more, tree)
    for path, step in before.items():
        if path and step.state is not None:
            other = after[path].state
            assert other is not None
            assert plain.fingerprint(step.state) == more.fingerprint(other)


def fingerprints(matcher: Matcher, tree: Tree) -> dict[bytes, State]:
    steps = states_of(matcher, tree).values()
    return {matcher.fingerprint(step.state): step.state for step in steps if step.state is not None}


def assert_equal_fingerprints_mean_equal_answers(first: Spec, second: Spec) -> None:
    one, two = Matcher(first), Matcher(second)
    here, there = fingerprints(one, UNIVERSE), fingerprints(two, UNIVERSE)
    for digest in here.keys() & there.keys():
        assert behaviour(one, here[digest]) == behaviour(two, there[digest])


@many
@given(specs, specs, rule_sets)
def test_equal_fingerprints_mean_equal_answers(lines: list[bytes], others: list[bytes], rules: str) -> None:
    assert_equal_fingerprints_mean_equal_answers(
        parse(b"\n".join(lines), rules=rules), parse(b"\n".join(others), rules=rules)
    )


@many
@given(specs, st.randoms(use_true_random=False), rule_sets)
def test_equal_fingerprints_mean_equal_answers_when_lines_change_places(
    lines: list[bytes], random: object, rules: str
) -> None:
    shuffled = list(lines)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert_equal_fingerprints_mean_equal_answers(
        parse(b"\n".join(lines), rules=rules), parse(b"\n".join(shuffled), rules=rules)
    )


@many
@given(specs, rule_sets)
def test_equal_states_mean_equal_fingerprints(lines: list[bytes], rules: str) -> None:
    matcher = Matcher(parse(b"\n".join(lines), rules=rules))
    states = [step.state for step in states_of(matcher, UNIVERSE).values() if step.state is not None]
    digest_of: dict[State, bytes] = {}
    for state in states:
        assert digest_of.setdefault(state, matcher.fingerprint(state)) == matcher.fingerprint(state)


@many
@given(specs, rule_sets)
def test_a_normalised_specification_means_the_same(lines: list[bytes], rules: str) -> None:
    spec = parse(b"# a comment\r\n\r\n" + b" \r\n".join(lines), rules=rules)
    again = parse(spec.text, rules=rules)
    assert (again.text, again.sha256) == (spec.text, spec.sha256)
    assert [(line.mode, line.parts) for line in again.lines] == [(line.mode, line.parts) for line in spec.lines]


@many
@given(st.lists(st.binary(max_size=12)), rule_sets)
def test_no_line_brings_down_the_parser(lines: list[bytes], rules: str) -> None:
    """Any bytes after a slash are a path, except NUL; they select what the rules say or nothing, and never fail."""
    paths = [b"/" + line.replace(b"\0", b"").replace(b"\n", b"") for line in lines]
    matcher = Matcher(parse(b"\n".join(paths), rules=rules))
    select(matcher, UNIVERSE)
