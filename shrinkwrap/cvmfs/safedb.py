"""Opening SQLite files that strangers wrote.

A catalog or history is verified against its digest before it gets here, but whoever may sign a repository
must not be able to run anything in the reader. So the file is opened read-only and immutable, with small
limits; its schema may hold nothing but the ordinary tables and plain indices that are expected, every
statement is held against a list of what a reader needs, and a TEXT column comes back as bytes, since names
need not be UTF-8 (FORMAT.md §6.3).
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from shrinkwrap.errors import CatalogError

_MAGIC: Final = b"SQLite format 3\x00"
_ENCODING: Final = b"UTF-8"
#: A catalog has six tables and at most eight indices.
_SCHEMA_ROWS: Final = 64
#: Functions that a statement may use. They neither read other things nor make long values from short ones.
FUNCTIONS: Final = frozenset({"coalesce", "count", "length", "max", "min", "sum", "total", "typeof"})

#: The longest value or row, in bytes. An xattr blob ends at 130,560 bytes, a description is a sentence.
_LENGTH: Final = 1 << 20
_LIMITS: Final = (
    (sqlite3.SQLITE_LIMIT_LENGTH, _LENGTH),
    (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 16 << 10),
    (sqlite3.SQLITE_LIMIT_COLUMN, 64),
    (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 32),
    (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 4),
    (sqlite3.SQLITE_LIMIT_VDBE_OP, 25_000),
    (sqlite3.SQLITE_LIMIT_FUNCTION_ARG, 8),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 256),
    (sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 256),
    (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0),
    (sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0),
)
_PRAGMAS: Final = (
    "PRAGMA trusted_schema = OFF",
    "PRAGMA cell_size_check = ON",
    "PRAGMA mmap_size = 0",
    "PRAGMA query_only = ON",
)
#: Switches that Python can set from 3.12 on: (name, on). Before, the checks of the schema have to do.
_SWITCHES: Final = (
    ("SQLITE_DBCONFIG_DEFENSIVE", True),
    ("SQLITE_DBCONFIG_TRUSTED_SCHEMA", False),
    ("SQLITE_DBCONFIG_ENABLE_TRIGGER", False),
    ("SQLITE_DBCONFIG_ENABLE_VIEW", False),
    ("SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION", False),
    ("SQLITE_DBCONFIG_DQS_DML", False),
    ("SQLITE_DBCONFIG_DQS_DDL", False),
)

# SQLite stores these statements with its own first words, so a stock publisher's always fit. What stands in
# the row's type and name columns proves nothing: only the statement is parsed.
_TABLE: Final = re.compile(r"CREATE TABLE (\"?)([A-Za-z_][A-Za-z0-9_]*)\1\s*\([\x20-\x7e\t\r\n]*\)", re.ASCII)
_INDEX: Final = re.compile(
    r"CREATE (?:UNIQUE )?INDEX \w+\s+ON\s+(\w+)\s*\(\s*\w+(?:\s+(?:ASC|DESC))?"
    r"(?:\s*,\s*\w+(?:\s+(?:ASC|DESC))?)*\s*\)",
    re.ASCII,
)


@contextmanager
def database_errors(label: str) -> Iterator[None]:
    """Turn what sqlite3 raises into CatalogError; ``label`` names the database."""
    try:
        yield
    except (sqlite3.Error, UnicodeError, OverflowError) as exc:
        raise CatalogError(f"{label}: {type(exc).__name__}: {str(exc)[:200]}") from None


def open_database(path: str, tables: Collection[str]) -> sqlite3.Connection:
    """Open an untrusted SQLite file for reading; ``text_factory`` is bytes.

    Args:
        path: a complete file that nobody writes to any more.
        tables: the tables it may have. Not each must be there.

    Returns:
        A connection that can do nothing but ``SELECT`` from those tables. It may move between threads, one at
        a time. Errors while reading are sqlite3's: use :func:`database_errors`.

    Raises:
        CatalogError: not SQLite, not UTF-8, or a schema that holds something else than such tables and plain
        indices.
    """
    label = f"database {os.path.basename(path)!r}"
    _check_magic(path, label)
    # An absolute path after "file://" is one even if it begins with two slashes.
    uri = f"file://{quote(os.fsencode(os.path.abspath(path)))}?mode=ro&immutable=1"
    with database_errors(label):
        db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            _restrict(db)
            _check_schema(db, frozenset(tables), label)
            db.set_authorizer(_authorizer(frozenset(tables)))
        except BaseException:
            db.close()
            raise
    return db


def _check_magic(path: str, label: str) -> None:
    try:
        with open(path, "rb") as stream:
            head = stream.read(len(_MAGIC))
    except (OSError, ValueError) as exc:
        raise CatalogError(f"{label}: cannot be read: {exc}") from None
    # SQLite takes a file of zero bytes for an empty database.
    if head != _MAGIC:
        raise CatalogError(f"{label}: not an SQLite database, it begins with {head!r}")


def _restrict(db: sqlite3.Connection) -> None:
    db.text_factory = bytes
    for category, value in _LIMITS:
        db.setlimit(category, value)
    set_config = getattr(db, "setconfig", None)
    if set_config is not None:
        for name, on in _SWITCHES:
            switch = getattr(sqlite3, name, None)  # an older SQLite lacks some
            if switch is not None:
                set_config(switch, on)
    for pragma in _PRAGMAS:
        db.execute(pragma).close()


def _check_schema(db: sqlite3.Connection, tables: frozenset[str], label: str) -> None:
    (encoding,) = db.execute("PRAGMA encoding").fetchone()
    if encoding != _ENCODING:
        raise CatalogError(f"{label}: its text is {encoding!r}, expected {_ENCODING!r}")
    rows = db.execute("SELECT type, name, sql FROM sqlite_master LIMIT ?", (_SCHEMA_ROWS + 1,)).fetchall()
    if len(rows) > _SCHEMA_ROWS:
        raise CatalogError(f"{label}: more than {_SCHEMA_ROWS} tables and indices")
    found = [table for kind, name, sql in rows if (table := _check_object(kind, name, sql, tables, label))]
    for table in found:
        for column in db.execute(f"PRAGMA table_xinfo({table})"):
            # The seventh value is not 0 for columns that are computed when read.
            if column[6] != 0:
                raise CatalogError(f"{label}: table {table} has the computed column {column[1]!r:.80}")


def _check_object(kind: object, name: object, sql: object, tables: frozenset[str], label: str) -> str | None:
    """Name of the table that a row of the schema makes; None for an index."""
    if kind == b"index" and sql is None:
        return None  # made by SQLite itself for a PRIMARY KEY or UNIQUE
    text = sql.decode("ascii", "replace") if isinstance(sql, bytes) else ""
    if kind == b"table" and (table := _TABLE.fullmatch(text)) is not None:
        if table[2] in tables and name == table[2].encode():
            return table[2]
    elif kind == b"index" and (index := _INDEX.fullmatch(text)) is not None and index[1] in tables:
        return None
    raise CatalogError(
        f"{label}: its schema has {kind!r:.40} {name!r:.80}, expected only the tables"
        f" {', '.join(sorted(tables))} and plain indices on them"
    )


_Authorizer = Callable[[int, str | None, str | None, str | None, str | None], int]


def _authorizer(tables: frozenset[str]) -> _Authorizer:
    def authorize(action: int, first: str | None, second: str | None, database: str | None, inside: str | None) -> int:
        if inside is not None:  # the name of a view or trigger
            return sqlite3.SQLITE_DENY
        allowed = (
            action == sqlite3.SQLITE_SELECT
            or (action == sqlite3.SQLITE_READ and database == "main" and first in tables)
            or (action == sqlite3.SQLITE_FUNCTION and second in FUNCTIONS)
        )
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize
