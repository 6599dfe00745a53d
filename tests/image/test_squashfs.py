"""squashfs images of entries, as our own reader, ``unsquashfs`` and the kernel see them."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from image.squashing import SECOND, Content, entry, file, link, make, mounted, opened, read_back, stripped, unsquashed

from shrinkwrap.errors import CorruptObject, UsageError
from shrinkwrap.image.entries import DIR, FILE, ImageEntry
from shrinkwrap.image.squashfs.directories import Child, Waiting
from shrinkwrap.image.squashfs.layout import MOST_IDS, NONE, SUPERBLOCK, Superblock
from shrinkwrap.image.squashfs.recipe import Recipe

BLOCK = Recipe().block_size
NOISE = random.Random(7).randbytes(3 * BLOCK + 5)
TEXT = b"the quick brown fox\n" * (2 * BLOCK // 20)


def many(folder: str, number: int, name: str = "f{:05}") -> Iterator[ImageEntry | Content]:
    yield entry(folder)
    for index in range(number):
        yield file(f"{folder}/{name.format(index)}", b"%d" % (index % 7))


def special() -> list[ImageEntry | Content]:
    """All shapes that have a case of their own in the format."""
    stream: list[ImageEntry | Content] = [entry("", mtime=1_700_000_000)]
    deep = "/a-deep"
    stream.append(entry(deep))
    for _ in range(300):
        deep += "/d"
        stream.append(entry(deep))
    stream += [
        entry("/attributes", xattrs=((b"user.dir", b"1"),)),
        file("/attributes/one", b"1", xattrs=((b"user.empty", b""), (b"user.long", b"x" * 255))),
        file("/attributes/same", b"2", xattrs=((b"user.empty", b""), (b"user.long", b"x" * 255))),
        entry("/hard"),
        file("/hard/a", b"linked", link=1),
        file("/hard/b", b"other", link=2),
        file("/hard/c", b"linked", link=1),
        link("/hard/l1", b"../x")._replace(link=3),
        link("/hard/l2", b"../x")._replace(link=3),
        link("/long-target", b"x" * 4095),
    ]
    stream += many("/many", 12_000)
    stream.append(entry("/names"))
    stream += [file("/names/" + f"{index:03}".ljust(255, "n"), b"") for index in range(600)]
    stream += [
        file(b"/not\xffutf8", b"raw name"),
        entry("/owners"),
        file("/owners/high", b"", uid=2**32 - 2, gid=2**31 + 5),
        file("/owners/set-id", b"x", mode=0o6755),
        entry("/owners/sticky", mode=0o1777),
        entry("/sizes"),
    ]
    for number, size in enumerate((0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 5)):
        stream.append(file(f"/sizes/noise{number}", NOISE[:size]))
    for number, size in enumerate((1, BLOCK - 1, BLOCK, BLOCK + 1)):
        stream.append(file(f"/sizes/text{number}", TEXT[:size]))
    stream += [
        file("/sizes/zeros1", bytes(3 * BLOCK)),
        file("/sizes/zeros2", bytes(BLOCK) + NOISE[:BLOCK] + bytes(BLOCK + 9)),
        entry("/times"),
        file("/times/before", b"", mtime_ns=-5 * SECOND),
        file("/times/between", b"", mtime_ns=5 * SECOND + 999_999_999),
        file("/times/last", b"", mtime_ns=NONE * SECOND),
        file("/times/later", b"", mtime_ns=2**40 * SECOND),
    ]
    return stream


def projected(stream: list[ImageEntry | Content]) -> list[ImageEntry | Content]:
    """What the format can hold of it: whole seconds from 0 to 2^32 - 1."""

    def seconds(one: ImageEntry) -> ImageEntry:
        return one._replace(mtime_ns=min(max(one.mtime_ns // SECOND, 0), NONE) * SECOND)

    return [
        one._replace(entry=seconds(one.entry)) if isinstance(one, Content) else seconds(one) for one in stripped(stream)
    ]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all special shapes."""
    return make(tmp_path_factory.mktemp("squashfs") / "special.squashfs", special())


def assert_shown(tree: Path, stream: list[ImageEntry | Content], *, owners: bool) -> None:
    """A real tree shows all of a stream, and no more."""
    number = 0
    inodes: dict[bytes, int] = {}
    for one in projected(stream):
        content = one.data if isinstance(one, Content) else b""
        want = one.entry if isinstance(one, Content) else one
        path = os.fsencode(tree) + want.path
        have = os.lstat(path)
        number += 1
        kind = {stat.S_IFDIR: DIR, stat.S_IFREG: FILE, stat.S_IFLNK: "l"}[stat.S_IFMT(have.st_mode)]
        assert (kind, have.st_mtime_ns) == (want.kind, want.mtime_ns), path
        if owners:
            assert (have.st_uid, have.st_gid) == (want.uid, want.gid), path
        if kind == "l":
            assert os.readlink(path) == want.target
        else:
            assert stat.S_IMODE(have.st_mode) == want.mode, path
            found = {name: os.getxattr(path, name) for name in os.listxattr(path)} if owners else None
            assert found is None or {os.fsencode(name): value for name, value in found.items()} == dict(want.xattrs)
        if kind == FILE:
            assert have.st_size == len(content)
            with open(path, "rb") as data:
                assert data.read() == content, path
        if kind == DIR:
            number_below = len(os.listdir(path))
            assert number_below == _children(stream, want.path), path
        inodes[want.path] = have.st_ino
    assert number == len(stream)
    assert inodes[b"/hard/a"] == inodes[b"/hard/c"] != inodes[b"/hard/b"]
    assert os.lstat(os.fsencode(tree) + b"/hard/a").st_nlink == 2


def _children(stream: list[ImageEntry | Content], folder: bytes) -> int:
    counts = _counts.setdefault(id(stream), {})
    if not counts:
        for one in stream:
            path = (one.entry if isinstance(one, Content) else one).path
            parent = path.rpartition(b"/")[0] if path else b"/no"
            counts[parent] = counts.get(parent, 0) + 1
    return counts.get(folder, 0)


_counts: dict[int, dict[bytes, int]] = {}


def test_our_reader_finds_all_that_was_written(image: Path) -> None:
    assert read_back(image) == projected(special())


def test_hard_links_are_one_inode_for_our_reader(image: Path) -> None:
    with opened(image) as one:
        links = {found.entry.name: found.inode for found in one.walk(b"/hard") if found.entry.kind != DIR}
    assert links[b"a"].number == links[b"c"].number != links[b"b"].number
    assert [links[name].links for name in (b"a", b"b", b"c", b"l1", b"l2")] == [2, 1, 2, 2, 2]


def test_the_kernel_shows_all_that_was_written(image: Path) -> None:
    stream = special()
    with mounted(image) as tree:
        assert_shown(tree, stream, owners=True)


def test_unsquashfs_extracts_all_that_was_written(image: Path, tmp_path: Path) -> None:
    assert_shown(unsquashed(image, tmp_path / "tree"), special(), owners=os.getuid() == 0)


def test_the_same_entries_give_the_same_bytes(image: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again", special()).read_bytes() == image.read_bytes()


def test_equal_contents_lie_in_the_image_once(tmp_path: Path) -> None:
    one = make(tmp_path / "one", [entry(""), file("/a", NOISE)])
    two = make(tmp_path / "two", [entry(""), file("/a", NOISE), file("/b", NOISE)])
    assert two.stat().st_size - one.stat().st_size <= 4096


@pytest.mark.parametrize(
    "recipe",
    [Recipe(4096), Recipe(1 << 20, "isal", 1), Recipe(BLOCK, "zstd", 3), Recipe(65536, "zlib", 9)],
    ids=lambda recipe: f"{recipe.block_size}-{recipe.compressor}",
)
def test_other_block_sizes_and_compressors_hold_the_same(recipe: Recipe, tmp_path: Path) -> None:
    if recipe.compressor == "isal":
        pytest.importorskip("isal")
    stream = [
        entry(""),
        file("/noise", NOISE),
        file("/text", TEXT),
        file("/zeros", bytes(5 * BLOCK)),
        *many("/zz", 400),
    ]
    image = make(tmp_path / "image", stream, recipe)
    assert read_back(image) == projected(stream)
    with mounted(image) as tree:
        assert (tree / "noise").read_bytes() == NOISE
        assert (tree / "text").read_bytes() == TEXT
        assert (tree / "zeros").read_bytes() == bytes(5 * BLOCK)
        assert len(os.listdir(tree / "zz")) == 400


def test_an_image_may_be_larger_than_four_gibibytes(tmp_path: Path) -> None:
    stream = [entry(""), file("/far", NOISE), file("/text", b"behind it")]
    image = make(tmp_path / "large", stream, gap=5 << 30)
    assert read_back(image) == projected(stream)
    with mounted(image) as tree:
        assert (tree / "far").read_bytes() == NOISE
        assert (tree / "text").read_bytes() == b"behind it"


def test_a_file_may_be_larger_than_four_gibibytes(tmp_path: Path) -> None:
    # All but its end are holes, for which nobody has to compress anything.
    size = (5 << 30) + 100
    blocks = size // BLOCK
    head = make(tmp_path / "small", [entry(""), file("/end", TEXT[:100])])
    with opened(head) as image:
        found = image.find(b"/end")
    assert found is not None
    from shrinkwrap.image.squashfs.inodes import file_inode

    words = bytes(4 * blocks) + found.inode.words
    assert file_inode((0o644, 0, 0, 0, 1), 96, size, words, blocks * BLOCK)[:2] == b"\x09\x00"


def test_more_owners_than_the_format_holds_are_refused(tmp_path: Path) -> None:
    stream = [entry("")] + [entry(f"/{number:06}", uid=number, gid=number) for number in range(MOST_IDS + 1)]
    with pytest.raises(UsageError, match="65535 different owners"):
        make(tmp_path / "owners", stream)


def test_children_that_wait_in_a_file_come_back_in_order(tmp_path: Path) -> None:
    with (tmp_path / "waiting").open("w+b") as scratch:
        waiting = Waiting(scratch)
        waiting.SPILL, waiting.STEP = 1000, 300  # type: ignore[misc]
        outer = [Child(number << 16, number, 2, b"n%d" % number) for number in range(200)]
        inner = [Child(number, number, 1, b"x" * (number % 255 + 1)) for number in range(300)]
        for child in outer:
            waiting.push(child)
        mark = waiting.mark()
        for child in inner:
            waiting.push(child)
        assert list(waiting.pop(mark)) == inner
        waiting.push(inner[0])
        assert list(waiting.pop(0)) == [*outer, inner[0]]
        assert waiting.mark() == 0


# ------------------------------------------------------------------------------------------------- broken images


def test_a_truncated_image_is_told_as_one(image: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(image.read_bytes()[:-8192])
    with pytest.raises(CorruptObject, match="superblock says"), opened(cut):
        pass


@pytest.mark.parametrize("data", [b"", b"hsqs", bytes(96), b"\x7fELF" + bytes(200)])
def test_what_is_no_image_is_told_as_such(data: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(data)
    with pytest.raises(CorruptObject, match="not a squashfs image"), opened(other):
        pass


def test_broken_images_never_give_anything_but_an_error_of_ours(tmp_path: Path) -> None:
    stream = [
        entry("", xattrs=((b"user.a", b"b"),)),
        *many("/d", 50),
        file("/e", TEXT, xattrs=((b"user.c", b"d"),)),
        link("/l", b"t"),
    ]
    good = make(tmp_path / "good", stream, Recipe(4096)).read_bytes()
    used = Superblock.unpack(good[:SUPERBLOCK]).used
    bad = tmp_path / "bad"
    chance = random.Random(3)
    refused = 0
    for _ in range(400):
        data = bytearray(good)
        at = chance.randrange(4, SUPERBLOCK) if chance.random() < 0.3 else chance.randrange(used)
        data[at] ^= 1 << chance.randrange(8)
        bad.write_bytes(data)
        try:
            read_back(bad)
        except CorruptObject:
            refused += 1
    assert refused > 100
