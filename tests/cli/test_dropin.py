"""Scripts that were written for the original run unchanged, and errors are clear where it dumps core."""

from __future__ import annotations

import importlib
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cli.calling import Result, call
from support import golden
from support.golden import CHECKOUT, Export, Pinned
from support.listing import AS_ROOT, list_tree
from support.original import build_original, differences_beside_marker
from support.servers import Proxy, RepoServer, Variant

from shrinkwrap.cli import dropin
from shrinkwrap.cli.dropin import STATISTICS, Table, parser, run
from shrinkwrap.snapshot.view import DIR, FILE, LINK, Content, Node

FQRN = "small.cern.ch"
REV1, REV2, REV3 = (Pinned(FQRN, f"rev{number}") for number in (1, 2, 3))
#: A branch with nothing to warn of.
CLEAN = "/special/swap/*\n"
ROW = re.compile(r"(\w+)\|(\d+)\|[^|]+")


class Site:
    """A working directory with configuration and spec, as people have them, and a destination."""

    def __init__(self, server: RepoServer, repos: Path, folder: Path) -> None:
        self.server: Variant = server.with_files()
        self.repos = repos
        self.folder = folder
        self.base = folder / "export"
        self.spec(CLEAN)
        self.config("cvmfs.conf", f"CVMFS_SERVER_URL={self.server.repo(FQRN)}\nCVMFS_HTTP_PROXY=DIRECT\n")
        self.config("cvmfs.local", f"CVMFS_KEYS_DIR={repos}/keys\n")

    def spec(self, text: str, name: str = f"{FQRN}.spec") -> str:
        (self.folder / name).write_text(text)
        return name

    def config(self, name: str, text: str) -> str:
        (self.folder / name).write_text(text)
        return name

    def run(self, *words: str | Path, code: int = 0, env: dict[str, str] | None = None) -> Result:
        return call(*words, entry=run, env={**golden.ENVIRONMENT, **(env or {})}).ends_with(code)

    def export(self, *words: str | Path, code: int = 0) -> Result:
        return self.run("-r", FQRN, "-x", self.base, *words, code=code)

    def differences(self, spec: str = "", at: Pinned = REV3) -> list[str]:
        expected = golden.exported(Export(at, spec)) if spec else below(at, b"/special/swap")
        return differences_beside_marker(self.base, FQRN, expected, AS_ROOT.without_setid(), marked=True)


def below(at: Pinned, folder: bytes) -> list[Any]:
    def brought(path: bytes) -> bool:
        return path == folder or path.startswith(folder + b"/") or folder.startswith(path.rstrip(b"/") + b"/")

    return [one for one in golden.mounted(at) if brought(one.path)]


@pytest.fixture
def site(repos: Path, repo_server: RepoServer, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(scratch)
    return Site(repo_server, repos, scratch)


def values(text: str) -> dict[str, int]:
    """The rows of a table of statistics."""
    return {
        name: int(value) for name, value in (found.groups() for found in map(ROW.fullmatch, text.split("\n")) if found)
    }


# -------------------------------------------------------------------------------------------------------------- options

pytestmark = pytest.mark.root

#: Each documented option, short and long, in all forms that getopt takes.
COMBINATIONS = [
    ["-r", FQRN, "-x", "export"],
    ["--repo", FQRN, "--dest-base", "export"],
    [f"--repo={FQRN}", "--dest-base=export"],
    [f"-r{FQRN}", "-xexport"],
    ["--rep", FQRN, "--dest-b", "export"],
    ["-r", FQRN, "-x", "export/"],
    ["-r", FQRN, "-s", "cvmfs", "-d", "posix", "-x", "export"],
    ["-r", FQRN, "--src-type", "cvmfs", "--dest-type", "posix", "-x", "export"],
    ["-r", FQRN, "-b", "/cvmfs", "-x", "export"],
    ["-r", FQRN, "--src-base", "/cvmfs", "-x", "export"],
    ["-r", FQRN, "-c", "cache", "-x", "export"],
    ["-r", FQRN, "--src-cache", "cache", "-x", "export"],
    ["-r", FQRN, "-f", "cvmfs.conf:cvmfs.local", "-x", "export"],
    ["-r", FQRN, "--src-config", "whole.config", "-x", "export"],
    ["-r", FQRN, "-y", "export/.data", "-x", "export"],
    ["-r", FQRN, "-x", "export", "--dest-cache", "./export/.data/"],
    ["-r", FQRN, "-t", "other.spec", "-x", "export"],
    ["-r", FQRN, "--spec-file", "other.spec", "-x", "export"],
    ["-r", FQRN, "-j", "0", "-x", "export"],
    ["-r", FQRN, "-j", "4", "-x", "export"],
    ["-r", FQRN, "-j500", "-x", "export"],
    ["-r", FQRN, "--threads", "64", "-x", "export"],
    ["-r", FQRN, "-p", "0", "-x", "export"],
    ["-r", FQRN, "--stat-period", "3600", "-x", "export"],
    ["-r", FQRN, "-g", "-x", "export"],
    ["--gc", "-r", FQRN, "-x", "export"],
    ["-gp0", "-r", FQRN, "-x", "export"],
    ["-r", "other.cern.ch", "-r", FQRN, "-x", "elsewhere", "-x", "export"],
    ["-r", FQRN, "-x", "export", "surplus"],
    ["surplus", "-r", FQRN, "-x", "export", "-j", "2"],
    ["-r", FQRN, "-f", "whole.config", "-t", "other.spec", "-x", "export", "-j", "16", "-g"],
]


@pytest.mark.parametrize("words", COMBINATIONS, ids=" ".join)
def test_each_documented_combination_of_options_exports(words: list[str], site: Site) -> None:
    site.spec(CLEAN, "other.spec")
    text = (site.folder / "cvmfs.conf").read_text() + (site.folder / "cvmfs.local").read_text()
    site.config("whole.config", text)
    result = site.run(*words)
    assert site.differences() == []
    assert result.out.startswith("Name|Value|Description\n")
    assert not (site.folder / "cache").exists()
    said = [line for line in result.err.splitlines() if "surplus" not in line]
    assert said == []
    # The first collection begins the log of what is dropped.
    assert (site.base / ".data" / "dropped").exists() == any(word.startswith(("-g", "--gc")) for word in words)


def test_the_defaults_are_those_of_the_original() -> None:
    given = parser().parse_args([])
    assert (given.repo, given.src_type, given.src_base, given.src_cache) == ("", "cvmfs", "/cvmfs", "")
    assert given.src_config == "cvmfs.conf:cvmfs.local"
    assert (given.dest_type, given.dest_base, given.dest_cache) == ("posix", "/export/cvmfs", "")
    assert (given.spec_file, given.stat_period, given.gc) == ("", 10, False)


@pytest.mark.parametrize(
    ("threads", "cpus", "expected"), [(0, 2, 4), (0, 64, 32), (0, None, 2), (5, 2, 5), (500, 2, 32)]
)
def test_threads_are_twice_the_cpus_and_never_more_than_servers_are_asked_for(
    threads: int, cpus: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert dropin._transfers(threads) == expected


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_names_every_option(word: str, site: Site) -> None:
    told = site.run(word).out
    short = "rsbcfdxyztjpg"
    long = "repo src-type src-base src-cache src-config dest-type dest-base dest-cache dest-config spec-file"
    for option in [f"-{one}" for one in short] + [
        f"--{one}" for one in [*long.split(), "threads", "stat-period", "gc"]
    ]:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", told), option


def test_the_console_script_is_installed_under_the_name_of_the_original() -> None:
    scripts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, name = scripts["cvmfs_shrinkwrap"].partition(":")
    assert getattr(importlib.import_module(module), name) is run


def test_the_page_names_every_option() -> None:
    page = (CHECKOUT / "docs" / "drop-in.md").read_text(encoding="utf-8")
    for action in parser()._actions:
        for option in action.option_strings:
            assert f"`{option}`" in page, option


# --------------------------------------------------------------------------------------------------------------- errors

ERRORS = [
    pytest.param([], "no repository", id="no repository"),
    pytest.param(["-r", "not a name"], "not a name", id="a name that is none"),
    pytest.param(["-r", FQRN, "-s", "posix"], "-s posix", id="posix source"),
    pytest.param(["-r", FQRN, "-s", "ext4"], "-s ext4", id="unknown source"),
    pytest.param(["-r", FQRN, "-d", "cvmfs"], "-d cvmfs", id="unknown destination"),
    pytest.param(["-r", FQRN, "-z", "dest.conf"], "-z dest.conf", id="-z"),
    pytest.param(["-r", FQRN, "--dest-config", "dest.conf"], "dest.conf", id="--dest-config"),
    pytest.param(["-r", FQRN, "-y", "taken"], "taken is not empty", id="a store that holds other things"),
    pytest.param(["-r", FQRN, "-y", f"export/{FQRN}/store"], "it lies in the destination", id="a store in the tree"),
    pytest.param(["-r", FQRN, "--dest-cache", "export"], "it lies in the destination", id="the tree as store"),
    pytest.param(["-r", FQRN, "-y", "."], "the destination lies in it", id="a store above the destination"),
    pytest.param(["-r", FQRN, "-y", f"{FQRN}.spec"], "is not a folder", id="a file as store"),
    pytest.param(["-r", FQRN, "-x", ""], "-x is empty", id="no destination"),
    pytest.param(["-r", FQRN, "-f", "cvmfs.conf:missing.local"], "missing.local", id="missing configuration"),
    pytest.param(["-r", FQRN, "-f", ""], "-f", id="empty configuration"),
    pytest.param(["-r", FQRN, "-t", "missing.spec"], "missing.spec", id="missing spec"),
    pytest.param(["-r", FQRN, "-t", "wrong.spec"], "wrong.spec:2", id="wrong line"),
    pytest.param(["-r", FQRN, "-j", "many"], "many", id="-j many"),
    pytest.param(["-r", FQRN, "-j", "-1"], "-j", id="-j -1"),
    pytest.param(["-r", FQRN, "-p", "1.5"], "1.5", id="-p 1.5"),
    pytest.param(["-r", FQRN, "--tag", "rev1"], "--tag", id="unknown option"),
    pytest.param(["-r", FQRN, "--src", "x"], "--src", id="ambiguous option"),
    pytest.param(["-r"], "-r", id="no value"),
    pytest.param(["-r", FQRN, "-f", "noproxy.conf"], "CVMFS_HTTP_PROXY", id="no proxy"),
    pytest.param(["-r", FQRN, "-f", "nokeys.conf"], "key", id="no keys"),
    pytest.param(["-r", FQRN, "-f", "notag.conf"], "no-such-tag", id="unknown tag"),
]


@pytest.mark.parametrize(("words", "named"), ERRORS)
def test_what_is_wrong_ends_with_one_clear_line_and_the_code_of_the_original(
    words: list[str], named: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.folder / "root").mkdir()
    (site.folder / "taken").mkdir()
    (site.folder / "taken" / "thesis.tex").touch()
    monkeypatch.setattr("shrinkwrap.cli.options.CLIENT_ROOT", str(site.folder / "root"))
    server = f"CVMFS_SERVER_URL={site.server.repo(FQRN)}\n"
    keys = f"CVMFS_KEYS_DIR={site.repos}/keys\n"
    site.config("noproxy.conf", server + keys)
    site.config("nokeys.conf", server + "CVMFS_HTTP_PROXY=DIRECT\n")
    site.config("notag.conf", server + keys + "CVMFS_HTTP_PROXY=DIRECT\nCVMFS_REPOSITORY_TAG=no-such-tag\n")
    site.spec("/special/*\nspecial\n", "wrong.spec")
    given = words if "-x" in words else [*words, "-x", "export"] if words != ["-r"] else words
    result = site.run(*given, code=1)
    assert result.out == ""
    assert result.err.startswith("cvmfs_shrinkwrap: ")
    assert named in result.err
    assert not (site.base / FQRN).exists()


def test_objects_that_cannot_be_had_end_with_the_code_of_the_original(site: Site) -> None:
    row = next(
        row for row in golden.rows(f"{FQRN}/rev3.jsonl") if row["type"] == "file" and "/special/swap" in row["path"]
    )
    site.server.answer(f"{FQRN}/data/{row['hash'][:2]}/{row['hash'][2:]}", 404)
    assert "could not be had" in site.export(code=1).err
    assert not (site.base / ".provenance" / FQRN / "record.json").exists()


def test_an_interrupted_export_ends_with_the_code_of_the_original(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("shrinkwrap.tree.export.export", interrupted)
    assert "interrupted" in site.export(code=1).err


# ------------------------------------------------------------------------------------------------------- configurations


def test_a_configuration_as_for_sft_is_understood(site: Site) -> None:
    site.config(
        "sft.config",
        f"""CVMFS_REPOSITORIES={FQRN}
CVMFS_REPOSITORY_NAME={FQRN}
CVMFS_CONFIG_REPOSITORY=cvmfs-config.cern.ch
CVMFS_SERVER_URL='{site.server.repo(FQRN)}'
CVMFS_HTTP_PROXY=DIRECT # keep the site's cache for others
CVMFS_CACHE_BASE={site.folder}/cache
CVMFS_KEYS_DIR={site.repos}/keys # has to be given
CVMFS_SHARED_CACHE=no # is not possible
CVMFS_USER=cvmfs
""",
    )
    result = site.run("-r", FQRN, "-f", "sft.config", "-t", f"{FQRN}.spec", "--dest-base", site.base, "-j", "16")
    assert result.err == ""
    assert site.differences() == []


def test_a_configuration_as_for_cms_is_understood(site: Site, proxy: Proxy) -> None:
    site.config("uid.map", "# from to\n* 12\n")
    site.config("gid.map", "0 34\n")
    site.config(
        "cms.conf",
        f"""# one for all repositories
CVMFS_CLIENT_PROFILE="single"
CVMFS_SERVER_URL="http://127.0.0.1:9/cvmfs/@fqrn@;{site.server.url}/@fqrn@"
CVMFS_PUBLIC_KEY="{site.repos}/keys/small.cern.ch.pub:{site.repos}/keys/plain.cern.ch.pub"
CVMFS_USE_GEOAPI=no
CVMFS_HTTP_PROXY="{proxy.url}|{proxy.url};DIRECT"
CVMFS_QUOTA_LIMIT=20000
export CMS_LOCAL_SITE=T2_CH_CERN
""",
    )
    site.config(
        "cms.local",
        f"""CVMFS_REPOSITORY_TAG=rev2
CVMFS_UID_MAP={site.folder}/uid.map
CVMFS_GID_MAP={site.folder}/gid.map
CVMFS_MAX_RETRIES=0
SITE=from-the-configuration
""",
    )
    site.export("-f", "cms.conf:cms.local", "-p", "5")
    listed = list_tree(site.base / FQRN)
    assert {one.path for one in listed} - {golden.MARKER} == {one.path for one in below(REV2, b"/special/swap")}
    assert {one.uid for one in listed} == {12}
    assert 0 not in {one.gid for one in listed}
    assert any(FQRN in url for url in proxy.urls())


def test_variables_of_links_come_from_the_environment_and_the_configuration(site: Site) -> None:
    site.config("cvmfs.local", f"CVMFS_KEYS_DIR={site.repos}/keys\nFLAVOR=dbg\n")
    site.spec("/special/links/*\n")
    site.export()
    links = {one.rpartition("/")[2]: os.readlink(one) for one in map(str, (site.base / FQRN).rglob("v_*"))}
    assert any("x86_64-el9" in target for target in links.values())
    assert any("dbg" in target for target in links.values())
    assert not any("opt" in target for target in links.values())


def test_the_rules_of_specs_are_the_newer_ones_and_warned_of(site: Site) -> None:
    site.spec("/special/swap/*\n!/special/swap/*\n")
    assert "2.12" in site.export().err
    assert (site.base / FQRN / "special" / "swap").is_dir()


# ----------------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("spec", ["slide", "full"])
def test_the_table_is_that_of_the_original_and_counts_files_once(spec: str, site: Site) -> None:
    site.spec(golden.spec_file(spec).read_text())
    expected = golden.exported(Export(REV3, spec))
    result = site.export("-p", "0")
    header, *rows, last, end = result.out.split("\n")
    assert (header, last, end) == ("Name|Value|Description", "", "")
    assert [row.partition("|")[0] for row in rows] == sorted(STATISTICS)
    first = values(result.out)
    files = [one for one in expected if one.type == "file"]
    assert first["cntFile"] == len(files)
    assert first["cntByte"] == sum(one.size for one in files)
    assert first["cntDir"] == sum(one.type == "dir" and one.path != b"/" for one in expected)
    assert first["cntSymlink"] == sum(one.type == "symlink" for one in expected)
    assert first["entriesSrc"] >= first["entriesDest"] == len(expected) - 1
    assert first["dataFiles"] + first["dataFilesDeduped"] == len(files)
    assert first["dataBytes"] + first["dataBytesDeduped"] == first["cntByte"]
    assert first["dataFiles"] > 0
    assert first["dataBytes"] > 0
    again = values(site.export("-p", "0").out)
    assert {name: again[name] for name in again if not name.startswith("data")} == {
        name: first[name] for name in first if not name.startswith("data")
    }
    assert [again[name] for name in again if name.startswith("data")] == [0, 0, 0, 0]


def test_the_table_of_an_update_counts_what_changed(site: Site) -> None:
    tag = (site.folder / "cvmfs.local").read_text() + "CVMFS_REPOSITORY_TAG="
    site.spec(golden.spec_file("slide").read_text())
    site.config("cvmfs.local", tag + "rev1\n")
    site.export()
    site.config("cvmfs.local", tag + "rev3\n")
    found = values(site.export().out)
    old, new = ({one.path for one in golden.exported(Export(at, "slide"))} for at in (REV1, REV3))
    assert found["entriesDest"] == len(old | new) - 1
    assert 0 < found["dataFiles"] < found["cntFile"]
    assert site.differences("slide") == []


def node(path: bytes, kind: str, size: int = 0) -> Node:
    content = Content((0, b""), "n", size, (), None) if kind == FILE else None  # type: ignore[arg-type]
    return Node(path, kind, 0o644, 0, 0, 0, (), b"", content)


def test_rows_are_printed_every_period_while_it_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(dropin.time, "monotonic", lambda: now[0])
    table, never = Table(10), Table(0)
    for one in (node(b"", DIR), node(b"/d", DIR), node(b"/d/f", FILE, 7), node(b"/d/l", LINK)):
        table.hooks.node(one)
        never.hooks.node(one)
    for seconds, printed in ((9.0, False), (10.0, True), (19.0, False), (20.5, True)):
        now[0] = seconds
        table.hooks.objects(1, 5, 7)
        never.hooks.objects(1, 5, 7)
        out = capsys.readouterr().out
        assert bool(out) == printed
        if printed:
            assert "Name|" not in out
            assert [line.partition("|")[0] for line in out.splitlines() if line] == sorted(STATISTICS)
            found = values(out)
            assert (found["cntFile"], found["cntDir"], found["cntSymlink"], found["cntByte"]) == (1, 1, 1, 7)


def test_nobody_reading_the_table_is_no_reason_to_break_off(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        dropin._print("a|1|b\n")
        dropin._print("a|2|b\n")
        monkeypatch.undo()


# -------------------------------------------------------------------------------------------------- with other commands


def test_export_and_the_drop_in_take_turns_on_one_destination(site: Site) -> None:
    where = ["--storage", site.repos / FQRN, "--key", site.repos / "keys", "-t", f"{FQRN}.spec", "-z", site.base]
    expected = below(REV3, b"/special/swap")
    for _ in range(2):
        site.export()
        assert site.differences() == []
        assert "|0|" in site.export().out
        call("export", "-r", FQRN, *where).ok()
        projection = AS_ROOT.without_setid()
        assert differences_beside_marker(site.base, FQRN, expected, projection, marked=False) == []


def test_a_destination_of_the_original_is_taken_over_by_itself(site: Site) -> None:
    site.spec(golden.spec_file("slide").read_text())
    site.export()
    done, site.base = site.base, site.folder / "original"
    build_original(site.base, Export(REV2, "slide"), _contents(site, done))
    result = site.export()
    assert "taken over from the original" in result.err
    assert site.differences("slide") == []
    assert values(result.out)["dataFilesDeduped"] > 0
    assert not (site.base / ".data" / "old").exists()


def test_a_store_elsewhere_is_used_from_then_on_and_by_other_destinations_too(site: Site) -> None:
    store = site.folder / "far" / "store"
    site.export("-y", "far/store")
    assert site.differences() == []
    assert sorted(os.listdir(site.base / ".data")) == ["lock", "store.json", "tmp"]
    assert store.is_dir()
    for words in ([], ["-y", "far/store"], [f"--dest-cache={store}/"]):
        assert values(site.export(*words).out)["dataFiles"] == 0
    refused = site.export("-y", "another", code=1)
    assert f"its store is {store}" in refused.err
    assert not (site.folder / "another").exists()
    one, site.base = site.base, site.folder / "second"
    found = values(site.export("-yfar/store").out)
    assert found["dataFiles"] == 0
    assert found["dataFilesDeduped"] == found["cntFile"] > 0
    assert site.differences() == []
    assert {Path(file.read_text()) for file in (store / "bases").iterdir()} == {one, site.base}


def test_a_store_elsewhere_of_the_original_is_taken_over_by_itself(site: Site) -> None:
    site.spec(golden.spec_file("slide").read_text())
    site.export()
    contents, site.base = _contents(site, site.base), site.folder / "original"
    build_original(site.base, Export(REV2, "slide"), contents)
    (site.base / ".data").rename(site.folder / "cache")
    site.config("cvmfs.local", (site.folder / "cvmfs.local").read_text() + "CVMFS_REPOSITORY_TAG=rev2\n")
    result = site.export("-y", "cache")
    assert re.search(r"taken over from the original: \d+ stored files; 0 fetched anew", result.err)
    assert site.differences("slide", REV2) == []
    assert not (site.folder / "cache" / "old").exists()
    assert sorted(os.listdir(site.base / ".data")) == ["lock", "store.json", "tmp"]


def _contents(site: Site, done: Path) -> Path:
    text = (site.folder / "cvmfs.local").read_text()
    site.config("cvmfs.local", text + "CVMFS_REPOSITORY_TAG=rev2\n")
    site.run("-r", FQRN, "-x", done)
    site.config("cvmfs.local", text)
    return done / FQRN
