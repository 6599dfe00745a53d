"""Each finding of lint, each pitfall of the original tool, and the proof that idle lines are idle."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec.selecting import Tree, select, tree_of
from support import golden

from shrinkwrap.errors import SpecError, UsageError
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.survey.findings import KINDS, Finding
from shrinkwrap.survey.lint import lint
from shrinkwrap.survey.texts import Text, read_texts

#: What says that a line may be taken away without any change of what comes out.
IDLE = {"duplicate", "replaced", "covered", "hides_nothing", "hidden_twice", "lifted"}


def found(*lines: str, rules: str = "2.14") -> list[Finding]:
    return lint([Text("a.spec", "".join(line + "\n" for line in lines).encode())], rules=rules)[1]


def kinds(*lines: str, rules: str = "2.14") -> set[tuple[int, str]]:
    return {(one.number, one.kind) for one in found(*lines, rules=rules)}


def only(kind: str, *lines: str, rules: str = "2.14") -> Finding:
    (one,) = [one for one in found(*lines, rules=rules) if one.kind == kind]
    return one


# -- what the reference tool's pitfalls are (FORMAT.md §10.2, §13.30; the notes of the goldens) ------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # A final * is no glob.
        (["/lcg/releases/gcc/8*"], {(1, "star_without_slash")}),
        (["^/a/b*"], {(1, "star_without_slash")}),
        (["/a/b/*", "/a/c**"], {(2, "original_knows_no_globs")}),
        # An exclusion is final, wherever it stands.
        (["/a/*", "!/a/b", "/a/b/c"], {(3, "hidden")}),
        (["!/*", "/x"], {(1, "rules_differ")}),
        (["!/", "/x"], {(2, "hidden")}),
        # The last line for one path wins.
        (["/foo/*", "/foo"], {(1, "replaced")}),
        (["/a/b/*", "!/a/b"], {(1, "replaced")}),
        (["/a", "/a/"], {(1, "duplicate")}),
        (["/a*", "/a/*"], {(1, "duplicate"), (1, "star_without_slash")}),
        # Lines that say less below one that says more.
        (["/a/*", "^/a/b/*"], {(2, "covered")}),
        (["^/a/*", "/a/b"], {(2, "covered")}),
        (["/a", "/a/b"], {(1, "covered")}),
        # ^ without a star.
        (["^/a"], {(1, "flat_without_star")}),
        # Names that are none.
        (["/special/./order/*"], {(1, "dots")}),
        (["/special/order/../prefix/*"], {(1, "dots")}),
        # A # in a line begins no comment; other lines do.
        (["/README # not a comment"], {(1, "comment_in_line")}),
        (["# a comment", "", "/README#1"], set()),
        # Wildcards in the middle are plain characters there.
        (["/a/*/b"], {(1, "original_knows_no_globs")}),
        # !/path/* is !/path there.
        (["/a/*", "!/a/b/*"], {(2, "rules_differ")}),
        (["/a/*", "!/a/b", "!/a/b/*"], {(3, "hidden_twice")}),
        # The parser hangs, or loses an inclusion.
        (["!/a/b/c", "/a/x/y"], {(1, "hides_nothing"), (2, "original_loses")}),
        (["!/a/b/c", "/a/b/d"], {(1, "hides_nothing"), (2, "original_hangs")}),
        (["!/a/b/c", "/a/x"], {(1, "hides_nothing"), (2, "original_hangs")}),
        (["!/a/b/c", "/a/b/*"], {(2, "original_hangs")}),
        (["!/a/b/c", "/a/b"], {(1, "hides_nothing"), (2, "original_hangs")}),
        (["!/a/b/c", "/z", "/a/b/d"], {(1, "hides_nothing"), (3, "original_loses")}),
        (["!/a/b/c", "/a/*"], set()),
        (["/a/*", "!/a/b/c", "/a/b/d"], {(3, "covered"), (3, "original_hangs")}),
        (["/a/*", "!/a/b/c", "/z", "/a/b/d"], {(4, "covered")}),
        (["/a/x/y", "!/a/b/c"], {(2, "hides_nothing")}),
        (["!/a/b", "/a/b/*"], {(1, "replaced"), (2, "original_loses")}),
        # The flat case.
        (["^/a/*", "!/a/b/c"], {(2, "hides_nothing"), (2, "original_drops_directory")}),
        (["/a/*", "^/a/*", "!/a/b/c"], {(1, "replaced"), (3, "hides_nothing"), (3, "original_drops_directory")}),
        # What it aborts at.
        (["lcg/views/*"], {(1, "wrong_line")}),
        (["^"], {(1, "wrong_line")}),
        (["! /foo", "/a"], {(1, "wrong_line")}),
        (["*"], {(1, "wrong_line")}),
        # Nothing at all.
        ([], {(0, "empty")}),
        (["# nothing"], {(0, "empty")}),
        (["!/a"], {(0, "empty"), (1, "hides_nothing")}),
        # What people do.
        (["/cvmfs/sft.cern.ch/lcg/*"], {(1, "mount_prefix")}),
        (["/cvmfs/lcg/*"], set()),
        (["/a/[bc"], {(1, "brackets")}),
    ],
)
def test_each_pitfall_is_told(lines: list[str], expected: set[tuple[int, str]]) -> None:
    assert kinds(*lines) == expected


def test_in_rules_2_12_an_exclusion_with_a_star_is_final_too() -> None:
    lines = ["/a/*", "!/a/b/*", "/a/b/c"]
    assert kinds(*lines) == {(2, "rules_differ")}
    assert kinds(*lines, rules="2.12") == {(2, "rules_differ"), (3, "hidden")}


def test_dos_line_ends_and_a_byte_order_mark_are_told_once_for_a_file() -> None:
    _, listed = lint([Text("a.spec", b"\xef\xbb\xbf/a\r\n\r\n/b\r\n"), Text("b.spec", b"/c\n/d\r\n")])
    assert [(one.file, one.number, one.kind) for one in listed] == [
        ("a.spec", 1, "byte_order_mark"),
        ("a.spec", 1, "dos_line_ends"),
        ("b.spec", 2, "dos_line_ends"),
    ]


def test_each_finding_says_what_to_write() -> None:
    assert "write /a/b/* for the tree, /a/b** for all names" in only("star_without_slash", "/a/b*").fix
    assert "write /lcg/*" in only("mount_prefix", "/cvmfs/sft.cern.ch/lcg/*").fix
    assert "write ^/*" in only("mount_prefix", "^/cvmfs/sft.cern.ch").fix
    assert "write /README" in only("comment_in_line", "/README # which one?").fix
    assert "write !/a/b to hide all of it" in only("rules_differ", "/a/*", "!/a/b/*").fix
    assert "write !/a/b/* before it" in only("hidden", "/a/*", "!/a/b", "/a/b/c").fix
    assert "move it below a.spec:2" in only("hidden", "/a/b/c", "!/a/b/*", "/x").fix
    for lines in (["/a", "/a"], ["/a/*", "/a"], ["/a/*", "/a/b"], ["!/a/b/c", "/a/b/d"], ["/a/[b"], ["lcg"]):
        for one in found(*lines):
            assert one.fix
            assert str(one).startswith(f"a.spec:{one.number}: {KINDS[one.kind]}: ")


def test_a_wrong_line_is_told_with_its_reason_alone() -> None:
    one = only("wrong_line", "a: b: c")
    assert (one.text, one.reason) == ("a: b: c", "the path does not begin with /")


def test_a_line_of_another_file_is_named_with_it() -> None:
    _, listed = lint([Text("a.spec", b"/a/*\n"), Text("b.spec", b"/x\n/a/b\n")])
    assert [str(one) for one in listed] == ["b.spec:2: note: /a/b: /a/* of a.spec:1 brings it already [covered]"]


def test_lines_that_do_something_are_left_in_peace() -> None:
    for lines in (
        ["/a/*", "!/a/b", "!/**/*.pyc", "/c/d", "^/c/e/*"],
        ["/a/*", "!/**/*.pyc", "/a/b.pyc"],
        ["/a/x/*", "/a/y/*", "^/b/*", "/b/c/*"],
        ["/*", "!/a/*", "/a/b/*", "!/a/b/c", "/x"],
        ["/a/b/*/lib/*", "/a/b/c"],
    ):
        assert not {kind for _, kind in kinds(*lines)} & (IDLE - {"covered"} | {"hidden"}), lines
    assert kinds("/*", "!/a/*", "/a/b") == {(2, "rules_differ")}


def test_a_taken_back_path_is_not_idle_though_all_around_it_comes_out() -> None:
    assert (3, "covered") not in kinds("/a/*", "!/**/*.pyc", "/a/b.pyc")
    assert (3, "covered") not in kinds("/a/*", "!/a/*/tests/*", "/a/p/tests/*")


def test_thousands_of_wrong_lines_are_no_specification_and_an_unknown_rule_set_is_none() -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        lint([Text("a.spec", b"word\n" * 2000)])
    with pytest.raises(UsageError):
        lint([Text("a.spec", b"/a\n")], rules="1.0")


def test_a_file_that_is_not_there_or_too_large_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot read the specification file"):
        read_texts([tmp_path / "none.spec"])
    with pytest.raises(SpecError, match="cannot read the specification file"):
        read_texts(["a\0b"])


def test_real_specifications_have_no_wrong_lines(repos: Path) -> None:
    _, listed = lint(read_texts([golden.repos() / "real-specs" / "sft.cern.ch.spec"]))
    # Made by the reference project's builder: ^ before each line, and the way to each path on lines of its own.
    assert {one.kind for one in listed} <= {"flat_without_star", "covered"}
    assert any(one.kind == "covered" for one in listed)
    _, listed = lint(read_texts([golden.repos() / "real-specs" / "cms.cern.ch.spec"]))
    assert listed == []


# -- idle lines are idle -----------------------------------------------------------------------------------------------

_NAMES = ["a", "b", "c", "ab"]
_PARTS = st.sampled_from([*_NAMES, *_NAMES, "*", "a*", "**"])
_PATHS = st.lists(_PARTS, min_size=0, max_size=4)
_LINES = st.builds(
    lambda sign, parts, star: sign + "/" + "/".join(parts) + ("/*" if star and parts else "*" if star else ""),
    st.sampled_from(["", "", "^", "!"]),
    _PATHS,
    st.booleans(),
)


def everything(depth: int = 4) -> Tree:
    """A tree with all names in all directories, and files beside them."""
    if not depth:
        return {}
    below: Tree = {name.encode(): everything(depth - 1) for name in (_NAMES if depth > 1 else _NAMES[:2])}
    below[b"f"] = None
    return below


TREE = everything()


@given(st.lists(_LINES, min_size=1, max_size=6), st.sampled_from(["2.14", "2.12"]))
@settings(max_examples=2000 if os.environ.get("CI_LONG") else 150, deadline=None, database=None)
def test_a_line_that_is_said_to_decide_nothing_can_be_taken_away(lines: list[str], rules: str) -> None:
    told = found(*lines, rules=rules)
    idle = sorted({one.number for one in told if one.kind in IDLE})
    hidden = {one.number for one in told if one.kind == "hidden"}

    def selected(left_out: Iterable[int]) -> set[tuple[bytes, ...]]:
        kept = [line for at, line in enumerate(lines, 1) if at not in left_out]
        return select(Matcher(parse("".join(line + "\n" for line in kept).encode(), rules=rules)), TREE)

    whole = selected([])
    for taken in [*([number] for number in idle), idle]:
        assert selected(taken) == whole, (taken, lines)
    for number in hidden:
        # The directories on the way to what is hidden may come out because of such a line.
        assert all(is_above(path, lines[number - 1]) for path in whole ^ selected([number])), (number, lines)


def is_above(path: tuple[bytes, ...], line: str) -> bool:
    parts = [part for part in line.lstrip("^").encode().split(b"/") if part]
    return path == tuple(parts[: len(path)]) and len(path) < len(parts)


def test_the_tree_of_the_test_above_tells_lines_apart() -> None:
    assert select(Matcher(parse(b"/a/*\n")), TREE) != select(Matcher(parse(b"/a/*\n!/a/b/c\n")), TREE)
    assert tree_of([b"/a/f"]) == {b"a": {b"f": None}}


def test_every_kind_of_finding_stands_on_the_page_with_its_severity() -> None:
    page = (golden.CHECKOUT / "docs" / "spec-tools.md").read_text(encoding="utf-8")
    listed = {
        kind.strip("` "): row.split("|")[2].strip()
        for row in page.splitlines()
        if row.startswith("| `") and row.split("|")[2].strip() in KINDS.values()
        for kind in row.split("|")[1].split(",")
    }
    assert listed == KINDS
