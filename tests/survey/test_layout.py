"""The canonical form says the same in fewer ways."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import golden

from shrinkwrap.errors import SpecError
from shrinkwrap.spec.grammar import RULES, parse
from shrinkwrap.survey.layout import formatted
from shrinkwrap.survey.texts import Text


def fmt(data: bytes) -> bytes:
    return formatted(Text("a.spec", data))


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (b"//lcg//contrib//*", b"/lcg/contrib/*\n"),
        (b"/a/b/", b"/a/b\n"),
        (b"/a/b*", b"/a/b/*\n"),
        (b"^/a/b", b"/a/b\n"),
        (b"^/a*", b"^/a/*\n"),
        (b"!//a/", b"!/a\n"),
        (b"/*", b"/*\n"),
        (b"^/*", b"^/*\n"),
        (b"/", b"/\n"),
        (b"//", b"/\n"),
        (b"/a*\r\n\r\n", b"/a/*\n"),
        (b"\xef\xbb\xbf\n\n/a\n\n\n\n/b", b"/a\n\n/b\n"),
        (b"  # why \n\t/a \t\n", b"# why\n/a\n"),
        # Wildcards are not what they look like without their slash.
        (b"/a//x*/", b"/a/x*/\n"),
        (b"/a/x**", b"/a/x*/*\n"),
        (b"/a/**", b"/a/**\n"),
        (b"/a/*//lib/*", b"/a/*/lib/*\n"),
        (b"/a/[*]", b"/a/[*]\n"),
        (b"", b""),
        (b"\n\n", b""),
    ],
)
def test_each_line_has_one_form(written: bytes, canonical: bytes) -> None:
    assert fmt(written) == canonical


_TEXT = st.text("/ab*?[]!^\\ \t\r#.", max_size=12)


@given(
    st.lists(st.builds(lambda sign, rest: f"{sign}/{rest}", st.sampled_from(["", "^", "!", " "]), _TEXT), max_size=6)
)
@settings(max_examples=5000 if os.environ.get("CI_LONG") else 200, deadline=None, database=None)
def test_a_formatted_file_says_the_same_and_is_formatted(lines: list[str]) -> None:
    data = "\n".join(lines).encode()
    new = fmt(data)
    assert fmt(new) == new
    for rules in RULES:
        before, after = parse(data, rules=rules).lines, parse(new, rules=rules).lines
        assert [(one.mode, one.parts, one.classic) for one in after] == [
            (one.mode, one.parts, one.classic) for one in before
        ]


def test_names_that_are_not_utf_8_stay_as_they_are() -> None:
    assert fmt(b"/a/\xff\xfe*\n") == b"/a/\xff\xfe/*\n"


def test_a_file_with_a_wrong_line_is_not_touched() -> None:
    with pytest.raises(SpecError, match=r"a\.spec:2: the path does not begin with /"):
        fmt(b"/a\nb\n")


def test_the_specifications_of_this_project_are_written_so() -> None:
    files = sorted((golden.CHECKOUT / "specs").glob("*.spec"))
    assert files
    for file in files:
        data = file.read_bytes()
        assert formatted(Text(file.name, data)) == data, file.name
