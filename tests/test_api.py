"""The public API: complete, documented, cheap to import, and true to what the mounts show."""

from __future__ import annotations

import hashlib
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import golden
from support.exporting import differences, selected
from support.golden import Pinned
from support.listing import AS_ROOT
from support.processes import dying_with_parent
from support.servers import RepoServer

import shrinkwrap
from shrinkwrap import Repository, Spec, api, errors
from shrinkwrap.snapshot.walk import order_key
from shrinkwrap.tree.base import Base

FQRN = "small.cern.ch"
REV2 = Pinned(FQRN, "rev2")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(Base, "sync", lambda self: None)


@pytest.fixture
def small(repos: Path) -> Iterator[Repository]:
    with Repository(FQRN, storage=repos / FQRN, keys=[REV2.key]) as repository:
        yield repository


# ----------------------------------------------------------------------------------------------------------- the names


def test_all_that_is_public_is_named_and_can_be_had() -> None:
    assert sorted(shrinkwrap.__all__, key=str.lower) == sorted(set(shrinkwrap.__all__), key=str.lower)
    assert set(shrinkwrap.__all__) == {*api.__all__, *errors.__all__, "__version__"}
    for name in shrinkwrap.__all__:
        assert getattr(shrinkwrap, name) is not None
        assert name in dir(shrinkwrap)
    public = {
        name
        for name, value in vars(api).items()
        if getattr(value, "__module__", "") == api.__name__ and not name.startswith("_")
    }
    assert public <= set(api.__all__)
    scope: dict[str, object] = {}
    exec("from shrinkwrap import *", scope)
    assert set(shrinkwrap.__all__) <= set(scope)


def test_what_is_not_there_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = shrinkwrap.nothing


def test_every_public_name_has_a_docstring_and_types() -> None:
    for name in set(shrinkwrap.__all__) - {"__version__", *errors.__all__}:
        thing = getattr(shrinkwrap, name)
        assert inspect.getdoc(thing), name
        for method, value in vars(thing).items() if inspect.isclass(thing) else ():
            ours = thing.__module__ == api.__name__ and (callable(value) or isinstance(value, property))
            if not method.startswith("_") and (ours or isinstance(value, classmethod)):
                assert inspect.getdoc(getattr(thing, method)), f"{name}.{method}"
    for function in (shrinkwrap.export, Repository.__init__, Repository.snapshot, shrinkwrap.Snapshot.entries):
        unnamed = [one.name for one in inspect.signature(function).parameters.values() if one.annotation is one.empty]
        assert unnamed in ([], ["self"])


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import shrinkwrap; "
        "print([name for name in sys.modules if name.startswith('shrinkwrap.') or name in "
        "('httpx', 'sqlite3', 'pycurl', 'cryptography', 'typer', 'rich', 'xxhash', 'zstandard')])"
    )
    done = subprocess.run(
        [*dying_with_parent(), sys.executable, "-c", code],
        env={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(golden.CHECKOUT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


# ------------------------------------------------------------------------------------------------------- repositories


def test_head_tags_and_pins_are_those_of_the_repository(small: Repository) -> None:
    tags = {tag.name: tag for tag in small.tags()}
    assert {"rev1", "rev2", "rev3"} <= set(tags)
    assert small.head.root_hash == str(tags["rev3"].hash)
    wanted = tags["rev2"]
    by_tag = small.snapshot(tag="rev2")
    assert (by_tag.root_hash, by_tag.revision, by_tag.timestamp, by_tag.tag, by_tag.signed) == (
        *(str(wanted.hash), wanted.revision, wanted.timestamp),
        *("rev2", True),
    )
    assert small.snapshot(revision=wanted.revision).root_hash == by_tag.root_hash
    assert small.snapshot(root_hash=by_tag.root_hash).revision == wanted.revision
    assert small.snapshot().root_hash == small.head.root_hash
    assert FQRN in repr(small)
    assert by_tag.root_hash in repr(by_tag)


def test_a_repository_on_a_server_is_the_same(repo_server: RepoServer) -> None:
    with Repository(FQRN, servers=[repo_server.repo(FQRN)], keys=[REV2.key]) as repository:
        assert repository.snapshot(tag="rev2").find("/README") is not None


def test_the_client_configuration_says_where_from_and_with_which_keys(repos: Path, tmp_path: Path) -> None:
    config = tmp_path / "small.conf"
    config.write_text(
        f"CVMFS_SERVER_URL=file://{repos}/@fqrn@\nCVMFS_PUBLIC_KEY={REV2.key}\nCVMFS_REPOSITORY_TAG=rev1\n"
    )
    with Repository(FQRN, config=[config]) as repository:
        assert repository.snapshot().tag == "rev1"
        assert repository.head.tag == ""
        assert repository.snapshot(tag="rev2").tag == "rev2"


def test_catalogs_are_kept_where_that_is_asked_for(repos: Path, tmp_path: Path) -> None:
    with Repository(FQRN, storage=repos / FQRN, keys=[REV2.key], cache=tmp_path / "cache") as repository:
        assert repository.head.find("/README") is not None
    kept = list((tmp_path / "cache" / "objects").glob("*/*C"))
    assert kept


def test_the_wrong_key_is_no_reason_to_trust(repos: Path) -> None:
    other = repos / "keys" / "nodes.cern.ch.pub"
    with Repository(FQRN, storage=repos / FQRN, keys=[other]) as repository, pytest.raises(errors.TrustError):
        _ = repository.head


def test_without_keys_only_a_root_hash_that_is_taken_unsigned_can_be_read(
    repos: Path, small: Repository, tmp_path: Path
) -> None:
    config = tmp_path / "small.conf"
    config.write_text(f"CVMFS_SERVER_URL=file://{repos / FQRN}\nCVMFS_KEYS_DIR=\nCVMFS_PUBLIC_KEY=\n")
    root_hash = small.head.root_hash
    with Repository(FQRN, config=[config]) as repository:
        repository._keys = ()  # whatever this machine has in /etc/cvmfs/keys
        taken = repository.snapshot(root_hash=root_hash, unsigned=True)
        assert not taken.signed
        assert taken.revision == 0
        assert taken.read("/README") == small.head.read("/README")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"servers": "http://a/b"}, "list"),
        ({"storage": "x", "keys": "key.pub"}, "list"),
        ({"storage": "a\0b"}, "NUL"),
        ({"storage": "x", "servers": ["http://a/b"]}, "servers and a storage"),
        ({"servers": ["gopher://a/b"]}, "gopher"),
        ({"storage": "x", "keys": ["/nowhere/at/all.pub"]}, "all.pub"),
        ({"config": ["/nowhere.conf"]}, "nowhere.conf"),
    ],
)
def test_arguments_that_make_no_sense_are_usage_errors(arguments: dict[str, object], word: str, repos: Path) -> None:
    with pytest.raises(errors.UsageError, match=word):
        Repository(FQRN, **({"keys": [REV2.key]} | arguments)).snapshot(tag="rev1")  # type: ignore[arg-type]


def test_pins_that_exclude_each_other_or_do_not_exist_are_usage_errors(small: Repository) -> None:
    with pytest.raises(errors.UsageError, match="only one"):
        small.snapshot(tag="rev1", revision=2)
    with pytest.raises(errors.UsageError, match="nothing"):
        small.snapshot(tag="nothing")


def test_a_closed_repository_says_so(repos: Path) -> None:
    repository = Repository(FQRN, storage=repos / FQRN, keys=[REV2.key])
    snapshot = repository.head
    stream = snapshot.entries()
    next(stream)
    repository.close()
    repository.close()
    for use in (lambda: repository.head, repository.tags, lambda: snapshot.find("/README"), lambda: next(stream)):
        with pytest.raises(errors.UsageError, match="closed"):
            use()


# ----------------------------------------------------------------------------------------------------------- snapshots


def test_entries_are_what_the_mount_shows_in_the_order_of_the_stream(small: Repository) -> None:
    entries = list(small.snapshot(tag="rev2").entries())
    listed = {record.path: record for record in golden.mounted(REV2)}
    assert [one.path for one in entries] == sorted((one.path for one in entries), key=order_key)
    assert {one.path or b"/" for one in entries} == set(listed)
    for one in entries:
        record = listed[one.path or b"/"]
        assert f"{one.mode & 0o7777:04o}" == record.mode
        if one.is_file:
            assert one.size == record.size


def test_entries_of_a_spec_are_what_it_selects(small: Repository) -> None:
    spec = Spec.from_text("/special/swap/*\n")
    found = {one.path or b"/" for one in small.snapshot(tag="rev2").entries(spec)}
    assert found == {record.path for record in selected(REV2, b"/special/swap")}


def test_files_are_read_as_the_mount_shows_them(small: Repository) -> None:
    snapshot = small.snapshot(tag="rev2")
    files = [record for record in golden.mounted(REV2) if record.type == "file"]
    chunked = max(files, key=lambda record: record.size)
    for record in (chunked, *files[:: len(files) // 5]):
        content = snapshot.read(record.path)
        assert hashlib.sha256(content).hexdigest() == record.sha256
        with snapshot.open(record.path) as file:
            assert file.read() == content


def test_paths_are_found_however_they_are_written(small: Repository) -> None:
    snapshot = small.head
    entry = snapshot.find("/lcg/README")
    assert entry is not None
    assert snapshot.find(b"//lcg///README/") == entry
    root = snapshot.find("/")
    assert root is not None
    assert root.is_dir
    assert snapshot.find("/nothing") is None
    odd = next(record.path for record in golden.mounted(Pinned(FQRN, "rev3")) if b"\xff" in record.path)
    found = snapshot.find(os.fsdecode(odd))
    assert found is not None
    assert found.path == odd


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/nothing", errors.MissingObject),
        ("/lcg", errors.UsageError),
        ("/latest", errors.UsageError),
        ("README", errors.UsageError),
        ("", errors.UsageError),
        ("/\ud800", errors.UsageError),
    ],
)
def test_what_is_no_file_cannot_be_read(path: str, kind: type[Exception], small: Repository) -> None:
    with pytest.raises(kind):
        small.head.read(path)


def test_a_file_that_is_not_whole_is_not_given(repo_server: RepoServer) -> None:
    served = repo_server.with_files()
    with Repository(FQRN, servers=[served.repo(FQRN)], keys=[REV2.key]) as repository:
        snapshot = repository.snapshot(tag="rev2")
        snapshot.read("/README")
        (asked,) = [one.path for one in served.requests() if "/data/" in one.path and one.path[-1] not in "CXH"]
        served.flip(asked, 9)
        with pytest.raises(errors.CorruptObject):
            snapshot.read("/README")
        served.answer(asked, 404)
        with pytest.raises(errors.MissingObject):
            snapshot.open("/README")


# --------------------------------------------------------------------------------------------------------------- specs


def test_specs_come_from_text_bytes_and_files(tmp_path: Path) -> None:
    one, two = tmp_path / "one.spec", tmp_path / "two.spec"
    one.write_text("/a/*\n")
    two.write_text("!/a/b\n")
    spec = Spec.from_text("/a/*\n!/a/b")
    assert spec.text == Spec.from_text(b"/a/*\n!/a/b\n").text == Spec.from_files(one, two).text
    assert Spec.from_text("!/a/*", rules="2.12").rules == "2.12"


@pytest.mark.parametrize("text", ["a/b", "/a\n!", "/\ud800"])
def test_a_text_that_is_no_specification_is_a_spec_error(text: str) -> None:
    with pytest.raises(errors.SpecError):
        Spec.from_text(text)


# ------------------------------------------------------------------------------------------------------------- exports


@pytest.mark.root
def test_an_export_is_what_the_mount_shows(small: Repository, scratch: Path) -> None:
    spec = Spec.from_text("/special/swap/*\n/special/links/*\n")
    told: list[str] = []
    hooks = shrinkwrap.Hooks(phase=told.append)
    result = shrinkwrap.export(
        small, spec, scratch / "base", tag="rev2", variables=golden.ENVIRONMENT, keep_suid=True, hooks=hooks
    )
    assert result.reason == "exported"
    assert result.root_hash == small.snapshot(tag="rev2").root_hash
    assert told[0] == "head"
    wanted = selected(REV2, b"/special/swap", b"/special/links")
    assert differences(scratch / "base", REV2, AS_ROOT, wanted) == []
    again = shrinkwrap.export(small, spec, scratch / "base", tag="rev2", variables=golden.ENVIRONMENT, keep_suid=True)
    assert again.reason == "unchanged"


def test_a_dry_run_gives_the_numbers_and_makes_nothing(small: Repository, scratch: Path) -> None:
    spec = Spec.from_text("/special/swap/*\n")
    planned = shrinkwrap.export(small, spec, scratch / "base", dry_run=True)
    assert planned.dry_run
    assert planned.counts["to_fetch"] > 0
    assert not (scratch / "base").exists()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"link_mode": "soft"}, errors.UsageError),
        ({"tag": "rev1", "at": "2026-01-01"}, errors.UsageError),
        ({"dest": ""}, errors.UsageError),
        ({"dest": "a\0b"}, errors.UsageError),
        ({"variables": {"A": "\ud800"}}, errors.UsageError),
        ({"tag": "nothing"}, errors.UsageError),
        ({"strict": True, "spec": Spec.from_text("/nowhere/*")}, errors.WarningsAreErrors),
    ],
)
def test_bad_options_are_errors_of_ours(
    options: dict[str, object], kind: type[Exception], small: Repository, scratch: Path
) -> None:
    arguments = {"spec": Spec.from_text("/README"), "dest": scratch / "base"} | options
    with pytest.raises(kind):
        shrinkwrap.export(small, **arguments)  # type: ignore[arg-type]


def test_an_export_by_name_asks_the_client_configuration(scratch: Path) -> None:
    with pytest.raises(errors.UsageError, match=r"no server for nowhere\.example\.org"):
        shrinkwrap.export("nowhere.example.org", Spec.from_text("/README"), scratch)


def test_no_threads_are_left_by_a_closed_repository(repos: Path) -> None:
    before = threading.active_count()
    with Repository(FQRN, storage=repos / FQRN, keys=[REV2.key]) as repository:
        repository.head.read("/README")
    assert threading.active_count() == before
