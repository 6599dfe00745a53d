"""The golden listings are read as they are meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import golden
from support.golden import Export, Pinned


@pytest.fixture(autouse=True)
def _needs_repositories(repos: Path) -> None:
    """All of these are about the listings themselves."""


def test_all_revisions_are_known() -> None:
    assert len(golden.pinned()) == 17
    assert Pinned("small.cern.ch", "rev2") in golden.pinned()
    assert Pinned("legacy_aufs.cern.ch", "head") in golden.pinned()


def test_names_are_the_true_bytes() -> None:
    paths = {record.path for record in golden.mounted(Pinned("small.cern.ch", "rev2"))}
    assert b"/special/names/dirs/latin1-\xe9\xff/f" in paths
    assert not any(b"\\xff" in path for path in paths)
    assert len(paths) == 4557


def test_binary_targets_and_xattrs_are_the_true_bytes() -> None:
    records = {record.path: record for record in golden.mounted(Pinned("small.cern.ch", "rev3"))}
    assert records[b"/special/xattr/bin"].xattrs == {b"user.bin": bytes(range(200))}
    targets = [record.target for record in records.values() if record.target is not None]
    assert any(b"\xff" in target or b"\xe9" in target for target in targets)
    assert records[b"/special/xattr/hl2"].group == b"/special/xattr/hl1"


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_every_record_is_complete(at: Pinned) -> None:
    records = golden.mounted(at)
    assert records[0].path == b"/"
    assert list(records) == sorted(records, key=lambda record: record.path)
    for record in records:
        assert (record.type == "file") == (record.sha256 is not None), record
        assert (record.type == "symlink") == (record.target is not None), record


@pytest.mark.parametrize("export", golden.params(golden.exports()))
def test_every_exported_path_is_in_the_mount(export: Export) -> None:
    records = golden.exported(export)
    assert records[0].path == b"/"
    assert all(record.path != golden.MARKER for record in records)
    if export.spec != "nothing":
        assert golden.spec_file(export.spec).exists()


def test_a_wrong_setting_is_no_reason_to_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHRINKWRAP_TEST_REPOS", str(tmp_path))
    with pytest.raises(RuntimeError, match="golden"):
        golden.find_repos.__wrapped__()


def test_every_revision_has_its_own_manifest() -> None:
    small = {Pinned("small.cern.ch", rev).manifest for rev in ("rev1", "rev2", "rev3")}
    assert len(small) == 3
    assert Pinned("small.cern.ch", "rev2").tag == "rev2"
    assert Pinned("testmigration.cern.ch", "rev2").tag is None
