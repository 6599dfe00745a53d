"""The history database: named snapshots of a repository, and pins by tag, revision or date (FORMAT.md §7)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, NamedTuple

from shrinkwrap.cvmfs.digest import Digest, parse_digest
from shrinkwrap.cvmfs.safedb import database_errors, open_database
from shrinkwrap.errors import CatalogError, CorruptObject, TrustError, UsageError

#: Tables that a history may have (FORMAT.md §7.1).
TABLES: Final = frozenset({"tags", "branches", "recycle_bin", "properties"})
#: More tags than this are refused. Nightly builds of a decade come to some ten thousand.
MAX_TAGS: Final = 500_000
MAX_NAME: Final = 1024

_SCHEMA: Final = b"1.0"
_REQUIRED: Final = frozenset({"name", "hash", "revision", "timestamp", "description"})
_INT64: Final = 1 << 63
#: Moving names: where several tags mark one revision, a lasting name says more.
_MOVING: Final = frozenset({"trunk", "trunk-previous"})
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: How many tag names an error message offers.
_OFFERED: Final = 8
_DATE: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}):(\d{2}):(\d{2})Z)?", re.ASCII)


class Tag(NamedTuple):
    """A named snapshot.

    ``hash`` is that of the root catalog, ``size`` its inflated size in bytes (0: unknown), ``timestamp``
    seconds since the epoch, ``branch`` empty for the default branch. ``name`` has no control characters;
    ``description`` is free text.
    """

    name: str
    hash: Digest
    revision: int
    timestamp: int
    description: str
    size: int
    branch: str


class History:
    """An open history database, read-only. Every row is checked when it is read.

    Args:
        file: a verified and inflated history object.
        fqrn: the repository that it must be of.

    Raises:
        CatalogError: not a history, or a layout that cannot be read.
        TrustError: the history of another repository.
    """

    def __init__(self, file: str, fqrn: str) -> None:
        self.fqrn = fqrn
        self._label = f"history of {fqrn}"
        self._db = open_database(file, TABLES)
        try:
            with database_errors(self._label):
                self._load()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self) -> None:
        properties = dict(self._db.execute("SELECT key, value FROM properties LIMIT 1000").fetchall())
        schema = properties.get(b"schema")
        if schema != _SCHEMA:
            raise CatalogError(f"{self._label}: schema {schema!r:.40}, expected {_SCHEMA!r}")
        fqrn = properties.get(b"fqrn")
        if fqrn != self.fqrn.encode():
            raise TrustError(f"{self._label}: it is the history of {fqrn!r:.80}, expected {self.fqrn!r}")
        cursor = self._db.execute("SELECT * FROM tags LIMIT 0")
        have = {column[0] for column in cursor.description}
        if missing := _REQUIRED - have:
            raise CatalogError(f"{self._label}: table 'tags' lacks the columns {', '.join(sorted(missing))}")
        # Which columns there are says more than schema_revision: databases are upgraded in place (FORMAT.md
        # §7.1).
        size = "size" if "size" in have else "0"
        self._branch = "coalesce(branch, '')" if "branch" in have else "''"
        self._select = f"SELECT name, hash, revision, timestamp, description, {size}, {self._branch} FROM tags "  # noqa: S608

    # -- pins ------------------------------------------------------------------------------------------------

    def by_name(self, name: str) -> Tag:
        """The tag of exactly this name.

        Raises:
            UsageError: there is none; the hint names some that there are.
        """
        try:
            name.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{self.fqrn}: {name!r} is not a tag's name") from None
        for tag in self._read("WHERE name = ?", (name,)):
            if tag.name == name:
                return tag
        raise UsageError(f"{self.fqrn}: there is no tag {name!r}", hint=self._offer())

    def by_revision(self, revision: int) -> Tag:
        """The tag that marks this revision of the default branch.

        Raises:
            UsageError: no tag marks it.
            CatalogError: two tags say that it has different root catalogs.
        """
        tags: list[Tag] = []
        if 0 <= revision < _INT64:
            tags = self._read(f"WHERE {self._branch} = '' AND revision = ?", (revision,))
        if not tags:
            raise UsageError(
                f"{self.fqrn}: no tag marks revision {revision}",
                hint="only tagged revisions can be found by their number; a root hash needs no tag",
            )
        return self._agreed(tags)

    def by_date(self, timestamp: int) -> Tag:
        """The newest tag of the default branch that is not younger than ``timestamp`` (FORMAT.md §7.2).

        "Newest" is the highest revision, since revisions can share a second.

        Raises:
            UsageError: all tags are younger.
            CatalogError: two tags say that the revision has different root catalogs.
        """
        tags: list[Tag] = []
        where = f"WHERE {self._branch} = '' AND timestamp <= ? "
        if timestamp >= -_INT64:
            latest = self._read(where + "ORDER BY revision DESC LIMIT 1", (min(timestamp, _INT64 - 1),))
            if latest:
                tags = self._read(where + "AND revision = ?", (min(timestamp, _INT64 - 1), latest[0].revision))
        if not tags:
            raise UsageError(
                f"{self.fqrn}: no tag is as old as {_utc(timestamp)}",
                hint="see the list of tags for the oldest",
            )
        return self._agreed(tags)

    def tags(self) -> list[Tag]:
        """All tags, by revision, then by name."""
        return sorted(self._read(""), key=lambda tag: (tag.revision, tag.name))

    def _agreed(self, tags: Sequence[Tag]) -> Tag:
        best = min(tags, key=lambda tag: (tag.name in _MOVING, tag.name))
        for tag in tags:
            if tag.hash != best.hash:
                raise CatalogError(
                    f"{self._label}: tags {best.name!r} and {tag.name!r} give revision {tag.revision} two"
                    f" root catalogs, {best.hash} and {tag.hash}"
                )
        return best

    def _offer(self) -> str:
        names = [tag.name for tag in self._read(f"ORDER BY revision DESC, name LIMIT {_OFFERED}")]
        return f"its newest tags are {', '.join(names)}" if names else "it has no tags at all"

    # -- rows ------------------------------------------------------------------------------------------------

    def _read(self, clause: str, values: tuple[str | int, ...] = ()) -> list[Tag]:
        with database_errors(self._label):
            cursor = self._db.execute(self._select + clause, values)
            tags: list[Tag] = []
            for row in cursor:
                if len(tags) >= MAX_TAGS:
                    raise CatalogError(f"{self._label}: more than {MAX_TAGS} tags")
                tags.append(self._tag(*row))
            return tags

    def _tag(
        self,
        name: object,
        root: object,
        revision: object,
        timestamp: object,
        description: object,
        size: object,
        branch: object,
    ) -> Tag:
        label = self._text("name", name)
        if not label or len(label) > MAX_NAME or _CONTROL.search(label):
            raise CatalogError(f"{self._label}: impossible name of a tag: {label!r:.80}")
        try:
            digest = parse_digest(self._text("hash", root))
        except CorruptObject as exc:
            raise CatalogError(f"{self._label}: tag {label!r:.80}: {exc}") from None
        if digest.is_null:
            raise CatalogError(f"{self._label}: tag {label!r:.80}: its root hash is null")
        return Tag(
            label,
            digest,
            self._number(label, "revision", revision),
            self._number(label, "timestamp", timestamp),
            # Rows from before an upgrade of the layout hold NULL in the columns that it added.
            "" if description is None else self._text("description", description),
            0 if size is None else self._number(label, "size", size),
            self._text("branch", branch),
        )

    def _text(self, column: str, value: object) -> str:
        if not isinstance(value, bytes):
            raise CatalogError(f"{self._label}: a tag's {column} is {value!r:.40}, expected text")
        if column == "description":
            return value.decode("utf-8", "replace")
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise CatalogError(f"{self._label}: a tag's {column} is not UTF-8: {value!r:.80}") from None

    def _number(self, tag: str, column: str, value: object) -> int:
        if not isinstance(value, int) or value < 0:
            raise CatalogError(f"{self._label}: tag {tag!r:.80}: its {column} is {value!r:.40}, expected a number")
        return value


def parse_date(text: str) -> int:
    """Seconds since the epoch of a date to pin to.

    ``YYYY-MM-DDThh:mm:ssZ`` is that second (the form of CernVM-FS, FORMAT.md §7.2). A bare ``YYYY-MM-DD`` is
    the *last* second of that day in UTC, so that what was published on the day counts.

    Raises:
        UsageError: neither form, or no such day.
    """
    found = _DATE.fullmatch(text)
    if found is not None:
        parts = [int(part) for part in found.groups(default="-1")]
        if parts[3] < 0:
            parts[3:] = [23, 59, 59]
        year, month, day, hour, minute, second = parts
        try:
            return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())
        except ValueError as exc:
            raise UsageError(f"{text!r} is not a date: {exc}") from None
    raise UsageError(
        f"{text[:80]!r} is not a date that can be pinned to",
        hint="write 2026-03-31T12:00:00Z, or 2026-03-31 for the end of that day (both UTC)",
    )


def _utc(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"second {seconds}"
