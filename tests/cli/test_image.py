"""``shrinkwrap image`` and what belongs to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.calling import Result, call
from support import golden

FQRN = "small.cern.ch"
SPEC = "/lcg/releases/Python/*\n"


class Place:
    """A folder for images of the test repositories."""

    def __init__(self, repos: Path, folder: Path) -> None:
        self.repos = repos
        self.folder = folder
        self.spec = folder / "the.spec"
        self.spec.write_text(SPEC)

    def image(self, *more: str | Path, fqrn: str = FQRN, code: int = 0, output: str = "x.squashfs") -> Result:
        return call(
            *("image", "-r", fqrn, "--storage", self.repos / fqrn, "--key", self.repos / "keys" / f"{fqrn}.pub"),
            *("-t", self.spec, "-o", self.folder / output, "--workers", "1", *more),
        ).ends_with(code)


@pytest.fixture
def place(repos: Path, tmp_path: Path) -> Place:
    return Place(repos, tmp_path)


def test_an_image_is_made_and_people_are_told_how_to_use_it(place: Place) -> None:
    told = place.image().out.splitlines()
    path = place.folder / "x.squashfs"
    assert path.read_bytes()[:4] == b"hsqs"
    assert f"apptainer exec -B {path}:/cvmfs:image-src=/ CONTAINER COMMAND" in told
    assert f"mount -t squashfs -o loop,ro {path} /cvmfs" in told
    assert any(line.startswith("sha256 ") and len(line) == 71 for line in told)


def test_programs_are_told_in_json(place: Place) -> None:
    told = place.image("--json", "--tag", "rev1").json
    assert told["reason"] == "built"
    assert told["size"] == (place.folder / "x.squashfs").stat().st_size
    assert told["repositories"][0]["tag"] == "rev1"
    assert told["repositories"][0]["lines"][0]["matched"] > 100
    assert told["counts"]["verbatim"] > 0


def test_info_and_verify_read_what_was_made(place: Place) -> None:
    made = place.image("--json").json
    path = place.folder / "x.squashfs"
    info = call("image", "info", path, "--json").ends_with(0).json
    assert info["repositories"][0]["root_hash"] == made["repositories"][0]["root_hash"]
    assert "small.cern.ch revision" in call("image", "info", path).ends_with(0).out
    assert call("image", "verify", path, "--json").ends_with(0).json["reason"] == "sound"
    assert "sound" in call("image", "verify", path).ends_with(0).out


def test_verify_ends_with_an_error_for_a_damaged_image(place: Place) -> None:
    place.image()
    path = place.folder / "x.squashfs"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    assert call("image", "verify", path, "--json").ends_with(6).json["reason"] == "differs"
    assert call("image", "verify", path).ends_with(6).out


@pytest.mark.parametrize("command", ["info", "verify"])
def test_what_is_no_image_is_told_as_such(command: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    call("image", command, tmp_path / "x").ends_with(6)
    call("image", command, tmp_path / "missing").ends_with(2)


def test_several_repositories_share_options_or_have_their_own(place: Place) -> None:
    done = call(
        *("image", "-r", FQRN, "-r", "mixed.cern.ch", "--storage", place.repos / "@fqrn@"),
        *("--key", place.repos / "keys", "-t", place.spec, "-t", f"mixed.cern.ch={golden.spec_file('full')}"),
        *("--tag", f"{FQRN}=rev1", "--tag", "mixed.cern.ch=rev2", "-o", place.folder / "both.sqsh", "--json"),
        *("--workers", "1"),
    ).ends_with(0)
    assert [(one["fqrn"], one["tag"]) for one in done.json["repositories"]] == [
        ("mixed.cern.ch", "rev2"),
        (FQRN, "rev1"),
    ]


@pytest.mark.parametrize(
    "more",
    [
        ["-o", "x.txt"],
        ["--format", "floppy"],
        ["--block-size", "100K"],
        ["--block-size", "many"],
        ["--comp", "rar"],
        ["--level", "17"],
        ["--revision", "one"],
        ["--tag", "a", "--tag", "b"],
        ["-r", FQRN],
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense_are_refused(more: list[str], place: Place) -> None:
    place.image(*more, code=2)
    assert not list(place.folder.glob("x.*"))


def test_an_image_needs_a_repository_and_a_name(place: Place) -> None:
    call("image", "-o", place.folder / "x.squashfs").ends_with(2)
    call("image", "-r", FQRN).ends_with(2)
    call("image").ends_with(2)


def test_compressors_and_block_sizes_can_be_chosen(place: Place) -> None:
    place.image("--comp", "zstd", "--block-size", "64k")
    told = call("image", "info", place.folder / "x.squashfs", "--json").ends_with(0).json
    assert (told["compressor"], told["block_size"]) == ("zstd", 65536)


def test_strict_makes_errors_of_warnings(place: Place) -> None:
    place.spec.write_text("/no/such/thing\n")
    place.image("--strict", code=1)
    assert not (place.folder / "x.squashfs").exists()


def test_an_export_becomes_an_image_without_any_server(place: Place) -> None:
    base = place.folder / "base"
    call(
        *("export", "-r", FQRN, "--storage", place.repos / FQRN, "--key", place.repos / "keys" / f"{FQRN}.pub"),
        *("-t", place.spec, "-z", base, "-q", "--workers", "1"),
    ).ends_with(0)
    words = ("image", "--export", base, "-o", place.folder / "x.squashfs", "--workers", "1", "--json")
    told = call(*words).ends_with(0).json
    assert told["counts"]["fetched"] == 0
    assert [one["fqrn"] for one in told["repositories"]] == [FQRN]
    assert call("image", "info", place.folder / "x.squashfs", "--json").ends_with(0).json["source"] == "export"
    call(*words, "-t", place.spec).ends_with(2)
    call("image", "--export", place.folder / "none", "-o", place.folder / "y.squashfs").ends_with(8)


def test_an_older_image_saves_fetching(place: Place) -> None:
    place.image()
    told = place.image("--from", place.folder / "x.squashfs", "--json", output="y.squashfs").json
    assert told["counts"]["fetched"] == 0
    assert (place.folder / "y.squashfs").read_bytes() == (place.folder / "x.squashfs").read_bytes()
