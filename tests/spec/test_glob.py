"""Globs inside one name."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from pathspec import GitIgnoreSpec
from spec.selecting import wild

from shrinkwrap.spec.glob import ANY_DEPTH, Glob, read_component


def matches(glob: bytes, name: bytes) -> bool:
    part, complaint = read_component(glob)
    assert not complaint
    return part == name if isinstance(part, bytes) else isinstance(part, Glob) and part.match(name)


@pytest.mark.parametrize(
    ("glob", "names", "others"),
    [
        (b"*", [b"a", b".hidden", b"\xff", b"a\nb"], []),
        (b"*.pyc", [b".pyc", b"a.pyc", b"a.b.pyc"], [b"a.py", b"a.pyc~"]),
        (b"a*b*a", [b"aba", b"aabaa", b"abba"], [b"ab", b"aa", b"a"]),
        (b"ab*ba", [b"abba", b"abxba"], [b"aba"]),
        (b"6.3?.*", [b"6.30.02", b"6.3x."], [b"6.3.02", b"6.30"]),
        (b"?", [b"a", b"\xc3\xa9", b"\xff", b"\n"], [b"", b"ab", b"\xc3\xa9a", b"\xff\xff"]),
        (b"[abc]x", [b"ax", b"cx"], [b"dx", b"x", b"Ax"]),
        (b"[!abc]x", [b"dx", b"\xffx"], [b"ax", b"x"]),
        (b"[^a-c]", [b"d", b"^"], [b"b"]),
        (b"[a-c]*", [b"a", b"bz"], [b"d"]),
        (b"[]x]", [b"]", b"x"], [b"[]x]"]),
        (b"[a-]", [b"a", b"-"], [b"b"]),
        (b"[-a]", [b"a", b"-"], [b"b"]),
        (b"[\\]a]", [b"]", b"a"], [b"\\"]),
        ("[à-é]".encode(), ["à".encode(), "é".encode()], ["ê".encode(), b"\xc3"]),
        (b"[*]", [b"*"], [b"a"]),
        (b"a\\*b", [b"a*b"], [b"axb", b"a\\*b"]),
        (b"a\\?*", [b"a?", b"a?b"], [b"ab"]),
        (b"*\\d", [b"x\\d", b"\\d"], [b"xd"]),
        (b"*\\\\x", [b"\\x"], [b"\\\\y", b"x"]),
        (b"**", [], []),
        (b"a**b", [b"ab", b"axb"], [b"a"]),
        (b"(a|b)*", [b"(a|b)", b"(a|b)c"], [b"a", b"b"]),
        (b"+?", [b"+a"], [b"+", b"aa"]),
    ],
)
def test_a_glob_matches_these_names_and_not_those(glob: bytes, names: list[bytes], others: list[bytes]) -> None:
    assert [name for name in names if not matches(glob, name)] == []
    assert [name for name in others if matches(glob, name)] == []


def test_two_stars_alone_stand_for_any_depth() -> None:
    assert read_component(b"**") == (ANY_DEPTH, "")


@pytest.mark.parametrize(
    ("glob", "complaint", "name"),
    [
        (b"a[b", "a [ without its ]", b"a[b"),
        (b"a[]", "a [ without its ]", b"a[]"),
        (b"a[!]", "a [ without its ]", b"a[!]"),
        (b"[z-a]", "the range z-a runs backwards", b"[z-a]"),
        (b"[[:alpha:]]", "named character classes are not known", b"[[:alpha:]]"),
        (b"*[", "a [ without its ]", b"x["),
        (b"a[b*", "a [ without its ]", b"a[bc"),
        (b"[z-a]*[bc]", "the range z-a runs backwards", b"[z-a]xb"),
    ],
)
def test_a_malformed_bracket_stands_for_itself_and_is_complained_about(
    glob: bytes, complaint: str, name: bytes
) -> None:
    part, found = read_component(glob)
    assert found == complaint
    assert part == name if isinstance(part, bytes) else isinstance(part, Glob) and part.match(name)


def test_very_many_brackets_are_read_once() -> None:
    """Looking for the end of each anew would take some 10**10 steps."""
    for end, wrong in ((b"", "a [ without its ]"), (b"z-a]", "the range z-a runs backwards")):
        name = b"[" * 100_000 + end
        assert read_component(name) == (name, wrong)


def test_the_program_named_bracket_is_no_slip() -> None:
    assert read_component(b"[") == (b"[", "")


@settings(max_examples=400, deadline=None, database=None)
@given(
    st.lists(st.sampled_from([b"*", b"?", b"a", b"b", b"ab", b"[ab]", b"[!a]"]), min_size=1, max_size=7),
    st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=9),
)
@example([b"a", b"*", b"ab", b"*", b"b"], [b"a", b"a", b"b", b"b"])
@example([b"?", b"*", b"[ab]", b"*", b"a"], [b"c", b"a", b"b", b"a"])
def test_a_glob_matches_what_trying_all_possibilities_does(pieces: list[bytes], chars: list[bytes]) -> None:
    glob, name = b"".join(pieces), b"".join(chars)
    if glob != b"**":
        assert matches(glob, name) == wild(glob, name)


@pytest.mark.parametrize("mark", [b"a", b"[ab]"])
def test_a_name_cannot_make_many_stars_expensive(mark: bytes) -> None:
    """A matcher that backtracks would try some 10**30 ways here, and never return."""
    part, _ = read_component(b"*" + (mark + b"*") * 60 + b"z")
    assert isinstance(part, Glob)
    assert not part.match(b"a" * 255)
    assert part.match(b"a" * 254 + b"z")


@settings(max_examples=300)
@given(pattern=st.text("ab*?", min_size=1, max_size=8), name=st.text("abc", min_size=1, max_size=10))
def test_a_glob_matches_what_gitignore_would_in_one_component(pattern: str, name: str) -> None:
    assume("**" not in pattern)  # of another meaning there
    judge = GitIgnoreSpec.from_lines([f"/{pattern}"])
    assert matches(pattern.encode(), name.encode()) == judge.match_file(name)
