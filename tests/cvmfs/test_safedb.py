"""Opening databases that an attacker wrote and a publisher signed."""

from __future__ import annotations

import functools
import os
import shutil
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cvmfs import real
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shrinkwrap.cvmfs.safedb import FUNCTIONS, database_errors, open_database
from shrinkwrap.errors import CatalogError

TABLES = frozenset({"tags", "properties"})
TAGS = "CREATE TABLE tags (name TEXT, revision INTEGER, hash TEXT, CONSTRAINT pk PRIMARY KEY (name))"
CATALOG_TABLES = frozenset({"catalog", "chunks", "nested_catalogs", "bind_mountpoints", "statistics", "properties"})
HISTORY_TABLES = frozenset({"tags", "branches", "recycle_bin", "properties"})


def build(path: Path, *statements: str) -> str:
    db = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        db.execute(statement)
    db.close()
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return build(
        tmp_path / "good.db",
        TAGS,
        "CREATE INDEX by_revision ON tags (revision, name DESC)",
        "CREATE TABLE properties (key TEXT, value TEXT)",
        "INSERT INTO tags VALUES ('one', 1, 'x'), (CAST(x'ff00fe' AS TEXT), 2, NULL)",
    )


@pytest.fixture
def db(file: str) -> Iterator[sqlite3.Connection]:
    connection = open_database(file, TABLES)
    yield connection
    connection.close()


def read_all(path: str, tables: frozenset[str]) -> int:
    rows = 0
    db = open_database(path, tables)
    try:
        with database_errors("test"):
            for table in sorted(tables):
                try:
                    rows += len(db.execute(f"SELECT * FROM {table}").fetchall())
                except sqlite3.OperationalError as exc:
                    if "no such table" not in str(exc):
                        raise
    finally:
        db.close()
    return rows


def refuses(path: str, match: str | None = None, tables: frozenset[str] = TABLES) -> None:
    with pytest.raises(CatalogError, match=match):
        open_database(path, tables)


# -- what is read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fqrn", real.names())
def test_every_real_catalog_and_history_is_opened_and_read(fqrn: str, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch.db"
    count = 0
    for suffix, tables in (("C", CATALOG_TABLES), ("H", HISTORY_TABLES)):
        for path in (real.folder() / fqrn / "data").glob(f"*/*{suffix}"):
            scratch.write_bytes(zlib.decompress(path.read_bytes()))
            assert read_all(str(scratch), tables) > 0
            count += 1
    assert count > 0


def test_text_comes_back_as_bytes(db: sqlite3.Connection) -> None:
    assert db.execute("SELECT name FROM tags ORDER BY revision").fetchall() == [(b"one",), (b"\xff\x00\xfe",)]


def test_the_functions_of_a_reader_work(db: sqlite3.Connection) -> None:
    assert {"count", "max"} <= FUNCTIONS
    query = "SELECT count(*), max(revision), min(revision), sum(revision), total(revision) FROM tags"
    assert db.execute(query).fetchone() == (2, 2, 1, 3, 3.0)
    query = "SELECT coalesce(hash, 'none'), typeof(hash), length(name) FROM tags WHERE name = ?"
    assert db.execute(query, ("one",)).fetchone() == (b"x", b"text", 3)


@pytest.mark.parametrize("name", ["a b", "50%25.db", "what?mode=rwc", "a#b", "é", "a\nb", "'q\"", "file:x"])
def test_any_file_name_is_opened_as_it_is(file: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "names"
    folder.mkdir()
    path = folder / name
    shutil.copyfile(file, path)
    open_database(str(path), TABLES).close()
    open_database("/" + str(path), TABLES).close()
    assert [entry.name for entry in folder.iterdir()] == [name]


def test_a_file_name_that_is_not_utf8_and_a_relative_one_are_opened(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = os.fsdecode(b"\xff\xfe.db")
    shutil.copyfile(file, tmp_path / name)
    open_database(str(tmp_path / name), TABLES).close()
    monkeypatch.chdir(tmp_path)
    open_database(name, TABLES).close()


def test_reading_leaves_nothing_beside_the_file_and_needs_no_right_to_write(file: str) -> None:
    folder = Path(file).parent
    before = Path(file).read_bytes()
    Path(file).chmod(0o400)
    assert read_all(file, TABLES) == 2
    assert [entry.name for entry in folder.iterdir()] == ["good.db"]
    assert Path(file).read_bytes() == before


def test_a_database_left_in_wal_mode_is_read_as_it_lies(tmp_path: Path) -> None:
    path = build(tmp_path / "x", "PRAGMA journal_mode = WAL", TAGS, "INSERT INTO tags VALUES ('a', 1, 'b')")
    assert read_all(path, TABLES) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_a_journal_beside_the_file_is_not_played_back(file: str) -> None:
    Path(f"{file}-journal").write_bytes(bytes.fromhex("d9d505f920a163d7") + b"\xff" * 504)
    assert read_all(file, TABLES) == 2


# -- what a statement may not do -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO tags VALUES ('x', 1, 'x')",
        "UPDATE tags SET revision = 9",
        "DELETE FROM tags",
        "DROP TABLE tags",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "ATTACH ':memory:' AS other",
        "VACUUM INTO '/tmp/stolen.db'",
        "PRAGMA writable_schema = ON",
        "PRAGMA query_only = OFF",
        "PRAGMA trusted_schema = ON",
        "PRAGMA temp_store_directory = '/tmp'",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT zeroblob(1000000000)",
        "SELECT randomblob(1000000000)",
        "SELECT printf('%1000000000d', 1)",
        "SELECT replace(hex(name), '0', name) FROM tags",
        "SELECT group_concat(name) FROM tags",
        "SELECT fts5(1)",
        "SELECT * FROM pragma_table_info('tags')",
        "SELECT * FROM sqlite_master",
        "SELECT * FROM json_each('[1]')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    ],
)
def test_only_plain_reading_is_allowed(db: sqlite3.Connection, statement: str) -> None:
    with pytest.raises(CatalogError), database_errors("test"):
        db.execute(statement).fetchall()


def test_two_statements_at_once_are_refused_as_our_error(db: sqlite3.Connection) -> None:
    with pytest.raises(CatalogError, match=r"^label: "), database_errors("label"):
        db.execute("SELECT 1; SELECT 2")


def test_wrong_parameters_and_misnamed_columns_are_our_error(db: sqlite3.Connection) -> None:
    with pytest.raises(CatalogError), database_errors("test"):
        db.execute("SELECT nothing FROM tags")
    with pytest.raises(CatalogError), database_errors("test"):
        db.execute("SELECT name FROM tags WHERE revision = ?", (1 << 70,))


def test_our_own_errors_pass_through_unchanged() -> None:
    with pytest.raises(CatalogError, match=r"^mine$"), database_errors("label"):
        raise CatalogError("mine")


def test_a_value_longer_than_any_honest_one_is_an_error(tmp_path: Path) -> None:
    path = build(tmp_path / "x", TAGS, "INSERT INTO tags VALUES ('big', 1, hex(zeroblob(1000000)))")
    db = open_database(path, TABLES)
    with pytest.raises(CatalogError, match="too big"), database_errors("test"):
        db.execute("SELECT hash FROM tags").fetchall()
    db.close()


# -- what a schema may not hold --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE VIEW properties AS SELECT name AS key, hash AS value FROM tags",
        "CREATE VIEW other AS SELECT 1",
        "CREATE TRIGGER t AFTER INSERT ON tags BEGIN SELECT 1; END",
        "CREATE TABLE other (x)",
        "CREATE TABLE Properties (x)",
        'CREATE TABLE "pro perties" (x)',
        "CREATE TABLE properties (key TEXT, value TEXT AS (upper(key)))",
        "CREATE TABLE properties (key TEXT, value TEXT GENERATED ALWAYS AS (key || key) STORED)",
        "CREATE TABLE properties (key TEXT, wért TEXT)",
        "CREATE TABLE properties AS SELECT 1 AS 'ключ'",
        "CREATE INDEX i ON tags (upper(name))",
        "CREATE INDEX i ON tags (name COLLATE NOCASE)",
        "CREATE INDEX i ON tags (name) WHERE revision > 1",
        "CREATE UNIQUE INDEX i ON tags (revision + 1)",
        "ANALYZE",
    ],
)
def test_a_schema_with_anything_but_known_tables_and_plain_indices_is_refused(statement: str, tmp_path: Path) -> None:
    path = build(
        tmp_path / "x", TAGS, "INSERT INTO tags VALUES ('a', 1, 'b')", "CREATE INDEX j ON tags (hash)", statement
    )
    refuses(path)


@pytest.mark.parametrize("module", ["fts3", "fts4", "fts5", "rtree", "dbstat"])
def test_a_virtual_table_is_refused(module: str, tmp_path: Path) -> None:
    columns = {"rtree": "(id, a, b)", "dbstat": ""}.get(module, "(x)")
    try:
        path = build(tmp_path / "x", TAGS, f"CREATE VIRTUAL TABLE properties USING {module}{columns}")
    except sqlite3.OperationalError:
        pytest.skip(f"this SQLite has no {module}")
    refuses(path, "schema")


def forged_schema(path: Path, kind: str, name: str, sql: str | None, rootpage: int | None = None) -> str:
    """A row of the schema that SQLite itself would not write."""
    build(path, TAGS, "CREATE TABLE properties (key TEXT, value TEXT)")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA writable_schema = ON")
    db.execute(
        "UPDATE sqlite_master SET type = ?, name = ?, tbl_name = ?, sql = ?, rootpage = coalesce(?, rootpage)"
        " WHERE name = 'properties'",
        (kind, name, name, sql, rootpage),
    )
    db.close()
    return str(path)


@pytest.mark.parametrize(
    ("kind", "name", "sql", "rootpage"),
    [
        ("table", "properties", "CREATE VIRTUAL TABLE properties USING fts5(x)", 0),
        ("table", "properties", "CREATE VIEW properties AS SELECT 1 AS key, 2 AS value", 0),
        ("index", "properties", "CREATE VIEW properties AS SELECT 1 AS key, 2 AS value", 0),
        ("table", "properties", "CREATE TABLE tags2 (key TEXT, value TEXT)", None),
        ("table", "tags2", "CREATE TABLE properties (key TEXT, value TEXT)", None),
        ("table", "properties", "CREATE/**/VIRTUAL/**/TABLE properties USING fts5(x)", 0),
        ("table", "properties", "create virtual table properties using fts5(x)", 0),
        ("table", "properties", "CREATE TRIGGER properties AFTER INSERT ON tags BEGIN SELECT 1; END", 0),
        ("view", "properties", "CREATE TABLE properties (key TEXT, value TEXT)", None),
        ("table", "properties", "CREATE TABLE properties (key TEXT); DROP TABLE tags", None),
        ("table", "properties", "CREATE TABLE properties (key TEXT) -- \x01)", None),
        ("table", "properties", None, None),
        ("table", "properties", "nonsense", None),
        ("table", "properties", "CREATE TABLE properties (key TEXT, value TEXT)", 999_999),
    ],
)
def test_a_forged_row_of_the_schema_is_refused(
    kind: str, name: str, sql: str | None, rootpage: int | None, tmp_path: Path
) -> None:
    path = forged_schema(tmp_path / "x", kind, name, sql, rootpage)
    with pytest.raises(CatalogError):
        read_all(path, TABLES)


def test_a_schema_of_thousands_of_tables_is_refused(tmp_path: Path) -> None:
    columns = ", ".join(f"c{number}" for number in range(60))
    indices = [f"CREATE INDEX i{number} ON tags (c{number % 60})" for number in range(200)]
    refuses(build(tmp_path / "x", f"CREATE TABLE tags ({columns})", *indices), "more than")


def test_a_table_of_too_many_columns_is_refused(tmp_path: Path) -> None:
    columns = ", ".join(f"c{number}" for number in range(500))
    refuses(build(tmp_path / "x", f"CREATE TABLE tags ({columns})"))


# -- what is no such file --------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_database_in_another_encoding_is_refused(encoding: str, tmp_path: Path) -> None:
    refuses(build(tmp_path / "x", f"PRAGMA encoding = '{encoding}'", TAGS), "UTF-8")


@pytest.mark.parametrize(
    "content", [b"", b"SQLite format 3", b"not a database" * 100, b"SQLite format 3\0" + bytes(90)]
)
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    refuses(str(path))


def test_a_missing_file_and_a_folder_are_refused_and_nothing_is_made(tmp_path: Path) -> None:
    refuses(str(tmp_path / "absent"), "cannot be read")
    refuses(str(tmp_path), "cannot be read")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_database_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    rows = [f"INSERT INTO tags VALUES ('{number}', {number}, hex(zeroblob(200)))" for number in range(300)]
    path = Path(build(tmp_path / "x", TAGS, *rows))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CatalogError):
        read_all(str(path), TABLES)


@functools.cache
def _honest_bytes() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = [f"INSERT INTO tags VALUES ('{number}', {number}, hex(zeroblob(40)))" for number in range(120)]
        properties = "CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT p PRIMARY KEY (key))"
        build(Path(folder) / "x", "PRAGMA page_size = 1024", TAGS, properties, "BEGIN", *rows, "COMMIT")
        return (Path(folder) / "x").read_bytes()


@given(
    damage=st.lists(st.tuples(st.integers(0, 1 << 30), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6),
    in_head=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_damaged_database_is_read_or_refused(damage: list[tuple[int, bytes]], in_head: bool, tmp_path: Path) -> None:
    data = bytearray(_honest_bytes())
    for position, value in damage:
        start = position % (1024 if in_head else len(data) - 8)
        data[start : start + len(value)] = value
    path = tmp_path / "damaged"
    path.write_bytes(data)
    with suppress(CatalogError):
        read_all(str(path), TABLES)
