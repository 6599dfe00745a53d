"""What a walker gets to know besides yes and no, and what it costs."""

from __future__ import annotations

import subprocess
import sys

from spec.selecting import select, tree_of

from shrinkwrap.spec import matcher as room
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import IF_BELOW, NO, YES, Matcher, State, Step


def at(matcher: Matcher, path: str) -> Step:
    """The answer for a directory, asked from the root on."""
    step = matcher.root
    for name in path.encode().split(b"/"):
        if name:
            assert step.state is not None, path
            step = matcher.step(step.state, name, True)
    return step


def state_at(matcher: Matcher, path: str) -> State:
    state = at(matcher, path).state
    assert state is not None
    return state


def counts(lines: bytes, paths: list[bytes], rules: str = "2.14") -> dict[str, int]:
    spec = parse(lines, rules=rules)
    found: dict[int, int] = {}
    select(Matcher(spec), tree_of(paths), found)
    return {spec.lines[index].text: count for index, count in sorted(found.items())}


def test_the_root_always_comes_out_even_when_it_is_excluded() -> None:
    for lines in (b"", b"!/", b"/a", b"/**/x"):
        assert Matcher(parse(lines)).root.included == YES
    assert Matcher(parse(b"!/\n/a/*")).root.state is None
    assert Matcher(parse(b"")).root.state is None


def test_nothing_is_walked_below_what_cannot_hold_anything() -> None:
    matcher = Matcher(parse(b"/a/b\n/c/*\n!/c/d\n!/c/e/*\n/x/*/y"))
    assert at(matcher, "/a/b") == Step(YES, None, True, (0,))
    assert at(matcher, "/c/d").state is None
    assert at(matcher, "/c/e")[:2] == (YES, None)
    assert at(matcher, "/z") == Step(NO, None, False, ())
    assert at(matcher, "/x/any").included == IF_BELOW
    assert at(matcher, "/x/any/z").included == NO


def test_below_a_whole_tree_nothing_needs_asking() -> None:
    matcher = Matcher(parse(b"/a/*\n!/a/b/c\n/d/*\n/d/*.h"))
    assert not matcher.everything(state_at(matcher, "/a"))
    assert not matcher.everything(state_at(matcher, "/a/b"))
    assert matcher.everything(state_at(matcher, "/a/x"))
    assert matcher.inherited(state_at(matcher, "/a/x")) == (0,)
    assert state_at(matcher, "/a/x") is state_at(matcher, "/a/y/z")
    assert not matcher.everything(state_at(matcher, "/d"))


def test_names_are_looked_up_where_a_listing_is_not_needed() -> None:
    matcher = Matcher(parse(b"/b/x\n/a/*\n!/c/d\n^/e/*\n/f/*/g\n/h/i?/j\n/h/k/*/l\n!/h/m*n"))
    assert matcher.names(state_at(matcher, "/")) == (b"a", b"b", b"e", b"f", b"h")
    assert matcher.names(state_at(matcher, "/b")) == (b"x",)
    assert matcher.names(state_at(matcher, "/a")) is None
    assert matcher.names(state_at(matcher, "/e")) is None
    assert matcher.names(state_at(matcher, "/f")) is None
    assert matcher.names(state_at(matcher, "/f/any")) == (b"g",)
    assert matcher.names(state_at(matcher, "/h")) is None
    assert matcher.names(state_at(matcher, "/h/k")) is None


def test_below_a_curtain_only_what_is_brought_back_is_looked_up() -> None:
    matcher = Matcher(parse(b"/a/*\n/a/p/old\n!/a/p/*\n/a/p/new/deep"))
    assert matcher.names(state_at(matcher, "/a/p")) == (b"new",)
    assert matcher.names(state_at(matcher, "/a/p/new")) == (b"deep",)


def test_only_what_a_literal_line_names_is_named() -> None:
    """Hidden entries of a repository come out by name, and neither by a tree nor by a glob."""
    matcher = Matcher(parse(b"/.cvmfs/snapshots/*\n/a/*\n/b/.c*/d\n/e/*\n!/e/.x/y"))
    assert [at(matcher, path).named for path in ("/.cvmfs", "/.cvmfs/snapshots", "/a")] == [True] * 3
    hidden = ("/.cvmfs/snapshots/one", "/a/.cvmfs", "/b/.cvmfs", "/e/.x")
    assert [at(matcher, path).named for path in hidden] == [False] * 4


def test_a_symbolic_link_on_a_literal_way_comes_out_and_on_the_way_through_a_glob_does_not() -> None:
    matcher = Matcher(parse(b"/a/link/x\n/b/*/x"))
    assert matcher.step(state_at(matcher, "/a"), b"link", False).included == YES
    assert matcher.step(state_at(matcher, "/b"), b"link", False) == Step(NO, None, False, ())


def test_each_line_tells_what_it_matched() -> None:
    paths = [b"/a/x", b"/a/b/y", b"/a/b/z/", b"/c/d/e", b"/c/f.h", b"/g", b"/a/hid/den", b"/a/q/w"]
    lines = b"/a/*\n^/a/b/*\n/c\n/**/*.h\n/nothing\n!/a/hid\n!/nowhere\n!/a/q/*"
    assert counts(lines, paths) == {
        "/a/*": 7 - 1,  # a, x, b, y, z, q
        "^/a/b/*": 3,  # b, y, z
        "/c": 1,
        "/**/*.h": 1,
        "!/a/hid": 1,
        "!/a/q/*": 1,
    }


def test_an_exclusion_of_what_would_not_come_out_matches_nothing() -> None:
    assert counts(b"/a/b\n!/a/c\n!/d", [b"/a/b", b"/a/c", b"/d"]) == {"/a/b": 1}
    assert counts(b"/a/b\n!/a/b/x\n!/a/*", [b"/a/b/x"], "2.12") == {"!/a/*": 1}


def test_a_replaced_line_matches_nothing() -> None:
    assert counts(b"/a/*\n/b\n/a", [b"/a/x", b"/b"]) == {"/b": 1, "/a": 1}


def test_the_tuples_of_lines_are_shared() -> None:
    matcher = Matcher(parse(b"/a/*\n/a/b/*\n/**/*.h"))
    first = matcher.step(state_at(matcher, "/a/b"), b"x.h", False).lines
    second = matcher.step(state_at(matcher, "/a/b/c/d"), b"y.h", False).lines
    assert first == (0, 1, 2)
    assert first is second


def test_fingerprints_do_not_depend_on_lines_elsewhere_or_numbers() -> None:
    one = Matcher(parse(b"/a/b/*\n!/a/b/c/*\n/a/b/c/d"))
    two = Matcher(parse(b"/0\n!/0/x/*\n/a/b/*\n/z/**/q\n!/a/b/c/*\n/y/*\n/a/b/c/d\n/a/x"))
    other = Matcher(parse(b"/a/b/c/d\n/a/b/*\n!/a/b/c/*"))
    for path in ("/a/b", "/a/b/c", "/a/b/c/d", "/a/b/x"):
        assert one.fingerprint(state_at(one, path)) == two.fingerprint(state_at(two, path))
    assert one.fingerprint(state_at(one, "/a/b")) != other.fingerprint(state_at(other, "/a/b"))
    assert one.fingerprint(state_at(one, "/a")) != two.fingerprint(state_at(two, "/a"))


def test_a_new_glob_that_reaches_below_changes_the_fingerprint() -> None:
    one, two = Matcher(parse(b"/a/*")), Matcher(parse(b"/a/*\n!/**/*.pyc"))
    assert one.fingerprint(state_at(one, "/a/b")) != two.fingerprint(state_at(two, "/a/b"))


def test_direct_children_make_a_difference_to_the_fingerprint() -> None:
    one, two = Matcher(parse(b"/a/b/c\n^/a/*")), Matcher(parse(b"/a/b/c"))
    assert one.fingerprint(state_at(one, "/a")) != two.fingerprint(state_at(two, "/a"))
    assert one.fingerprint(state_at(one, "/a/b")) == two.fingerprint(state_at(two, "/a/b"))


def test_names_that_different_globs_match_get_different_answers() -> None:
    matcher = Matcher(parse(b"/a*/\n/*b/*\n/ac/x"))
    root = state_at(matcher, "/")
    lines = [matcher.step(root, name, True).lines for name in (b"a", b"ab", b"b", b"aa", b"ac", b"c", b"ad")]
    assert lines == [(0,), (0, 1), (1,), (0,), (0,), (), (0,)]
    assert [at(matcher, path).included for path in ("/ac/x", "/ab/x", "/ac")] == [YES, YES, YES]


def test_fingerprints_are_the_same_in_every_process() -> None:
    program = (
        "from shrinkwrap.spec.grammar import parse\n"
        "from shrinkwrap.spec.matcher import Matcher\n"
        "m = Matcher(parse(b'/a/*\\n!/**/x[0-9]/*\\n^/a/b/*\\n/a/b/c\\n/a/x?/y'))\n"
        "print(m.fingerprint(m.step(m.root.state, b'a', True).state).hex())\n"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1
    assert len(answers.pop().strip()) == 32


def test_many_stars_over_many_lines_stay_affordable() -> None:
    """10,000 globs of the worst kind: work grows with lines times distinct names, the number of states does not."""
    lines = b"\n".join(b"/**/**/**/*a*b*c%d" % number for number in range(10_000))
    matcher = Matcher(parse(lines))
    tree = tree_of(b"/" + b"a/ab/" * (depth % 20) + b"aabbc7" for depth in range(40))
    assert select(matcher, tree)
    assert matcher.states_made <= 3
    assert matcher.globs_tried <= 10_000 * 2 * 4


def test_any_depth_again_and_again_does_not_multiply_states() -> None:
    lines = b"\n".join(b"/**/a/**/b/**/%d/**/c/*" % number for number in range(100))
    matcher = Matcher(parse(lines))
    names = [b"a", b"b", b"c", b"0", b"17"]
    paths = [b"/" + b"/".join(names[(seed >> shift) % 5] for shift in range(0, 12, 2)) for seed in range(2000)]
    select(matcher, tree_of(paths))
    assert matcher.states_made <= 300


def test_a_deep_path_needs_no_recursion() -> None:
    path = "/a" * 2048
    matcher = Matcher(parse(path.encode() + b"/*\n!/**/z\n" + b"/**/*b" * 3))
    assert at(matcher, path).included == YES
    assert len(matcher.fingerprint(state_at(matcher, path))) == 16
    assert len(matcher.fingerprint(state_at(matcher, "/"))) == 16


def test_answers_stay_right_when_the_kept_ones_are_dropped() -> None:
    assert room._NAMES_KEPT < 20_000
    matcher = Matcher(parse(b"/**/*7\n/a/lit"))
    state = state_at(matcher, "/")
    for _ in range(2):
        found = [matcher.step(state, b"%d" % number, False).included for number in range(20_000)]
        assert found == [YES if number % 10 == 7 else NO for number in range(20_000)]
    assert state.steps is not None
    assert len(state.steps) <= room._NAMES_KEPT + 1
    assert at(matcher, "/a/lit").included == YES


def test_literal_lines_make_one_state_for_each_directory_that_is_named() -> None:
    matcher = Matcher(parse(b"\n".join(b"/a/%d/x/*" % number for number in range(10_000))))
    state = state_at(matcher, "/a")
    for number in range(20_000):
        matcher.step(state, b"%d" % number, True)
    assert matcher.states_made == 10_000 + 2
    assert matcher.globs_tried == 0
