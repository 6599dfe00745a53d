"""``shrinkwrap demo``: the whole tour, as a newcomer takes it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cli.calling import call
from spec.selecting import select, tree_of
from support.cli import Result, run_cli
from support.processes import dying_with_parent, wait_until_gone

from shrinkwrap.cli.demo import COMMANDS
from shrinkwrap.demo import software
from shrinkwrap.demo.steps import FQRN, STEPS
from shrinkwrap.spec.grammar import read_files
from shrinkwrap.spec.matcher import Matcher

MODULES = ("os.py", "abc.py", "bisect.py", "colorsys.py", "csv.py", "glob.py", "json/__init__.py", "json/decoder.py")


def small_library(folder: Path) -> Path:
    """A few modules of this Python, and one that demo.spec leaves out."""
    library = folder / "library"
    for name in MODULES:
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(Path(sysconfig.get_path("stdlib")) / name, library / name)
    (library / "data.bin").write_bytes(os.urandom(5_000_000))
    (library / "idlelib").mkdir()
    (library / "idlelib" / "idle.py").write_text("# an editor\n")
    (library / "__pycache__").mkdir()
    (library / "__pycache__" / "os.pyc").write_bytes(b"left out")
    return library


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A demo that was run once, in a process of its own; its folder and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    env = {software.LIBRARY_VARIABLE: str(small_library(folder))}
    return folder / "tour", run_cli("demo", folder / "tour", "--json", env=env).ok()


def tree(top: Path) -> dict[str, tuple[object, ...]]:
    """What is below a folder: permissions, and content or target, by path."""
    found: dict[str, tuple[object, ...]] = {}
    for at, folders, names in os.walk(top):
        for name in (*folders, *names):
            path = Path(at, name)
            info = path.lstat()
            shown: object = None
            if stat.S_ISLNK(info.st_mode):
                shown = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                shown = (path.read_bytes(), info.st_mtime_ns)
            found[str(path.relative_to(top))] = (oct(info.st_mode), shown)
    return found


def test_the_tree_is_what_was_published_and_the_spec_selects(taken: tuple[Path, Result]) -> None:
    folder, _ = taken
    published = tree(folder / "software")
    for path, (mode, shown) in published.items():
        if shown == f"$({software.VARIABLE})":
            published[path] = (mode, software.PLATFORM)
    folders = {path for path, (_, shown) in published.items() if shown is None}
    given = tree_of(os.fsencode(f"{path}/" if path in folders else path) for path in published)
    matcher = Matcher(read_files([folder / "demo.spec"]))
    wanted = {os.fsdecode(b"/".join(path)) for path in select(matcher, given)}
    exported = tree(folder / "export" / FQRN)
    assert exported == {path: found for path, found in published.items() if path in wanted}
    left_out = set(published) - wanted
    for part in (software.OTHER_PLATFORM, "/idlelib/", "/share/doc/", "lcg/contrib/gcc/"):
        assert any(part in path for path in left_out), part


def test_the_second_revision_has_come_out(taken: tuple[Path, Result]) -> None:
    folder, _ = taken
    lcg = folder / "export" / FQRN / "lcg"
    assert sorted(os.listdir(lcg / "views"))[-3:] == ["LCG_101", "LCG_102", "LCG_103"]
    assert len(os.listdir(lcg / "releases" / "Python")) == 3
    assert "third" in (lcg / "README.md").read_text()
    assert os.readlink(lcg / "views" / "LCG_103" / "current") == software.PLATFORM
    assert (lcg / "views" / "LCG_103" / "current" / "bin" / "pydoc3").stat().st_nlink >= 2


def test_the_figures_are_those_of_the_disk(taken: tuple[Path, Result]) -> None:
    folder, result = taken
    assert (result.json["command"], result.json["reason"], result.json["exit_code"]) == ("demo", "done", 0)
    assert result.json["dir"] == str(folder)
    assert result.json["warnings"] == []
    steps = {step["name"]: step for step in result.json["steps"]}
    assert list(steps) == [step.name for step in STEPS]
    first, again, nothing = (steps[name] for name in ("export", "export-again", "export-nothing"))
    regular = [path for path in (folder / "export" / FQRN).rglob("*") if path.is_file() and not path.is_symlink()]
    assert nothing["files"] == len([path for path in regular if FQRN in str(path.resolve())])
    assert nothing["different_files"] == len({path.stat().st_ino for path in regular}) < nothing["files"]
    assert first["fetched"] > again["fetched"] > 0
    assert first["requests"] > again["requests"] > nothing["requests"]
    assert (nothing["requests"], nothing["fetched"], nothing["received_bytes"]) == (1, 0, 0)
    assert min(again["added"], again["changed"], again["removed"]) > 0
    assert (steps["publish"]["revision"], steps["publish-again"]["revision"]) == (1, 2)
    assert steps["publish-again"]["new_objects"] < steps["publish"]["new_objects"]


def test_its_server_is_gone(taken: tuple[Path, Result]) -> None:
    _, result = taken
    (port,) = (step["port"] for step in result.json["steps"] if step["name"] == "serve")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


def test_the_commands_at_the_end_work(taken: tuple[Path, Result], scratch: Path) -> None:
    folder, _ = taken
    env = {**os.environ, "PATH": f"{scratch}:{os.environ['PATH']}"}
    (scratch / "shrinkwrap").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shrinkwrap "$@"\n')
    (scratch / "shrinkwrap").chmod(0o755)
    said = {}
    for command in COMMANDS:
        if not command.startswith("shrinkwrap serve"):
            done = subprocess.run(
                ["sh", "-c", command], cwd=folder, env=env, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}: {done.stderr}"
            said[command.split()[1 if command.startswith("shrinkwrap") else 0]] = done.stdout + done.stderr
    assert "current ->" in said["ls"] or "drwx" in said["ls"]
    assert "first" in said["tags"]
    assert "third" not in said["cat"], "that is the first revision's"
    assert "nothing new" in said["export"]


def test_people_read_what_each_step_did_and_how_to_go_on(tmp_path: Path) -> None:
    env = {software.LIBRARY_VARIABLE: str(small_library(tmp_path))}
    result = call("demo", tmp_path / "a tour", env=env).ok()
    lines = result.out.splitlines()
    assert lines[0] == f"Everything is in {tmp_path / 'a tour'}"
    for number, step in enumerate(STEPS, 1):
        assert any(line.startswith(f"[{number}/{len(STEPS)}] {step.title} (") for line in lines)
    for heading in ("What an export costs", "What it comes to", "What there is", "Go on by hand"):
        assert heading in lines
    assert f"  cd '{tmp_path / 'a tour'}'" in lines
    assert max(len(line) for line in lines if str(tmp_path) not in line and not line.startswith(" " * 6)) <= 90
    assert "\x1b" not in result.out
    assert result.err == ""


def test_a_terminal_of_80_columns_is_enough(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    env = {**os.environ, software.LIBRARY_VARIABLE: str(small_library(tmp_path)), "TERM": "xterm", "COLUMNS": "80"}
    command = [*dying_with_parent(), sys.executable, "-m", "shrinkwrap", "demo", "t"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, cwd=tmp_path, env=env)
    os.close(theirs)
    data = b""
    # Reading fails when nobody has the other end open any more.
    with suppress(OSError):
        while piece := os.read(ours, 65536):
            data += piece
    os.close(ours)
    assert process.wait() == 0, data
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data.decode())
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").splitlines()]
    assert "Go on by hand" in lines
    assert b"\x1b[1m" in data
    assert [line for line in lines if len(line) > 80 and str(tmp_path) not in line and "PATH=" not in line] == []


def test_a_former_demo_is_replaced_only_by_force(tmp_path: Path) -> None:
    tour = tmp_path / "tour"
    env = {software.LIBRARY_VARIABLE: str(small_library(tmp_path))}
    call("demo", tour, "--json", env=env).ok()
    (tour / "mine").write_text("stays")
    locked = tour / "export" / FQRN / "lcg"
    locked.chmod(0o500)
    assert "--force" in call("demo", tour, env=env).ends_with(2).err
    assert call("demo", tour, "--force", "--json", env=env).ok().json["steps"][1]["revision"] == 1
    assert (tour / "mine").read_text() == "stays"


@pytest.mark.parametrize("name", ["#1", "a:b", "it's", 'a "b"', "new\nline", "ends in a blank "])
def test_a_folder_that_no_configuration_can_name_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot be written in a configuration file" in call("demo", tmp_path / name).ends_with(2).err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path, force: list[str]) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "precious").touch()
    assert "no demo was made there" in call("demo", tmp_path, *force).ends_with(2).err
    assert (tmp_path / "export" / "precious").exists()


def test_a_python_without_a_library_on_disk_is_told_so(tmp_path: Path) -> None:
    result = call("demo", tmp_path / "tour", env={software.LIBRARY_VARIABLE: str(tmp_path / "frozen")})
    assert "has its standard library in no folder that can be read" in result.ends_with(2).err
    assert not (tmp_path / "tour").exists()


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_stops_its_server(tmp_path: Path, way: signal.Signals) -> None:
    env = {**os.environ, software.LIBRARY_VARIABLE: str(small_library(tmp_path))}
    command = [sys.executable, "-u", "-m", "shrinkwrap", "demo", str(tmp_path / "tour")]
    process = subprocess.Popen(
        [*dying_with_parent(), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        port = None
        for line in process.stdout:
            if line.strip().startswith("at http://"):
                port = urlsplit(line.split()[1].rstrip(",")).port
                break
        process.send_signal(way)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 10, err
    assert "Traceback" not in err
    assert port is not None
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
    assert wait_until_gone(lambda one: process.pid in (one.group, one.session)) == []
