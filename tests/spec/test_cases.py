"""The table of cases in docs/spec-files.md, and the truth tables of FORMAT.md §10.2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from spec.selecting import by_the_rules, select, tree_of

from shrinkwrap.spec.grammar import RULES, parse
from shrinkwrap.spec.matcher import NO, Matcher

PAGE = Path(__file__).parents[2] / "docs" / "spec-files.md"


def documented_cases() -> list[tuple[str, list[bytes], list[bytes], list[bytes]]]:
    section = PAGE.read_text(encoding="utf-8").split("## Cases", 1)[1]
    cases: list[tuple[str, list[bytes], list[bytes], list[bytes]]] = []
    for row in section.splitlines():
        if not row.startswith("| any ") and not re.match(r"\| 2\.1[24] ", row):
            continue
        rules, *cells = [cell.strip() for cell in row.strip("|").split("|")]
        lines, come_out, stay = ([item.encode() for item in re.findall("`([^`]+)`", cell)] for cell in cells)
        cases.extend((each, lines, come_out, stay) for each in (RULES if rules == "any" else [rules]))
    return cases


def test_the_page_has_a_table_of_cases_for_both_rule_sets() -> None:
    cases = documented_cases()
    assert len(cases) > 90
    assert {rules for rules, *_ in cases} == set(RULES)


@pytest.mark.parametrize(
    ("rules", "lines", "come_out", "stay"),
    documented_cases(),
    ids=lambda value: value if isinstance(value, str) else b" ".join(value).decode(),
)
def test_the_documented_case_holds(rules: str, lines: list[bytes], come_out: list[bytes], stay: list[bytes]) -> None:
    spec = parse(b"\n".join(lines), rules=rules)
    tree = tree_of([*come_out, *stay])
    found = {b"/" + b"/".join(path) for path in select(Matcher(spec), tree)}
    assert [path for path in come_out if path.rstrip(b"/") not in found] == []
    assert [path for path in stay if path.rstrip(b"/") in found] == []
    assert {b"/" + b"/".join(path) for path in by_the_rules(spec, tree)} == found


SEVEN = b"""^/*
/foo/bar
/foo/bar/abc/*
!/foo/bar/abc/def/hij
^/bar
^/bar/abc/def/*
!/bar/abc/def/ghj
"""
LIST = "all"
#: Path, comes out, and its listing: all, none, or by these names (FORMAT.md §10.2).
TRUTH: list[tuple[str, bool, str | list[str]]] = [
    ("/", True, LIST),
    ("/asdf", True, []),
    ("/foo", True, ["bar"]),
    ("/foo/bar", True, ["abc"]),
    ("/foo/bar/abc", True, LIST),
    ("/foo/bar/abc/def", True, LIST),
    ("/foo/bar/abc/foo/foo/foo.txt", True, LIST),
    ("/foo/bar/def", False, []),
    ("/foo/bar/abc/def/hij", False, []),
    ("/foo/bar/abc/def/hij/def.txt", False, []),
    ("/bar", True, ["abc"]),
    ("/bar/abc", True, ["def"]),
    ("/bar/abc/def", True, LIST),
    ("/bar/abc/def/def", True, []),
    ("/bar/abc/def/foo", True, []),
    ("/bar/abc/def/foo/foo", False, []),
    ("/bar/abc/def/ghj", False, []),
    ("/bar/abc/def/ghj/def/def", False, []),
    ("/bar/def", False, []),
    ("/bar/abc/abc", False, []),
    ("/foobar/bar", False, []),
]


@pytest.mark.parametrize(("path", "comes_out", "listing"), TRUTH, ids=[path for path, _, _ in TRUTH])
def test_the_reference_tools_own_truth_table_holds(path: str, comes_out: bool, listing: str | list[str]) -> None:
    matcher = Matcher(parse(SEVEN, rules="2.12"))
    step = matcher.root
    for name in path.encode().split(b"/"):
        if name and step.state is None:
            assert not comes_out
            return
        if name:
            assert step.state is not None
            step = matcher.step(step.state, name, True)
    assert (step.included != NO) == comes_out
    names = () if step.state is None else matcher.names(step.state)
    assert (LIST if names is None else [name.decode() for name in names]) == listing
