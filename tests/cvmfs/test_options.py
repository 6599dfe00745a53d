"""Reading configuration files, with and without shell syntax, and what values mean."""

from __future__ import annotations

import pickle
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkwrap.cvmfs import options, shellconf
from shrinkwrap.cvmfs.authz import refuse_protected
from shrinkwrap.cvmfs.options import (
    Parameter,
    Parsed,
    boolean,
    encode,
    fill,
    has_auto,
    join_proxies,
    last,
    number,
    read_simple,
    split_list,
)
from shrinkwrap.cvmfs.owners import OwnerMap, parse_owner_map
from shrinkwrap.cvmfs.shellconf import read_shell
from shrinkwrap.errors import ShrinkwrapError, UsageError


def values(parsed: Parsed) -> dict[str, str]:
    return {name: one.value for name, one in last([parsed]).items()}


def simple(text: str) -> dict[str, str]:
    return values(read_simple(text.encode(), "f.conf"))


def shell(text: str, **known: str) -> dict[str, str]:
    return values(read_shell(text.encode(), "f.conf", known))


# -- the simple reader (FORMAT.md §8.2)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=b", {"A": "b"}),
        ("  A=b\t", {"A": "b"}),
        ("A=  b c  ", {"A": "b c"}),
        ("export A=b", {"A": "b"}),
        ("readonly A=b", {"A": "b"}),
        ("eval A=b", {"A": "b"}),
        ("A=b=c==d", {"A": "b=c==d"}),
        ("A='b c'", {"A": "b c"}),
        ('A="b"', {"A": "b"}),
        ("A=\"b'", {"A": "\"b'"}),
        ('A=""', {"A": '""'}),
        ("A=''", {"A": "''"}),
        ("A='\"b\"'", {"A": '"b"'}),
        ("A=", {"A": ""}),
        ("A=b # c", {"A": "b"}),
        ("A='b#c'", {"A": "'b"}),
        ("#A=b", {}),
        ("A =b", {}),
        ("A", {}),
        ("=b", {}),
        ('if [ "$A" = "b" ]; then', {}),
        ("A=$B/${C}", {"A": "$B/${C}"}),
        ("A=1\nA=2", {"A": "2"}),
    ],
)
def test_the_simple_reader_takes_a_line_as_the_exporter_does(line: str, expected: dict[str, str]) -> None:
    assert simple(line) == expected


def test_the_simple_reader_takes_the_assignments_of_every_branch_and_says_so() -> None:
    parsed = read_simple(b'if [ "$X" = "yes" ]; then\n  U=a\nelse\n  U=b\nfi\n', "f.conf")
    assert values(parsed) == {"U": "b"}
    assert len(parsed.parameters) == 2
    assert any("conditions are not interpreted" in note for note in parsed.notes)


def test_the_simple_reader_says_where_a_variable_stays_as_it_is() -> None:
    (note,) = read_simple(b"\nA=$B\n", "f.conf").notes
    assert note.startswith("f.conf:2: A holds shell syntax")


def test_each_parameter_knows_its_file_and_line() -> None:
    assert read_simple(b"\n\nA=1", "x/y.conf").parameters == (Parameter("A", "1", "x/y.conf:3"),)
    assert read_shell(b"\n# c\nA='1\n2'\nB=3", "y").parameters == (
        Parameter("A", "1\n2", "y:3"),
        Parameter("B", "3", "y:5"),
    )


@pytest.mark.parametrize("reader", [read_simple, read_shell])
def test_line_ends_of_another_system_do_not_become_part_of_a_value(reader: object) -> None:
    assert callable(reader)
    assert values(reader(b"A=b\r\nC='d'\r\n", "f")) == {"A": "b", "C": "d"}


@pytest.mark.parametrize("reader", [read_simple, read_shell])
def test_bytes_that_are_not_text_survive(reader: object) -> None:
    assert callable(reader)
    assert encode(values(reader(b"A=\xff\xc3\xa9", "f"))["A"]) == b"\xff\xc3\xa9"


@pytest.mark.parametrize("reader", [read_simple, read_shell])
def test_what_is_no_text_file_is_refused(reader: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(reader)
    with pytest.raises(UsageError, match="f:2: a NUL byte"):
        reader(b"A=1\nB=\0", "f")
    monkeypatch.setattr(options, "FILE_LIMIT", 10)
    with pytest.raises(UsageError, match="larger than 10 bytes"):
        reader(b"A=12345678901", "f")


# -- the shell-like reader


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A=b # c", {"A": "b"}),
        ("A='b#c' B=d#e", {"A": "b#c", "B": "d#e"}),
        ('A=""', {"A": ""}),
        ("A=a'b'\"c\"\\d", {"A": "abcd"}),
        ('A="\\$B \\x"', {"A": "$B \\x"}),
        ("A='$B'", {"A": "$B"}),
        ('A=one\nB=$A/two\nC=${B}s\nD="$C;$A"', {"A": "one", "B": "one/two", "C": "one/twos", "D": "one/twos;one"}),
        ("A=$NOT_SET", {"A": ""}),
        ("A=${B:-c d}", {"A": "c d"}),
        ("A=${SET:-c}", {"A": "s"}),
        ("A=${EMPTY:-c} B=${EMPTY-c}", {"A": "c", "B": ""}),
        ("A=${EMPTY:+c} B=${EMPTY+c}", {"A": "", "B": "c"}),
        ("A=${B:-${C:-d}}", {"A": "d"}),
        (": ${A:=b}", {"A": "b"}),
        (": ${SET:=b}", {}),
        ("A=${B:=c}", {"A": "c", "B": "c"}),
        ("export A=b", {"A": "b"}),
        ("export A", {}),
        ("readonly A=b C=d", {"A": "b", "C": "d"}),
        ("A=1\nunset A", {}),
        ("A=a\\\nb", {"A": "ab"}),
        ("A=1; B=2", {"A": "1", "B": "2"}),
        ("A=$", {"A": "$"}),
        ("A=1\nreturn\nA=2", {"A": "1"}),
    ],
)
def test_the_shell_reader_understands(text: str, expected: dict[str, str]) -> None:
    parsed = read_shell(text.encode(), "f", {"SET": "s", "EMPTY": ""})
    assert values(parsed) == expected
    assert parsed.notes == ()


@pytest.mark.parametrize(
    ("test", "holds"),
    [
        ('[ "$X" = "yes" ]', True),
        ('[ "$X" == yes ]', True),
        ('[ "$X" != "yes" ]', False),
        ('[ "x$Y" = "x" ]', True),
        ('[ -z "$X" ]', False),
        ('[ -z "$Y" ]', True),
        ("[ -z $Y ]", True),
        ('[ -n "$X" ]', True),
        ('[ ! -n "$X" ]', False),
        ('! [ -n "$X" ]', False),
        ('[ "$X" ]', True),
        ('[ "$Y" ]', False),
        ("[ $Y ]", False),
        ('[ "$X" = yes ] && [ "$Y" = "" ]', True),
        ('[ "$X" = no ] || [ -n "$Y" ]', False),
        ('[ "$X" = no ] || [ "$X" = yes ] && [ -n "$X" ]', True),
        ('test "$X" = yes', True),
        ("[ 3 -gt 2 ]", True),
        ("true", True),
        ("false", False),
    ],
)
def test_the_shell_reader_decides(test: str, holds: bool) -> None:
    text = f"if {test}; then\n  A=then\nelse\n  A=else\nfi\n"
    parsed = read_shell(text.encode(), "f", {"X": "yes", "Y": ""})
    assert values(parsed) == {"A": "then" if holds else "else"}
    assert parsed.notes == ()


def test_conditions_lie_in_each_other_and_have_further_branches() -> None:
    text = "if [ $X = 1 ]; then A=1; elif [ $X = 2 ]; then if [ $Y = 1 ]; then A=3; else A=4; fi; else A=5; fi"
    assert shell(text, X="1", Y="1") == {"A": "1"}
    assert shell(text, X="2", Y="1") == {"A": "3"}
    assert shell(text, X="2", Y="2") == {"A": "4"}
    assert shell(text, X="3", Y="2") == {"A": "5"}


@pytest.mark.parametrize(
    ("text", "line", "name"),
    [
        ("A=$(hostname)", 1, "A"),
        ("A=`hostname`", 1, "A"),
        ("A=$((1 + 1))", 1, "A"),
        ("\nA=${B%x}", 2, "A"),
        ("A=$1", 1, "A"),
        ("A=b c", 1, "A"),
        ("A=b | c", 1, "A"),
        ("for x in 1 2; do\nA=$x\ndone", 1, "A"),
        ("case $X in\nb) A=1 ;;\nesac", 1, "A"),
        ("f() {\nA=1\n}", 1, "A"),
        ("( A=1\n)", 1, "A"),
        ('if [ "$(($$ % 2))" == 1 ]; then\nA=1\nelse\nA=2\nfi', 1, "A"),
        ("if [ -f /etc/hosts ]; then A=1; fi", 1, "A"),
        ("grep -q x /etc/hosts && A=1", 1, "A"),
    ],
)
def test_what_only_a_shell_can_tell_is_left_out_and_noted(text: str, line: int, name: str) -> None:
    parsed = read_shell(text.encode() + b"\nZ=1", "f.conf")
    assert values(parsed) == {"Z": "1"}
    assert parsed.notes == (f"line {line} of f.conf is shell that cannot be read without a shell; ignored ({name})",)


def test_a_value_that_hangs_on_an_unknown_one_is_unknown_too() -> None:
    parsed = read_shell(b"A=$(x)\nB=$A\nA=1\nC=$A", "f", {"A": "0"})
    assert values(parsed) == {"A": "1", "C": "1"}
    assert len(parsed.notes) == 2


@pytest.mark.parametrize("text", ["Z=1\nA='b\nC=d", "Z=1\nif true; then A=b", "Z=1\nfi\nA=b", "Z=1\ncat <<E\nA=1\nE\n"])
def test_an_end_that_is_missing_spoils_only_what_comes_after(text: str) -> None:
    parsed = read_shell(text.encode(), "f")
    assert values(parsed) == {"Z": "1"}
    (note,) = parsed.notes
    assert note.startswith("line 2 of f is shell that cannot be read without a shell")


def test_a_list_without_quotes_is_cut_as_by_a_shell_and_noted() -> None:
    parsed = read_shell(b"CVMFS_HTTP_PROXY=http://a:3128;http://b:3128", "f")
    assert values(parsed) == {"CVMFS_HTTP_PROXY": "http://a:3128"}
    assert "needs quotes" in parsed.notes[0]


def test_an_included_file_counts_for_names_that_the_file_itself_assigns() -> None:
    files = {"../common.conf": b"A=1\nB=2\nreturn\nA=3"}

    def include(name: str) -> tuple[str, bytes] | None:
        return ("common.conf", files[name]) if name in files else None

    parsed = read_shell(b'A="$A"\n. ../common.conf\n. missing\nC=$B\n', "f", {}, include)
    assert values(parsed) == {"A": "1", "C": "2"}
    assert last([parsed])["A"].origin == "common.conf:1"
    assert parsed.notes == ("line 3 of f includes 'missing', which cannot be read; ignored",)


def test_a_file_that_includes_itself_comes_to_an_end() -> None:
    parsed = read_shell(b"A=1\n. f\n. f\n", "f", {}, lambda name: (name, b"A=1\n. f\n. f\n"))
    assert values(parsed) == {"A": "1"}
    assert parsed.notes


def test_doubling_values_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = read_shell(b"A=0123456789\n" + b"A=$A$A\n" * 60, "f")
    assert len(values(parsed)["A"]) <= shellconf._VALUE
    assert parsed.notes
    monkeypatch.setattr(shellconf, "_ROOM", 100)
    assert "the rest is ignored" in read_shell(b"A=0123456789\n" * 20, "f").notes[0]


def test_deep_nesting_is_noted() -> None:
    assert read_shell(b"if true; then\n" * 3000 + b"A=1\n" + b"fi\n" * 3000, "f").notes
    assert read_shell(b"A=" + b"${A:-" * 3000 + b"}" * 3000, "f").notes
    assert read_shell(b"if [ " + b"! " * 30000 + b"a ]; then A=1; fi", "f").notes == ()


# -- templates, booleans, lists, numbers, proxies


def test_templates_are_filled_in_and_unknown_ones_stay() -> None:
    assert fill("http://h/@org@/@fqrn@/@x@", "sft.cern.ch") == "http://h/sft/sft.cern.ch/@x@"


@pytest.mark.parametrize(
    ("text", "expected"),
    [(word, True) for word in ("yes", "on", "1", "true", "YES", "True", " on ")]
    + [(word, False) for word in ("no", "off", "0", "false", "NO", "False")]
    + [(word, None) for word in ("", "y", "2", "maybe")],
)
def test_booleans(text: str, expected: bool | None) -> None:
    assert boolean(text) is expected


def test_lists_are_trimmed_and_hold_nothing_empty() -> None:
    assert split_list(" a ;;b; ", ";") == ("a", "b")
    assert split_list("", ":") == ()


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "1s", "99999999999", "٣"])
def test_a_number_that_is_none_is_refused_by_file_and_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"f:7: CVMFS_TIMEOUT is"):
        number(Parameter("CVMFS_TIMEOUT", text, "f:7"))
    with pytest.raises(UsageError, match="1 or more"):
        number(Parameter("CVMFS_TIMEOUT", "0", "f:7"), lowest=1)
    assert number(Parameter("CVMFS_TIMEOUT", " 12 ", "f:7")) == 12


@pytest.mark.parametrize(
    ("normal", "fallback", "chain"),
    [
        ("http://a|http://b;http://c", "", "http://a|http://b;http://c"),
        ("http://a;DIRECT", "http://f", "http://a;http://f"),
        ("http://a|DIRECT", "http://f|http://g;http://h", "http://a;http://f|http://g;http://h"),
        ("DIRECT", "http://f", "http://f"),
        ("http://a;DIRECT", "DIRECT;http://f|DIRECT", "http://a;http://f"),
        ("http://a;DIRECT", "DIRECT", "http://a;DIRECT"),
        (" http://a ; ", " ", "http://a"),
    ],
)
def test_fall_back_proxies_come_last_and_take_direct_away(normal: str, fallback: str, chain: str) -> None:
    assert join_proxies(normal, fallback) == chain


def test_proxy_discovery_is_recognised() -> None:
    assert has_auto("auto;DIRECT")
    assert has_auto("http://a|AUTO")
    assert not has_auto("http://auto.example.org;DIRECT")


# -- ownership maps (FORMAT.md §8.4)


def test_an_ownership_map_maps() -> None:
    owners = parse_owner_map(b"# from to\n\n  0 1000\n500   501 \n500 502\r\n", "uid.map")
    assert [owners.map(number) for number in (0, 500, 7)] == [1000, 502, 7]
    everything = parse_owner_map(b"* 65534\n1 1", "uid.map")
    assert [everything.map(number) for number in (0, 1)] == [65534, 1]
    assert pickle.loads(pickle.dumps(everything)) == everything
    assert pickle.loads(pickle.dumps(owners)).map(0) == 1000
    assert hash(owners) != hash(OwnerMap())


@pytest.mark.parametrize(
    "line",
    [
        "1\t2",
        "1",
        "1 2 3",
        "a 2",
        "1 b",
        "1 *",
        "* *",
        "-1 2",
        "0x1 2",
        "1 2 # c",
        "1 4294967295",
        "1 99999999999",
        "٣ 1",
    ],
)
def test_a_malformed_line_of_an_ownership_map_is_named(line: str) -> None:
    with pytest.raises(UsageError, match=r"^uid.map:2: .* is not a line of an ownership map") as caught:
        parse_owner_map(f"# c\n{line}\n".encode(), "uid.map")
    assert "spaces (not tabs)" in caught.value.hint


# -- authorisation


def test_a_repository_that_demands_authorisation_is_refused() -> None:
    refuse_protected("a.example.org", {b"schema": b"2.5"})
    with pytest.raises(UsageError, match=r"ligo.example.org is for authorised readers only .*x509%/osg/ligo, scope"):
        refuse_protected("ligo.example.org", {b"voms_authz": b"x509%/osg/ligo\nscope\n"})
    with pytest.raises(UsageError, match="membership it does not name"):
        refuse_protected("ligo.example.org", {b"voms_authz": b""})


# -- attacks

_WORDS = """if then else elif fi for do done case esac { } ( ) [ ] ! = == -z A=b A B=$A ${A ${A:-x} ${A:=y} $( $(x)
 ` ' " \\ # ; && || | & < << . return export unset : $ $1 $$ }"""
_SHELL = st.lists(st.sampled_from(["\n", *_WORDS.split()]))


@settings(deadline=None)
@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for reader in (read_simple, read_shell, parse_owner_map):
        with suppress(ShrinkwrapError):
            reader(data, "f")


@settings(deadline=None, max_examples=300)
@given(_SHELL, st.sampled_from([" ", "", "\n"]))
def test_any_heap_of_shell_is_read(words: list[str], between: str) -> None:
    data = between.join(words).encode()
    parsed = read_shell(data, "f", {}, lambda name: (name, data))
    for parameter in parsed.parameters:
        assert parameter.origin.partition(":")[2].isdigit()
