"""A trace held against what an export was made with."""

from __future__ import annotations

from pathlib import Path

from cli.calling import call
from publish.publishing import FQRN, Place

from shrinkwrap import Spec, export
from shrinkwrap.publish.keyring import open_keyring


def test_a_trace_is_held_against_the_specification_of_an_export(tmp_path: Path) -> None:
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "in").write_text("x")
    (tmp_path / "tree" / "a" / "out").write_text("x")
    open_keyring(str(tmp_path / "keys"), FQRN, make=True)
    place = Place(tmp_path, tmp_path / "keys")
    place.publish(tmp_path / "tree")
    base = tmp_path / "export"
    with place.repository() as repository:
        export(repository, Spec.from_text("/a/in\n"), base)
    trace = tmp_path / "job.list"
    trace.write_text(f"/cvmfs/{FQRN}/a/in\n")
    assert "0 of them" in call("spec", "check", trace, "--export", base).ok().out
    trace.write_text(f"/cvmfs/{FQRN}/a/in\n/cvmfs/{FQRN}/a/out\n")
    assert "/a/out: " in call("spec", "check", trace, "--export", base).ends_with(1).out
    # What is no export, and what says two things.
    assert "no record" in call("spec", "check", trace, "--export", tmp_path).ends_with(2).err
    assert "cannot be read" in call("spec", "check", trace, "--export", tmp_path / "no").ends_with(8).err
    assert "exclude each other" in call("spec", "check", trace, "--export", base, "-t", "x").ends_with(2).err
