"""``spec``: lint, fmt, explain and diff, as people and programs call them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cli.calling import Result, call
from support import golden
from support.exporting import selected
from support.golden import Pinned

FQRN = "small.cern.ch"
REV3 = Pinned(FQRN, "rev3")


def repository(repos: Path) -> list[str | Path]:
    key = repos / "keys" / f"{FQRN}.pub"
    return ["-r", FQRN, "--storage", repos / FQRN, "--key", key, "--tag", "rev3", "--env", "ARCH=x"]


def without_env(repos: Path) -> list[str | Path]:
    return repository(repos)[:-2]


def rows(result: Result) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in result.out.splitlines()]
    assert found[-1]["exit_code"] == result.code
    return found


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    return tmp_path / "some.spec"


# -- lint ------------------------------------------------------------------------------------------------------------


def test_lint_tells_line_reason_and_fix(spec: Path) -> None:
    spec.write_text("/a/*\n/a/b\n!/c\n")
    result = call("spec", "lint", spec).ok()
    assert f"{spec}:2: note: /a/b: /a/* of {spec}:1 brings it already [covered]\n    remove it\n" in result.out
    assert f"{spec}:3: warning: !/c: hides nothing: no line brings it [hides_nothing]\n" in result.out
    assert result.out.endswith("1 note, 1 warning\n")
    assert "note:" not in call("spec", "lint", spec, "--no-notes").ok().out


def test_a_warning_fails_a_strict_run_and_a_note_does_not(spec: Path) -> None:
    spec.write_text("/a/*\n/a/b\n")
    assert call("spec", "lint", spec, "--strict").code == 0
    spec.write_text("/a/b*\n")
    result = call("spec", "lint", spec, "--strict", "--json")
    *found, last = rows(result)
    assert (result.code, last["reason"], last["findings"]) == (1, "warnings", {"error": 0, "warning": 1, "note": 0})
    assert [(one["kind"], one["number"], one["line"]) for one in found] == [("star_without_slash", 1, "/a/b*")]


def test_a_line_that_cannot_be_read_is_one_finding_among_others_and_ends_with_7(spec: Path) -> None:
    spec.write_text("lcg/views/*\n/a\n/a\n")
    result = call("spec", "lint", spec, "--json")
    *found, last = rows(result)
    assert (result.code, last["reason"]) == (7, "spec")
    assert [(one["kind"], one["number"]) for one in found] == [("wrong_line", 1), ("duplicate", 2)]


def test_nothing_odd_is_said_too(spec: Path) -> None:
    spec.write_text("/a/*\n")
    assert call("spec", "lint", spec).ok().out == "nothing odd\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A directory comes out empty without /*.
        ("/lcg/contrib\n", {(1, "directory_without_star")}),
        ("/special/empty/dir\n", set()),
        # Lines do not lead through links.
        ("/special/links/rel_dir/a\n", {(1, "through_link")}),
        ("/lcg/contrib/gcc/8/x86_64-centos7/bin/*\n", {(1, "through_link")}),
        # What is not there.
        ("/no/such/path/*\n", {(1, "no_match")}),
        ("/lcg/contrib/README/*\n", set()),
        ("/lcg/*\n!/lcg/nothing\n", {(2, "no_match")}),
        ("/lcg/*/no/such\n", {(1, "no_match"), (1, "original_knows_no_globs")}),
        ("/special/./order/*\n", {(1, "dots")}),
        # What the original tool stops at.
        ("/special/fifo\n", {(0, "special_file")}),
        ("/special/links/*\n", set()),
        ("/README\n", set()),
    ],
)
def test_a_repository_tells_what_matches_nothing_and_what_comes_out_empty(
    text: str, expected: set[tuple[int, str]], spec: Path, repos: Path
) -> None:
    spec.write_text(text)
    *found, last = rows(call("spec", "lint", spec, *repository(repos), "--json").ok())
    assert {(one["number"], one["kind"]) for one in found} == expected
    assert last["root_hash"] == golden.rows(f"{FQRN}/pins.jsonl")[0]["manifests"]["rev3"]["root_hash"]


def test_a_device_and_a_link_to_nothing_are_told_since_the_original_stops_there(spec: Path, repos: Path) -> None:
    spec.write_text("/nodes/*\n")
    key = repos / "keys" / "nodes.cern.ch.pub"
    where: list[str | Path] = ["-r", "nodes.cern.ch", "--storage", repos / "nodes.cern.ch", "--key", key]
    *found, _ = rows(call("spec", "lint", spec, *where, "--json").ok())
    assert {"special_file", "empty_link_target"} == {one["kind"] for one in found}


def test_a_name_that_is_nearly_there_is_proposed(spec: Path, repos: Path) -> None:
    spec.write_text("/lcg/relases/gcc/*\n/README.not\n")
    out = call("spec", "lint", spec, *repository(repos)).ok().out
    assert "did you mean /lcg/releases/gcc?" in out
    assert "did you mean /README?" in out


# -- fmt -------------------------------------------------------------------------------------------------------------


def test_fmt_prints_checks_and_writes(spec: Path) -> None:
    spec.write_bytes(b"//a/b*\r\n# \xff\r\n")
    spec.chmod(0o640)
    assert call("spec", "fmt", spec).ok().out == "/a/b/*\n# \\xff\n"
    result = call("spec", "fmt", "--check", spec)
    assert (result.code, result.out) == (1, f"would change: {spec}\n")
    assert call("spec", "fmt", "--write", spec).ok().out == f"written: {spec}\n"
    assert spec.read_bytes() == b"/a/b/*\n# \xff\n"
    assert spec.stat().st_mode & 0o777 == 0o640
    assert call("spec", "fmt", "--check", spec).ok().out == ""
    assert os.listdir(spec.parent) == [spec.name]


def test_fmt_writes_through_a_link_and_leaves_it_one(spec: Path, tmp_path: Path) -> None:
    spec.write_bytes(b"/a/\n")
    (tmp_path / "link.spec").symlink_to(spec)
    call("spec", "fmt", "--write", tmp_path / "link.spec").ok()
    assert (tmp_path / "link.spec").is_symlink()
    assert spec.read_bytes() == b"/a\n"


def test_fmt_of_a_wrong_file_writes_none(spec: Path, tmp_path: Path) -> None:
    spec.write_bytes(b"/a/\n")
    (tmp_path / "wrong.spec").write_bytes(b"a\n")
    assert call("spec", "fmt", "--write", spec, tmp_path / "wrong.spec").code == 7
    assert spec.read_bytes() == b"/a/\n"
    assert call("spec", "fmt", spec, spec).code == 2
    assert call("spec", "fmt", "--check", "--write", spec).code == 2


# -- explain ---------------------------------------------------------------------------------------------------------


def test_explain_goes_down_the_path_and_ends_in_one_sentence(spec: Path) -> None:
    spec.write_text("/a/*\n!/a/b\n")
    lines = call("spec", "explain", "/a/b/c", "-t", spec).ok().out.splitlines()
    assert lines[0] == "/: comes out"
    assert lines[4:] == [
        "/a/b: hidden",
        f"    !/a/b of {spec}:2 hides it, for good",
        "/a/b/c: hidden",
        f"    !/a/b of {spec}:2 hides it, as all below, for good",
        "=> /a/b/c does not come out",
    ]
    assert call("spec", "explain", "/a/b/c", "-t", spec, "--exit-code").code == 1
    assert call("spec", "explain", "/a/c", "-t", spec, "--exit-code").code == 0


def test_explain_asks_the_repository_what_is_there(spec: Path, repos: Path) -> None:
    spec.write_text("/lcg/contrib/gcc/8/x86_64-centos7/*\n")
    words = ["spec", "explain", "/lcg/contrib/gcc/8/x86_64-centos7", "-t", spec, *without_env(repos)]
    found = rows(call(*words, "--json").ok())
    assert [one["there"] for one in found] == ["dir", "dir", "dir", "dir", "symlink", ""]
    assert found[-1]["comes_out"] is False
    assert found[-2]["lines"][0]["number"] == 1


def test_explain_needs_a_path_and_a_specification(spec: Path) -> None:
    assert call("spec", "explain", "/a").code == 2
    assert call("spec", "explain", "a", "-t", spec).code == 2
    assert call("spec", "explain", "/a", "-t", spec).code == 7


# -- diff ------------------------------------------------------------------------------------------------------------


def test_diff_tells_the_paths_and_bytes_that_only_one_of_two_selects(tmp_path: Path, repos: Path) -> None:
    (tmp_path / "a.spec").write_text("/lcg/views/*\n/special/names/*\n/data/*\n")
    (tmp_path / "b.spec").write_text("/special/names/*\n/special/mtime/*\n/data/*\n")
    words = ["spec", "diff", tmp_path / "a.spec", tmp_path / "b.spec", *without_env(repos)]
    *changes, last = rows(call(*words, "--json").ok())
    views = {one.path for one in selected(REV3, b"/lcg/views")} - {b"/"}
    mtime = {one.path for one in selected(REV3, b"/special/mtime")} - {b"/", b"/special"}
    found = {(one["change"], one["path"].encode()) for one in changes}
    assert found == {("removed", path) for path in views} | {("added", path) for path in mtime}
    assert last["added"]["bytes"] == sum(
        one.size for one in golden.mounted(REV3) if one.path in mtime and one.type == "file"
    )
    assert last["differ"]
    assert call(*words, "--exit-code", "--stat").code == 1
    table = call(*words, "--by-directory", "1").ok().out
    assert "/lcg" in table
    assert "/data" not in table


def test_one_file_under_both_rule_sets_differs_where_lint_says(tmp_path: Path, repos: Path) -> None:
    (tmp_path / "a.spec").write_text("/special/*\n!/special/many/*\n")
    words = ["spec", "diff", tmp_path / "a.spec", tmp_path / "a.spec", *without_env(repos)]
    assert rows(call(*words, "--json").ok())[-1]["differ"] is False
    *changes, last = rows(call(*words, "--from-rules", "2.12", "--json").ok())
    assert [(one["change"], one["path"]) for one in changes] == [("added", "/special/many")]
    assert (last["from"]["rules"], last["to"]["rules"]) == ("2.12", "2.14")


def test_specifications_that_say_the_same_below_a_catalog_do_not_look_into_it(tmp_path: Path, repos: Path) -> None:
    (tmp_path / "a.spec").write_text("/*\n")
    (tmp_path / "b.spec").write_text("/*\n!/README\n")
    words = ["spec", "diff", tmp_path / "a.spec", tmp_path / "b.spec", *without_env(repos), "--json"]
    *changes, last = rows(call(*words).ok())
    assert [one["path"] for one in changes] == ["/README"]
    assert last["catalogs"]["skipped"] > 0


# -- trace, check ------------------------------------------------------------------------------------------------------


def test_a_complete_trace_becomes_a_specification_that_has_all_of_it(repos: Path, tmp_path: Path) -> None:
    made = tmp_path / "made.spec"
    traces = repos / "traces"
    call("spec", "trace", traces / "session.strace", *without_env(repos), "-o", made).ok()
    assert "^/lcg/releases/gcc/8.3.0-cebb0/x86_64-centos7/bin/*" in made.read_text()
    assert "0 of them" in call("spec", "check", traces / "session.strace", *without_env(repos), "-t", made).ok().out
    assert call("spec", "lint", made, *without_env(repos), "--strict").code == 0
    made.write_text("/README\n")
    result = call("spec", "check", traces / "session.strace", *without_env(repos), "-t", made, "--json")
    *left_out, last = rows(result)
    assert (result.code, last["reason"], last["missing"]) == (1, "left_out", len(left_out))


@pytest.mark.parametrize("name", ["truncated", "unflushed"])
def test_a_trace_that_is_not_complete_is_refused_unless_that_is_accepted(name: str, repos: Path) -> None:
    words: list[str | Path] = ["spec", "trace", repos / "traces" / f"{name}.trace.csv", "-r", FQRN]
    result = call(*words)
    assert (result.code, result.out) == (7, "")
    assert "flush the buffer before the client ends" in result.err
    accepted = call(*words, "--allow-incomplete")
    # Of one that holds nothing nothing can be made.
    assert accepted.code == (0 if name == "truncated" else 7)


def test_several_repositories_in_one_trace_get_a_file_each(tmp_path: Path) -> None:
    (tmp_path / "paths.txt").write_text("/cvmfs/a.example.org/x\n/cvmfs/b.example.org/y/\n")
    assert call("spec", "trace", tmp_path / "paths.txt").code == 2
    call("spec", "trace", tmp_path / "paths.txt", "-o", f"{tmp_path}/specs/").ok()
    assert (tmp_path / "specs" / "a.example.org.spec").read_text().splitlines()[1:] == ["/x"]
    assert (tmp_path / "specs" / "b.example.org.spec").read_text().splitlines()[1:] == ["^/y/*"]
    assert call("spec", "check", tmp_path / "paths.txt").code == 2


def test_whole_releases_need_the_repository_and_unknown_words_are_refused(repos: Path, tmp_path: Path) -> None:
    trace = repos / "traces" / "python.trace.csv"
    assert call("spec", "trace", trace, "-r", FQRN, "--policy", "package").code == 2
    assert call("spec", "trace", trace, "-r", FQRN, "--policy", "some").code == 2
    assert call("spec", "trace", trace, "-r", FQRN, "--format", "some").code == 2
    assert call("spec", "trace", tmp_path / "none", "-r", FQRN).code == 7
    made = call("spec", "trace", trace, *without_env(repos), "--policy", "package", "--percent", "0").ok().out
    assert made.splitlines()[1:] == ["/lcg/releases/Python/2.7.16-04b5f/*"]


def test_without_a_subcommand_there_is_one_line_that_says_so() -> None:
    ended = call("spec")
    assert ended.code == 2
    assert ended.err.splitlines() == ["shrinkwrap: Missing command.", "  hint: see shrinkwrap spec --help"]
