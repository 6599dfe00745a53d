"""SIF images: what is written is what siftool reads, the same every time, and hostile ones are refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.filesystems import Filesystem
from support.processes import need

from shrinkwrap.errors import CorruptObject, DestinationError, ShrinkwrapError, UsageError
from shrinkwrap.image import sif
from shrinkwrap.image.output import copy_range, whole_file

TIMESTAMP = 1_795_346_014
RECORD = b'{"_type": "statement"}\n'
SBOM = b'{"spdxVersion": "SPDX-2.3"}\n'
#: Where the header has its numbers: descriptors free, their number, the table's place and bytes.
FREE, TOTAL, TABLE, TABLE_BYTES = 80, 88, 96, 104


def squashfs_like(size: int) -> bytes:
    """Bytes that say of themselves that they are a squashfs."""
    head = struct.pack("<4s36xQ48x", b"hsqs", size)
    return head + os.urandom(size - len(head))


@pytest.fixture(scope="module")
def squashfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("squashfs") / "a.squashfs"
    path.write_bytes(squashfs_like(10_000))
    return path


def write(path: Path, squashfs: Path, **changes: Any) -> sif.Sif:
    arguments: dict[str, Any] = {
        "records": [("statement.json", RECORD)],
        "labels": {"fqrn": "sft.cern.ch", "revision": "12"},
        "sbom": SBOM,
        "timestamp": TIMESTAMP,
    }
    return sif.write_sif(os.fsencode(path), os.fsencode(squashfs), **(arguments | changes))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, squashfs: Path) -> Path:
    path = tmp_path_factory.mktemp("image") / "a.sif"
    write(path, squashfs, definition=b"Bootstrap: scratch\n")
    return path


def siftool(*arguments: str | Path) -> bytes:
    return subprocess.run([need("siftool"), *arguments], check=True, capture_output=True, timeout=60).stdout


def content(path: Path, item: sif.SifObject | None) -> bytes:
    assert item is not None
    return sif.read_object(os.fsencode(path), item, limit=1 << 20)


# ----------------------------------------------------------------------------------------------------------- writing


def test_an_image_holds_what_was_given(image: Path, squashfs: Path) -> None:
    found = sif.read_sif(os.fsencode(image))
    assert [one.kind for one in found.objects] == ["partition", "json", "labels", "sbom", "definition"]
    assert content(image, found.first(sif.PARTITION, sif.DATA)) == squashfs.read_bytes()
    assert content(image, found.first(sif.JSON)) == RECORD
    assert json.loads(content(image, found.first(sif.LABELS))) == {"fqrn": "sft.cern.ch", "revision": "12"}
    assert content(image, found.first(sif.SBOM)) == SBOM
    assert content(image, found.first(sif.DEFINITION)) == b"Bootstrap: scratch\n"
    assert {one.created for one in found.objects} == {one.modified for one in found.objects} == {TIMESTAMP}


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path, squashfs: Path, image: Path) -> None:
    again = tmp_path / "b.sif"
    with squashfs.open("rb") as source:
        sif.write_sif(
            os.fsencode(again),
            source.fileno(),
            records=[("statement.json", RECORD)],
            labels={"revision": "12", "fqrn": "sft.cern.ch"},
            sbom=SBOM,
            definition=b"Bootstrap: scratch\n",
            timestamp=TIMESTAMP,
        )
    assert again.read_bytes() == image.read_bytes()


def test_siftool_lists_the_objects(image: Path) -> None:
    rows = [line.split("|") for line in siftool("list", image).decode().splitlines() if "|" in line][1:]
    assert [row[4].strip() for row in rows] == [
        "FS (Squashfs/Data/unknown)",
        "JSON.Generic",
        "JSON.Labels",
        "SBOM (spdx-json)",
        "Def.FILE",
    ]
    assert rows[0][3].strip() == "32768-42768"


def test_siftool_dumps_what_was_given(image: Path, squashfs: Path) -> None:
    assert siftool("dump", "1", image) == squashfs.read_bytes()
    assert siftool("dump", "2", image) == RECORD
    assert siftool("dump", "4", image) == SBOM


def test_siftool_tells_times_and_names(image: Path) -> None:
    assert b"Name:             image.squashfs" in siftool("info", "1", image)
    assert b"2026-11-22 11:13:34 +0000 UTC" in siftool("info", "1", image)
    assert b"2026-11-22 11:13:34 +0000 UTC" in siftool("header", image)


def test_siftool_adds_to_an_image(image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sif"
    shutil.copy(image, copy)
    more = tmp_path / "more.json"
    more.write_bytes(b"[]")
    siftool("add", "--datatype", "6", copy, more)
    last = sif.read_sif(os.fsencode(copy)).objects[-1]
    assert (last.kind, content(copy, last)) == ("json", b"[]")


def test_what_siftool_writes_is_read(tmp_path: Path, squashfs: Path) -> None:
    made = tmp_path / "other.sif"
    siftool("new", made)
    siftool("add", "--datatype", "4", "--partfs", "1", "--parttype", "2", "--partarch", "4", made, squashfs)
    found = sif.read_sif(os.fsencode(made))
    assert (found.architecture, len(found.objects)) == ("arm64", 1)
    assert found.objects[0].part == sif.SYSTEM
    assert content(made, found.first(sif.PARTITION)) == squashfs.read_bytes()


def test_the_squashfs_can_be_mounted_in_place(tmp_path: Path) -> None:
    pack, unpack = need("mksquashfs"), need("unsquashfs")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello").write_bytes(b"world")
    packed = tmp_path / "tree.squashfs"
    subprocess.run([pack, tree, packed, "-quiet", "-no-progress"], check=True, stdin=subprocess.DEVNULL)
    image = tmp_path / "tree.sif"
    found = write(image, packed)
    assert found.objects[0].offset == sif.data_start() == 32_768
    out = tmp_path / "out"
    subprocess.run(
        [unpack, "-quiet", "-no-progress", "-offset", "32768", "-dest", out, image],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    assert (out / "hello").read_bytes() == b"world"


def test_a_data_image_claims_no_architecture_and_cannot_be_run(image: Path) -> None:
    found = sif.read_sif(os.fsencode(image))
    assert found.architecture == found.objects[0].architecture == sif.UNKNOWN
    assert image.stat().st_mode & 0o111 == 0


def test_a_system_image_says_its_architecture_and_can_be_run(tmp_path: Path, squashfs: Path) -> None:
    image = tmp_path / "system.sif"
    found = write(image, squashfs, part=sif.SYSTEM, architecture="arm64")
    assert (found.architecture, found.objects[0].architecture, found.objects[0].part) == ("arm64", "arm64", sif.SYSTEM)
    assert image.stat().st_mode & 0o100
    assert image.read_bytes().startswith(b"#!/usr/bin/env run-singularity\n")
    assert b"FS (Squashfs/*System/arm64)" in siftool("list", image)


def test_more_records_than_the_usual_table_holds(tmp_path: Path, squashfs: Path) -> None:
    image = tmp_path / "many.sif"
    records = [(f"{number}.json", b"%d\n" % number) for number in range(60)]
    found = write(image, squashfs, records=records)
    assert len(found.objects) == 63
    assert found.objects[0].offset == sif.data_start(63) > 32_768
    assert content(image, found.objects[60]) == b"59\n"
    assert siftool("dump", "61", image) == b"59\n"


def test_without_a_time_it_is_the_one_of_other_reproducible_images(tmp_path: Path, squashfs: Path) -> None:
    for name, timestamp in (("none", sif.NO_TIME), ("too-far", 1 << 70)):
        found = write(tmp_path / name, squashfs, timestamp=timestamp)
        assert found.created == found.objects[0].modified == -62_135_596_800


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "vax"},
        {"part": "overlay"},
        {"part": sif.SYSTEM},
        {"name": "x" * 128},
        {"name": ""},
        {"records": [("a\0b", b"{}")]},
    ],
)
def test_arguments_that_make_no_sense_are_refused(tmp_path: Path, squashfs: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        write(tmp_path / "x.sif", squashfs, **changes)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("raw", [b"", b"hsqs", b"\0" * 4096, struct.pack("<4s36xQ48x", b"hsqs", 97)])
def test_what_is_no_whole_squashfs_is_refused(tmp_path: Path, raw: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(raw)
    with pytest.raises(UsageError, match=r"squashfs|cut short"):
        write(tmp_path / "x.sif", source)
    with pytest.raises(UsageError, match="cannot be read"):
        write(tmp_path / "x.sif", tmp_path / "absent")
    assert os.listdir(tmp_path) == ["source"]


# ------------------------------------------------------------------------------------------------- becoming a file


def test_an_older_image_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")

    def stopped() -> None:
        with whole_file(os.fsencode(path)) as fd:
            os.write(fd, b"new, but not whole")
            assert path.read_bytes() == b"old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (os.listdir(tmp_path), path.read_bytes()) == (["image"], b"old")
    with whole_file(os.fsencode(path)) as fd:
        os.write(fd, b"new")
    assert (os.listdir(tmp_path), path.read_bytes()) == (["image"], b"new")


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path, squashfs: Path) -> None:
    write(tmp_path / ("x" * 255), squashfs)
    assert os.listdir(tmp_path) == ["x" * 255]


def test_a_destination_that_cannot_be_written_is_one_clear_error(tmp_path: Path, squashfs: Path) -> None:
    with pytest.raises(DestinationError, match="No such file"):
        write(tmp_path / "no" / "x.sif", squashfs)
    (tmp_path / "folder").mkdir()
    with pytest.raises(DestinationError, match=r"folder: cannot be written: Is a directory"):
        write(tmp_path / "folder", squashfs)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_is_said_and_leaves_nothing(make_filesystem: Callable[..., Filesystem], tmp_path: Path) -> None:
    small = make_filesystem("tmpfs", size=256 * 1024)
    source = tmp_path / "source"
    source.write_bytes(squashfs_like(1 << 20))
    with pytest.raises(DestinationError, match="No space left") as caught:
        write(Path(small.path) / "x.sif", source)
    assert "make room" in caught.value.hint
    assert os.listdir(small.path) == []


def test_a_source_that_ends_early_is_said(tmp_path: Path, squashfs: Path) -> None:
    early = pytest.raises(UsageError, match="ends at 10000, expected 1 bytes more")
    with squashfs.open("rb") as source, (tmp_path / "out").open("wb") as target, early:
        copy_range(source.fileno(), 9_000, 1_001, target.fileno(), 0, name=b"source")


# ----------------------------------------------------------------------------------------------------------- reading


def broken(image: Path, tmp_path: Path, position: int, new: bytes) -> bytes:
    raw = bytearray(image.read_bytes())
    raw[position : position + len(new)] = new
    path = tmp_path / "broken.sif"
    path.write_bytes(raw)
    return os.fsencode(path)


@pytest.mark.parametrize(
    ("position", "new", "reason"),
    [
        (32, b"sif_magic", "no SIF image"),
        (42, b"02", "SIF version"),
        (TOTAL, struct.pack("<q", -1), "descriptors"),
        (TOTAL, struct.pack("<q", 1 << 40), "descriptors"),
        (FREE, struct.pack("<q", 49), "descriptors"),
        (TABLE_BYTES, struct.pack("<q", 100), "descriptors"),
        (TABLE, struct.pack("<q", -1), "cut short"),
        (TABLE, struct.pack("<q", (1 << 63) - 1), "cut short"),
        (4096 + 17, struct.pack("<q", -1), "object 1 lies at -1"),
        (4096 + 25, struct.pack("<q", 1 << 40), "object 1 lies at 32768"),
        (4096 + 585 + 5, struct.pack("<I", 1), "the same number"),
    ],
)
def test_a_header_that_cannot_be_is_refused(
    image: Path, tmp_path: Path, position: int, new: bytes, reason: str
) -> None:
    with pytest.raises(CorruptObject, match=reason):
        sif.read_sif(broken(image, tmp_path, position, new))


def test_kinds_from_the_future_are_named_by_number(image: Path, tmp_path: Path) -> None:
    path = broken(image, tmp_path, 4096 + 201, struct.pack("<ii3s", 9, 8, b"\x1b7\0"))
    one = sif.read_sif(path).objects[0]
    assert (one.filesystem, one.part, one.architecture) == ("file system 9", "part 8", "architecture \\x1b7")


def test_an_object_above_the_limit_is_not_read(image: Path) -> None:
    found = sif.read_sif(os.fsencode(image))
    with pytest.raises(CorruptObject, match="10000 bytes, expected at most 9999"):
        sif.read_object(os.fsencode(image), found.objects[0], limit=9_999)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("absent", ".", "pipe"):
        with pytest.raises((UsageError, CorruptObject)):
            sif.read_sif(os.fsencode(tmp_path / name))


@given(st.data())
def test_no_bytes_bring_anything_but_our_errors(
    image: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(image.read_bytes()[: data.draw(st.sampled_from([100, 128, 4096, 30_000, 42_900]))])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.one_of(st.integers(0, 127), st.integers(4096, 4096 + 5 * 585)))
        new = data.draw(st.binary(min_size=1, max_size=8))
        raw[at : at + len(new)] = new
    path = tmp_path_factory.getbasetemp() / "drawn.sif"
    path.write_bytes(raw)
    try:
        found = sif.read_sif(os.fsencode(path))
    except ShrinkwrapError:
        return
    for one in found.objects:
        assert 0 <= one.offset <= one.offset + one.size <= len(raw)
