"""Builds that are killed at any call that changes the disk (DESIGN promise 5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.forking import Forks, forks

FQRN = "small.cern.ch"
SPEC = "/lcg/releases/Python/*\n/data/no_bulk/e*\n"


@pytest.fixture(scope="module")
def cli() -> Iterator[Forks]:
    with forks() as made:
        yield made


def words(repos: Path, folder: Path, output: Path) -> list[str | Path]:
    spec = folder / "the.spec"
    spec.write_text(SPEC)
    return [
        *("image", "-r", FQRN, "--storage", repos / FQRN, "--key", repos / "keys" / f"{FQRN}.pub"),
        *("-t", spec, "-o", output, "--workers", "1", "-q"),
    ]


def test_after_a_kill_at_any_call_the_next_build_makes_the_same_image(cli: Forks, repos: Path, tmp_path: Path) -> None:
    quiet = tmp_path / "quiet.squashfs"
    calls = cli.run(*words(repos, tmp_path, quiet)).ok().calls
    wanted = quiet.read_bytes()
    quiet.unlink()
    output = tmp_path / "killed.squashfs"
    killed = 0
    for at in range(1, calls + 1, max(1, calls // 6)):
        killed += cli.run(*words(repos, tmp_path, output), die_at=at).killed
        if output.exists():
            assert output.read_bytes() == wanted, f"killed at call {at}"
        cli.run(*words(repos, tmp_path, output)).ok()
        assert output.read_bytes() == wanted, f"killed at call {at}"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.squashfs", "the.spec"]
        output.unlink()
    assert killed >= 5


def test_a_build_that_is_killed_again_and_again_gets_done(cli: Forks, repos: Path, tmp_path: Path) -> None:
    quiet, output = tmp_path / "quiet.squashfs", tmp_path / "killed.squashfs"
    calls = cli.run(*words(repos, tmp_path, quiet)).ok().calls
    for at in (calls // 3, calls // 2, 2 * calls // 3, calls - 2):
        cli.run(*words(repos, tmp_path, output), die_at=at)
    cli.run(*words(repos, tmp_path, output)).ok()
    assert output.read_bytes() == quiet.read_bytes()
