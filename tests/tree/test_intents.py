"""What a run that was cut off leaves behind decides which stored files are believed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from tree.storing import item, open_store, put

from shrinkwrap.record.record import Goal
from shrinkwrap.snapshot.view import ViewOptions
from shrinkwrap.tree import intents
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.intents import begin, drop_doubtful, end, read_intent

ONE, TWO = "one.cern.ch", "two.cern.ch"
_SPEC = b"/*\n"


def goal(fqrn: str = ONE) -> Goal:
    view = ViewOptions(claim=True, uid=0, gid=0)
    return Goal(fqrn, "0" * 40, 0, _SPEC, hashlib.sha256(_SPEC).hexdigest(), "2.14", view, "hardlink")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Base]:
    """A destination whose clock has no slack, with a tree."""
    monkeypatch.setattr(intents, "_SLACK_NS", 0)
    made = Base(str(tmp_path))
    for fqrn in (ONE, TWO):
        made.make_folder(made.provenance(fqrn), 0o755)
        (tmp_path / fqrn).mkdir()
    yield made
    made.close()


def store_file(base: Base, content: bytes) -> Path:
    store = open_store(base)
    wanted = item(content)
    put(store, wanted, content)
    store.close()
    # Its ctime must differ from that of what comes next.
    while base.clock() <= (file := Path(base.path, ".data", wanted.name)).stat().st_ctime_ns:
        pass
    return file


def start_anew(monkeypatch: pytest.MonkeyPatch, name: str = "another") -> None:
    monkeypatch.setattr(intents, "boot_id", lambda: name)


def test_after_a_start_of_the_machine_all_that_was_written_since_the_intent_is_dropped(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = store_file(base, b"before")
    begin(base, ONE, goal())
    since = store_file(base, b"since")
    told: list[str] = []
    drop_doubtful(base, told.append)
    assert (before.exists(), since.exists(), told) == (True, True, [])
    start_anew(monkeypatch)
    drop_doubtful(base, told.append)
    assert (before.exists(), since.exists()) == (True, False)
    assert len(told) == 1
    assert " 1 stored files " in told[0]
    # What is written from now on is believed, as long as the machine runs.
    after = store_file(base, b"after")
    drop_doubtful(base, told.append)
    assert after.exists()
    start_anew(monkeypatch, "a third")
    drop_doubtful(base, told.append)
    assert (before.exists(), after.exists()) == (True, False)


def test_an_intent_of_another_repository_counts_too(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(base, ONE, goal(ONE))
    doubtful = store_file(base, b"of one")
    start_anew(monkeypatch)
    begin(base, TWO, goal(TWO))
    drop_doubtful(base, lambda line: None)
    assert not doubtful.exists()


def test_a_second_intent_does_not_make_the_first_one_s_files_safe(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(base, ONE, goal())
    doubtful = store_file(base, b"first run")
    begin(base, ONE, goal())
    start_anew(monkeypatch)
    drop_doubtful(base, lambda line: None)
    assert not doubtful.exists()


def test_the_end_of_a_run_makes_safe_what_all_runs_wrote(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(base, ONE, goal(ONE))
    safe = store_file(base, b"synced by the end of two")
    begin(base, TWO, goal(TWO))
    end(base, TWO)
    assert read_intent(base, TWO) is None
    doubtful = store_file(base, b"later")
    start_anew(monkeypatch)
    drop_doubtful(base, lambda line: None)
    assert (safe.exists(), doubtful.exists()) == (True, False)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"goal": null, "boot_id": "x"}', b"\xff"])
def test_an_intent_that_cannot_be_read_is_as_good_as_the_worst(text: bytes, base: Base) -> None:
    file = store_file(base, b"content")
    base.replace_file(base.provenance(ONE) + b"/intent.json", text)
    assert read_intent(base, ONE) is not None
    drop_doubtful(base, lambda line: None)
    assert not file.exists()
