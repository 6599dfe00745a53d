"""Specifications from environments."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli.calling import call

from shrinkwrap.survey.environ import lines_for, read_environment

ENV = b"""\
HOME=/home/x
PWD=/cvmfs/sft.cern.ch/somewhere
PATH=/cvmfs/sft.cern.ch/lcg/gcc/8/bin:/usr/bin:/cvmfs/demo.example.org//bin/
LD_LIBRARY_PATH=/cvmfs/sft.cern.ch/lcg/gcc/8/lib64:/cvmfs/sft.cern.ch/lcg/gcc/8/lib64/deep
XDG_DATA_DIRS=/usr/share:/cvmfs/sft.cern.ch
RELEASES=/cvmfs/sft.cern.ch/lcg/releases
LDFLAGS=-L/cvmfs/sft.cern.ch/lcg/flags -O2
"""


def test_lists_of_directories_become_lines_of_each_repository() -> None:
    found = read_environment(ENV)
    assert {fqrn: lines_for(paths) for fqrn, paths in found.paths.items()} == {
        "sft.cern.ch": [b"/lcg/gcc/8/bin/*", b"/lcg/gcc/8/lib64/*"],
        "demo.example.org": [b"/bin/*"],
    }
    assert found.paths["demo.example.org"] == {b"/bin": b"PATH"}
    # One of these would bring everything.
    assert found.whole == {"sft.cern.ch": b"XDG_DATA_DIRS"}
    assert list(found.passed) == [b"RELEASES", b"LDFLAGS"]


def test_all_variables_are_taken_when_asked_for_but_not_where_somebody_was() -> None:
    found = read_environment(ENV, every=True)
    assert {b"/lcg/releases", b"/lcg/flags"} < found.paths["sft.cern.ch"].keys()
    assert b"/somewhere" not in found.paths["sft.cern.ch"]


@pytest.mark.parametrize(
    "line",
    [
        b'prepend_path("PATH","/cvmfs/demo.example.org/a/bin")',
        b"prepend-path\tPATH /cvmfs/demo.example.org/a/bin",
        b"append-path {PATH} {/cvmfs/demo.example.org/a/bin}",
        b'export PATH="/cvmfs/demo.example.org/a/bin:$PATH"',
        b'declare -x PATH="/x:/cvmfs/demo.example.org/a/../a/./bin"',
        b"A=b\0PATH=/cvmfs/demo.example.org/a/bin\0",
    ],
)
def test_modules_and_shells_write_it_in_their_ways(line: bytes) -> None:
    assert read_environment(line + b"\n").paths == {"demo.example.org": {b"/a/bin": b"PATH"}}


@pytest.mark.parametrize("text", [b"", b"PATH=/usr/bin", b"PATH=/cvmfs/nodots/bin", b"\xff\0=\n/cvmfs/a.b/c"])
def test_what_names_no_repository_gives_nothing(text: bytes) -> None:
    assert read_environment(text).paths == {}


def test_the_command_writes_a_file_of_each_repository(tmp_path: Path) -> None:
    (tmp_path / "job.env").write_bytes(ENV)
    result = call("spec", "from-env", tmp_path / "job.env", "-o", f"{tmp_path}/specs/").ok()
    assert sorted(os.listdir(tmp_path / "specs")) == ["demo.example.org.spec", "sft.cern.ch.spec"]
    assert (tmp_path / "specs/demo.example.org.spec").read_text() == "# demo.example.org: what job.env names\n/bin/*\n"
    assert "left out: RELEASES, LDFLAGS (--all)" in result.err
    assert "DIR/" in call("spec", "from-env", tmp_path / "job.env").ends_with(2).err
    (tmp_path / "one.env").write_text("PATH=/mnt/a.b/c\n")
    assert call("spec", "from-env", tmp_path / "one.env", "--mount", "/mnt").ok().out.endswith("\n/c/*\n")
    assert "names no directory" in call("spec", "from-env", tmp_path / "one.env").ends_with(7).err
    assert "cannot be read" in call("spec", "from-env", tmp_path / "no.env").ends_with(7).err
    assert (
        "cannot be written"
        in call("spec", "from-env", tmp_path / "one.env", "--mount", "/mnt", "-o", "/no/x").ends_with(8).err
    )
