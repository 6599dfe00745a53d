"""Kept objects on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest
from shrinkwrap.snapshot.keep import KeepFolder

RAW = bytes(range(20))


@pytest.fixture
def keep(tmp_path: Path) -> KeepFolder:
    (tmp_path / "scratch").mkdir()
    return KeepFolder(str(tmp_path / "objects"), str(tmp_path / "scratch"))


def put(keep: KeepFolder, digest: Digest, suffix: str, data: bytes) -> None:
    file, name = keep.create()
    with file:
        file.write(data)
    keep.adopt(name, digest, suffix)


def get(keep: KeepFolder, digest: Digest, suffix: str) -> bytes | None:
    file = keep.open(digest, suffix)
    if file is None:
        return None
    with file:
        return file.read()


@pytest.mark.parametrize(
    ("algorithm", "tag"), [(SHA1, ""), (RMD160, "-rmd160"), (SHAKE128, "-shake128")], ids=["sha1", "rmd160", "shake128"]
)
def test_objects_lie_as_in_a_repository(keep: KeepFolder, tmp_path: Path, algorithm: int, tag: str) -> None:
    put(keep, Digest(algorithm, RAW), "C", b"stored")
    assert (tmp_path / "objects" / "00" / f"{RAW.hex()[2:]}{tag}C").read_bytes() == b"stored"
    assert get(keep, Digest(algorithm, RAW), "C") == b"stored"


def test_algorithm_and_suffix_belong_to_the_name(keep: KeepFolder) -> None:
    for number, (algorithm, suffix) in enumerate([(SHA1, "C"), (SHA1, "H"), (RMD160, "C"), (SHAKE128, "X")]):
        put(keep, Digest(algorithm, RAW), suffix, b"%d" % number)
    for number, (algorithm, suffix) in enumerate([(SHA1, "C"), (SHA1, "H"), (RMD160, "C"), (SHAKE128, "X")]):
        assert get(keep, Digest(algorithm, RAW), suffix) == b"%d" % number


def test_an_object_that_is_arriving_has_no_name_yet(keep: KeepFolder, tmp_path: Path) -> None:
    file, name = keep.create()
    with file:
        file.write(b"half")
    assert not (tmp_path / "objects").exists()
    keep.discard(name)
    keep.discard(name)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_newer_copy_takes_the_place_of_the_old_one(keep: KeepFolder, tmp_path: Path) -> None:
    put(keep, Digest(SHA1, RAW), "C", b"old")
    put(keep, Digest(SHA1, RAW), "C", b"new")
    assert get(keep, Digest(SHA1, RAW), "C") == b"new"
    assert list((tmp_path / "scratch").iterdir()) == []


def test_what_was_dropped_is_gone_and_may_be_dropped_again(keep: KeepFolder) -> None:
    put(keep, Digest(SHA1, RAW), "C", b"x")
    keep.drop(Digest(SHA1, RAW), "C")
    keep.drop(Digest(SHA1, RAW), "C")
    assert get(keep, Digest(SHA1, RAW), "C") is None


def test_a_symlink_in_place_of_a_kept_object_is_not_followed(keep: KeepFolder, tmp_path: Path) -> None:
    put(keep, Digest(SHA1, RAW), "C", b"x")
    path = tmp_path / "objects" / "00" / f"{RAW.hex()[2:]}C"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert get(keep, Digest(SHA1, RAW), "C") is None
    put(keep, Digest(SHA1, RAW), "C", b"mine")
    assert get(keep, Digest(SHA1, RAW), "C") == b"mine"
    assert (tmp_path / "elsewhere").read_bytes() == b"x"


def test_what_is_no_file_counts_as_not_kept(keep: KeepFolder, tmp_path: Path) -> None:
    os.makedirs(tmp_path / "objects" / "00")
    os.mkfifo(tmp_path / "objects" / "00" / f"{RAW.hex()[2:]}C")
    assert get(keep, Digest(SHA1, RAW), "C") is None
    (tmp_path / "objects" / "00" / f"{RAW.hex()[2:]}H").mkdir()
    assert get(keep, Digest(SHA1, RAW), "H") is None
