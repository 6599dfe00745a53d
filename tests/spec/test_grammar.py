"""Reading of lines: what is refused, what is warned about, what is kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shrinkwrap.errors import SpecError, UsageError
from shrinkwrap.spec import grammar
from shrinkwrap.spec.grammar import Mode, parse, parse_many, read_files


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"foo", "the path does not begin with /: foo"),
        (b"*", "the path does not begin with /: *"),
        (b"^*", "the path does not begin with /: ^*"),
        (b"^", "^ without a path: ^"),
        (b"!", "! without a path: !"),
        (b"^ /foo", "a blank between ^ and the path: ^ /foo"),
        (b"!\t/foo", "a blank between ! and the path: !\\t/foo"),
        (b"!^/foo", "the path does not begin with /: !^/foo"),
        (b"\\/foo", "the path does not begin with /: \\/foo"),
        (b"/a\0b", "holds a NUL byte"),
        ("/foo\n".encode("utf-16"), "holds a NUL byte (a text saved as UTF-16?)"),
        (b"/a" * 2049, "more than 2048 directories inside each other"),
        (b"\x1b[31mred", "the path does not begin with /: \\x1b[31mred"),
        (b"\xff", "the path does not begin with /: \\xff"),
    ],
)
def test_a_wrong_line_is_named_with_file_number_and_reason(line: bytes, reason: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(b"/fine\n\n" + line, file="my.spec")
    assert f"my.spec:3: {reason}" in caught.value.message
    assert caught.value.hint


def test_all_wrong_lines_of_all_files_are_named_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        parse_many([("a.spec", b"x\n/fine\ny\n"), ("b.spec", b"# z\r\nz\r\n")])
    message = caught.value.message
    assert message.startswith("3 lines of the specification cannot be read:")
    assert [line.split(": ")[0].strip() for line in message.splitlines()[1:]] == [
        "a.spec:1",
        "a.spec:3",
        "b.spec:2",
    ]


def test_a_file_that_is_no_specification_does_not_flood_the_terminal() -> None:
    with pytest.raises(SpecError) as caught:
        parse(b"x\n" * 5000)
    assert caught.value.message.startswith("5000 lines")
    assert caught.value.message.endswith("... and 4000 more")
    assert len(caught.value.message.splitlines()) == 1002


@pytest.mark.parametrize(
    ("line", "mode", "parts"),
    [
        (b"/", Mode.EXACT, ()),
        (b"/*", Mode.DEEP, ()),
        (b"^/*", Mode.FLAT, ()),
        (b"!/", Mode.EXCLUDE, ()),
        (b"!/*", Mode.EXCLUDE_BELOW, ()),
        (b"/a//b/", Mode.EXACT, (b"a", b"b")),
        (b"^/a", Mode.EXACT, (b"a",)),
        (b"^/a*", Mode.FLAT, (b"a",)),
        (b"!/a*", Mode.EXCLUDE_BELOW, (b"a",)),
        (b"/a b # c", Mode.EXACT, (b"a b # c",)),
        (b"/!^#", Mode.EXACT, (b"!^#",)),
        (b"/a\\*", Mode.DEEP, (b"a\\",)),
        (b"/\xff/\xc3\xa9", Mode.EXACT, (b"\xff", b"\xc3\xa9")),
        (b"/a/**", Mode.DEEP, (b"a",)),
        (b"^/a/**", Mode.FLAT, (b"a",)),
        (b"!/a/**/*", Mode.EXCLUDE_BELOW, (b"a",)),
        (b"/a/[*]", Mode.EXACT, (b"a", b"*")),
    ],
)
def test_a_line_is_read_as(line: bytes, mode: Mode, parts: tuple[bytes, ...]) -> None:
    (found,) = parse(b" \t" + line + b" \t\r\n").lines
    assert (found.mode, found.parts, found.raw) == (mode, parts, line)


def test_a_line_with_globs_keeps_its_literal_reading() -> None:
    globbed, plain = parse(b"/a/x?/b*c/*\n/a/b/*").lines
    assert globbed.classic == (b"a", b"x?", b"b*c")
    assert globbed.parts != globbed.classic
    assert plain.classic is None


def test_the_older_rules_know_one_kind_of_exclusion() -> None:
    assert [line.mode for line in parse(b"!/a/*\n!/a", rules="2.12").lines] == [Mode.EXCLUDE, Mode.EXCLUDE]


def test_comments_line_ends_and_marks_leave_no_trace() -> None:
    written = "\ufeff# note\r\n\r\n  /a/* \r\n\t# more\n!/a/b".encode()
    spec = parse(written)
    assert spec.text == b"/a/*\n!/a/b\n"
    assert spec.sha256 == parse(b"/a/*\n!/a/b").sha256
    assert [line.where for line in spec.lines] == ["<spec>:3", "<spec>:5"]


def test_an_empty_specification_is_one() -> None:
    assert parse(b"").lines == parse(b"\n# nothing\n").lines == ()


def test_several_files_are_read_in_order() -> None:
    spec = parse_many([("a", b"/x"), ("b", b"/y\n/x/*")])
    assert spec.text == b"/x\n/y\n/x/*\n"
    assert spec.warnings == ("b:2: /x/* replaces /x of a:1: the last line for a path wins",)


def test_an_unknown_rule_set_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"2\.13"):
        parse(b"/", rules="2.13")


@pytest.mark.parametrize(
    ("lines", "warnings"),
    [
        (b"/a\n/a", []),
        (b"/a/*\n/a/*", []),
        (b"/a/*\n/a", ["s:2: /a replaces /a/* of s:1: the last line for a path wins"]),
        (b"/a/*\n//a/\n^/a/*", ["s:2: //a/ replaces /a/* of s:1", "s:3: ^/a/* replaces //a/ of s:2"]),
        (b"!/a\n/a", ["s:2: /a replaces !/a of s:1"]),
        (b"/a/x?\n/a/x?/*", ["s:2: /a/x?/* replaces /a/x? of s:1"]),
        (b"!/a", []),
        (b"!/a/*", ["s:1: !/a/* hides what is below /a and keeps /a itself (rules 2.14); by the rules 2.12"]),
        (b"!/a/b/*\n!/a", []),
        (b"!/*\n!/a/*", ["s:1: !/* hides what is below / and", "s:2: !/a/* hides what is below /a and"]),
        (b"/a/x[/b", ["s:1: a [ without its ]: x[ is taken as a plain name there (in /a/x[/b)"]),
        (b"/bin/[\n/a/[b]", []),
    ],
)
def test_a_line_that_may_surprise_is_warned_about(lines: bytes, warnings: list[str]) -> None:
    found = parse(lines, file="s").warnings
    assert len(found) == len(warnings)
    for text, beginning in zip(found, warnings, strict=True):
        assert text.startswith(beginning)


def test_the_older_rules_warn_about_the_same_lines() -> None:
    (warning,) = parse(b"!/a/*\n!/b\n!/b/*\n!/b/c/*", file="s", rules="2.12").warnings
    assert warning.startswith("s:1: !/a/* hides /a and what is below (rules 2.12); by the rules 2.14 it keeps")


def test_files_are_read_from_disk_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "one.spec").write_bytes(b"/a")
    (tmp_path / "two.spec").write_bytes(b"/b\r\n")
    spec = read_files([tmp_path / "one.spec", str(tmp_path / "two.spec")])
    assert spec.text == b"/a\n/b\n"
    assert spec.lines[1].where == f"{tmp_path}/two.spec:1"


@pytest.mark.parametrize("name", ["missing.spec", "folder", "nul\0byte", "new\nline"])
def test_a_file_that_cannot_be_read_is_a_specification_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(SpecError, match="cannot read the specification file") as caught:
        read_files([os.path.join(tmp_path, name)])
    assert "\n" not in caught.value.message


def test_a_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar, "FILE_LIMIT", 100)
    (tmp_path / "fits.spec").write_bytes(b"/aaaaaaaa\n" * 10)
    (tmp_path / "large.spec").write_bytes(b"/aaaaaaaa\n" * 10 + b"#")
    assert len(read_files([tmp_path / "fits.spec"]).lines) == 10
    with pytest.raises(SpecError, match="larger than 100 bytes"):
        read_files([tmp_path / "large.spec"])
