"""The history of tags and the list of roots: two small databases, written anew with each publication (FORMAT.md §7)."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, Final

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import SIZE, Digest, parse_digest
from shrinkwrap.cvmfs.history import History, Tag
from shrinkwrap.cvmfs.safedb import database_errors, open_database
from shrinkwrap.errors import CatalogError, CorruptObject, UsageError
from shrinkwrap.publish.storage import Storage

TRUNK: Final = "trunk"
PREVIOUS: Final = "trunk-previous"
_DESCRIPTIONS: Final = {TRUNK: "current HEAD", PREVIOUS: "default undo target"}
#: FORMAT.md §7.2.
_NAME: Final = re.compile(r"[A-Za-z0-9_./:-]{1,255}")
_MESSAGE: Final = 64 * limits.KIB

REFLOG: Final = ".cvmfsreflog"
_REFLOG_LIMIT: Final = limits.GIB
#: Types of references (FORMAT.md §7.4), by the suffix of the object.
KINDS: Final = {"C": 0, "X": 1, "H": 2, "M": 3}

_HISTORY_TABLES: Final = (
    "properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
    "branches (branch TEXT, parent TEXT, initial_revision INTEGER, CONSTRAINT pk_branch PRIMARY KEY (branch),"
    " FOREIGN KEY (parent) REFERENCES branches (branch), CHECK ((branch <> '') OR (parent IS NULL)),"
    " CHECK ((branch = '') OR (parent IS NOT NULL)))",
    "tags (name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, description TEXT,"
    " size INTEGER, branch TEXT, CONSTRAINT pk_tags PRIMARY KEY (name),"
    " FOREIGN KEY (branch) REFERENCES branches (branch))",
    "recycle_bin (hash TEXT, flags INTEGER, CONSTRAINT pk_hash PRIMARY KEY (hash))",
)


def check_tag(name: str, message: str) -> None:
    """Raises UsageError for what cannot be a tag of a publication."""
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name[:80]!r} cannot be the name of a tag", hint="letters, digits and -_./:")
    if name in _DESCRIPTIONS:
        raise UsageError(f"the tag {name} moves by itself", hint="choose another name")
    if len(message) > _MESSAGE or "\0" in message:
        raise UsageError("the message of the tag is too long, or has a NUL in it")


def read_tags(storage: Storage, digest: Digest | None, fqrn: str) -> tuple[list[Tag], list[tuple[str, str, int]]]:
    """The tags of a history, and its branches but for the default one. Raises MissingObject, CorruptObject."""
    if digest is None:
        return [], []
    file = storage.unpack(digest, "H", limits.HISTORY, "history.old").decode()
    with History(file, fqrn) as history:
        tags = history.tags()
    label = f"history of {fqrn}"
    branches: list[tuple[str, str, int]] = []
    with closing(open_database(file, {"tags", "branches", "recycle_bin", "properties"})) as db, database_errors(label):
        try:
            rows = db.execute("SELECT branch, parent, initial_revision FROM branches WHERE branch != ''").fetchall()
        except sqlite3.OperationalError:
            rows = []  # before revision 3
        branches = [(branch.decode(), parent.decode(), number) for branch, parent, number in rows]
    return tags, branches


def next_tags(tags: Sequence[Tag], head: Tag, new_revision: bool, names: Iterable[tuple[str, str]]) -> list[Tag]:
    """The tags after a publication.

    Args:
        tags: those of before.
        head: what is published; its name does not count.
        new_revision: it is another one than before, so that the moving tags move.
        names: new tags for it, with their descriptions.

    Raises:
        UsageError: a tag is there already, for another revision.
    """
    found = {tag.name: tag for tag in tags}
    if new_revision and TRUNK in found:
        found[PREVIOUS] = found[TRUNK]._replace(name=PREVIOUS, description=_DESCRIPTIONS[PREVIOUS])
    if new_revision or TRUNK not in found:
        found[TRUNK] = head._replace(name=TRUNK, description=_DESCRIPTIONS[TRUNK])
    for name, description in names:
        known = found.get(name)
        if known is None:
            found[name] = head._replace(name=name, description=description)
        elif known.hash != head.hash:
            raise UsageError(
                f"the tag {name!r} is that of revision {known.revision}", hint="a tag never moves; choose another"
            )
        elif description:
            found[name] = known._replace(description=description)
    return sorted(found.values(), key=lambda tag: (tag.revision, tag.name))


def write_history(
    storage: Storage,
    fqrn: str,
    tags: Sequence[Tag],
    branches: Sequence[tuple[str, str, int]],
    previous: Digest | None,
    algorithm: int,
) -> Digest:
    """Store a history database (schema 1.0, revision 3)."""
    properties = (
        ("schema", "1.0"),
        ("schema_revision", "3"),
        ("fqrn", fqrn),
        ("previous_revision", "0" * 2 * SIZE if previous is None else str(previous)),
    )
    with _fresh(_HISTORY_TABLES, properties) as db:
        db.execute("INSERT INTO branches VALUES ('', NULL, 0)")
        db.executemany("INSERT INTO branches VALUES (?, ?, ?)", branches)
        db.executemany(
            "INSERT INTO tags VALUES (?, ?, ?, ?, 0, ?, ?, ?)",
            [
                (tag.name, str(tag.hash), tag.revision, tag.timestamp, tag.description, tag.size, tag.branch)
                for tag in tags
            ],
        )
        db.commit()
        return storage.put(db.serialize(), "H", algorithm)


Refs = dict[Digest, tuple[int, int]]


def read_reflog(storage: Storage, fqrn: str) -> Refs:
    """Kind and time of all that was ever published as a root; empty if there is no list.

    Its digest in the manifest is not asked for: a run that was cut off may have added to it, which does no harm.

    Raises:
        CorruptObject: it is damaged.
    """
    label = f"{REFLOG} of {fqrn}"
    data = storage.control(REFLOG, _REFLOG_LIMIT)
    if data is None:
        return {}
    if len(data) > _REFLOG_LIMIT:
        raise CorruptObject(f"{label}: larger than {_REFLOG_LIMIT} bytes")
    copy = storage.scratch + b"/reflog.old"
    with open(copy, "wb") as file:
        file.write(data)
    found: Refs = {}
    try:
        with closing(open_database(copy.decode(), {"refs", "properties"})) as db, database_errors(label):
            for text, kind, when in db.execute("SELECT hash, type, timestamp FROM refs"):
                if not isinstance(text, bytes) or not isinstance(kind, int) or not isinstance(when, int):
                    raise CatalogError(f"{label}: a reference of other types than it must be")
                found[parse_digest(text.decode("ascii", "replace"))] = (kind, when)
    finally:
        os.unlink(copy)
    return found


def make_reflog(refs: Refs, fqrn: str) -> bytes:
    """The list as a file (schema 1.0, revision 0); never compressed."""
    tables = (
        "properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))",
        "refs (hash TEXT, type INTEGER, timestamp INTEGER, CONSTRAINT pk_refs PRIMARY KEY (hash))",
    )
    with _fresh(tables, (("schema", "1.0"), ("schema_revision", "0"), ("fqrn", fqrn))) as db:
        rows = sorted((when, kind, str(digest)) for digest, (kind, when) in refs.items())
        db.executemany("INSERT INTO refs VALUES (?, ?, ?)", [(text, kind, when) for when, kind, text in rows])
        db.commit()
        return db.serialize()


def _fresh(tables: Iterable[str], properties: Iterable[tuple[str, Any]]) -> closing[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    for table in tables:
        db.execute(f"CREATE TABLE {table}")
    db.executemany("INSERT INTO properties VALUES (?, ?)", properties)
    return closing(db)
