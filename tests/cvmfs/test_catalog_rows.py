"""Catalogs: rows that cannot be, keys that lead astray, nested catalogs, chunks."""

from __future__ import annotations

import stat
import zlib
from pathlib import Path
from typing import Any

import pytest
from cvmfs.reading import Open, one, paths
from support.repository import (
    BIND,
    HIDDEN,
    MTIME,
    MTIME_NS,
    NESTED,
    Blob,
    CatalogBuilder,
    Publisher,
    Storage,
)

from shrinkwrap.cvmfs.catalog import Catalog, NestedRef, path_key
from shrinkwrap.cvmfs.digest import RMD160, SHAKE128, digest_of
from shrinkwrap.cvmfs.entry import Chunk
from shrinkwrap.errors import CatalogError

# -- values of rows ----------------------------------------------------------------------------------------------

WRONG = [None, "x", 1.5, Blob(b"1")]


@pytest.mark.parametrize("column", ["mode", "size", "mtime", "uid", "gid", "flags", "hardlinks"])
@pytest.mark.parametrize("value", WRONG)
def test_numbers_of_another_type_are_refused(publisher: Publisher, read: Open, column: str, value: Any) -> None:
    builder = publisher.catalog(loose=True)
    builder.file(b"/f")
    builder.raw_rows.append({**builder.rows.pop(b"/f"), column: value})
    if column == "hardlinks" and value is None:
        builder.raw_rows[0]["hardlinks"] = "none"
    catalog = read(builder)
    for ask in (lambda: catalog.lookup(b"/f"), lambda: list(catalog.children(b""))):
        with pytest.raises(CatalogError, match="/f: a number is missing or of another type"):
            ask()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("size", -1),
        ("size", -(1 << 63)),
        ("uid", -1),
        ("uid", 1 << 32),
        ("gid", -1),
        ("gid", 1 << 32),
        ("flags", -1),
        ("mode", -1),
        ("mode", 1 << 16),
        ("mode", (1 << 63) - 1),
    ],
)
def test_numbers_out_of_range_are_refused(publisher: Publisher, read: Open, column: str, value: int) -> None:
    builder = publisher.catalog()
    builder.file(b"/f")
    builder.rows[b"/f"][column] = value
    with pytest.raises(CatalogError, match="/f: size, owner, mode or flags out of range"):
        read(builder).lookup(b"/f")


@pytest.mark.parametrize(
    ("column", "value", "name"),
    [("uid", (1 << 32) - 1, "uid"), ("gid", (1 << 32) - 1, "gid"), ("size", (1 << 63) - 1, "size")],
)
def test_the_largest_numbers_are_read(publisher: Publisher, read: Open, column: str, value: int, name: str) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", **{column: value})
    assert getattr(one(read(builder), b"/f"), name) == value


@pytest.mark.parametrize("mtime", [-(1 << 63), -1, 0, 1 << 31, 8_000_000_000, (1 << 63) - 1])
def test_times_are_signed_numbers_of_64_bits(publisher: Publisher, read: Open, mtime: int) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", mtime=mtime)
    assert one(read(builder), b"/f").mtime_ns == mtime * 10**9 + MTIME_NS


@pytest.mark.parametrize(("ns", "shown"), [(None, 0), (0, 0), (999_999_999, 999_999_999)])
def test_nanoseconds_may_be_null(publisher: Publisher, read: Open, ns: int | None, shown: int) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", mtimens=ns)
    assert one(read(builder), b"/f").mtime_ns == MTIME * 10**9 + shown


@pytest.mark.parametrize("ns", [-1, 10**9, 1 << 62, "5", 0.5, Blob(b"\0")])
def test_nanoseconds_that_are_none_are_refused(publisher: Publisher, read: Open, ns: Any) -> None:
    builder = publisher.catalog(loose=True)
    builder.file(b"/f", mtimens=ns)
    with pytest.raises(CatalogError, match="nanoseconds"):
        read(builder).lookup(b"/f")


@pytest.mark.parametrize("value", [b"x" * 19, b"x" * 21, b"\0", 7, 1.5, "f" * 40])
def test_a_content_hash_has_twenty_bytes(publisher: Publisher, read: Open, value: Any) -> None:
    builder = publisher.catalog(loose=True)
    builder.file(b"/f", hash=value)
    with pytest.raises(CatalogError, match="/f: its content hash has not 20 bytes"):
        read(builder).lookup(b"/f")


@pytest.mark.parametrize("value", [None, b""])
def test_a_file_without_a_content_hash_is_refused(publisher: Publisher, read: Open, value: bytes | None) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", hash=value)
    builder.link(b"/l", b"t", hash=value)
    builder.dir(b"/d", hash=value)
    catalog = read(builder)
    with pytest.raises(CatalogError, match="/f: a file without a content hash"):
        catalog.lookup(b"/f")
    assert one(catalog, b"/l").hash is None
    assert one(catalog, b"/d").hash is None


def test_a_null_link_target_is_an_empty_one(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.link(b"/l", b"t", symlink=None)
    assert one(read(builder), b"/l").target == b""


@pytest.mark.parametrize("value", [7, 1.5])
def test_a_link_target_that_is_no_text_is_refused(publisher: Publisher, read: Open, value: Any) -> None:
    builder = publisher.catalog(loose=True)
    builder.link(b"/l", b"t", symlink=value)
    with pytest.raises(CatalogError, match="/l: its link target is not text"):
        read(builder).lookup(b"/l")


@pytest.mark.parametrize("value", [7, 1.5])
def test_attributes_that_are_no_blob_mean_none(publisher: Publisher, read: Open, value: Any) -> None:
    builder = publisher.catalog(loose=True)
    builder.link(b"/l", b"t", xattr=value)
    assert one(read(builder), b"/l").xattr is None


def test_the_type_comes_from_the_mode_and_not_from_the_flags(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.dir(b"/d", flags=4)
    builder.file(b"/f")
    builder.change(b"/f", flags=1 | 8)
    builder.special(b"/s", stat.S_IFBLK, rdev=1792)
    catalog = read(builder)
    assert one(catalog, b"/d").is_dir
    assert one(catalog, b"/f").is_file
    special = one(catalog, b"/s")
    assert (special.is_file, special.is_dir, special.is_link, special.size) == (False, False, False, 1792)


@pytest.mark.parametrize("algorithm", [RMD160, SHAKE128])
def test_the_algorithm_of_a_file_is_its_own(publisher: Publisher, read: Open, algorithm: int) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", b"content", algorithm=algorithm)
    builder.file(b"/g", b"content", compressed=False)
    catalog = read(builder)
    first, second = one(catalog, b"/f"), one(catalog, b"/g")
    assert (first.algorithm, first.compression, second.algorithm, second.compression) == (algorithm, 0, 0, 1)
    assert first.hash == digest_of(algorithm, zlib.compress(b"content")).raw
    assert second.hash == digest_of(0, b"content").raw


# -- directories and their keys ----------------------------------------------------------------------------------


def test_a_directory_under_the_key_of_another_path_is_refused(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.dir(b"/a/b")
    one_, two = path_key(b"/a")
    # Going down from /a/b would list /a again.
    builder.raw(b"/a/b", name=b"loop", md5path_1=one_, md5path_2=two)
    builder.rows[b"/a"].update(md5path_1=5)
    catalog = read(builder)
    with pytest.raises(CatalogError, match="the key of /a is not that of its path"):
        list(catalog.children(b""))
    with pytest.raises(CatalogError, match="the key of /a/loop is not that of its path"):
        list(catalog.children(b"/a"))


def test_a_root_that_is_its_own_parent_does_not_list_itself_for_ever(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    one_, two = path_key(b"")
    builder.change(b"", parent_1=one_, parent_2=two)
    with pytest.raises(CatalogError, match="impossible name"):
        list(read(builder).children(b""))


def test_a_catalog_without_a_root_directory_is_refused(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.rows.clear()
    with pytest.raises(CatalogError, match="no root directory"):
        read(builder).root()
    builder = publisher.catalog(b"/m")
    builder.link(b"/m", b"elsewhere")
    with pytest.raises(CatalogError, match="no root directory"):
        read(builder).root()


def test_what_is_not_there_is_not_found(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.file(b"/a/b")
    catalog = read(builder)
    for path in (b"/b", b"/a/b/c", b"/a/", b"//a", b"/a/./b"):
        assert catalog.lookup(path) is None
    assert list(catalog.children(b"/nowhere")) == []


# -- nested catalogs ---------------------------------------------------------------------------------------------

HASH = "ab" * 20


@pytest.mark.parametrize("algorithm", [0, RMD160, SHAKE128])
def test_nested_catalogs_are_known_by_mount_hash_and_size(publisher: Publisher, read: Open, algorithm: int) -> None:
    builder = publisher.catalog()
    child = publisher.catalog(b"/a/n", algorithm=algorithm)
    builder.nest(child)
    catalog = read(builder)
    assert catalog.nested == {b"/a/n": NestedRef(b"/a/n", child.digest, child.size, False)}
    assert child.digest is not None
    assert child.digest.algorithm == algorithm
    assert one(catalog, b"/a/n").flags & NESTED


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/m",
        b"/m/",
        b"/m/n/",
        b"/m//n",
        b"/m/./n",
        b"/m/..",
        b"/m/a/../../x",
        b"/mn",
        b"/other",
        b"m/n",
        b"/m/a\0b",
        b"/m/" + b"x" * 256,
        None,
        7,
    ],
)
@pytest.mark.parametrize("bind", [False, True])
def test_a_nested_catalog_that_is_not_strictly_below_is_refused(
    publisher: Publisher, read: Open, path: Any, bind: bool
) -> None:
    builder = publisher.catalog(b"/m", loose=True)
    (builder.bind_rows if bind else builder.nested_rows).append((path, HASH, 0))
    with pytest.raises(CatalogError, match="it mounts a catalog at"):
        read(builder)


@pytest.mark.parametrize("text", [None, "", "0" * 40, "0" * 40 + "-rmd160", 7])
def test_a_nested_catalog_without_a_hash_is_known_but_has_none(publisher: Publisher, read: Open, text: Any) -> None:
    builder = publisher.catalog(loose=True)
    builder.nested_rows.append((b"/n", text, 0))
    assert read(builder).nested[b"/n"].digest is None


@pytest.mark.parametrize("text", ["x", HASH.upper(), HASH + "C", HASH + "-md5", b"\xff" * 40, HASH[:32]])
def test_a_nested_catalog_with_an_impossible_hash_is_refused(publisher: Publisher, read: Open, text: Any) -> None:
    builder = publisher.catalog()
    builder.nested_rows.append((b"/n", text, 0))
    with pytest.raises(CatalogError, match="catalog at /n: not a content hash"):
        read(builder)


@pytest.mark.parametrize("size", [None, -1, "big", 1.5, 1 << 62])
def test_an_impossible_size_of_a_nested_catalog_is_an_unknown_one(publisher: Publisher, read: Open, size: Any) -> None:
    builder = publisher.catalog(loose=True)
    builder.nested_rows.append((b"/n", HASH, size))
    assert read(builder).nested[b"/n"].size == 0


def test_two_catalogs_at_one_mount_are_refused(publisher: Publisher, read: Open) -> None:
    for first, second in (("nested_rows", "nested_rows"), ("nested_rows", "bind_rows")):
        builder = publisher.catalog(loose=True)
        getattr(builder, first).append((b"/n", HASH, 0))
        getattr(builder, second).append((b"/n", HASH, 0))
        with pytest.raises(CatalogError, match="two catalogs are mounted at /n"):
            read(builder)


@pytest.mark.parametrize("prefix", [b"", b"/", b"/n/", b"/other", b"/n/n"])
def test_a_catalog_made_for_another_mount_is_refused(publisher: Publisher, read: Open, prefix: bytes) -> None:
    builder = publisher.catalog(b"/n", prefix=prefix)
    with pytest.raises(CatalogError, match="but it is mounted at /n"):
        read(builder)


def test_a_nested_catalog_in_place_of_the_root_is_refused(publisher: Publisher, read: Open) -> None:
    with pytest.raises(CatalogError, match="made for /n, but it is mounted at /"):
        read(publisher.catalog(b"/n"), b"")


def test_a_nested_catalog_in_place_of_a_bind_mount_is_refused(publisher: Publisher, read: Open) -> None:
    with pytest.raises(CatalogError, match="made for /n, but it is mounted at /n"):
        read(publisher.catalog(b"/n"), b"/n", bind=True)


def test_keys_in_a_bind_mount_are_relative_to_it(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.file(b"/d/f", b"content")
    builder.file(b"/d/c", pieces=[b"one", b"two"])
    catalog = read(builder, b"/snapshots/v1", bind=True)
    assert paths(catalog) == [b"/snapshots/v1", *(b"/snapshots/v1" + path for path in (b"/d", b"/d/c", b"/d/f"))]
    assert one(catalog, b"/snapshots/v1").name == b"v1"
    assert one(catalog, b"/snapshots/v1/d/f").hash == digest_of(0, zlib.compress(b"content")).raw
    assert len(one(catalog, b"/snapshots/v1/d/c").chunks) == 2
    assert catalog.lookup(b"/snapshots/v1/f") is None
    assert catalog.key_text(b"/snapshots/v1/d") == b"/d"


def test_catalogs_nested_in_a_bind_mount_are_relative_to_it_too(publisher: Publisher, tmp_path: Path) -> None:
    inner = publisher.catalog(b"/a/n")
    inner.file(b"/a/n/f", b"content")
    middle = publisher.catalog(b"/a")
    middle.nest(inner)
    root = publisher.catalog()
    root.nest(middle)
    root.write()
    storage: Storage = publisher.storage
    ref = root.ref(b"/snap", bind=True)
    for mount in (b"/snap/a", b"/snap/a/n"):
        assert ref.digest is not None
        (tmp_path / "c").write_bytes(zlib.decompress(storage.path(ref.digest, "C").read_bytes()))
        catalog = Catalog(str(tmp_path / "c"), ref)
        assert list(catalog.nested) == [mount]
        ref = catalog.nested[mount]
        catalog.close()
        (tmp_path / "c").unlink()
    assert ref.digest is not None
    (tmp_path / "c").write_bytes(zlib.decompress(storage.path(ref.digest, "C").read_bytes()))
    catalog = Catalog(str(tmp_path / "c"), ref)
    assert paths(catalog) == [b"/snap/a/n", b"/snap/a/n/f"]
    catalog.close()


def test_bind_mounts_are_told_from_nested_catalogs(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.nest(publisher.catalog(), at=b"/b", bind=True)
    builder.nest(publisher.catalog(b"/n"))
    catalog = read(builder)
    assert (catalog.nested[b"/b"].bind, catalog.nested[b"/n"].bind) == (True, False)
    assert one(catalog, b"/b").flags & BIND


def test_hidden_entries_are_listed_and_found_with_their_flag(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.file(b"/.hidden", flags=HIDDEN)
    catalog = read(builder)
    assert one(catalog, b"/.hidden").is_hidden
    assert [entry.is_hidden for entry in catalog.children(b"")] == [True]


# -- chunks ------------------------------------------------------------------------------------------------------


def chunked(publisher: Publisher, rows: list[tuple[Any, ...]], size: int = 6, **more: Any) -> CatalogBuilder:
    builder = publisher.catalog(loose=True)
    builder.file(b"/c", pieces=[b"abc", b"def"], **more)
    builder.change(b"/c", size=size)
    builder.chunk_rows = [(b"/c", *row) for row in rows]
    return builder


RAW = b"r" * 20


def test_chunks_come_in_order_of_their_offsets(publisher: Publisher, read: Open) -> None:
    builder = chunked(publisher, [(4, 2, RAW), (0, 1, RAW), (1, 3, b"s" * 20)])
    entry = one(read(builder), b"/c")
    assert entry.chunks == (Chunk(0, 1, RAW), Chunk(1, 3, b"s" * 20), Chunk(4, 2, RAW))
    assert (entry.is_chunked, entry.hash) == (True, None)


def test_a_chunked_file_may_have_a_hash_of_the_whole_as_well(publisher: Publisher, read: Open) -> None:
    entry = one(read(chunked(publisher, [(0, 3, RAW), (3, 3, RAW)], bulk=True)), b"/c")
    assert entry.hash is not None
    assert len(entry.chunks) == 2


def test_one_chunk_is_enough(publisher: Publisher, read: Open) -> None:
    assert one(read(chunked(publisher, [(0, 6, RAW)])), b"/c").chunks == (Chunk(0, 6, RAW),)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(0, 3, RAW)],
        [(3, 3, RAW)],
        [(0, 3, RAW), (2, 4, RAW)],
        [(0, 2, RAW), (3, 3, RAW)],
        [(0, 3, RAW), (4, 3, RAW)],
        [(1, 6, RAW)],
        [(0, 3, RAW), (0, 3, RAW), (3, 3, RAW)],
        [(0, 3, RAW), (3, 4, RAW)],
        [(0, 6, RAW), (6, 0, RAW)],
        [(0, 0, RAW), (0, 6, RAW)],
        [(0, 7, RAW), (7, -1, RAW)],
        [(-3, 3, RAW), (0, 6, RAW)],
        [(0, (1 << 63) - 1, RAW), ((1 << 63) - 1, 7, RAW)],
        [(None, 3, RAW), (3, 3, RAW)],
        [("0", 3, RAW), (3, 3, RAW)],
        [(0, 3.0, RAW), (3, 3, RAW)],
        [(0, 3, None), (3, 3, RAW)],
        [(0, 3, RAW[1:]), (3, 3, RAW)],
        [(0, 3, "x" * 10), (3, 3, RAW)],
        [(0, 3, 7), (3, 3, RAW)],
    ],
)
def test_chunks_that_do_not_tile_the_file_are_refused(publisher: Publisher, read: Open, rows: list[Any]) -> None:
    with pytest.raises(CatalogError, match=r"/c: (its chunks|a chunk's row)"):
        read(chunked(publisher, rows)).lookup(b"/c")


def test_a_chunked_file_in_a_catalog_without_chunks_is_refused(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog(omit=["chunks"])
    builder.file(b"/c", pieces=[b"abc", b"def"])
    with pytest.raises(CatalogError, match="/c is said to be chunked"):
        list(read(builder).children(b""))


def test_chunk_rows_of_a_file_that_is_not_chunked_are_not_its_content(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", b"abc")
    builder.chunk_rows.append((b"/f", 0, 3, RAW))
    assert one(read(builder), b"/f").chunks == ()
