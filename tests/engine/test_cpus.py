"""How many CPUs a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shrinkwrap.engine import cpus as module
from shrinkwrap.engine.cpus import usable_cpus


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where control groups would be, on a machine with eight CPUs; this process is in ``/user/job``."""
    (tmp_path / "cgroup").write_text("12:cpu:/elsewhere\n0::/user/job\n")
    monkeypatch.setattr(module, "_GROUPS", str(tmp_path / "cgroup"))
    monkeypatch.setattr(module, "_ROOT", str(tmp_path / "groups"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "groups" / "user" / "job").mkdir(parents=True)
    return tmp_path / "groups"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 8),
        ({"user/job": "max 100000"}, 8),
        ({"user/job": "200000 100000"}, 2),
        ({"user/job": "250000 100000"}, 3),
        ({"user/job": "1000 100000"}, 1),
        ({"user": "400000 100000", "user/job": "600000 100000"}, 4),
        ({"": "150000 50000", "user/job": "max 100000"}, 3),
        ({"user/job": "9000000 100000"}, 8),
        ({"user/job": "nonsense", "user": "0 0"}, 8),
        ({"elsewhere": "100000 100000"}, 8),
    ],
)
def test_the_least_quota_of_the_groups_counts(groups: Path, limits: dict[str, str], expected: int) -> None:
    for name, text in limits.items():
        (groups / name).mkdir(exist_ok=True)
        (groups / name / "cpu.max").write_text(text + "\n")
    assert usable_cpus() == expected


def test_without_control_groups_the_affinity_counts(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GROUPS", str(groups / "nothing"))
    assert usable_cpus() == 8


def test_a_path_that_leads_out_of_a_container_is_not_followed(groups: Path) -> None:
    (groups.parent / "cgroup").write_text("0::/../../user/job\n")
    (groups / "user" / "job" / "cpu.max").write_text("100000 100000\n")
    (groups.parent / "cpu.max").write_text("1 100000\n")
    assert usable_cpus() == 1
