"""A destination: one run at a time, small files whole, links not followed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from shrinkwrap.errors import DestinationError, LockedError
from shrinkwrap.tree.base import Base, explain, remove_tree


def test_only_one_run_works_on_a_destination_and_the_other_is_told_which(tmp_path: Path) -> None:
    first = Base(str(tmp_path))
    with pytest.raises(LockedError, match=f"process {os.getpid()} on "):
        Base(str(tmp_path))
    first.close()
    Base(str(tmp_path)).close()


def test_a_refused_run_leaves_the_work_folder_of_the_other_alone(tmp_path: Path) -> None:
    first = Base(str(tmp_path))
    (Path(first.scratch) / "growing").touch()
    with pytest.raises(LockedError):
        Base(str(tmp_path))
    assert (Path(first.scratch) / "growing").exists()
    first.close()


def test_the_next_run_clears_away_what_the_last_one_left(tmp_path: Path) -> None:
    Base(str(tmp_path)).close()
    for name in ("tmp/1-2-3/stage1/below", "trash/1-2-3t1/below"):
        (tmp_path / ".data" / name).mkdir(parents=True)
        (tmp_path / ".data" / name / "file").touch()
    base = Base(str(tmp_path))
    assert os.listdir(tmp_path / ".data" / "tmp") == [base.run]
    assert os.listdir(tmp_path / ".data" / "trash") == []
    base.close()
    assert os.listdir(tmp_path / ".data" / "tmp") == []


def test_a_small_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    base = Base(str(tmp_path))
    base.replace_file(b".provenance/f", b"old")
    os.link(tmp_path / ".provenance" / "f", tmp_path / "kept")
    base.replace_file(b".provenance/f", b"new")
    assert base.read_file(b".provenance/f", 3) == b"new"
    assert (tmp_path / "kept").read_bytes() == b"old"
    base.close()


def test_a_small_file_that_is_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    base = Base(str(tmp_path / "base"))
    (tmp_path / "base" / ".provenance" / "f").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError) as caught:
        base.read_file(b".provenance/f", 100)
    assert caught.value.errno == errno.ELOOP
    base.replace_file(b".provenance/f", b"new")
    assert (tmp_path / "outside").read_text() == "precious"
    assert base.read_file(b".provenance/f", 100) == b"new"
    base.close()


def test_small_files_have_a_largest_size_and_may_be_no_json(tmp_path: Path) -> None:
    base = Base(str(tmp_path))
    base.replace_file(b".provenance/f", b"[1]")
    with pytest.raises(DestinationError, match="larger than 2 bytes"):
        base.read_file(b".provenance/f", 2)
    assert base.read_json(b".provenance/f", 100) is None
    base.replace_file(b".provenance/f", b"\xff")
    assert base.read_json(b".provenance/f", 100) is None
    assert base.read_json(b".provenance/none", 100) is None
    base.close()


@pytest.mark.parametrize("text", ['{"version": 2}', "{}", "[]", "", "null", "1"])
def test_a_store_of_another_version_is_refused(text: str, tmp_path: Path) -> None:
    Base(str(tmp_path)).close()
    (tmp_path / ".data" / "store.json").write_text(text)
    (tmp_path / ".data" / "tmp" / "work").mkdir()
    with pytest.raises(DestinationError, match="layout version"):
        Base(str(tmp_path))
    assert (tmp_path / ".data" / "tmp" / "work").exists()


@pytest.mark.parametrize("left", [[], ["lock"], ["lock", "store.json.new"]])
def test_a_store_whose_making_was_cut_off_is_made(left: list[str], tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir(mode=0o700)
    for name in left:
        (tmp_path / ".data" / name).touch()
    Base(str(tmp_path)).close()
    assert sorted(os.listdir(tmp_path / ".data")) == ["lock", "store.json", "tmp"]


def test_a_tree_is_removed_without_following_its_links(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").touch()
    (tmp_path / "tree" / "closed").mkdir(parents=True)
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "tree" / "closed" / "file").touch()
    (tmp_path / "tree" / "closed").chmod(0)
    (tmp_path / "tree").chmod(0)
    remove_tree(os.fsencode(tmp_path / "tree"))
    (tmp_path / "link").symlink_to("outside")
    remove_tree(os.fsencode(tmp_path / "link"))
    remove_tree(os.fsencode(tmp_path / "gone"))
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert os.listdir(tmp_path / "outside") == ["precious"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, None])
def test_each_error_of_the_system_says_where_and_what_to_do(code: int | None) -> None:
    error = OSError() if code is None else OSError(code, os.strerror(code), b"/dest/x\xff")
    told = explain(error, "/dest")
    assert told.message.startswith("/dest: ")
    assert told.hint
