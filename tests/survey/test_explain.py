"""Which line decides, and that what is said of a path is what happens to it."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot.walking import open_real
from spec.selecting import all_paths, select, tree_of
from support.golden import Pinned
from support.repository import HIDDEN, Publisher

from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.survey.explain import HIDDEN as IS_HIDDEN
from shrinkwrap.survey.explain import MAYBE, NOT_ASKED, ON_THE_WAY, OUT, Judged, comes_out, explain, explain_in

SPEC = b"""\
/a/*
!/a/b
/c/d
^/e/*
/g
!/a/p/*
/a/p/x
/r/*/lib
"""


def judged(path: bytes, spec: bytes = SPEC) -> Judged:
    return explain(parse(spec), path)[-1]


@pytest.mark.parametrize(
    ("path", "verdict", "numbers", "words"),
    [
        (b"", OUT, [], "the root always comes out"),
        (b"/a", OUT, [1], "names it, and all below it"),
        (b"/a/z/y", OUT, [1], "brings all below /a"),
        (b"/a/b", IS_HIDDEN, [2], "hides it, for good"),
        (b"/a/b/c/d", IS_HIDDEN, [2], "hides it, as all below, for good"),
        (b"/c", ON_THE_WAY, [3], "on the way to /c/d of <spec>:3"),
        (b"/c/d", OUT, [3], "names it, alone"),
        (b"/c/d/e", NOT_ASKED, [], "/c/d/* would bring what is below it"),
        (b"/c/x", NOT_ASKED, [], "no line asks for it"),
        (b"/e/f", OUT, [4], "brings what is directly in /e"),
        (b"/e/f/g", NOT_ASKED, [], "brings /e/f without what is in it: /e/f/* would"),
        (b"/g/h/i", NOT_ASKED, [], "no line asks for it"),
        (b"/a/p", OUT, [1, 6], "hides what is below it"),
        (b"/a/p/q", IS_HIDDEN, [6], "a line after it could bring this back"),
        (b"/a/p/x/y", OUT, [1], "brings all below /a"),
        (b"/r/6", MAYBE, [], "on the way through a glob"),
        (b"/r/6/lib", OUT, [8], "/r/*/lib of <spec>:8 matches it"),
        (b"/q", NOT_ASKED, [], "no line asks for it"),
    ],
)
def test_the_line_that_decides_is_named(path: bytes, verdict: str, numbers: list[int], words: str) -> None:
    one = judged(path)
    assert (one.path, one.verdict) == (path, verdict)
    assert [line.number for line in one.lines] == numbers
    assert words in one.reason


def test_each_directory_on_the_way_is_judged() -> None:
    found = explain(parse(SPEC), b"/a/b/c")
    assert [one.path for one in found] == [b"", b"/a", b"/a/b", b"/a/b/c"]
    assert [one.verdict for one in found] == [OUT, OUT, IS_HIDDEN, IS_HIDDEN]


_NAMES = ["a", "b", "ab"]
_LINES = st.builds(
    lambda sign, parts, end: sign + "/" + "/".join(parts) + (end if parts else ""),
    st.sampled_from(["", "", "^", "!"]),
    st.lists(st.sampled_from([*_NAMES, *_NAMES, "*", "a*", "**"]), max_size=4),
    st.sampled_from(["", "/*"]),
)
_TREE = tree_of(
    f"/{x}/{y}/{z}{end}".encode() for x in _NAMES for y in _NAMES for z in ("a", "ab", "f") for end in ("", "/f")
)


@given(st.lists(_LINES, max_size=6), st.sampled_from(["2.14", "2.12"]))
@settings(max_examples=3000 if os.environ.get("CI_LONG") else 150, deadline=None, database=None)
def test_what_is_said_of_a_path_is_what_happens_to_it(lines: list[str], rules: str) -> None:
    spec = parse("\n".join(lines).encode(), rules=rules)
    selected = select(Matcher(spec), _TREE)
    for names, is_dir in all_paths(_TREE):
        found = explain(spec, b"".join(b"/" + name for name in names), is_dir=is_dir)
        out = comes_out(found)
        if out is None:
            assert is_dir
        else:
            assert out == (names in selected), (names, found[-1])
        assert found[-1].reason


# -- with a repository -----------------------------------------------------------------------------------------------


def test_a_repository_tells_what_is_there_and_what_is_in_the_way(repos: Path) -> None:
    with ExitStack() as stack:
        session, root = open_real(stack, repos, Pinned("small.cern.ch", "rev3"))

        def look(path: bytes, spec: bytes) -> list[Judged]:
            return explain_in(session, root, parse(spec), path)

        found = look(b"/lcg/contrib/gcc/8/x86_64-centos7", b"/lcg/contrib/gcc/8/x86_64-centos7/bin/*\n")
        assert [one.there for one in found] == ["dir", "dir", "dir", "dir", "symlink", ""]
        assert "what is behind it does not come out by this path" in found[-2].reason
        assert comes_out(found) is False
        found = look(b"/README", b"/README\n")
        assert (found[-1].there, comes_out(found)) == ("file", True)
        found = look(b"/no/such/file", b"/*\n")
        assert ([one.there for one in found], comes_out(found)) == (["dir", "", "", ""], False)
        found = look(b"/special/fifo", b"/*\n")
        assert (found[-1].there, comes_out(found)) == ("fifo", False)
        # On the way through a glob: something below has to come out, and whether it does can be seen.
        glob = b"/lcg/releases/*/*/*/lib\n"
        assert comes_out(look(b"/lcg/releases/Python", glob)) is True
        assert comes_out(look(b"/lcg/releases", glob)) is True
        assert comes_out(look(b"/lcg/releases/Python", b"/lcg/*/*/no/such\n")) is False
        assert session.catalogs.in_use == 0


def test_a_hidden_entry_and_a_name_with_a_line_feed_are_looked_at(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "storage")
    root = publisher.catalog()
    root.file(b"/.cvmfs", b"x")
    root.change(b"/.cvmfs", flags=HIDDEN | 4)
    root.file(b"/a/odd\nname/lib/f", b"y")
    head = publisher.publish(root)
    with publisher.open() as opened:
        found = explain_in(opened.session, head.root, parse(b"/*\n"), b"/.cvmfs")
        assert "hidden entry" in found[-1].reason
        assert comes_out(found) is False
        assert comes_out(explain_in(opened.session, head.root, parse(b"/.cvmfs\n"), b"/.cvmfs")) is True
        found = explain_in(opened.session, head.root, parse(b"/a/*/lib\n"), b"/a/odd\nname")
        assert comes_out(found) is True
