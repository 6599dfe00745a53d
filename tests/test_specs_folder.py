"""The spec files that come with the project can be used as they are."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from support.golden import CHECKOUT

from shrinkwrap.demo import specs
from shrinkwrap.demo.specs import shipped
from shrinkwrap.errors import UsageError
from shrinkwrap.spec.grammar import RULES, Mode, read_files

FOLDER = CHECKOUT / "specs"
FILES = sorted(FOLDER.glob("*.spec"))
NAMES = ("alice", "cmssw", "demo", "eessi", "everything", "lcg-view", "lhcb", "root-gcc")


def test_the_folder_has_the_repositories_that_people_export() -> None:
    assert tuple(file.stem for file in FILES) == NAMES
    assert [file for file in FOLDER.iterdir() if file.suffix != ".spec"] == []


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_read_without_errors_and_warnings(file: Path, rules: str) -> None:
    spec = read_files([file], rules=rules)
    assert spec.lines
    assert spec.warnings == ()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_line_says_something_of_its_own(file: Path) -> None:
    spec = read_files([file])
    said = [line.raw for line in spec.lines]
    assert len(set(said)) == len(said)
    assert any(line.mode.includes for line in spec.lines)
    for line in spec.lines:
        # A directory named without a star comes out empty: only files, links and entries alone are named like that.
        assert line.mode is not Mode.EXACT or re.fullmatch(rb"/.*(\.(c?sh|md)|host_injections|\*/)", line.raw), (
            line.where
        )
        assert b" " not in line.raw, f"{line.where}: a comment behind a path would be part of it"
        assert b"//" not in line.raw


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_begins_by_saying_what_it_is_for_and_how_to_adapt_it(file: Path) -> None:
    text = file.read_text(encoding="ascii")
    head = text.partition("\n/")[0]
    assert head.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120
    if file.stem not in ("demo", "everything"):
        assert "What it takes: " in head
        assert "How large: " in head
        assert "-t " + file.name in head, "no command to copy"
    if file.stem != "demo":
        assert "How to adapt: " in head


def test_the_lines_of_the_slide_are_those_of_the_slide() -> None:
    spec = read_files([FOLDER / "root-gcc.spec"])
    assert [line.raw for line in spec.lines] == [b"/lcg/releases/ROOT/6.16.00-fcdd1/*", b"/lcg/releases/gcc/*"]


def test_lines_that_are_offered_as_comments_are_right_too(tmp_path: Path) -> None:
    offered = [
        line
        for file in FILES
        for line in re.findall(r"^# ([/^!]\S+)$", file.read_text(encoding="ascii"), re.MULTILINE)
        if " " not in line
    ]
    assert len(offered) >= 4
    (tmp_path / "offered.spec").write_text("\n".join(offered))
    assert read_files([tmp_path / "offered.spec"]).warnings == ()


def test_a_file_is_found_by_its_name() -> None:
    assert Path(shipped("demo")) == FOLDER / "demo.spec"
    with pytest.raises(UsageError, match="no spec file 'nothing'") as error:
        shipped("nothing")
    assert "lcg-view" in error.value.hint


def test_an_installed_package_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"] == {"specs": "shrinkwrap/specs"}
    installed = tmp_path / "shrinkwrap"
    monkeypatch.setattr(specs, "_PACKAGE", str(installed))
    with pytest.raises(UsageError, match="the spec files are not where"):
        shipped("demo")
    shutil.copytree(FOLDER, installed / "specs")
    assert Path(shipped("demo")) == installed / "specs" / "demo.spec"
