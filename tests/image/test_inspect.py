"""What an image says of itself, and how damage to it is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from image.building import from_storage, part, request
from image.squashing import entry, file, make, opened
from support.golden import Pinned

from shrinkwrap.image.build import build
from shrinkwrap.image.inspect import Verified, describe, objects_of, verify
from shrinkwrap.image.squashfs.layout import SUPERBLOCK, Superblock

SMALL = Pinned("small.cern.ch", "rev2")
SHAKE = Pinned("shake128.cern.ch", "rev2")


@pytest.fixture(scope="module")
def image(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all sizes up to some hundred kilobytes."""
    folder = tmp_path_factory.mktemp("inspect")
    spec = folder / "python.spec"
    spec.write_text("/lcg/releases/Python/*\n/data/*\n")
    build(request(folder / "image", part(SMALL, from_storage(SMALL, repos, folder), spec)))
    return folder / "image"


def verified(path: Path) -> Verified:
    with opened(path) as one:
        return verify(one)


def test_an_image_tells_what_it_holds(image: Path) -> None:
    with opened(image) as one:
        told = describe(one, str(image)).to_json()
    assert told["size"] == image.stat().st_size
    assert told["recipe"]["compressor"] == "zlib"
    assert [found["fqrn"] for found in told["repositories"]] == [SMALL.fqrn]
    assert told["repositories"][0]["tag"] == SMALL.rev


def test_an_image_of_another_tool_is_told_as_one(tmp_path: Path) -> None:
    path = make(tmp_path / "other", [entry(""), file("/a", b"content")])
    with opened(path) as one:
        told = describe(one, str(path))
    assert told.made is None
    assert told.statements == ()
    assert verified(path).number == 0


def test_a_sound_image_is_told_as_one(image: Path) -> None:
    found = verified(image)
    assert found.differences == []
    assert found.counts["contents"] > found.counts["proved"] > 100


def test_objects_of_every_algorithm_are_proved(repos: Path, tmp_path: Path) -> None:
    build(request(tmp_path / "image", part(SHAKE, from_storage(SHAKE, repos, tmp_path))))
    found = verified(tmp_path / "image")
    assert found.differences == []
    assert found.counts.get("proved", 0) > 0


def test_a_flipped_bit_anywhere_in_the_data_is_found(image: Path, tmp_path: Path) -> None:
    good = image.read_bytes()
    end = Superblock.unpack(good[:SUPERBLOCK]).inode_table
    chance = random.Random(5)
    bad = tmp_path / "bad"
    for _ in range(8):
        data = bytearray(good)
        data[chance.randrange(SUPERBLOCK, end)] ^= 1 << chance.randrange(8)
        bad.write_bytes(data)
        assert verified(bad).number > 0


def test_content_that_is_replaced_is_found(image: Path, tmp_path: Path) -> None:
    with opened(image) as one:
        records = [record for record in objects_of(one) if record.length > 100]
    data = bytearray(image.read_bytes())
    first = next(record for record in records if not record.words[-1])  # compressed
    data[first.start : first.start + first.length] = bytes(first.length)
    (tmp_path / "bad").write_bytes(data)
    assert verified(tmp_path / "bad").number > 0


Change = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b'"recipe"', b'"recipf"'),
        lambda data: data.replace(b"shrinkwrap-obj1\n", b"shrinkwrap-obj2\n"),
    ],
    ids=["image.json", "objects"],
)
def test_what_an_image_says_of_itself_may_be_anything(
    change: Change, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shrinkwrap.image.squashfs import reader

    monkeypatch.setattr(
        reader.Image, "pieces", lambda self, inode, real=reader.Image.pieces: map(change, real(self, inode))
    )
    found = verified(image)
    assert found.number == 1
    assert "objects" in found.differences[0] or "image.json" in found.differences[0]
