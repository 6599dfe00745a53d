"""What an export reports: counts, lines of the spec, warnings; and refusing them with --strict."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cli.calling import Result, call
from support import golden
from support.golden import Pinned
from support.listing import list_tree
from support.servers import RepoServer

from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.request import WARNINGS

FQRN = "small.cern.ch"
VARIABLES = [word for name, value in golden.ENVIRONMENT.items() for word in ("--env", f"{name}={value}")]
#: What the reference tool made of each specification; all of it once is enough.
SMALL_EXPORTS = [
    one for one in golden.exports() if one.at.fqrn == FQRN and (one.spec != "full" or one.at.rev == "rev3")
]
#: A branch with nothing to warn of.
CLEAN = "/special/swap/*\n"


@pytest.fixture
def place(repos: Path, scratch: Path) -> Place:
    return Place(repos, scratch)


class Place:
    """A destination, and exports to it."""

    def __init__(self, repos: Path, folder: Path) -> None:
        self.repos = repos
        self.folder = folder
        self.base = folder / "base"

    def export(self, spec: str | bytes, *more: str, fqrn: str = FQRN, code: int = 0, variables: bool = True) -> Result:
        file = self.folder / "the.spec"
        file.write_bytes(spec.encode() if isinstance(spec, str) else spec)
        return call(
            *("export", "-r", fqrn, "--storage", self.repos / fqrn, "--key", self.repos / "keys" / f"{fqrn}.pub"),
            *("-t", file, "-z", self.base, *(VARIABLES if variables else []), *more),
        ).ends_with(code)

    def report(self, spec: str | bytes, *more: str, **options: Any) -> Any:
        return self.export(spec, "--json", *more, **options).json

    def tree(self, fqrn: str = FQRN) -> object:
        return list_tree(self.base / fqrn) if (self.base / fqrn).exists() else None


def paths_below(branch: bytes, rev: str = "rev3") -> int:
    return sum(
        record.path == branch or record.path.startswith(branch + b"/") for record in golden.mounted(Pinned(FQRN, rev))
    )


# -------------------------------------------------------------------------------------------------------------- results


def test_the_result_tells_what_was_made(place: Place) -> None:
    told = place.report("/special/swap/*\n/README\n")
    assert (told["command"], told["fqrn"], told["reason"], told["exit_code"]) == ("export", FQRN, "exported", 0)
    kinds = {"file": "files", "dir": "dirs", "symlink": "symlinks"}
    listed = list_tree(place.base / FQRN)
    for kind, name in kinds.items():
        assert told["counts"].get(name, 0) == sum(record.type == kind for record in listed)
    assert told["warnings"] == []
    again = place.report("/special/swap/*\n/README\n")
    assert again["reason"] == "unchanged"
    assert again["root_hash"] == told["root_hash"]


@pytest.mark.parametrize("link_mode", ["hardlink", "reflink", "copy"])
def test_every_link_mode_gives_a_tree(link_mode: str, place: Place) -> None:
    assert place.report(CLEAN, "--link-mode", link_mode)["reason"] == "exported"


def test_options_of_the_classic_tool_are_understood(place: Place) -> None:
    file = place.folder / "the.spec"
    file.write_text(CLEAN)
    where = ["--storage", place.repos / FQRN, "--key", place.repos / "keys"]
    call("export", "--repo", FQRN, *where, "--spec-file", file, "--dest-base", place.base, "-j", "4", "-p", "0").ok()
    assert (place.base / FQRN / "special" / "swap").is_dir()


def test_the_spec_is_looked_for_under_the_name_of_the_repository(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / f"{FQRN}.spec").write_text(CLEAN)
    monkeypatch.chdir(place.folder)
    call("export", "-r", FQRN, "--storage", place.repos / FQRN, "--key", place.repos / "keys", "-z", "base").ok()
    assert (place.base / FQRN / "special" / "swap").is_dir()


def test_several_specs_are_joined(place: Place) -> None:
    more = place.folder / "more.spec"
    more.write_text("/README\n")
    told = place.report(CLEAN, "-t", str(more))
    assert [line["line"] for line in told["lines"]] == ["/special/swap/*", "/README"]
    assert (place.base / FQRN / "README").is_file()


# ---------------------------------------------------------------------------------------------------- lines of the spec


def test_each_line_tells_what_it_matched(place: Place) -> None:
    spec = "/special/many/*\n/README\n^/lcg/*\n/nowhere/*\n/lcg/README\n!/special/many/f0\n"
    told = place.report(spec)
    lines = {line["line"]: line["matched"] for line in told["lines"]}
    names = [record.path for record in golden.mounted(Pinned(FQRN, "rev3"))]
    children = sum(path.startswith(b"/lcg/") and path.count(b"/") == 2 for path in names)
    assert list(lines) == spec.splitlines()
    hidden = paths_below(b"/special/many/f0")
    assert lines["/special/many/*"] == paths_below(b"/special/many") - hidden
    assert lines["/README"] == lines["/lcg/README"] == 1
    assert lines["^/lcg/*"] == children + 1
    assert lines["/nowhere/*"] == 0
    assert lines["!/special/many/f0"] is None


def test_a_line_that_matches_nothing_is_a_warning(place: Place) -> None:
    told = place.report(
        "/special/swap/*\n/nowhere/at/all/*\n!/neither/*\n/README/*\n/lcg/g[x]*/*\n", "--spec-rules", "2.12"
    )
    warnings = [line for line in told["warnings"] if WARNINGS["line_without_match"] in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("2 ")
    assert f"/nowhere/at/all/* ({place.folder}/the.spec:2)" in warnings[0]
    assert "/lcg/g[x]*/*" in warnings[0]
    assert "neither" not in warnings[0]
    assert told["left_out"]["line_without_match"] == 2
    assert told["exit_code"] == 0


def test_a_line_that_another_replaces_is_no_warning(place: Place) -> None:
    told = place.report("/special/swap/*\n/special/swap/*\n/README\n/README\n")
    assert [line["matched"] for line in told["lines"]] == [None, paths_below(b"/special/swap"), None, 1]
    assert told["warnings"] == []


def test_a_directory_without_a_star_is_a_warning_if_it_has_anything_in_it(place: Place) -> None:
    mounted = golden.mounted(Pinned(FQRN, "rev3"))
    names = {record.path for record in mounted}
    empty = next(
        one.path
        for one in mounted
        if one.type == "dir"
        and one.path.startswith(b"/special/empty")
        and not any(x.startswith(one.path + b"/") for x in names)
    )
    spec = b"\n".join(
        [b"/lcg/views", b"/lcg/contrib", b"/README", empty, b"^/special/swap", b"/special/own", b"/special/own/*"]
    )
    told = place.report(spec)
    assert told["left_out"]["directory_without_star"] == 3
    (warning,) = [line for line in told["warnings"] if WARNINGS["directory_without_star"] in line]
    # In order of the walk. /lcg/contrib is the mount point of a catalog, which need not be fetched for this.
    assert [warning.index(name) for name in ("/lcg/contrib", "/lcg/views", "/special/swap")] == sorted(
        warning.index(name) for name in ("/lcg/contrib", "/lcg/views", "/special/swap")
    )
    assert f"{place.folder}/the.spec:1" in warning
    assert "/special/own" not in warning
    assert empty.decode() not in warning


def test_a_directory_on_the_way_is_not_without_a_star(place: Place) -> None:
    assert place.report("/special\n/special/swap/*\n/lcg\n^/lcg/*\n")["left_out"] == {}


@pytest.mark.parametrize("chosen", golden.params(SMALL_EXPORTS))
def test_the_counts_of_all_lines_agree_with_what_comes_out(chosen: golden.Export, place: Place) -> None:
    text = golden.spec_file(chosen.spec).read_bytes()
    told = place.report(text, "--tag", chosen.at.rev, "--spec-rules", "2.12")
    lines = parse(text, rules="2.12").lines
    assert [line["line"] for line in told["lines"]] == [line.text for line in lines]
    counted = [line["matched"] for line in told["lines"] if line["matched"] is not None]
    # What is matched and cannot come out is counted, too; what lies on the way only is not; lines may overlap.
    most = len(golden.exported_paths(chosen)) + told["left_out"].get("special_file", 0)
    assert all(0 <= number <= most for number in counted)
    assert chosen.spec != "full" or counted == [most]
    assert told["left_out"].get("line_without_match", 0) == counted.count(0)


# --------------------------------------------------------------------------------------------------------------- strict

STRICT = [
    pytest.param("/nowhere/*\n", "line_without_match", FQRN, id="line without match"),
    pytest.param("/lcg/views\n", "directory_without_star", FQRN, id="directory without star"),
    pytest.param("/special/perm/*\n", "set_id_stripped", FQRN, id="set-id bits"),
    pytest.param("/special/links/*\n", "unset_variable", FQRN, id="unset variables"),
    pytest.param("/special/fifo/*\n", "special_file", FQRN, id="fifo"),
    pytest.param("/nodes/dev/*\n", "special_file", "nodes.cern.ch", id="devices"),
    pytest.param("/*\n", "empty_link_target", "nodes.cern.ch", id="empty link target"),
]


@pytest.mark.parametrize(("spec", "what", "fqrn"), STRICT)
def test_strict_refuses_before_anything_is_touched(spec: str, what: str, fqrn: str, place: Place) -> None:
    if what == "special_file" and fqrn == FQRN and paths_below(b"/special/fifo") < 2:
        spec, fqrn = "/nodes/*\n", "nodes.cern.ch"
    result = place.export(spec, "--strict", "--json", fqrn=fqrn, code=1)
    assert (result.json["reason"], result.json["exit_code"]) == ("warnings", 1)
    assert WARNINGS[what] in result.json["error"]
    assert place.tree(fqrn) is None
    assert not (place.base / ".provenance" / fqrn / "record.json").exists()
    assert not list((place.base / ".data").glob("??"))
    # Without it the same is a warning.
    told = place.report(spec, fqrn=fqrn)
    assert told["left_out"][what] > 0
    # And when it is there already, asking for strictness is not answered by "nothing new".
    before = place.tree(fqrn)
    place.export(spec, "--strict", fqrn=fqrn, code=1)
    assert place.tree(fqrn) == before


def test_strict_refuses_the_warnings_of_the_spec_itself(place: Place) -> None:
    spec = "/special/swap/*\n/README/*\n/README\n"
    assert "replaces" in place.export(spec, "--strict", "--json", code=1).json["error"]
    assert place.tree() is None


def test_strict_leaves_an_export_that_is_there_alone(place: Place) -> None:
    place.export(CLEAN, "--tag", "rev1")
    before = place.tree(), (place.base / ".provenance" / FQRN / "record.json").read_bytes()
    place.export(CLEAN + "/nowhere\n", "--strict", code=1)
    assert (place.tree(), (place.base / ".provenance" / FQRN / "record.json").read_bytes()) == before


def test_strict_accepts_what_gives_no_cause(place: Place) -> None:
    assert place.report(CLEAN, "--strict")["reason"] == "exported"
    assert place.report(CLEAN, "--strict")["reason"] == "unchanged"
    lenient = place.folder / "lenient"
    place.base = lenient
    place.export(CLEAN)
    assert place.report(CLEAN, "--strict")["reason"] == "unchanged"


def test_strict_accepts_what_an_option_takes_care_of(place: Place) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    spec = "/special/perm/*\n"
    place.export(spec, "--strict", code=1)
    assert place.report(spec, "--strict", "--keep-suid")["reason"] == "exported"


def test_strict_costs_no_requests_beyond_the_catalogs(repos: Path, repo_server: RepoServer, scratch: Path) -> None:
    (scratch / "spec").write_text("/special/nest/*\n/nowhere\n")
    variant = repo_server.with_files()
    call(
        *("export", "-r", FQRN, "--server", variant.repo(FQRN), "--key", repos / "keys", "-t", scratch / "spec"),
        *("-z", scratch / "base", "--strict"),
    ).ends_with(1)
    asked = [one.path for one in variant.requests() if "/data/" in one.path]
    assert all(path[-1] in "CX" for path in asked)
    assert len(asked) == len(set(asked)) > 2


# ------------------------------------------------------------------------------------------------------- names are data


def test_names_in_warnings_are_data(place: Place) -> None:
    result = place.export(b"/special/swap/*\n/\x1b[2J\x07/*\n/[red]x[/red]\n!/[bold]\x1b[1m/*\n")
    assert result.err.replace("\n", "").isprintable()
    assert "\\x1b[2J\\x07" in result.err
    assert "/[red]x[/red]" in result.err
    assert "[bold]" in result.err


def test_names_in_errors_are_data(repos: Path, repo_server: RepoServer, scratch: Path) -> None:
    rows = [row for row in golden.rows(f"{FQRN}/rev3.jsonl") if row["type"] == "file" and "\n" in row["path"]]
    hashes = {row["hash"] for row in rows}
    assert hashes
    missing = [f"{FQRN}/data/{one[:2]}/{one[2:]}" for one in hashes]
    variant = repo_server.with_files(missing=missing)
    (scratch / "spec").write_text("/special/names/*\n")
    result = call(
        *("export", "-r", FQRN, "--server", variant.repo(FQRN), "--key", repos / "keys", "-t", scratch / "spec"),
        *("-z", scratch / "base", "--json"),
    ).ends_with(5)
    assert result.err.replace("\n", "").isprintable()
    assert len(result.err.splitlines()) == 2
    assert "\n" not in result.json["error"]


def test_a_listing_may_be_asked_for_at_a_pipe_or_device_which_stays_one(place: Place) -> None:
    place.report(CLEAN, "--listing", str(place.folder / "listing"))
    pipe, link = place.folder / "pipe", place.folder / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for given in (pipe, link):
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            place.report(CLEAN, "--listing", str(given))
            assert os.read(reader, 1 << 16) == (place.folder / "listing").read_bytes()
        finally:
            os.close(reader)
        assert pipe.is_fifo()
    assert link.is_symlink()
    assert {path.name for path in place.folder.iterdir()} == {"base", "link", "listing", "pipe", "the.spec"}


def test_an_empty_destination_is_refused(place: Place) -> None:
    assert "no destination" in place.export(CLEAN, "-z", "", code=2).err
