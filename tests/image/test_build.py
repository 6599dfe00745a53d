"""Real repositories as images, held against what their mounts show, path by path."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from image.building import SQUASHFS, from_server, from_storage, leftovers, listed, part, request
from image.squashing import mounted, opened, unsquashed
from support import golden
from support.golden import Export, Pinned
from support.listing import compare, list_tree
from support.servers import RepoServer

from shrinkwrap.errors import CorruptObject, LockedError, MissingObject, UsageError, WarningsAreErrors
from shrinkwrap.image import build as building
from shrinkwrap.image.build import build
from shrinkwrap.image.laying import Laying
from shrinkwrap.image.partial import Partial
from shrinkwrap.image.provenance import IMAGE, IMAGE_BYTES, Made, statement_path
from shrinkwrap.image.request import Part
from shrinkwrap.image.squashfs.recipe import Recipe
from shrinkwrap.record.statement import STATEMENT_BYTES, Statement

SMALL = Pinned("small.cern.ch", "rev2")
MIXED = Pinned("mixed.cern.ch", "rev3")
#: One of each kind; all in long runs.
_USUAL = {
    SMALL,
    MIXED,
    Pinned("external.cern.ch", "rev1"),
    Pinned("nodes.cern.ch", "rev1"),
    Pinned("legacy_aufs.cern.ch", "head"),
    Pinned("testmigration.cern.ch", "rev2"),
    Pinned("plain.cern.ch", "rev1"),
    Pinned("rmd160.cern.ch", "rev2"),
}
EVERY = [
    pytest.param(at, id=str(at), marks=[] if at in _USUAL else [pytest.mark.long]) for at in golden.pinned()
] or golden.params([])
#: Specifications that take all paths that a walk can take; the others in long runs.
_TELLING = ("meta", "reinclude")
SPECS = [
    pytest.param(one, id=str(one), marks=[] if one.at == SMALL and one.spec in _TELLING else [pytest.mark.long])
    for one in golden.exports()
    if one.spec != "full"
] or golden.params([])


@pytest.fixture(scope="module")
def image(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the main repository."""
    folder = tmp_path_factory.mktemp("image")
    output = folder / "small.squashfs"
    build(request(output, part(SMALL, from_storage(SMALL, repos, folder))))
    return output


@pytest.mark.parametrize("at", EVERY)
def test_an_image_holds_what_the_mount_shows(at: Pinned, repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    build(request(output, part(at, from_storage(at, repos, tmp_path))))
    assert compare(golden.mounted(at), listed(output, at.fqrn), SQUASHFS) == []
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("chosen", SPECS)
def test_a_specification_brings_the_paths_that_it_always_brought(chosen: Export, repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    source = from_storage(chosen.at, repos, tmp_path)
    build(request(output, part(chosen.at, source, chosen.spec, rules="2.12")))
    assert compare(golden.exported(chosen), listed(output, chosen.at.fqrn), SQUASHFS) == []


def test_the_kernel_shows_what_the_mount_of_the_repository_shows(image: Path) -> None:
    with mounted(image) as tree:
        assert compare(golden.mounted(SMALL), list_tree(tree / SMALL.fqrn), SQUASHFS) == []
        assert sorted(os.listdir(tree)) == [".provenance", SMALL.fqrn]


@pytest.mark.root
def test_unsquashfs_extracts_what_the_mount_of_the_repository_shows(image: Path, tmp_path: Path) -> None:
    tree = unsquashed(image, tmp_path / "tree")
    assert compare(golden.mounted(SMALL), list_tree(tree / SMALL.fqrn), SQUASHFS) == []


def test_workers_and_the_kind_of_source_make_no_difference_to_the_bytes(
    image: Path, repo_server: RepoServer, repos: Path, tmp_path: Path
) -> None:
    by_many = tmp_path / "many.squashfs"
    result = build(request(by_many, part(SMALL, from_server(SMALL, repo_server)), workers=3))
    assert result.sha256
    assert by_many.read_bytes() == image.read_bytes()


def test_an_image_says_what_it_is_and_how_it_was_made(image: Path) -> None:
    with opened(image) as one:
        made = Made.from_bytes(one.read(IMAGE, IMAGE_BYTES) or b"")
        statement = Statement.from_bytes(one.read(statement_path(SMALL.fqrn), STATEMENT_BYTES) or b"")
    assert made.recipe == Recipe().to_json()
    assert [(found.fqrn, found.revision) for found in made.repositories] == [(SMALL.fqrn, statement.revision)]
    assert statement.fqrn == SMALL.fqrn
    assert statement.counts["files"] == sum(record.type == "file" for record in golden.mounted(SMALL))


def test_several_repositories_lie_beside_each_other(repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "both.squashfs"
    others = [MIXED, Pinned("plain.cern.ch", "rev2")]
    build(request(output, *(part(at, from_storage(at, repos, tmp_path)) for at in reversed(others))))
    for at in others:
        assert compare(golden.mounted(at), listed(output, at.fqrn), SQUASHFS) == []
    with opened(output) as one:
        assert [entry.path for entry, _ in one.walk() if entry.path.count(b"/") == 1] == [
            b"/.provenance",
            b"/mixed.cern.ch",
            b"/plain.cern.ch",
        ]


def test_set_id_bits_go_unless_they_are_asked_for(repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    result = build(request(output, part(SMALL, from_storage(SMALL, repos, tmp_path)), keep_suid=False))
    assert compare(golden.mounted(SMALL), listed(output, SMALL.fqrn), SQUASHFS.without_setid()) == []
    assert any("set-user-id" in line for line in result.warnings())


@pytest.fixture
def python(repos: Path, tmp_path: Path) -> Part:
    """Files of all sizes up to some hundred kilobytes."""
    spec = tmp_path / "python.spec"
    spec.write_text("/lcg/releases/Python/*\n")
    return part(SMALL, from_storage(SMALL, repos, tmp_path), spec)


def test_objects_are_taken_as_they_are_unless_another_compressor_is_wanted(python: Part, tmp_path: Path) -> None:
    gzip = build(request(tmp_path / "gzip", python))
    zstd = build(request(tmp_path / "zstd", python, recipe=Recipe(65536, "zstd", 3)))
    assert gzip.counts["verbatim"] > 50
    assert zstd.counts.get("verbatim", 0) == 0
    assert listed(tmp_path / "zstd", SMALL.fqrn) == listed(tmp_path / "gzip", SMALL.fqrn)


def test_trusting_the_catalogs_gives_the_same_blocks(python: Part, tmp_path: Path) -> None:
    checked = build(request(tmp_path / "checked", python))
    trusting = build(request(tmp_path / "trusting", python, trust=True))
    assert trusting.counts["verbatim"] == checked.counts["verbatim"]
    assert listed(tmp_path / "trusting", SMALL.fqrn) == listed(tmp_path / "checked", SMALL.fqrn)


# ----------------------------------------------------------------------------------------------- interruptions


class StopError(Exception):
    """What a test breaks a build off with."""


def test_an_interrupted_build_goes_on_from_what_it_had(
    image: Path, repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "image.squashfs"
    wanted = request(output, part(SMALL, from_storage(SMALL, repos, tmp_path)))

    def stop(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Laying, "flush", stop)
        with pytest.raises(StopError):
            build(wanted)
    assert not output.exists()
    again = build(wanted)
    assert again.counts["fetched"] == 0
    assert again.counts["adopted"] >= again.counts["objects"]
    assert output.read_bytes() == image.read_bytes()
    assert leftovers(tmp_path) == []


def test_blocks_that_were_damaged_since_are_brought_anew(
    image: Path, repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "image.squashfs"
    wanted = request(output, part(SMALL, from_storage(SMALL, repos, tmp_path)))

    def stop(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(building, "write_tables", stop)
        with pytest.raises(StopError):
            build(wanted)
    largest = max((tmp_path / "image.squashfs.partial").glob("segment-*"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[1000] ^= 1
    largest.write_bytes(data[:-5000])
    again = build(wanted)
    assert again.counts["fetched"] > 0
    assert again.counts["adopted"] > 0
    assert output.read_bytes() == image.read_bytes()


def test_what_another_recipe_left_is_not_used(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "image.squashfs"
    wanted = request(output, part(MIXED, from_storage(MIXED, repos, tmp_path)))

    def stop(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(Laying, "flush", stop)
        with pytest.raises(StopError):
            build(wanted)
    again = build(dataclasses.replace(wanted, recipe=Recipe(65536)))
    assert again.counts["adopted"] == 0
    assert any("another recipe" in line for line in again.notices)
    assert compare(golden.mounted(MIXED), listed(output, MIXED.fqrn), SQUASHFS) == []


def test_a_second_build_of_the_same_image_is_refused_meanwhile(repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    wanted = request(output, part(MIXED, from_storage(MIXED, repos, tmp_path)))
    partial = Partial(str(output), wanted.recipe, lambda line: None)
    try:
        with pytest.raises(LockedError):
            build(wanted)
    finally:
        partial.close()


def test_the_old_image_stays_until_the_new_one_is_complete(
    repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "image.squashfs"
    output.write_bytes(b"the old one")
    wanted = request(output, part(MIXED, from_storage(MIXED, repos, tmp_path)))

    def stop(*_: object) -> None:
        raise StopError

    with monkeypatch.context() as patch:
        patch.setattr(building, "sync_folder", stop)
        patch.setattr(os, "fsync", stop)
        with pytest.raises(StopError):
            build(wanted)
    assert output.read_bytes() == b"the old one"


# ------------------------------------------------------------------------------------------------------ errors


def damaged(repos: Path, folder: Path, change: str) -> tuple[Path, str]:
    """A copy of a repository's storage without one object, or with another content in it; which one."""
    import shutil

    copy = folder / "copy"
    shutil.copytree(repos / MIXED.fqrn, copy)
    name = next(
        file
        for file in sorted((copy / "data").glob("??/*"))
        if file.name[-1] not in "CHXPM" and 200 < file.stat().st_size < 2000 and "-" in file.name
    )
    if change == "missing":
        name.unlink()
    else:
        data = bytearray(name.read_bytes())
        data[-1] ^= 1
        name.write_bytes(data)
    return copy, name.parent.name + name.name


@pytest.mark.parametrize(("change", "error"), [("missing", MissingObject), ("corrupt", CorruptObject)])
@pytest.mark.parametrize("trust", [False, True])
def test_an_object_that_cannot_be_had_makes_no_image(
    change: str, error: type[Exception], trust: bool, repos: Path, tmp_path: Path
) -> None:
    copy, _ = damaged(repos, tmp_path, change)
    source = dataclasses.replace(from_storage(MIXED, repos, tmp_path), storage=str(copy))
    output = tmp_path / "image.squashfs"
    with pytest.raises(error, match="1 object could not be had"):
        build(request(output, part(MIXED, source), trust=trust))
    assert not output.exists()


def test_strict_refuses_warnings_before_anything_is_fetched(repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    with pytest.raises(WarningsAreErrors):
        build(request(output, part(SMALL, from_storage(SMALL, repos, tmp_path)), strict=True, keep_suid=False))
    assert not output.exists()


def test_requests_that_make_no_sense_are_refused(repos: Path, tmp_path: Path) -> None:
    one = part(MIXED, from_storage(MIXED, repos, tmp_path))
    for wrong in (
        request(tmp_path / "image"),
        request(tmp_path / "image", one, one),
        request(tmp_path, one),
        request(tmp_path / "image", one, workers=-1),
    ):
        with pytest.raises(UsageError):
            build(wrong)
