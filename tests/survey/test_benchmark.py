"""The benchmark of plans runs at its smallest size, and prints its table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.golden import CHECKOUT


def test_a_plan_is_measured(tmp_path: Path) -> None:
    program = CHECKOUT / "benchmarks" / "planning.py"
    if not program.exists():
        pytest.skip("no benchmarks beside the tests")
    words = [sys.executable, "-W", "error", str(program), "--files", "40", "--rounds", "1", "--cache", str(tmp_path)]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    head, row = done.stdout.splitlines()
    assert head.split() == ["entries", "catalogs", "wall", "s", "cpu", "s", "us/entry", "peak", "MiB"]
    assert int(row.split()[0]) > 40
