"""Traces of each kind, what makes one unfit to be believed, and the lines that are made of them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot.walking import open_real
from spec.selecting import select, tree_of
from support import golden
from support.golden import Pinned

from shrinkwrap.errors import SpecError, UsageError
from shrinkwrap.spec.grammar import Mode, parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.survey.trace.inside import missing
from shrinkwrap.survey.trace.policy import lines_of, packages, points, quoted, resolved
from shrinkwrap.survey.trace.reading import read_list, read_traces
from shrinkwrap.survey.trace.strace import read_strace
from shrinkwrap.survey.trace.touched import How, Place, Touched, normal
from shrinkwrap.survey.trace.tracer import read_tracer

FQRN = "small.cern.ch"
REV3 = Pinned(FQRN, "rev3")
LIB = b"/lcg/releases/Python/2.7.16-04b5f/x86_64-centos7-gcc8-opt/lib/python2.7"


def real(name: str) -> Touched:
    return read_traces([golden.repos() / "traces" / name], Place(fqrn=FQRN))


def record(code: int, path: str = "Tracer", event: str = "x") -> bytes:
    return f'"1795346931174.517","{code}","{path}","{event}"\r\n'.encode()


def tracer(*records: bytes) -> Touched:
    return read_tracer(io.BytesIO(b"".join(records)), "a.csv", FQRN)


BEGIN, END = record(-1), record(-3)

# -- the tracer's log --------------------------------------------------------------------------------------------------


def test_complete_logs_are_believed(repos: Path) -> None:
    for name in ("python.trace.csv", "session.trace.csv"):
        touched = real(name)
        assert touched.problems == []
        # What was read is in the mount; the tracer writes down, too, what was looked for in vain.
        there = {one.path.rstrip(b"/") for one in golden.mounted(REV3)}
        assert {path for path, how in touched.paths[FQRN].items() if how != How.SEEN} <= there
    python = real("python.trace.csv").paths[FQRN]
    assert python[LIB + b"/json/decoder.py"] & How.OPENED
    assert python[LIB] & How.LISTED
    assert python[b"/lcg"] == How.SEEN


@pytest.mark.parametrize(
    ("name", "words"), [("truncated", "truncated: it ends in"), ("unflushed", "not flushed: it holds no")]
)
def test_logs_that_lack_their_end_are_told_apart_and_say_what_to_do(name: str, words: str, repos: Path) -> None:
    first = real(f"{name}.trace.csv").problems[0]
    assert words in first
    assert "tracebuffer flush" in first


def test_a_log_that_ends_with_an_event_or_begins_in_the_middle_is_not_complete() -> None:
    assert tracer(BEGIN, record(1, "/a"), END).problems == []
    (problem,) = tracer(BEGIN, record(1, "/a")).problems
    assert "not flushed to the end" in problem
    (problem,) = tracer(record(1, "/a"), END).problems
    assert "its beginning is missing" in problem
    # Two clients, one after the other, may share a log; one that died leaves a gap.
    assert tracer(BEGIN, record(1, "/a"), END, BEGIN, record(1, "/b"), END).problems == []
    (problem,) = tracer(BEGIN, record(1, "/a"), BEGIN, record(1, "/b"), END).problems
    assert "1 times a client began anew" in problem


def test_an_unknown_event_is_told_with_its_name() -> None:
    (problem,) = tracer(BEGIN, record(9, "/a", "splice()"), record(1, "/b"), END).problems
    assert "unknown event 9 (splice()), 1 times" in problem
    (problem,) = tracer(BEGIN, record(4, "@UNKNOWN", "lookup()"), record(1, "/b"), END).problems
    assert "@UNKNOWN" in problem


def test_quotes_commas_and_line_feeds_in_names_are_read() -> None:
    touched = tracer(BEGIN, record(1, '/a""b,c\nd'), record(1, "/.Trash-1000/x"), END)
    assert touched.paths[FQRN] == {b'/a"b,c\nd': How.OPENED}


def test_a_log_larger_than_one_read_is_read_to_its_end() -> None:
    many = [record(1, f"/{number:060}") for number in range(25_000)]
    touched = tracer(BEGIN, *many, END)
    assert touched.problems == []
    assert len(touched.paths[FQRN]) == len(many)
    cut = tracer(BEGIN, *many, END[:-1])
    assert "truncated" in cut.problems[0]


def test_what_is_no_log_is_an_error() -> None:
    with pytest.raises(SpecError, match="not a record of the tracer"):
        tracer(BEGIN, b"word\r\n" * 10)
    with pytest.raises(UsageError, match="does not name its repository"):
        read_traces([golden.repos() / "traces" / "python.trace.csv"], Place())


# -- strace ------------------------------------------------------------------------------------------------------------


def strace(text: str, cwd: bytes | None = None) -> Touched:
    return read_strace(text.encode().splitlines(), "a.strace", Place(), cwd=cwd)


def touched(text: str, cwd: bytes | None = None) -> dict[bytes, How]:
    found = strace(text, cwd)
    assert found.problems == []
    return found.paths.get("demo.example.org", {})


def test_a_session_with_relative_paths_is_followed(repos: Path) -> None:
    found = real("session.strace")
    assert found.problems == []
    paths = found.paths[FQRN]
    assert paths[b"/lcg/contrib/gcc/8/x86_64-centos7/bin/gcc"] & How.OPENED
    assert paths[b"/lcg/contrib/gcc"] & How.LISTED
    # What was looked for in vain is not there.
    assert b"/lcg/contrib/gcc/9" not in paths


@pytest.mark.parametrize(
    ("text", "path", "how"),
    [
        ('openat(AT_FDCWD, "/cvmfs/demo.example.org/a", O_RDONLY) = 3', b"/a", How.OPENED),
        ('12 open("/cvmfs/demo.example.org//a/./b/../c", O_RDONLY) = 3', b"/a/c", How.OPENED),
        ('[pid  12] 10:20:30.123 stat("/cvmfs/demo.example.org/a", {...}) = 0', b"/a", How.SEEN),
        ('12 openat(3</cvmfs/demo.example.org/a>, "b", O_RDONLY|O_DIRECTORY) = 4</cvmfs/x>', b"/a/b", How.LISTED),
        ('execve("/cvmfs/demo.example.org/bin/x", ["x"], 0x7f /* 1 var */) = 0', b"/bin/x", How.OPENED),
        ('access("/cvmfs/demo.example.org/a", W_OK) = -1 EROFS (Read-only file system)', b"/a", How.SEEN),
        ('readlink("/cvmfs/demo.example.org/l", "t = u", 64) = 5', b"/l", How.SEEN),
        ('open("/cvmfs/demo.example.org/\\303\\274\\n\\"=) \\\\", O_RDONLY) = 3', 'ü\n"=) \\'.encode(), How.OPENED),
        ('open("/cvmfs/demo.example.org/a", O_PATH|O_DIRECTORY) = 3', b"/a", How.LISTED),
    ],
)
def test_a_call_touches_its_path(text: str, path: bytes, how: How) -> None:
    if not path.startswith(b"/"):
        path = b"/" + path
    if b"O_PATH" in text.encode():
        how = How.SEEN
    assert touched(text) == {path: how}


def test_directories_descriptors_and_children_are_remembered() -> None:
    text = """\
1 chdir("/cvmfs/demo.example.org/a") = 0
1 open("b", O_RDONLY|O_DIRECTORY) = 5
1 dup2(5, 9) = 9
1 close(5) = 0
1 clone(child_stack=NULL, flags=SIGCHLD) = 2
2 openat(9, "c", O_RDONLY) = 3
2 fchdir(9) = 0
2 open("d", O_RDONLY <unfinished ...>
1 open("e", O_RDONLY) = 5
2 <... open resumed>) = 4
1 getdents64(9, 0x55 /* 4 entries */, 32768) = 96
2 open("gone", O_RDONLY) = -1 ENOENT (No such file or directory)
2 +++ exited with 0 +++
"""
    assert touched(text) == {
        b"/a": How.SEEN,
        b"/a/b": How.LISTED,
        b"/a/b/c": How.OPENED,
        b"/a/b/d": How.OPENED,
        b"/a/e": How.OPENED,
    }


def test_a_relative_path_from_nobody_knows_where_is_a_problem_unless_that_is_told() -> None:
    text = 'open("bin/x", O_RDONLY) = 3'
    (problem,) = strace(text).problems
    assert "--cwd" in problem
    assert touched(text, cwd=b"/cvmfs/demo.example.org/a") == {b"/a/bin/x": How.OPENED}
    # A shell asks where it is.
    assert strace('stat(".", {st_mode=S_IFDIR}) = 0').problems == []


def test_a_child_of_an_unknown_parent_is_noted_and_text_without_calls_is_refused() -> None:
    found = strace('1 chdir("/cvmfs/demo.example.org/a") = 0\n2 open("b", O_RDONLY) = 3\n')
    assert found.paths["demo.example.org"][b"/a/b"] is How.OPENED
    assert "%process" in found.notes[0]
    (problem,) = strace("nothing\n").problems
    assert "no system call" in problem


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None, database=None)
def test_any_bytes_are_read_without_a_traceback(data: bytes) -> None:
    read_strace(b'1 open("'.join(data.split(b"a")).split(b"\n"), "a", Place(fqrn=FQRN))
    read_list(data.split(b"\n"), "a", Place(fqrn=FQRN))
    try:
        read_tracer(io.BytesIO(BEGIN + data), "a", FQRN)
    except SpecError:
        pass


# -- lists, repositories -----------------------------------------------------------------------------------------------


def test_a_list_may_name_several_repositories() -> None:
    lines = [
        b"/cvmfs/sft.cern.ch/a\n",
        b"# why\n",
        b"\n",
        b"/cvmfs/demo.example.org/b/\r\n",
        b"/etc/passwd\n",
        b"/cvmfs\n",
    ]
    found = read_list(lines, "a.txt", Place())
    assert found.paths == {"sft.cern.ch": {b"/a": How.OPENED}, "demo.example.org": {b"/b": How.LISTED}}
    assert "2 lines are no paths of a repository" in found.notes[0]
    assert read_list([b"/a/b\n"], "a.txt", Place(fqrn=FQRN)).paths == {FQRN: {b"/a/b": How.OPENED}}
    assert "none of its 1 lines" in read_list([b"/a/b\n"], "a.txt", Place()).problems[0]


def test_a_place_takes_only_whole_names() -> None:
    place = Place()
    assert place.split(b"/cvmfs/sft.cern.ch") == ("sft.cern.ch", b"")
    assert place.split(b"/cvmfs/sft.cern.ch/a") == ("sft.cern.ch", b"/a")
    for path in (b"/cvmfs", b"/cvmfs/local", b"/cvmfsx/sft.cern.ch/a", b"/cvmfs/\xff.cern.ch/a"):
        assert place.split(path) is None
    assert normal(b"//a/./b/../../../c/") == b"/c"


# -- lines -------------------------------------------------------------------------------------------------------------


def text(paths: Mapping[bytes, How], policy: str = "exact") -> list[bytes]:
    return list(lines_of(points(paths, policy)))


def test_what_another_line_brings_has_none() -> None:
    paths = {
        b"": How.SEEN,
        b"/a": How.SEEN,
        b"/a/b": How.LISTED | How.SEEN,
        b"/a/b/c": How.OPENED,
        b"/a/b/d": How.SEEN,
        b"/a/b/d/e": How.OPENED,
        b"/a-b": How.SEEN,
    }
    assert text(paths) == [b"^/a/b/*", b"/a/b/d/e", b"/a-b"]
    assert text(paths, "parent") == [b"^/a/b/*", b"^/a/b/d/*", b"/a-b"]
    assert text({b"": How.LISTED}) == [b"^/*"]
    assert list(lines_of({b"/a": Mode.DEEP, b"/a/b": Mode.FLAT, b"/ab": Mode.EXACT})) == [b"/a/*", b"/ab"]


_NAMES = st.binary(min_size=1, max_size=4).filter(lambda name: not {0, 0x2F} & set(name) and name not in (b".", b".."))
_ODD = st.sampled_from([b"*", b"a*", b"[a]", b"a\\", b"\\*", b"?", b" ", b"a ", b"a\t", b"a\r", b"\n", b"a\nb", b"[!"])


@given(st.lists(st.one_of(_NAMES, _ODD), min_size=1, max_size=3), st.sampled_from(list(How)))
@settings(max_examples=200, deadline=None, database=None)
def test_a_line_brings_the_path_that_it_was_made_for_whatever_its_name(names: list[bytes], how: How) -> None:
    path = b"".join(b"/" + name for name in names)
    (line,) = text({path: how})
    spec = parse(line + b"\n")
    assert tuple(names) in select(Matcher(spec), tree_of([path]))
    assert list(missing(spec, {path: how})) == []


def test_a_name_with_wildcards_brings_no_other() -> None:
    spec = parse(quoted(b"/a/x*") + b"\n" + quoted(b"/a/[y]") + b"\n")
    tree = tree_of([b"/a/x*", b"/a/xz", b"/a/[y]", b"/a/y", b"/a/x/z"])
    assert select(Matcher(spec), tree) == {(b"a",), (b"a", b"x*"), (b"a", b"[y]")}


def test_what_a_specification_leaves_out_of_a_trace_is_told() -> None:
    paths = {b"/a/b": How.OPENED, b"/a/c": How.LISTED, b"/a/d": How.LISTED, b"/e": How.SEEN}
    found = {one.path: one.reason for one in missing(parse(b"/a/b\n/a/c\n^/a/d/*\n"), paths)}
    assert found.keys() == {b"/a/c", b"/e"}
    assert "not all that is in it comes out" in found[b"/a/c"]
    assert found[b"/e"] == "no line asks for it"


@pytest.mark.parametrize("policy", ["exact", "parent"])
@pytest.mark.parametrize("name", ["python.trace.csv", "session.trace.csv", "session.strace"])
def test_all_that_real_traces_touch_comes_out_of_what_is_made_of_them(name: str, policy: str, repos: Path) -> None:
    paths = real(name).paths[FQRN]
    with ExitStack() as stack:
        session, root = open_real(stack, repos, REV3)
        followed, _, gone = resolved(session, root, paths)
        assert not any(paths[path] & How.OPENED for path in gone)
    spec = parse(b"".join(line + b"\n" for line in lines_of(points(followed, policy))))
    assert list(missing(spec, followed)) == []
    # In the mount it brings all that was opened, and what is behind the links.
    entries = {one.path.rstrip(b"/") for one in golden.mounted(REV3)}
    out = {b"".join(b"/" + part for part in way) for way in select(Matcher(spec), tree_of(entries))}
    assert followed.keys() - {b""} <= out


def test_links_on_the_way_are_followed_in_the_repository(repos: Path) -> None:
    with ExitStack() as stack:
        session, root = open_real(stack, repos, REV3)
        paths = {b"/lcg/contrib/gcc/8/x86_64-centos7/bin/gcc": How.OPENED, b"/special/links/none": How.OPENED}
        found, _, gone = resolved(session, root, paths)
        assert gone == [b"/special/links/none"]
        assert found[b"/lcg/contrib/gcc/8"] is How.SEEN
        assert found[b"/lcg/releases/gcc/8.3.0-cebb0/x86_64-centos7/bin/gcc"] & How.OPENED
        outside = {one.path: How.OPENED for one in golden.mounted(REV3) if one.type == "symlink"}
        assert any(target.startswith(b"/") for target in resolved(session, root, outside)[1])
        assert session.catalogs.in_use == 0


def test_a_release_of_which_enough_was_opened_comes_out_whole(repos: Path) -> None:
    release = b"/lcg/releases/Python/2.7.16-04b5f"
    paths = real("python.trace.csv").paths[FQRN]
    with ExitStack() as stack:
        session, root = open_real(stack, repos, REV3)
        files = sum(one.type == "file" and one.path.startswith(release + b"/") for one in golden.mounted(REV3))
        opened = sum(bool(how & How.OPENED) for how in paths.values())
        share = 100 * opened / files
        assert packages(session, root, paths, percent=share * 0.9) == {release: Mode.DEEP}
        assert packages(session, root, paths, percent=share * 1.1) == {}
        assert packages(session, root, {b"/README": How.OPENED}) == {}
