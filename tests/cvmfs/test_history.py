"""Tags, and pins by name, revision and date."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cvmfs import real
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs import history as module
from shrinkwrap.cvmfs.digest import parse_digest
from shrinkwrap.cvmfs.history import History, Tag, parse_date
from shrinkwrap.cvmfs.manifest import parse_manifest
from shrinkwrap.errors import CatalogError, TrustError, UsageError

FQRN = "test.example.org"
HASHES = ["%040x" % (number + 1) for number in range(10)]

#: The layouts of schema revisions 0 to 3 (FORMAT.md §7.1).
COLUMNS = {
    0: "name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, description TEXT",
    1: "name TEXT, hash TEXT, revision INTEGER, timestamp INTEGER, channel INTEGER, description TEXT, size INTEGER",
}
COLUMNS[2] = COLUMNS[1]
COLUMNS[3] = COLUMNS[1] + ", branch TEXT"

Row = tuple[Any, ...]
Make = Callable[..., History]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes histories of rows (name, hash, revision, timestamp[, description[, size[, branch]]])."""
    opened: list[History] = []

    def build(
        *rows: Row,
        revision: int = 3,
        columns: str | None = None,
        fqrn: object = FQRN,
        schema: object = "1.0",
    ) -> History:
        path = tmp_path / f"history-{len(list(tmp_path.iterdir()))}"
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE properties (key TEXT, value TEXT, CONSTRAINT pk_properties PRIMARY KEY (key))")
        properties = [("schema", schema), ("schema_revision", str(revision)), ("fqrn", fqrn)]
        db.executemany("INSERT INTO properties VALUES (?, ?)", [row for row in properties if row[1] is not None])
        if columns != "":
            db.execute(f"CREATE TABLE tags ({columns or COLUMNS[revision]})")
        names = ["name", "hash", "revision", "timestamp", "description", "size", "branch"]
        for row in rows:
            full = [*row, *("", 0, "")[len(row) - 4 :]] if len(row) < 7 else list(row)
            have = 5 if revision == 0 else 6 if revision < 3 else 7
            marks = ", ".join("?" * have)
            db.execute(f"INSERT INTO tags ({', '.join(names[:have])}) VALUES ({marks})", full[:have])
        db.commit()
        db.close()
        history = History(str(path), FQRN)
        opened.append(history)
        return history

    yield build
    for history in opened:
        history.close()


def names(history: History) -> list[str]:
    return [tag.name for tag in history.tags()]


# -- real histories --------------------------------------------------------------------------------------------


def with_history() -> list[object]:
    paths = real.manifests()
    return [path for path in paths if not isinstance(path, str) or b"\nH" in real.read(path)]


def open_real(path: str, tmp_path: Path) -> History:
    manifest = parse_manifest(real.read(path))
    assert manifest.history is not None
    scratch = tmp_path / "history"
    scratch.write_bytes(real.inflated(manifest.fqrn, manifest.history, "H"))
    return History(str(scratch), manifest.fqrn)


@pytest.mark.parametrize("path", with_history())
def test_trunk_of_every_real_history_is_the_head_of_its_manifest(path: str, tmp_path: Path) -> None:
    manifest = parse_manifest(real.read(path))
    with open_real(path, tmp_path) as history:
        trunk = history.by_name("trunk")
        assert (trunk.hash, trunk.revision, trunk.size) == (
            manifest.root_hash,
            manifest.revision,
            manifest.root_size,
        )
        assert 0 <= manifest.timestamp - trunk.timestamp <= 1
        tags = history.tags()
        assert [tag.revision for tag in tags] == sorted(tag.revision for tag in tags)
        for tag in tags:
            assert history.by_name(tag.name) == tag
            assert history.by_revision(tag.revision).hash == tag.hash
            assert len(real.inflated(manifest.fqrn, tag.hash, "C")) == tag.size


def test_every_pin_gives_what_the_reference_client_mounts(repos: Path, tmp_path: Path) -> None:
    pins = [json.loads(line) for line in (repos / "golden/small.cern.ch/pins.jsonl").read_text().splitlines()]
    checked = 0
    with open_real("small.cern.ch/.cvmfspublished", tmp_path) as history:
        for pin in pins:
            settings = dict(setting.split("=", 1) for setting in pin.get("settings", []))
            if not settings or "CVMFS_ROOT_HASH" in settings:
                continue  # neither asks the history
            checked += 1

            def resolve(settings: dict[str, str] = settings) -> Tag:
                if "CVMFS_REPOSITORY_TAG" in settings:
                    return history.by_name(settings["CVMFS_REPOSITORY_TAG"])
                return history.by_date(parse_date(settings["CVMFS_REPOSITORY_DATE"]))

            if not pin["mounts"]:
                with pytest.raises(UsageError):
                    resolve()
                continue
            tag = resolve()
            assert (str(tag.hash), tag.revision) == (pin["root_hash"], pin["revision"])
            if "CVMFS_REPOSITORY_TAG" in settings:
                assert tag.name == pin["tag_xattr"]
    assert checked > 10


def test_the_history_of_an_old_manifest_knows_the_tags_of_its_time_only(repos: Path, tmp_path: Path) -> None:
    with open_real("small.cern.ch/.cvmfspublished.rev2", tmp_path) as history:
        assert sorted(names(history)) == ["rev1", "rev2", "trunk", "trunk-previous"]
        with pytest.raises(UsageError, match="no tag 'rev3'"):
            history.by_name("rev3")


def test_tags_of_different_hash_algorithms_stand_side_by_side(repos: Path, tmp_path: Path) -> None:
    with open_real("mixed.cern.ch/.cvmfspublished", tmp_path) as history:
        assert [history.by_revision(number).hash.algorithm for number in (1, 2, 3)] == [0, 1, 2]


# -- layouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [0, 1, 2, 3])
def test_every_layout_is_read(make: Make, revision: int) -> None:
    history = make(("one", HASHES[1], 5, 1000, "words", 4096), revision=revision)
    expected = Tag("one", parse_digest(HASHES[1]), 5, 1000, "words", 0 if revision == 0 else 4096, "")
    assert history.tags() == [expected]
    assert history.by_name("one") == history.by_revision(5) == history.by_date(1000) == expected


def test_rows_from_before_an_upgrade_have_nulls_in_the_new_columns(make: Make) -> None:
    history = make(("old", HASHES[1], 5, 1000, None, None, None))
    assert history.tags() == [Tag("old", parse_digest(HASHES[1]), 5, 1000, "", 0, "")]
    assert history.by_date(1000).name == "old"


def test_columns_are_found_by_name_whatever_their_order(make: Make) -> None:
    columns = "branch TEXT, size INTEGER, description TEXT, timestamp INTEGER, revision INTEGER, hash TEXT, name TEXT"
    assert make(("one", HASHES[1], 5, 1000), columns=columns).by_name("one").revision == 5


@pytest.mark.parametrize("column", ["name", "hash", "revision", "timestamp", "description"])
def test_a_table_without_a_needed_column_is_refused(make: Make, column: str) -> None:
    columns = re.sub(rf"\b{column}\b", "other", COLUMNS[3])
    with pytest.raises(CatalogError, match=f"lacks the columns {column}"):
        make(columns=columns)


def test_a_history_without_tags_table_is_refused(make: Make) -> None:
    with pytest.raises(CatalogError, match="no such table"):
        make(columns="")


@pytest.mark.parametrize("schema", [None, "", "1.1", "2.0", "0.9", 1, "1.0x"])
def test_an_unknown_schema_is_refused(make: Make, schema: object) -> None:
    with pytest.raises(CatalogError, match="schema"):
        make(schema=schema)


@pytest.mark.parametrize("fqrn", [None, "", "other.example.org", FQRN.upper(), b"\xff", 7])
def test_the_history_of_another_repository_is_refused(make: Make, fqrn: object) -> None:
    with pytest.raises(TrustError, match="history of"):
        make(fqrn=fqrn)


# -- pins ------------------------------------------------------------------------------------------------------


def test_a_date_gives_the_highest_revision_that_is_not_younger(make: Make) -> None:
    history = make(
        ("a", HASHES[1], 1, 1000),
        ("b", HASHES[2], 2, 2000),
        ("c", HASHES[3], 3, 2000),
        ("d", HASHES[4], 4, 1500),
        ("e", HASHES[5], 5, 3000),
    )
    found = [history.by_date(when).name for when in (1000, 1499, 1500, 2000, 2999, 3000, 1 << 70)]
    # "d" was published with a clock that had gone back: its revision counts, not its time.
    assert found == ["a", "a", "d", "d", "d", "e", "e"]


@pytest.mark.parametrize("when", [999, 0, -1, -(1 << 63), -(1 << 70)])
def test_a_date_before_all_tags_is_an_error(make: Make, when: int) -> None:
    with pytest.raises(UsageError, match="as old as"):
        make(("a", HASHES[1], 1, 1000)).by_date(when)


def test_dates_and_revisions_look_at_the_default_branch_only(make: Make) -> None:
    history = make(
        ("main", HASHES[1], 1, 1000),
        ("side", HASHES[2], 2, 1000, "", 0, "side"),
    )
    assert history.by_date(5000).name == "main"
    with pytest.raises(UsageError, match="no tag marks revision 2"):
        history.by_revision(2)
    assert history.by_name("side").branch == "side"


def test_of_several_tags_of_a_revision_a_lasting_one_is_named(make: Make) -> None:
    history = make(("trunk", HASHES[1], 1, 1000), ("v1", HASHES[1], 1, 1000), ("trunk-previous", HASHES[1], 1, 1000))
    assert history.by_revision(1).name == history.by_date(1000).name == "v1"


def test_tags_that_disagree_about_a_revision_are_refused(make: Make) -> None:
    history = make(("a", HASHES[1], 1, 1000), ("b", HASHES[2], 1, 1000))
    with pytest.raises(CatalogError, match="two root catalogs"):
        history.by_revision(1)
    with pytest.raises(CatalogError, match="two root catalogs"):
        history.by_date(1000)
    assert history.by_name("a").hash == parse_digest(HASHES[1])


@pytest.mark.parametrize("revision", [0, 2, -1, 1 << 63, 1 << 64])
def test_a_revision_without_tag_is_an_error(make: Make, revision: int) -> None:
    with pytest.raises(UsageError, match="no tag marks"):
        make(("a", HASHES[1], 1, 1000)).by_revision(revision)


@pytest.mark.parametrize("name", ["A", "a ", "", "b", "a\0", "%", "a' OR '1'='1", "\udcff", "ä"])
def test_a_name_must_fit_exactly(make: Make, name: str) -> None:
    with pytest.raises(UsageError):
        make(("a", HASHES[1], 1, 1000)).by_name(name)


def test_a_name_must_fit_exactly_even_if_the_column_ignores_case(make: Make) -> None:
    columns = COLUMNS[3].replace("name TEXT", "name TEXT COLLATE NOCASE")
    with pytest.raises(UsageError, match="no tag 'A'"):
        make(("a", HASHES[1], 1, 1000), columns=columns).by_name("A")


def test_the_error_about_a_name_offers_the_newest_ones(make: Make) -> None:
    history = make(*[(f"v{number}", HASHES[number], number, 1000) for number in range(1, 10)])
    with pytest.raises(UsageError) as caught:
        history.by_name("v")
    assert caught.value.hint == "its newest tags are v9, v8, v7, v6, v5, v4, v3, v2"
    with pytest.raises(UsageError) as caught:
        make().by_name("v")
    assert caught.value.hint == "it has no tags at all"


# -- hostile rows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        (None, HASHES[1], 1, 1000),
        ("", HASHES[1], 1, 1000),
        ("a\nb", HASHES[1], 1, 1000),
        ("\x1b[31m", HASHES[1], 1, 1000),
        ("a\0", HASHES[1], 1, 1000),
        (b"\xff", HASHES[1], 1, 1000),
        ("x" * 2000, HASHES[1], 1, 1000),
        ("a", None, 1, 1000),
        ("a", "", 1, 1000),
        ("a", "0" * 40, 1, 1000),
        ("a", HASHES[1].replace("0", "F"), 1, 1000),
        ("a", "../../../etc/passwd", 1, 1000),
        ("a", b"\xff" * 40, 1, 1000),
        ("a", HASHES[1], None, 1000),
        ("a", HASHES[1], "one", 1000),
        ("a", HASHES[1], 1.5, 1000),
        ("a", HASHES[1], -1, 1000),
        ("a", HASHES[1], b"1", 1000),
        ("a", HASHES[1], 1, None),
        ("a", HASHES[1], 1, "now"),
        ("a", HASHES[1], 1, -5),
        ("a", HASHES[1], 1, 1e300),
        ("a", HASHES[1], 1, 1000, 7.5),
        ("a", HASHES[1], 1, 1000, "", "big"),
        ("a", HASHES[1], 1, 1000, "", -1),
        ("a", HASHES[1], 1, 1000, "", 0, b"\xff"),
    ],
)
def test_a_row_of_wrong_types_or_values_is_refused(make: Make, row: Row) -> None:
    # Columns without types, or SQLite would turn 7.5 into text.
    columns = "name, hash, revision, timestamp, description, size, branch"
    history = make(row, columns=columns)
    with pytest.raises(CatalogError):
        history.tags()


def test_text_in_the_revision_column_does_not_win_by_sorting_last(make: Make) -> None:
    history = make(("a", HASHES[1], 1, 1000), ("evil", HASHES[2], "text sorts after numbers", 1000))
    with pytest.raises(CatalogError, match="revision"):
        history.by_date(2000)


def test_a_description_that_is_not_utf8_does_not_stop_anything(make: Make) -> None:
    assert make(("a", HASHES[1], 1, 1000, b"caf\xe9")).by_name("a").description == "caf\ufffd"


def test_more_tags_than_the_cap_are_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TAGS", 3)
    history = make(*[(f"v{number}", HASHES[number], number, 1000) for number in range(1, 5)])
    with pytest.raises(CatalogError, match="more than 3 tags"):
        history.tags()
    assert history.by_name("v4").revision == 4


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(CatalogError, match="SQLite"):
        History(str(tmp_path / "x"), FQRN)


def test_a_catalog_is_no_history(tmp_path: Path, repos: Path) -> None:
    manifest = parse_manifest(real.read("small.cern.ch/.cvmfspublished"))
    (tmp_path / "x").write_bytes(real.inflated("small.cern.ch", manifest.root_hash, "C"))
    with pytest.raises(CatalogError, match="schema"):
        History(str(tmp_path / "x"), "small.cern.ch")


@given(name=st.text(max_size=30), number=st.integers(), when=st.integers())
def test_any_question_is_answered_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, number: int, when: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "questions.db"
    if not path.exists():
        db = sqlite3.connect(path)
        db.execute("CREATE TABLE properties (key TEXT, value TEXT)")
        db.execute("INSERT INTO properties VALUES ('schema', '1.0'), ('fqrn', ?)", (FQRN,))
        db.execute(f"CREATE TABLE tags ({COLUMNS[3]})")
        db.execute("INSERT INTO tags VALUES ('a', ?, 1, 1000, 0, '', 0, '')", (HASHES[1],))
        db.commit()
        db.close()
    with History(str(path), FQRN) as history:
        for ask in (
            lambda: history.by_name(name),
            lambda: history.by_revision(number),
            lambda: history.by_date(when),
        ):
            with suppress(UsageError):
                assert ask().name == "a"


# -- dates -----------------------------------------------------------------------------------------------------


def seconds(*parts: int) -> int:
    year, month, day, *time = parts
    hour, minute, second = time or (0, 0, 0)
    return int(datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T11:13:31Z", seconds(2026, 11, 22, 11, 13, 31)),
        ("1970-01-01T00:00:00Z", 0),
        ("2026-02-28", seconds(2026, 2, 28, 23, 59, 59)),
        ("2024-02-29", seconds(2024, 2, 29, 23, 59, 59)),
    ],
)
def test_dates_are_read(text: str, expected: int) -> None:
    assert parse_date(text) == expected


def test_a_bare_date_is_the_end_of_that_day() -> None:
    assert parse_date("2026-03-31") + 1 == parse_date("2026-04-01T00:00:00Z")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026",
        "2026-11",
        "2026-11-22T11:13:31",
        "2026-11-22 11:13:31Z",
        "2026-11-22T11:13Z",
        "2026-11-22T11:13:31+01:00",
        "2026-11-22T11:13:31z",
        "2026-11-22T11:13:31Z ",
        " 2026-11-22",
        "2026-13-01",
        "2026-02-29",
        "2026-02-30T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:60Z",
        "0000-01-01",
        "22.11.2026",
        "２０２６-11-22",
        "1795346011",
    ],
)
def test_other_forms_of_dates_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="date"):
        parse_date(text)


@given(st.text(alphabet="0123456789-T:Z x", max_size=25))
def test_any_text_is_a_date_or_refused(text: str) -> None:
    with suppress(UsageError):
        parse_date(text)
