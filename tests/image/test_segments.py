"""Objects as blocks in segment files: what goes in as it is, what is made anew, and what comes out again."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from image.squashing import entry

from shrinkwrap.cvmfs.digest import SHA1, digest_of
from shrinkwrap.cvmfs.entry import Chunk
from shrinkwrap.engine.work import Item
from shrinkwrap.errors import CorruptObject
from shrinkwrap.image.entries import FILE
from shrinkwrap.image.keys import KeyTable, item_name, key_of
from shrinkwrap.image.partial import Partial
from shrinkwrap.image.segments import OpenSegments, Packed, SegmentSink, payload
from shrinkwrap.image.squashfs.layout import PLAIN_BLOCK, U32
from shrinkwrap.image.squashfs.recipe import Recipe
from shrinkwrap.image.stock import Stock
from shrinkwrap.snapshot.view import Content

RECIPE = Recipe(4096)
BLOCK = RECIPE.block_size
NOISE = random.Random(1).randbytes(3 * BLOCK)
TEXT = b"words, words, words. " * BLOCK


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[Partial]:
    made = Partial(str(tmp_path / "image"), RECIPE, lambda line: None)
    yield made
    made.close()


@pytest.fixture
def sink(partial: Partial) -> Iterator[OpenSegments]:
    opened = SegmentSink(partial.path, RECIPE).open()
    yield opened
    opened.close()


def content_of(data: bytes, *, kind: str = "z", size: int | None = None) -> tuple[Content, bytes]:
    """A content and its stored bytes, as publishers make them."""
    stored = zlib.compress(data, 6) if kind == "z" else data
    return Content(digest_of(SHA1, stored), kind, len(data) if size is None else size, (), None, None), stored


def judged(sink: OpenSegments, data: bytes, kind: str = "z") -> tuple[Packed, bytes]:
    content, stored = content_of(data, kind=kind)
    return sink.judge(stored, content), stored


@pytest.mark.parametrize("size", [100, BLOCK - 1, BLOCK])
def test_a_stream_that_is_smaller_than_its_content_goes_in_as_it_is(size: int, sink: OpenSegments) -> None:
    packed, stored = judged(sink, TEXT[:size])
    assert packed == Packed(U32.pack(len(stored)), stored, True)


@pytest.mark.parametrize("size", [1, 100, BLOCK])
def test_what_zlib_does_not_make_smaller_goes_in_raw(size: int, sink: OpenSegments) -> None:
    packed, _ = judged(sink, NOISE[:size])
    assert packed == Packed(U32.pack(size | PLAIN_BLOCK), NOISE[:size], False)


@pytest.mark.parametrize("size", [BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 7])
def test_what_is_larger_than_a_block_is_cut(size: int, sink: OpenSegments) -> None:
    packed, _ = judged(sink, TEXT[:size])
    assert not packed.verbatim
    assert len(packed.words) == 4 * -(-size // BLOCK)


def test_blocks_of_zeros_are_holes(sink: OpenSegments) -> None:
    packed, _ = judged(sink, bytes(BLOCK) + b"x" + bytes(BLOCK))
    assert [bool(word) for (word,) in U32.iter_unpack(packed.words)] == [False, True, False]


def test_uncompressed_objects_are_compressed(sink: OpenSegments) -> None:
    packed, _ = judged(sink, TEXT[:1000], kind="n")
    assert len(packed.blocks) < 1000
    assert zlib.decompress(packed.blocks) == TEXT[:1000]


@pytest.mark.parametrize("trust", [False, True])
def test_another_digest_is_never_taken(trust: bool, partial: Partial) -> None:
    opened = SegmentSink(partial.path, RECIPE, trust).open()
    content, stored = content_of(TEXT[:1000])
    with pytest.raises(CorruptObject, match="another digest"):
        opened.judge(stored[:-1] + b"x", content)


def test_a_wrong_size_in_the_catalog_is_noticed_unless_the_catalog_is_trusted(
    sink: OpenSegments, partial: Partial
) -> None:
    content, stored = content_of(TEXT[:1000], size=1001)
    with pytest.raises(CorruptObject):
        sink.judge(stored, content)
    trusting = SegmentSink(partial.path, RECIPE, True).open()
    assert trusting.judge(stored, content).verbatim


def test_a_stream_that_kernels_cannot_inflate_is_not_taken_on_trust(partial: Partial) -> None:
    trusting = SegmentSink(partial.path, RECIPE, True).open()
    deflater = zlib.compressobj(6, zdict=b"words")
    stored = deflater.compress(TEXT[:1000]) + deflater.flush()
    content = Content(digest_of(SHA1, stored), "z", 1000, (), None, None)
    with pytest.raises(CorruptObject):
        trusting.judge(stored, content)


def test_objects_come_out_as_they_went_in_and_lie_in_the_order_of_the_stream(
    sink: OpenSegments, partial: Partial
) -> None:
    datas = [TEXT[:size] for size in (1, BLOCK, BLOCK + 1)] + [NOISE[:size] for size in (5, BLOCK, 2 * BLOCK)]
    datas += [bytes(3 * BLOCK)]
    items, stored = [], {}
    for data in datas:
        content, raw = content_of(data)
        key = key_of(item_name(content))
        items.append(Item(item_name(content), content, b"/x", payload(key)))
        stored[key] = raw
        assert partial.records.want(key)
        assert not sink.resolve(items[-1])
    for item in reversed(items):
        sink.put(item, sink.judge(stored[item.payload], item.content))
    sink.end_batch()
    partial.records.take(sink.take_notes())
    starts = [partial.records.record(partial.records.number(item.payload)).start for item in items]
    assert starts == sorted(starts)
    stock = Stock(partial.records, partial.segment, RECIPE)
    for item, data in zip(items, datas, strict=True):
        wanted = entry("/x", FILE, size=len(data), key=item.payload)
        assert b"".join(stock.pieces(wanted)) == data
    assert list(stock.pieces(entry("/empty", FILE))) == []


def test_objects_of_the_next_batch_that_are_still_on_their_way_are_not_lost(
    sink: OpenSegments, partial: Partial
) -> None:
    items = []
    for number in range(4):
        content, raw = content_of(b"%d" % number * 50)
        items.append((Item(item_name(content), content, b"/x", payload(key_of(item_name(content)))), raw))
        sink.resolve(items[-1][0])
    for item, raw in (items[0], items[2]):
        sink.put(item, sink.judge(raw, item.content))
    sink.end_batch()
    partial.records.take(sink.take_notes())
    for item, raw in (items[3], items[1]):
        sink.put(item, sink.judge(raw, item.content))
    sink.end_batch()
    partial.records.take(sink.take_notes())
    assert len(partial.records) == 4


def test_pieces_of_a_large_object_may_come_in_any_order(sink: OpenSegments, partial: Partial) -> None:
    data = TEXT[: 3 * BLOCK] + NOISE
    chunks = tuple(Chunk(start, 1000, b"") for start in range(0, len(data), 1000))
    content = Content(digest_of(SHA1, b"list"), "cz", len(data), chunks, None, None)
    item = Item(item_name(content), content, b"/x", payload(key_of(item_name(content))))
    sink.resolve(item)
    file = sink.begin(item)
    for chunk in reversed(chunks):
        file.write_at(chunk.offset, data[chunk.offset : chunk.offset + 1000])
    sink.commit(item, file)
    sink.end_batch()
    partial.records.take(sink.take_notes())
    stock = Stock(partial.records, partial.segment, RECIPE)
    assert b"".join(stock.pieces(entry("/x", FILE, size=len(data), key=item.payload))) == data


def test_a_table_of_keys_keeps_all_of_them_as_it_grows() -> None:
    table = KeyTable(8)
    keys = [os.urandom(16) for _ in range(1000)]
    for number, key in enumerate(keys):
        table.set(key, number)
    table.set(keys[3], 77)
    assert [table.get(key) for key in keys] == [0, 1, 2, 77, *range(4, 1000)]
    assert table.get(bytes(15) + b"x") is None
    assert len(table) == 1000
    table.close()
