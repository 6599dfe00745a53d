"""Images that squashfs-tools make from our archive hold what the mount shows."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from image.building import SQUASHFS, from_storage, leftovers, part, request
from image.squashing import unsquashed
from support import golden
from support.golden import Pinned
from support.listing import compare, list_tree

from shrinkwrap.errors import DestinationError, UsageError
from shrinkwrap.image import via
from shrinkwrap.image.build import build
from shrinkwrap.image.formats import Form
from shrinkwrap.image.request import Part

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which(via.PROGRAM) is None, reason="sqfstar is not installed (squashfs-tools 4.5)"),
]

SMALL = Pinned("small.cern.ch", "rev2")


@pytest.fixture
def small(repos: Path, tmp_path: Path) -> Part:
    return part(SMALL, from_storage(SMALL, repos, tmp_path))


def test_squashfs_tools_make_what_the_mount_shows(small: Part, tmp_path: Path) -> None:
    form = Form(via=("-comp", "xz"))
    built = build(request(tmp_path / "one.squashfs", small, form=form))
    assert built.size == (tmp_path / "one.squashfs").stat().st_size
    tree = unsquashed(tmp_path / "one.squashfs", tmp_path / "tree")
    assert compare(golden.mounted(SMALL), list_tree(tree / SMALL.fqrn), SQUASHFS) == []
    assert sorted(os.listdir(tree)) == [".provenance", SMALL.fqrn]
    assert leftovers(tmp_path) == []


def test_what_the_program_does_not_like_is_said_and_the_old_image_stays(small: Part, tmp_path: Path) -> None:
    output = tmp_path / "image.squashfs"
    output.write_bytes(b"old")
    with pytest.raises(DestinationError, match=r"sqfstar ended with code 1: .*nonsense"):
        build(request(output, small, form=Form(via=("-comp", "nonsense"))))
    assert output.read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if name.startswith(".shrinkwrap")] == []


def test_without_the_program_nothing_begins(small: Part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(via, "PROGRAM", "no-such-program")
    with pytest.raises(UsageError, match="no no-such-program is installed"):
        build(request(tmp_path / "image.squashfs", small, form=Form(via=())))
    assert not (tmp_path / "image.squashfs").exists()


def test_other_kinds_of_images_are_ours_alone() -> None:
    with pytest.raises(UsageError, match="--via is for squashfs images"):
        Form("sif", via=())
