"""What all commands have in common: help, mistakes on the command line, errors, being stopped, starting quickly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli.calling import call
from support import golden
from support.cli import Result, run_cli
from support.listing import ORDINARY
from support.processes import dying_with_parent
from support.servers import RepoServer

from shrinkwrap import __version__
from shrinkwrap.cli import main
from shrinkwrap.cli import options as opt
from shrinkwrap.errors import ShrinkwrapError

#: Those that read a repository, and all.
READERS = ("export", "ls", "cat", "info", "tags")
COMMANDS = (*READERS, "status", "gc", "remove", "publish", "serve", "demo")
FQRN = "small.cern.ch"


@pytest.fixture
def good(repos: Path, scratch: Path) -> dict[str, list[str]]:
    """Words that make each command succeed, by option."""
    spec = scratch / "good.spec"
    spec.write_text("/special/swap/*\n")
    return {
        "-r": ["-r", FQRN],
        "--storage": ["--storage", str(repos / FQRN)],
        "--key": ["--key", str(repos / "keys" / f"{FQRN}.pub")],
        "-t": ["-t", str(spec)],
        "-z": ["-z", str(scratch / "base")],
    }


def words(good: dict[str, list[str]], *changes: str, without: Sequence[str] = ()) -> list[str]:
    """An export with some words added, or options left out."""
    kept = [word for name, pair in good.items() if name not in without for word in pair]
    return ["export", *kept, *changes]


def complains(result: Result, code: int) -> str:
    """One line that says what is wrong, perhaps one that says what to do; nothing else. The line is returned."""
    result.ends_with(code)
    lines = [line for line in result.err.splitlines() if not line.startswith("note: ")]
    assert lines[0].startswith("shrinkwrap: "), result
    assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("  hint: ")), result
    assert result.err.isprintable() or not set(result.err) & set(map(chr, range(32))) - {"\n"}
    return lines[0]


# ----------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_command_has_help_with_examples(command: str, option: str) -> None:
    out = call(command, option).ok().out
    assert "Examples:\n" in out
    examples = out.partition("Examples:\n")[2].strip().splitlines()
    begin = f"shrinkwrap {command}" + (" -r " if command in READERS else "")
    assert sum(line.strip().startswith(begin) for line in examples) >= 2
    assert len(out.splitlines()[2]) > 10, "no description"


def test_the_program_has_help_with_an_example_and_the_exit_codes() -> None:
    out = call("--help").ok().out
    assert "Example:\n  shrinkwrap export" in re.sub("\n +shrinkwrap", "\n  shrinkwrap", out)
    assert all(command in out for command in COMMANDS)
    assert "10" in out.partition("Exit codes:")[2]
    assert call().ok().out == out


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_without_help(command: str) -> None:
    text = call(command, "--help").ok().out.partition("Options:\n")[2].partition("\n\n")[0]
    entries = re.split(r"\n  (?=-)", "\n" + text)[1:]
    assert len(entries) > (5 if command in READERS else 1)
    for entry in entries:
        name, _, described = re.sub(r"\s*\n\s+", "  ", entry).partition("  ")
        assert len(described.strip()) >= 15 or name.endswith("--help"), f"{command} {name}: no help"


def test_the_version_is_told() -> None:
    assert call("--version").ok().out == f"shrinkwrap {__version__}\n"


def test_it_runs_as_a_module_and_as_a_command() -> None:
    assert run_cli("--version").ok().out == call("--version").out


# ------------------------------------------------------------------------------------------ mistakes that parsing finds


@pytest.mark.parametrize(
    "wrong",
    [
        ["--nope"],
        ["-Q"],
        ["nope"],
        ["export", "--nope"],
        ["export"],
        ["export", "-r"],
        ["export", "-r", FQRN, "too", "many"],
        ["export", "-r", FQRN, "-j", "-1"],
        ["export", "-r", FQRN, "-j", "many"],
        ["export", "-r", FQRN, "--retries", "-1"],
        ["export", "-r", FQRN, "--timeout", "0"],
        ["export", "-r", FQRN, "-p", "-1"],
        ["export", "-r", FQRN, "--revision", "-1"],
        ["export", "-r", FQRN, "--revision", "trunk"],
        ["ls"],
        ["ls", "-r", FQRN, "/a", "/b"],
        ["cat", "-r", FQRN],
        ["cat", "/a"],
        ["info", "--nope"],
        ["tags"],
        ["tags", "--tag", "x"],
        ["export", "-r", FQRN, "--workers", "-1"],
        ["export", "-r", FQRN, "--workers", "65"],
        ["publish", "-r", FQRN],
        ["publish", "--nope"],
        ["serve"],
        ["serve", "x", "--port", "65536"],
        ["demo", "one", "two"],
        ["status", "--nope"],
        ["gc", "one", "two"],
        ["gc", "--grace", "soon"],
        ["remove", "base"],
        ["remove", "-r", FQRN],
    ],
    ids=" ".join,
)
def test_the_option_parser_speaks_like_everybody_else(wrong: list[str], scratch: Path) -> None:
    complains(call(*wrong), 2)
    result = call(*wrong, "--json")
    line = complains(result, 2)
    assert result.json["reason"] == "usage"
    assert result.json["exit_code"] == 2
    assert line == f"shrinkwrap: {result.json['error']}"
    assert result.json["command"] == (wrong[0] if wrong[0] in COMMANDS else "")
    assert len(result.out.splitlines()) == 1


def test_it_is_the_same_in_a_process_of_its_own(scratch: Path) -> None:
    result = run_cli("export", "-r", FQRN, "-j", "-1", "--json", cwd=scratch)
    complains(result, 2)
    assert result.json["reason"] == "usage"
    assert os.listdir(scratch) == []


# -------------------------------------------------------------------------------------------- mistakes found afterwards


@pytest.mark.parametrize("command", [*READERS, "publish"])
@pytest.mark.parametrize(
    "fqrn", ["../x", ".data", "", "a" * 61, "a/b", "a b", "a\nb", "ä.cern.ch", "\x1b[2J.cern.ch", ".", "..", "x\udcff"]
)
def test_a_name_that_no_repository_can_have_is_refused(command: str, fqrn: str, repos: Path, scratch: Path) -> None:
    more = {"export": ["-t", os.devnull, "-z", str(scratch / "base")], "cat": ["/x"]}.get(command, [])
    whence = ["--storage", repos / FQRN, "--key", repos / "keys"]
    if command == "publish":
        whence, more = ["--storage", scratch / "storage", "--keys", scratch / "keys"], [os.fspath(repos / "specs")]
    complains(call(command, "-r", fqrn, *whence, *more), 2)
    assert os.listdir(scratch) == []


@pytest.mark.parametrize(
    ("changes", "without", "code"),
    [
        pytest.param([], ["--storage"], 2, id="no server"),
        pytest.param(["--server", "http://127.0.0.1:1/x"], [], 2, id="server and storage"),
        pytest.param(["--server", "ftp://127.0.0.1/x"], ["--storage"], 2, id="no http"),
        pytest.param(["--server", "nonsense"], ["--storage"], 2, id="no url"),
        pytest.param(["--server", "file:///nowhere"], ["--storage"], 2, id="no folder"),
        pytest.param(["--storage", "/nowhere/at/all"], ["--storage"], 2, id="no storage"),
        pytest.param(["--storage", os.devnull], ["--storage"], 2, id="storage is no folder"),
        pytest.param(["--server", "http://127.0.0.1:1/x", "--proxy", ""], ["--storage"], 2, id="no proxy"),
        pytest.param(["--server", "http://127.0.0.1:1/x", "--proxy", "gopher://x"], ["--storage"], 2, id="bad proxy"),
        pytest.param(["--external-server", "nonsense"], [], 2, id="no external url"),
        pytest.param(["--key", "/nowhere.pub"], ["--key"], 2, id="no key file"),
        pytest.param(["--key", os.devnull], ["--key"], 2, id="key is no file"),
        pytest.param(["--key", "{empty}"], ["--key"], 2, id="empty key"),
        pytest.param(["--key", "{text}"], ["--key"], 2, id="key is no PEM"),
        pytest.param(["--key", "{folder}"], ["--key"], 2, id="folder without keys"),
        pytest.param(["--key", "{text}"], [], 2, id="a good key and a bad one"),
        pytest.param(["--blacklist", "{folder}"], [], 2, id="blacklist is a folder"),
        pytest.param([], ["-t"], 7, id="no spec of that name"),
        pytest.param(["-t", "/nowhere.spec"], ["-t"], 7, id="no spec file"),
        pytest.param(["-t", "{folder}"], ["-t"], 7, id="spec is a folder"),
        pytest.param(["-t", "a\x1b[2Jb"], ["-t"], 7, id="no spec file with an escape in its name"),
        pytest.param(["--spec-rules", "1.0"], [], 2, id="unknown rules"),
        pytest.param(["--tag", "rev1", "--revision", "2"], [], 2, id="tag and revision"),
        pytest.param(["--tag", "rev1", "--at", "2026-11-22"], [], 2, id="tag and date"),
        pytest.param(["--root-hash", "0" * 40, "--revision", "0"], [], 2, id="root hash and revision"),
        pytest.param(["--root-hash", "xyz"], [], 2, id="no hash"),
        pytest.param(["--root-hash", "A" * 40], [], 2, id="upper-case hash"),
        pytest.param(["--accept-unsigned-root-hash"], [], 2, id="unsigned nothing"),
        pytest.param(["--at", "yesterday"], [], 2, id="no date"),
        pytest.param(["--at", "2026-13-45"], [], 2, id="impossible date"),
        pytest.param(["--env", "NAME"], [], 2, id="variable without a value"),
        pytest.param(["--env", "=value"], [], 2, id="variable without a name"),
        pytest.param(["--link-mode", "softlink"], [], 2, id="unknown link mode"),
        pytest.param(["-z", "{text}"], ["-z"], 8, id="destination is a file"),
        pytest.param(["-z", "{text}/below"], ["-z"], 8, id="destination below a file"),
        pytest.param(["-z", "/proc/nowhere"], ["-z"], 8, id="destination where nothing can be made"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_nothing_is_made(
    changes: list[str], without: list[str], code: int, good: dict[str, list[str]], scratch: Path
) -> None:
    places = {"empty": scratch / "empty", "text": scratch / "text", "folder": scratch / "folder"}
    places["empty"].touch()
    places["text"].write_text("not what is wanted\n")
    places["folder"].mkdir()
    before = sorted(os.listdir(scratch))
    changed = [word.format(**places) if word.startswith("{") else word for word in changes]
    complains(call(*words(good, *changed, without=without)), code)
    result = call(*words(good, *changed, "--json", without=without))
    complains(result, code)
    assert result.json["exit_code"] == code
    assert result.json["reason"] == {2: "usage", 7: "spec", 8: "destination"}[code]
    assert result.json["command"] == "export"
    assert {"error", "hint"} <= result.json.keys()
    assert sorted(os.listdir(scratch)) == before
    assert places["text"].read_text() == "not what is wanted\n"


def test_without_a_key_of_ones_own_those_of_the_client_are_looked_for(
    good: dict[str, list[str]], repos: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scratch / "etc" / "cvmfs" / "keys"
    monkeypatch.setattr(opt, "CLIENT_ROOT", str(scratch))
    complains(call(*words(good, without=["--key"])), 2)
    (folder / "cern.ch").mkdir(parents=True)
    complains(call(*words(good, without=["--key"])), 2)
    (folder / "cern.ch" / "one.pub").write_bytes((repos / "keys" / f"{FQRN}.pub").read_bytes())
    call(*words(good, without=["--key"])).ok()


def test_every_wrong_line_of_a_spec_is_named_by_file_and_number(good: dict[str, list[str]], scratch: Path) -> None:
    (scratch / "one.spec").write_bytes(b"/good/*\nbad\n\n# fine\n^\n")
    (scratch / "two.spec").write_bytes(b"! /blank\n/good\n\x1b[2Jx\n")
    specs = ["-t", str(scratch / "one.spec"), "-t", str(scratch / "two.spec")]
    result = call(*words(good, *specs, "--json", without=["-t"])).ends_with(7)
    lines = result.err.splitlines()
    assert lines[0].startswith("shrinkwrap: 4 lines")
    places = [f"{scratch}/one.spec:2:", f"{scratch}/one.spec:5:", f"{scratch}/two.spec:1:", f"{scratch}/two.spec:3:"]
    assert [line.strip().startswith(place) for line, place in zip(lines[1:5], places, strict=True)] == [True] * 4
    assert lines[5].startswith("  hint: ")
    assert len(lines) == 6
    assert "\x1b" not in result.err
    assert all(place in result.json["error"] for place in places)
    assert not (scratch / "base").exists()


def test_keep_suid_is_for_root(good: dict[str, list[str]], scratch: Path) -> None:
    user = ORDINARY if os.getuid() == 0 else (os.getuid(), os.getgid())
    scratch.chmod(0o777)
    complains(run_cli(*words(good, "--keep-suid"), user=user), 2)
    assert not (scratch / "base").exists()


def test_a_destination_of_somebody_else_is_refused(good: dict[str, list[str]], scratch: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to make one")
    (scratch / "base").mkdir(mode=0o755)
    complains(run_cli(*words(good), user=ORDINARY), 8)
    assert os.listdir(scratch / "base") == []


@pytest.mark.parametrize(
    ("fqrn", "more"),
    [("mixed.cern.ch", []), (FQRN, ["--tag", "nope"]), (FQRN, ["--at", "2001-01-01"]), (FQRN, ["--revision", "99"])],
)
@pytest.mark.parametrize("command", ["ls", "info", "cat", "export"])
def test_all_commands_refuse_alike(command: str, fqrn: str, more: list[str], repos: Path, scratch: Path) -> None:
    more = more + {"cat": ["/README"], "export": ["-t", os.devnull, "-z", str(scratch / "base")]}.get(command, [])
    # The storage of one under the name of another is a matter of trust.
    result = call(command, "-r", fqrn, "--storage", repos / FQRN, "--key", repos / "keys", *more, "--json")
    if command == "cat":  # it has no results that could be JSON
        complains(result, 2)
        return
    complains(result, 3 if fqrn != FQRN else 2)
    assert result.json["exit_code"] == result.code


# ----------------------------------------------------------------------------------------------------------- other ends


def test_an_error_that_nobody_foresaw_has_a_code_of_its_own(
    repos: Path, monkeypatch: pytest.MonkeyPatch, good: dict[str, list[str]]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("something \x1b[31m odd")

    monkeypatch.setattr(opt, "make_pin", broken)
    result = call(*words(good, "--json"))
    assert result.code == ShrinkwrapError.exit_code == 70
    assert result.json["reason"] == "error"
    assert "RuntimeError" in result.json["error"]
    assert "Traceback" in result.err, "whoever is to mend it needs to see where"
    assert result.err.splitlines()[-1].startswith("  hint: ")


def test_a_folder_for_scratch_files_that_cannot_be_written_is_told(repos: Path) -> None:
    where = ["-r", FQRN, "--storage", repos / FQRN, "--key", repos / "keys"]
    complains(call("info", *where, "--cache", "/proc/nowhere"), 8)


def _start(*args: object, **streams: int) -> subprocess.Popen[str]:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(golden.CHECKOUT), "LANG": "C.UTF-8"}
    return subprocess.Popen(
        [*dying_with_parent(), sys.executable, "-m", "shrinkwrap", *map(str, args)],
        stdin=subprocess.DEVNULL,
        env=environment,
        encoding="utf-8",
        **streams,  # type: ignore[call-overload]
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_being_stopped_is_told_and_the_next_run_goes_on(
    number: signal.Signals, repos: Path, repo_server: RepoServer, scratch: Path
) -> None:
    where = ["-r", FQRN, "--key", repos / "keys" / f"{FQRN}.pub", "-z", scratch, "-t", golden.spec_file("full")]
    url = repo_server.repo(FQRN)
    process = _start("export", *where, "--server", url, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if any((scratch / ".data").glob("[0-9a-f][0-9a-f]")):
            break
        time.sleep(0.005)
    assert process.poll() is None, "over before it could be stopped"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    result = Result(process.returncode, out, err)
    complains(result, 10)
    assert result.json["reason"] == "interrupted"
    assert not (scratch / ".provenance" / FQRN / "record.json").exists()
    again = call("export", *where, "--server", url, "--json").ok().json
    assert again["reason"] == "exported"
    assert again["counts"]["files"] > 1000


def _listing(repos: Path) -> list[object]:
    return ["ls", "-R", "-l", "-r", FQRN, "--storage", repos / FQRN, "--key", repos / "keys" / f"{FQRN}.pub"]


def test_a_reader_that_has_seen_enough_is_no_error(repos: Path) -> None:
    process = _start(*_listing(repos), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("drwxr-xr-x")
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(60) == 0


def test_a_full_disk_below_the_output_is_an_error(repos: Path) -> None:
    with open("/dev/full", "w") as full:
        process = _start(*_listing(repos), "--json", stdout=full.fileno(), stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert "No space left" in complains(Result(process.returncode, "", err), 8)


def test_names_are_listed_on_terminals_that_cannot_show_them(repos: Path) -> None:
    where = ["-r", FQRN, "--storage", repos / FQRN, "--key", repos / "keys"]
    for encoding in ("ascii", "latin-1"):
        result = run_cli("ls", "-R", *where, "/special/names", env={"PYTHONIOENCODING": encoding}).ok()
        assert len(result.out.splitlines()) == len(call("ls", "-R", *where, "/special/names").out.splitlines())


# ---------------------------------------------------------------------------------------------------------- starting up


#: Nothing of this is needed to see that there is nothing to do.
HEAVY = ("rich", "pycurl", "pathspec", "xxhash", "zstandard", "multiprocessing", "asyncio", "pygments")
#: Nor this, where nothing is asked for over the network.
NETWORK = ("httpx", "httpcore", "http.client", "urllib.request")


def _modules(stderr: str) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")}


def _imported(*args: object) -> set[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(golden.CHECKOUT),
        "PYTHONPROFILEIMPORTTIME": "1",
    }
    done = subprocess.run(
        [*dying_with_parent(), sys.executable, "-m", "shrinkwrap", *map(str, args)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=True,
    )
    return _modules(done.stderr)


def _of(modules: set[str], packages: Sequence[str]) -> list[str]:
    return sorted(name for name in modules if any(name == one or name.startswith(one + ".") for one in packages))


def test_a_run_with_nothing_to_do_loads_no_heavy_modules(good: dict[str, list[str]]) -> None:
    call(*words(good)).ok()
    modules = _imported(*words(good))
    assert "shrinkwrap.tree.export" in modules
    assert _of(modules, (*HEAVY, *NETWORK)) == []


def test_a_run_with_nothing_to_do_asks_for_the_manifest_alone(
    good: dict[str, list[str]], repo_server: RepoServer
) -> None:
    variant = repo_server.with_files()
    args = words(good, "--server", variant.repo(FQRN), "--json", without=["--storage"])
    first = call(*args).ok()
    number = len(variant.requests())
    modules = _imported(*args)
    assert [one.path for one in variant.requests()[number:]] == [f"{FQRN}/.cvmfspublished"]
    assert _of(modules, ("httpx", "pydantic", "pathspec", "xxhash", "multiprocessing")) == []
    assert first.json["reason"] == "exported"
    again = call(*args).ok().json
    assert again["reason"] == "unchanged"
    assert again["root_hash"] == first.json["root_hash"]
    assert json.dumps(again)


@pytest.mark.parametrize("name", main._NAMES)
def test_every_command_is_there_by_its_name_alone(name: str) -> None:
    one = main._with_only(name)
    assert len(one.registered_commands) + len(one.registered_groups) == 1
    assert len(main.app.registered_commands) + len(main.app.registered_groups) == len(main._NAMES)
    assert call(name, "--help").ok().out.startswith(f"Usage: shrinkwrap {name} ")


def test_help_and_mistakes_load_nothing_but_the_parser() -> None:
    modules = _imported("export", "--help")
    assert _of(modules, (*HEAVY, *NETWORK, "cryptography", "sqlite3", "isal", "shrinkwrap.tree")) == []
    assert main.__name__ in modules


def ended(command: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A shell's command that runs ``shrinkwrap`` where it says "$@"."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, "bash", sys.executable, "-m", "shrinkwrap", *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ['"$@" 2>/dev/full', '"$@" 2>&1 >/dev/null | true', '"$@" 2>&-'])
def test_an_export_is_done_even_if_nobody_can_read_what_it_says(
    good: dict[str, list[str]], scratch: Path, command: str
) -> None:
    assert ended(command, words(good, "-p", "0.001", "--stat-period", "0.001")).returncode == 0
    assert (scratch / "base" / ".provenance" / FQRN / "record.json").exists()
    assert not (scratch / "base" / ".provenance" / FQRN / "intent.json").exists()


def test_messages_never_come_out_among_the_results(good: dict[str, list[str]]) -> None:
    done = ended('"$@" 2>&-', words(good, without=["-t"]))
    assert (done.returncode, done.stdout) == (7, "")


def test_closed_output_is_no_trouble_and_no_file_of_ours_takes_its_place(good: dict[str, list[str]]) -> None:
    done = ended('"$@" <&- >&-', words(good))
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
