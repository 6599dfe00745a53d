"""Catalogs: every real one, every layout, names."""

from __future__ import annotations

import sqlite3
import stat
import zlib
from pathlib import Path
from typing import Any

import pytest
from cvmfs.reading import Open, entries, one, paths
from hypothesis import given
from hypothesis import strategies as st
from support import golden
from support.repository import (
    CHUNKED,
    EXTERNAL,
    HIDDEN,
    MTIME,
    MTIME_NS,
    Blob,
    CatalogBuilder,
    Publisher,
)

from shrinkwrap.cvmfs import catalog as module
from shrinkwrap.cvmfs.catalog import Catalog, NestedRef, path_key, valid_name
from shrinkwrap.cvmfs.digest import Digest, digest_of, parse_digest
from shrinkwrap.cvmfs.xattr import parse_xattrs
from shrinkwrap.errors import CatalogError

# -- real catalogs -----------------------------------------------------------------------------------------------


def real_catalogs() -> list[str]:
    folder = golden.find_repos()
    return [] if folder is None else sorted(str(path.relative_to(folder)) for path in folder.glob("*/data/*/*C"))


def object_of(path: str) -> Digest:
    _, _, shard, rest = path.split("/")
    return parse_digest(shard + rest.removesuffix("C"))


def inflate_to(path: Path, scratch: Path) -> bytes:
    """Inflate a catalog; its ``root_prefix``, asked for by other means than ours."""
    scratch.write_bytes(zlib.decompress(path.read_bytes()))
    db = sqlite3.connect(scratch)
    try:
        db.text_factory = bytes
        found = db.execute("SELECT value FROM properties WHERE key = 'root_prefix'").fetchone()
        return found[0] if found else b""
    finally:
        db.close()


def count(catalog: Catalog) -> dict[str, int]:
    """The ``self_`` counters of FORMAT.md §6.10, from the entries that our reader gives."""
    found = entries(catalog)
    files = [entry for entry in found if entry.is_file]
    chunked = [entry for entry in files if entry.is_chunked]
    external = [entry for entry in files if entry.is_external]
    return {
        "regular": len(files),
        "symlink": sum(entry.is_link for entry in found),
        "dir": sum(entry.is_dir for entry in found),
        "special": sum(not (entry.is_file or entry.is_link or entry.is_dir) for entry in found),
        "nested": sum(not ref.bind for ref in catalog.nested.values()),
        "chunked": len(chunked),
        "chunks": sum(len(entry.chunks) for entry in files),
        "file_size": sum(entry.size for entry in files),
        "chunked_size": sum(entry.size for entry in chunked),
        "xattr": sum(entry.xattr is not None for entry in found),
        "external": len(external),
        "external_file_size": sum(entry.size for entry in external),
    }


def test_the_counters_of_every_real_catalog_are_those_of_our_entries(repos: Path, tmp_path: Path) -> None:
    totals: dict[Digest, dict[str, int]] = {}
    children: dict[Digest, list[Digest]] = {}
    stored: dict[Digest, dict[str, int]] = {}
    for path in real_catalogs():
        scratch = tmp_path / "catalog"
        mount = inflate_to(repos / path, scratch)
        digest = object_of(path)
        catalog = Catalog(str(scratch), NestedRef(mount, digest, 0, False))
        try:
            raw = sqlite3.connect(scratch)
            assert raw.execute("SELECT count(*) FROM catalog").fetchone() == (len(entries(catalog)),), path
            raw.close()
            totals[digest] = count(catalog)
            children[digest] = [ref.digest for ref in catalog.nested.values() if ref.digest is not None]
            stored[digest] = catalog.statistics()
            assert (catalog.entries() == len(entries(catalog))) or not stored[digest], path
        finally:
            catalog.close()
    assert len(totals) > 80

    def below(digest: Digest) -> dict[str, int]:
        total = dict.fromkeys(totals[digest], 0)
        for child in children[digest]:
            for name, value in below(child).items():
                total[name] += value + totals[child][name]
        return total

    compared = 0
    for digest, counters in stored.items():
        expected = {f"self_{name}": value for name, value in totals[digest].items()}
        expected.update({f"subtree_{name}": value for name, value in below(digest).items()})
        for name, value in counters.items():
            assert expected[name] == value, (str(digest), name)
            compared += 1
    assert compared > 80 * 18


@pytest.mark.parametrize("path", golden.params(real_catalogs()))
def test_every_entry_of_every_real_catalog_is_found_by_its_path_as_by_listing(
    path: str, repos: Path, tmp_path: Path
) -> None:
    mount = inflate_to(repos / path, tmp_path / "catalog")
    catalog = Catalog(str(tmp_path / "catalog"), NestedRef(mount, object_of(path), 0, False))
    try:
        for entry in entries(catalog):
            assert catalog.lookup(entry.path) == entry
            assert not entry.is_file or (entry.hash is not None) or entry.chunks
            assert entry.algorithm in (0, 1, 2)
        for ref in catalog.nested.values():
            assert one(catalog, ref.mount).is_dir
            assert ref.digest is not None
            assert not ref.bind
    finally:
        catalog.close()


# -- layouts -----------------------------------------------------------------------------------------------------

MODERN = [("2.4", 0), *(("2.5", revision) for revision in range(9))]
LEGACY = [("1.0", 0), ("1.1", 0), ("1.2", 0)]


def fill(builder: CatalogBuilder) -> None:
    builder.file(b"/d/f", b"content", mode=0o4755, uid=7, gid=8, hardlinks=5 << 32 | 2, xattrs={b"user.k": b"v"})
    builder.link(b"/d/l", b"target", mtime=-1)


@pytest.mark.parametrize(("schema", "revision"), MODERN)
def test_every_modern_layout_is_read(publisher: Publisher, read: Open, schema: str, revision: int) -> None:
    builder = publisher.catalog(schema=schema, revision=revision)
    fill(builder)
    builder.file(b"/d/c", pieces=[b"one", b"three"])
    catalog = read(builder)
    assert (catalog.schema, catalog.schema_revision) == (float(schema), revision)
    assert paths(catalog) == [b"", b"/d", b"/d/c", b"/d/f", b"/d/l"]
    file = one(catalog, b"/d/f")
    ns = MTIME_NS if revision >= 7 else 0
    assert (file.mode, file.size, file.uid, file.gid) == (stat.S_IFREG | 0o4755, 7, 7, 8)
    assert (file.mtime_ns, file.link_group, file.link_count) == (MTIME * 10**9 + ns, 5, 2)
    assert file.hash == digest_of(0, zlib.compress(b"content")).raw
    assert parse_xattrs(file.xattr) == (((b"user.k", b"v"),) if revision >= 2 else ())
    link = one(catalog, b"/d/l")
    assert (link.target, link.mtime_ns, link.is_link) == (b"target", -(10**9) + ns, True)
    assert [(chunk.offset, chunk.size) for chunk in one(catalog, b"/d/c").chunks] == [(0, 3), (3, 5)]
    assert one(catalog, b"/d").link_count == 2
    assert catalog.statistics()["self_regular"] == 2
    assert catalog.entries() == 5
    assert ("self_special" in catalog.statistics()) == (revision >= 5)


@pytest.mark.parametrize(("schema", "revision"), LEGACY)
def test_the_old_layouts_have_one_link_no_owner_and_no_attributes(
    publisher: Publisher, read: Open, schema: str, revision: int
) -> None:
    builder = publisher.catalog(schema=schema, revision=revision)
    fill(builder)
    catalog = read(builder)
    assert not catalog.has_owners
    assert catalog.statistics() == {}
    assert catalog.entries() == 0
    for entry in entries(catalog):
        assert (entry.links, entry.uid, entry.gid, entry.xattr) == (1, -1, -1, None)
    assert one(catalog, b"/d/f").mtime_ns == MTIME * 10**9


def test_the_old_layouts_know_sha1_alone_and_no_chunks(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog(schema="1.2")
    builder.file(b"/f", b"content")
    builder.change(b"/f", flags=4 | CHUNKED | EXTERNAL | HIDDEN | 0x700 | 0x3800)
    file = one(read(builder), b"/f")
    assert (file.algorithm, file.compression, file.chunks, file.is_hidden, file.is_external) == (0, 0, (), False, False)


def test_a_catalog_that_names_no_schema_is_of_version_one(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog(schema="1.0")
    builder.file(b"/f")
    builder.properties["schema"] = None
    catalog = read(builder)
    assert (catalog.schema, catalog.schema_revision) == (1.0, 0)
    assert paths(catalog) == [b"", b"/f"]


def test_nested_catalogs_of_schema_0_9_have_no_hash(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog(schema="0.9")
    builder.nest(publisher.catalog(b"/n", schema="0.9"))
    assert read(builder).nested == {b"/n": NestedRef(b"/n", None, 0, False)}


@pytest.mark.parametrize("schema", ["2.0", "2.1", "2.2", "2.3", "2.45", "2.6", "3.0", "99"])
def test_layouts_that_the_reference_refuses_are_refused(publisher: Publisher, read: Open, schema: str) -> None:
    builder = publisher.catalog()
    builder.properties["schema"] = schema
    with pytest.raises(CatalogError, match=f"schema {float(schema)} is not one that can be read"):
        read(builder)


@pytest.mark.parametrize("key", ["schema", "schema_revision", "revision", "last_modified"])
@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "inf", "-inf", "1e300", b"\xff", "2.5.0"])
def test_a_property_that_is_no_number_is_refused(publisher: Publisher, read: Open, key: str, value: str) -> None:
    builder = publisher.catalog()
    builder.properties[key] = value
    with pytest.raises(CatalogError, match=f"property {key} is"):
        read(builder)


def test_properties_may_be_numbers_instead_of_text(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog(loose=True)
    builder.properties.update(schema=2.5, schema_revision=7, revision=12, last_modified=99)
    catalog = read(builder)
    assert (catalog.schema, catalog.schema_revision, catalog.revision, catalog.last_modified) == (2.5, 7, 12, 99)


@pytest.mark.parametrize("table", ["catalog", "properties"])
def test_a_catalog_without_a_table_that_it_needs_is_refused(publisher: Publisher, read: Open, table: str) -> None:
    with pytest.raises(CatalogError, match=table):
        read(publisher.catalog(omit=[table]))


@pytest.mark.parametrize(
    "column", ["md5path_1", "md5path_2", "hash", "size", "mode", "mtime", "flags", "name", "symlink"]
)
def test_a_catalog_without_a_column_that_it_needs_is_refused(publisher: Publisher, read: Open, column: str) -> None:
    with pytest.raises(CatalogError, match=f"lacks the columns {column}"):
        read(publisher.catalog(omit=[column], loose=True))


@pytest.mark.parametrize("table", ["chunks", "nested_catalogs", "bind_mountpoints", "statistics"])
def test_tables_that_hold_nothing_needed_may_be_missing(publisher: Publisher, read: Open, table: str) -> None:
    builder = publisher.catalog(omit=[table])
    builder.file(b"/f")
    assert paths(read(builder)) == [b"", b"/f"]


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"SQLite format 3\0" + bytes(4080))
    with pytest.raises(CatalogError):
        Catalog(str(tmp_path / "c"), NestedRef(b"", None, 0, False))


def test_a_database_with_a_broken_page_gives_only_catalog_errors(publisher: Publisher, tmp_path: Path) -> None:
    builder = publisher.catalog()
    for number in range(400):
        builder.file(b"/file%d" % number, b"x", store=False)
    good = builder.database()
    failed = 0
    for page in range(len(good) // 4096):
        bad = bytearray(good)
        bad[page * 4096 + 100 : page * 4096 + 400] = b"\xa5" * 300
        (tmp_path / "bad").write_bytes(bad)
        try:
            catalog = Catalog(str(tmp_path / "bad"), NestedRef(b"", None, 0, False))
            try:
                entries(catalog)
                catalog.statistics()
            finally:
                catalog.close()
        except CatalogError:
            failed += 1
    assert failed > 3


def test_keys_are_the_two_halves_of_the_md5_as_signed_little_endian_numbers() -> None:
    assert path_key(b"") == (338333539836370388, 9098107892288553193)


# -- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [b"\xff\xfe", b"new\nline", b"\x01", b"-x", b"...", b" ", b"*", b"x" * 255, "a\u0308".encode(), b"a\\b"]
)
def test_odd_names_are_names(publisher: Publisher, read: Open, name: bytes) -> None:
    builder = publisher.catalog()
    builder.link(b"/" + name, b"\xff\n")
    catalog = read(builder)
    assert paths(catalog) == [b"", b"/" + name]
    assert one(catalog, b"/" + name).target == b"\xff\n"


IMPOSSIBLE = [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"\0", b"x" * 256, None, 7, 1.5]


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_names_are_refused_when_listed_and_when_looked_up(
    publisher: Publisher, read: Open, name: Any
) -> None:
    builder = publisher.catalog(loose=True)
    builder.file(b"/good")
    builder.change(b"/good", name=name)
    catalog = read(builder)
    with pytest.raises(CatalogError, match="impossible name"):
        list(catalog.children(b""))
    with pytest.raises(CatalogError, match="/good is named"):
        catalog.lookup(b"/good")


@given(st.binary(max_size=260))
def test_a_name_is_one_component(name: bytes) -> None:
    assert valid_name(name) == (0 < len(name) < 256 and name not in (b".", b"..") and not {0, 47} & set(name))


def test_the_same_name_twice_is_refused(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog(loose=True)
    builder.file(b"/a")
    builder.raw(b"/a", md5path_1=1)
    with pytest.raises(CatalogError, match="has a twice"):
        list(read(builder).children(b""))


@pytest.mark.parametrize("rows", [2, 1024])
def test_names_that_sqlite_sorts_in_another_order_come_in_ours_or_not_at_all(
    publisher: Publisher, read: Open, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    # A BLOB sorts after every text.
    builder = publisher.catalog(loose=True)
    builder.file(b"/b")
    builder.file(b"/a")
    builder.change(b"/a", name=Blob(b"a"))
    if rows == 2:
        with pytest.raises(CatalogError, match="/"):
            list(read(builder).children(b""))
    else:
        assert [entry.name for entry in read(builder).children(b"")] == [b"a", b"b"]


@pytest.mark.parametrize("name", [None, 7])
def test_a_name_of_another_type_is_refused(publisher: Publisher, read: Open, name: object) -> None:
    builder = publisher.catalog(loose=True)
    builder.file(b"/b")
    builder.file(b"/a")
    builder.change(b"/a", name=name)
    with pytest.raises(CatalogError, match="impossible name"):
        list(read(builder).children(b""))


def test_listings_are_in_byte_order_whatever_the_collation_of_the_column(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    names = [b"B", b"a", b"C", b"-", b"\xff", b"aa"]
    for name in names:
        builder.link(b"/" + name, b"t")
    builder.sql.append("CREATE INDEX byname ON catalog (name DESC)")
    assert [entry.name for entry in read(builder).children(b"")] == sorted(names)


@pytest.mark.parametrize("rows", [100, 599, 600, 601])
def test_a_listing_longer_than_one_batch_of_rows_is_whole(
    publisher: Publisher, read: Open, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    builder = publisher.catalog()
    for number in range(600):
        builder.link(b"/%04d" % number, b"t")
    assert [entry.name for entry in read(builder).children(b"")] == [b"%04d" % number for number in range(600)]


def test_a_root_entry_with_the_name_of_something_else_is_refused(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog()
    builder.change(b"", name=b"elsewhere")
    with pytest.raises(CatalogError, match="its root entry is named"):
        read(builder).root()
    nested = publisher.catalog(b"/a/b")
    nested.change(b"/a/b", name=b"")
    with pytest.raises(CatalogError, match="entry of /a/b is named"):
        read(nested).root()


# -- counters ----------------------------------------------------------------------------------------------------


def test_counters_that_are_no_numbers_are_left_out(publisher: Publisher, read: Open) -> None:
    builder = publisher.catalog(loose=True)
    builder.counters = {"self_regular": "many", "self_dir": 3, "self_special": -5}
    catalog = read(builder)
    assert "self_regular" not in catalog.statistics()
    assert catalog.entries() == 3


def test_the_builder_counts_as_the_reference_does(publisher: Publisher, read: Open) -> None:
    child = publisher.catalog(b"/n")
    child.file(b"/n/f", b"12345", xattrs={b"user.a": b""})
    child.file(b"/n/c", pieces=[b"ab", b"c"])
    child.link(b"/n/l", b"t")
    builder = publisher.catalog()
    builder.special(b"/fifo", stat.S_IFIFO)
    builder.file(b"/x", b"1234567", external=True)
    builder.nest(child)
    catalog = read(builder)
    stored = catalog.statistics()
    own = {name.removeprefix("self_"): value for name, value in stored.items() if name.startswith("self_")}
    assert own == count(catalog)
    below = {name.removeprefix("subtree_"): value for name, value in stored.items() if name.startswith("subtree_")}
    assert below == count(read(child))
