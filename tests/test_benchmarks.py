"""Each benchmark runs at its smallest size, ends well, and prints its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import need

HOME = Path(__file__).parent.parent
BENCHMARKS = HOME / "benchmarks"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One repository serves several tests."""
    return tmp_path_factory.mktemp("cache")


def run(name: str, *arguments: str | Path, folder: Path) -> list[str]:
    """A benchmark in a temporary folder of its own; the lines that it prints."""
    if not (BENCHMARKS / name).exists():
        pytest.skip("no benchmarks beside the tests")
    words = [sys.executable, "-W", "error", str(BENCHMARKS / name), *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(HOME)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode and done.stderr.startswith(("mount:", "no mount namespace")):
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stdout.splitlines()


def rows(lines: list[str], head: str) -> dict[str, list[str]]:
    """What follows the line that has a head, by the first words of each row."""
    start = next(number for number, line in enumerate(lines) if head in line)
    return {line[:17].strip(): line[17:].split() for line in lines[start + 1 :]}


def test_the_export_is_measured_beside_programs_that_do_parts_of_its_work(tmp_path: Path, cache: Path) -> None:
    need("nginx")
    told = tmp_path / "told.json"
    names = {"ours 1", "ours 2", "cvmfs_shrinkwrap", "curl", "inflate", "tar x", "cp -a", "rsync -aH"}
    lines = run(
        "export.py",
        *("--files", "40", "--sizes", "small", "--rounds", "1", "--only", ",".join(names), "--no-strace"),
        *("--cache", cache, "--json", told),
        folder=tmp_path,
    )

    facts = json.loads(told.read_text())["repository"]
    assert f"{facts['files']} files" in lines[1]
    tree = list(Path(facts["home"], "exported", facts["fqrn"]).rglob("*"))
    assert facts["entries"] == len(tree) + 1
    assert facts["files"] == sum(path.is_file() and not path.is_symlink() for path in tree)
    shown = rows(lines, "wall s")
    left_out = {line.split(":")[0].removeprefix("without ") for line in lines if line.startswith("without ")}
    assert names - left_out <= shown.keys()
    assert {"ours 1", "ours 2", "cp -a"}.isdisjoint(left_out)
    costs = json.loads(told.read_text())["places"][0]["costs"]
    assert costs.keys() == names - left_out
    ours = costs["ours 1"][0]
    assert ours["wall"] > 0
    assert ours["user"] > 0
    assert ours["pss"] > 1 << 20
    assert {"start", "head", "catalogs", "objects", "tree", "sync"} <= ours["phases"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["told.json"]


def test_system_calls_are_counted_in_runs_apart(tmp_path: Path, cache: Path) -> None:
    need("nginx")
    need("strace")
    told = tmp_path / "told.json"
    run(
        "export.py",
        *("--files", "40", "--sizes", "small", "--rounds", "1", "--only", "ours 1,cp -a"),
        *("--cache", cache, "--json", told),
        folder=tmp_path,
    )

    facts = json.loads(told.read_text())
    calls = facts["places"][0]["calls"]
    files = facts["repository"]["files"]
    assert files <= calls["ours 1"]["linkat"] <= files + 4  # what the file system can do is tried out
    assert calls["cp -a"]["openat"] > 40


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_destinations_can_be_file_systems_made_for_each_measurement(kind: str, tmp_path: Path, cache: Path) -> None:
    need("nginx")
    if kind == "ext4":
        need("mkfs.ext4")
    lines = run(
        "export.py",
        *("--files", "40", "--sizes", "small", "--rounds", "2", "--only", "cp -a", "--no-strace"),
        *("--dest", f"{kind}:200M", "--cache", cache),
        folder=tmp_path,
    )

    assert any(line.startswith(f"to {kind}") and "medians of 2" in line for line in lines)
    assert "cp -a" in rows(lines, "wall s")
    assert not list(tmp_path.iterdir())


def test_the_sweep_has_a_line_for_each_size_and_tells_what_more_entries_cost(tmp_path: Path, cache: Path) -> None:
    need("nginx")
    lines = run("sweep.py", "--steps", "30,90", "--cache", cache, folder=tmp_path)

    start = next(number for number, line in enumerate(lines) if "marginal" in line)
    first, second = (line.split() for line in lines[start + 1 :])
    assert int(first[0]) >= 30
    assert int(second[0]) >= 90
    assert len(second) == len(first) + 2


def test_the_far_network_is_as_far_as_asked_for(tmp_path: Path, cache: Path) -> None:
    need("nginx")
    need("cc")
    told = tmp_path / "told.json"
    run(
        "latency.py",
        *("--network", "relay", "--rtt", "30", "--sizes", "500", "--objects", "30", "--transfers", "4"),
        *("--cache", cache, "--json", told),
        folder=tmp_path,
    )

    near, there = json.loads(told.read_text())["rows"]
    assert near["rtt_ms"] == 0
    assert there["measured_ms"] >= 30
    # Four at a time, whatever machine this is.
    assert there["ours"] <= there["latency_bound"]


def test_one_recipe_gives_one_repository(tmp_path: Path) -> None:
    command = (
        "import sys; sys.path.insert(0, sys.argv[1]); import synthetic, hashlib\n"
        "digest = hashlib.sha256()\n"
        "for entry in synthetic.entries(synthetic.Recipe(files=60)): digest.update(repr(entry).encode())\n"
        "print(digest.hexdigest())"
    )
    words = [sys.executable, "-c", command, str(BENCHMARKS)]
    environment = {**os.environ, "PYTHONPATH": str(HOME)}
    one, two = (
        subprocess.run(words, capture_output=True, text=True, check=True, env={**environment, "PYTHONHASHSEED": seed})
        for seed in ("1", "2")
    )
    assert one.stdout == two.stdout


def test_what_cannot_be_measured_is_refused_with_a_line(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "export.py"), "--only", "magic", "--cache", str(tmp_path)]
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(HOME)}
    )
    assert done.returncode == 2
    assert "magic" in done.stderr
    assert "Traceback" not in done.stderr
