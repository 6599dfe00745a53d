"""Images from exports, and with blocks of older images."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from image.building import SQUASHFS, from_storage, listed, part, request
from support import golden
from support.golden import Pinned
from support.listing import compare

from shrinkwrap.errors import CorruptObject, DestinationError, UsageError
from shrinkwrap.image.build import build
from shrinkwrap.image.exported import parts_of
from shrinkwrap.image.request import ImageResult, Part
from shrinkwrap.image.squashfs.recipe import Recipe
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.export import export
from shrinkwrap.tree.request import ExportRequest

OLD, NEW = Pinned("small.cern.ch", "rev1"), Pinned("small.cern.ch", "rev2")
MIXED = Pinned("mixed.cern.ch", "rev3")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "sync", lambda self: None)


def exported(at: Pinned, repos: Path, folder: Path) -> Path:
    """An export of everything, by whoever runs this, with everything claimed: the disk shows nobody's owners."""
    base = folder / "base"
    one = part(at, from_storage(at, repos, folder))
    export(
        ExportRequest(
            one.source, one.keys, one.spec, str(base), pin=one.pin, variables=one.variables, claim=True, workers=1
        )
    )
    return base


@pytest.fixture(scope="module")
def base(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Base, "sync", lambda self: None)
        return exported(NEW, repos, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def old(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the older revision."""
    folder = tmp_path_factory.mktemp("old")
    build(request(folder / "old.squashfs", part(OLD, from_storage(OLD, repos, folder))))
    return folder / "old.squashfs"


@pytest.fixture(scope="module")
def new(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The newer one, made from nothing."""
    folder = tmp_path_factory.mktemp("new")
    build(request(folder / "new.squashfs", part(NEW, from_storage(NEW, repos, folder))))
    return (folder / "new.squashfs").read_bytes()


def newer(repos: Path, folder: Path) -> Part:
    return part(NEW, from_storage(NEW, repos, folder))


def from_export(base: Path, output: Path, *names: str) -> ImageResult:
    return build(request(output, *parts_of(str(base), names)))


# ------------------------------------------------------------------------------------------------- older images


def test_with_an_older_image_only_what_is_new_is_fetched(old: Path, new: bytes, repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "new.squashfs"
    result = build(request(output, newer(repos, tmp_path), base=str(old)))
    assert output.read_bytes() == new
    assert 0 < result.counts["fetched"] < result.counts["reused"]
    assert result.counts["fetched"] + result.counts["reused"] == result.counts["objects"]


def test_an_image_may_be_renewed_in_place(old: Path, new: bytes, repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    output.write_bytes(old.read_bytes())
    build(request(output, newer(repos, tmp_path), base=str(output)))
    assert output.read_bytes() == new


def test_damage_to_the_older_image_is_not_taken_over(old: Path, new: bytes, repos: Path, tmp_path: Path) -> None:
    damaged, output = tmp_path / "damaged", tmp_path / "new.squashfs"
    data = bytearray(old.read_bytes())
    for at in range(200, 200_000, 20_000):
        data[at] ^= 4
    damaged.write_bytes(data)
    result = build(request(output, newer(repos, tmp_path), base=str(damaged)))
    assert output.read_bytes() == new
    assert any("damaged" in line for line in result.notices)


@pytest.mark.parametrize("content", [b"", b"no image", bytes(100_000)])
def test_nothing_is_taken_from_what_is_no_image(content: bytes, new: bytes, repos: Path, tmp_path: Path) -> None:
    other, output = tmp_path / "other", tmp_path / "new.squashfs"
    other.write_bytes(content)
    result = build(request(output, newer(repos, tmp_path), base=str(other)))
    assert output.read_bytes() == new
    assert result.counts["reused"] == 0
    assert result.notices


def test_an_image_of_another_recipe_changes_nothing(old: Path, repos: Path, tmp_path: Path) -> None:
    one = part(MIXED, from_storage(MIXED, repos, tmp_path))
    result = build(request(tmp_path / "new", one, base=str(old), recipe=Recipe(65536)))
    assert result.counts["reused"] == 0
    assert any("another recipe" in line for line in result.notices)


def test_an_older_image_that_is_not_there_is_an_error(repos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        build(request(tmp_path / "new", newer(repos, tmp_path), base=str(tmp_path / "none")))


# ------------------------------------------------------------------------------------------------------ exports


def test_an_image_of_an_export_is_what_the_mount_shows_whatever_the_disk_could_hold(base: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    result = from_export(base, output)
    assert compare(golden.mounted(NEW), listed(output, NEW.fqrn), SQUASHFS) == []
    assert result.counts["fetched"] == 0
    assert result.counts["reused"] == result.counts["objects"]


def test_an_image_of_an_export_has_the_repositorys_own_objects_in_it(base: Path, tmp_path: Path) -> None:
    assert from_export(base, tmp_path / "image.squashfs").counts["verbatim"] > 300


def test_an_export_saves_fetching(base: Path, new: bytes, repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    result = build(request(output, newer(repos, tmp_path), base=str(base)))
    assert result.counts["fetched"] == 0
    assert output.read_bytes() == new


@pytest.mark.parametrize("at", [Pinned("external.cern.ch", "rev1"), MIXED, Pinned("plain.cern.ch", "rev2")], ids=str)
def test_exports_of_every_kind_of_content_become_images(at: Pinned, repos: Path, tmp_path: Path) -> None:
    base = exported(at, repos, tmp_path)
    from_export(base, tmp_path / "image", at.fqrn)
    assert compare(golden.mounted(at), listed(tmp_path / "image", at.fqrn), SQUASHFS) == []


def test_an_export_that_is_not_finished_is_refused(repos: Path, tmp_path: Path) -> None:
    base = exported(MIXED, repos, tmp_path)
    (base / ".provenance" / MIXED.fqrn / "intent.json").write_text("{}")
    with pytest.raises(DestinationError, match="not finished"):
        from_export(base, tmp_path / "image")
    assert not (tmp_path / "image").exists()


def test_stored_files_that_were_changed_make_no_image(repos: Path, tmp_path: Path) -> None:
    base = exported(MIXED, repos, tmp_path)
    stored = max((base / ".data").glob("[0-9a-f][0-9a-f]/*"), key=lambda path: path.stat().st_size)
    os.chmod(stored, 0o600)
    data = bytearray(stored.read_bytes())
    data[0] ^= 1
    stored.write_bytes(data)
    with pytest.raises(CorruptObject, match="1 object"):
        from_export(base, tmp_path / "image")
    # With servers at hand it is fetched instead.
    one = part(MIXED, from_storage(MIXED, repos, tmp_path))
    result = build(dataclasses.replace(request(tmp_path / "image", one), base=str(base)))
    assert result.counts["fetched"] == 1


def test_a_folder_without_exports_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(DestinationError):
        parts_of(str(tmp_path))


def test_a_repository_that_was_not_exported_is_told_as_such(base: Path) -> None:
    with pytest.raises(DestinationError, match=r"no export of other\.example\.org"):
        parts_of(str(base), ["other.example.org"])
