"""A repository's storage on local disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fetch.bodies import GOOD, PATH, body_of, drain, fetch_one, wanted
from fetch.server import Server

from shrinkwrap.cvmfs.digest import digest_of
from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, UsageError
from shrinkwrap.fetch.source import SourceConfig, open_source
from shrinkwrap.fetch.storage import StorageSource
from shrinkwrap.fetch.types import Request


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "repo/data/ab").mkdir(parents=True)
    (tmp_path / "repo/data/ab/cdef").write_bytes(GOOD)
    (tmp_path / "repo/.cvmfspublished").write_bytes(b"manifest")
    (tmp_path / "secret").write_bytes(GOOD)
    return tmp_path / "repo"


def opened(*folders: Path, external: bool = False) -> StorageSource:
    return StorageSource([os.fsencode(folder) for folder in folders], external=external)


def test_objects_and_control_files_are_read(folder: Path) -> None:
    source = open_source(SourceConfig("x.cern.ch", storage=str(folder)))
    request = wanted(PATH, GOOD)
    outcome = fetch_one(source, request)
    assert outcome.error is None
    assert outcome.received == len(GOOD)
    assert outcome.host == source.host == str(folder)
    assert body_of(request).finished
    assert source.control(".cvmfspublished", 100) == b"manifest"
    assert source.stats.requests == 2


def test_file_urls_are_storage_and_templates_are_filled_in(folder: Path) -> None:
    renamed = folder.parent / "x.cern.ch of x"
    folder.rename(renamed)
    url = f"file://{renamed.parent}/@fqrn@%20of%20@org@/"
    source = open_source(SourceConfig("x.cern.ch", servers=(url,)))
    assert fetch_one(source, wanted(PATH, GOOD)).error is None


def test_a_name_that_is_not_there_is_missing(folder: Path) -> None:
    source = opened(folder)
    for path in ("data/ab/0000", "data/zz/0000", "data/ab/cdef/below", "data"):
        assert isinstance(fetch_one(source, wanted(path)).error, MissingObject)
    with pytest.raises(MissingObject):
        source.control(".cvmfswhitelist", 100)


@pytest.mark.parametrize("path", ["../secret", "data/../../secret", "", "/etc/passwd", "a\0b"])
def test_a_path_never_leads_out_of_the_folder(folder: Path, path: str) -> None:
    error = fetch_one(opened(folder), wanted(path, GOOD)).error
    assert isinstance(error, CorruptObject)
    with pytest.raises(CorruptObject):
        opened(folder).control(path, 100)


def test_an_external_path_never_leads_out_of_the_folder(folder: Path) -> None:
    source = opened(folder, external=True)
    for path in ("/../secret", "/data/../../secret", "///../secret", "/"):
        assert isinstance(fetch_one(source, wanted(path, GOOD, external=True)).error, CorruptObject)
    assert fetch_one(source, wanted("/data/ab/cdef", GOOD, external=True)).error is None


def test_links_inside_a_storage_are_followed(folder: Path) -> None:
    (folder / "data/ab").rename(folder.parent / "other-disk")
    (folder / "data/ab").symlink_to(folder.parent / "other-disk")
    (folder / ".cvmfsalt-cdef").symlink_to("data/ab/cdef")
    assert fetch_one(opened(folder), wanted(PATH, GOOD)).error is None
    assert opened(folder).control(".cvmfsalt-cdef", 10_000) == GOOD


def test_a_damaged_object_is_corrupt_and_the_next_folder_stands_in(folder: Path, tmp_path: Path) -> None:
    (folder / "data/ab/cdef").write_bytes(GOOD[:-1])
    error = fetch_one(opened(folder), wanted(PATH, GOOD)).error
    assert isinstance(error, CorruptObject)
    assert PATH in error.message
    copy = tmp_path / "copy"
    (copy / "data/ab").mkdir(parents=True)
    (copy / "data/ab/cdef").write_bytes(GOOD)
    outcome = fetch_one(opened(folder, copy), wanted(PATH, GOOD))
    assert outcome.error is None
    assert outcome.host == str(copy)


def test_missing_in_one_folder_and_damaged_in_the_other_is_corrupt(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (folder / "data/ab/cdef").write_bytes(b"")
    assert isinstance(fetch_one(opened(tmp_path / "empty", folder), wanted(PATH, GOOD)).error, CorruptObject)


def test_a_file_above_its_cap_is_not_read_to_its_end(folder: Path) -> None:
    with (folder / "huge").open("wb") as file:
        file.truncate(1 << 40)
    outcome = fetch_one(opened(folder), wanted("huge", GOOD, limit=1000))
    assert isinstance(outcome.error, CorruptObject)
    assert outcome.received <= 1001
    with pytest.raises(CorruptObject):
        opened(folder).control("huge", 1000)


def test_a_pipe_in_the_storage_does_not_hold_anybody_up(folder: Path) -> None:
    os.mkfifo(folder / "data/ab/pipe")
    assert isinstance(fetch_one(opened(folder), wanted("data/ab/pipe")).error, MissingObject)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_not_called_missing(folder: Path) -> None:
    (folder / "data/ab/cdef").chmod(0)
    assert isinstance(fetch_one(opened(folder), wanted(PATH, GOOD)).error, NetworkError)


def test_a_link_that_leads_to_itself_is_not_called_missing(folder: Path) -> None:
    (folder / "data/ab/loop").symlink_to("loop")
    assert isinstance(fetch_one(opened(folder), wanted("data/ab/loop")).error, NetworkError)


def test_requests_are_drawn_one_by_one(folder: Path) -> None:
    drawn = 0

    def requests() -> Iterator[Request]:
        nonlocal drawn
        for _ in range(100):
            drawn += 1
            yield wanted(PATH, GOOD)

    for number, outcome in enumerate(opened(folder).fetch(requests()), 1):
        assert outcome.error is None
        assert drawn == number


def test_an_exception_of_a_body_ends_the_fetch_and_leaves_no_file_open(folder: Path) -> None:
    class FullError(Exception):
        pass

    request = wanted(PATH, GOOD)

    def fail(data: bytes) -> None:
        raise FullError

    request.body.write = fail  # type: ignore[method-assign]
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FullError):
        fetch_one(opened(folder), request)
    assert len(os.listdir("/proc/self/fd")) == before


def test_pieces_of_external_files_are_read(folder: Path) -> None:
    source = open_source(SourceConfig("x.cern.ch", storage=str(folder), external_servers=(f"file://{folder}/data",)))
    assert fetch_one(source, wanted("/ab/cdef", GOOD[10:30], external=True, span=(10, 20))).error is None
    short = wanted("/ab/cdef", GOOD[-5:], external=True, span=(len(GOOD) - 5, 20))
    assert isinstance(fetch_one(source, short).error, CorruptObject)


def test_external_files_of_a_storage_may_come_from_a_web_server(folder: Path, server: Server, fetcher: str) -> None:
    server.files["/ext/dir/f"] = b"from the web"
    source = open_source(SourceConfig("x.cern.ch", storage=str(folder), external_servers=(f"{server.url}/ext",)))
    outcomes = drain(source, [wanted(PATH, GOOD), wanted("/dir/f", b"from the web", external=True)])
    source.close()
    assert [outcome.error for outcome in outcomes.values()] == [None, None]
    assert source.stats.requests == 2
    assert set(source.stats.hosts) == {str(folder), f"{server.url}/ext"}


def test_external_files_of_a_web_server_may_come_from_a_folder(folder: Path, server: Server, fetcher: str) -> None:
    server.files["/" + PATH] = GOOD
    server.files["/.cvmfspublished"] = b"manifest"
    source = open_source(SourceConfig("x.cern.ch", servers=(server.url,), external_servers=(f"file://{folder}",)))
    outcomes = drain(source, [wanted(PATH, GOOD), wanted("/data/ab/cdef", GOOD, external=True)])
    assert source.control(".cvmfspublished", 100) == b"manifest"
    assert not source.next_host()
    assert source.host == server.url
    source.close()
    assert [outcome.error for outcome in outcomes.values()] == [None, None]
    assert len(server.requests("/" + PATH)) == 1


def test_an_external_file_without_external_servers_is_an_error_that_says_so(folder: Path) -> None:
    error = fetch_one(opened(folder), wanted("/data/ab/cdef", GOOD, external=True)).error
    assert isinstance(error, NetworkError)
    assert "CVMFS_EXTERNAL_URL" in error.hint


def test_distrust_goes_from_folder_to_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    source = opened(folder, tmp_path / "copy")
    assert source.next_host()
    assert source.host == str(tmp_path / "copy")
    assert not source.next_host()


def test_a_storage_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        open_source(SourceConfig("x.cern.ch", storage=str(tmp_path / "nothing")))


def test_every_object_of_a_real_repository_is_read_by_its_digest() -> None:
    repository = Path(__file__).parents[3] / "shared/repos/small.cern.ch"
    if not repository.is_dir():
        pytest.skip("the repositories of ../shared/repos are not here")
    source = open_source(SourceConfig("small.cern.ch", storage=str(repository)))
    names = [path for path in (repository / "data").glob("??/*") if path.is_file()][:300]
    requests = [
        Request(os.fsencode(path.relative_to(repository)), wanted("", path.read_bytes()).body, 1 << 24)
        for path in names
    ]
    outcomes = drain(source, requests)
    assert len(outcomes) == len(names) > 100
    for outcome in outcomes.values():
        assert outcome.error is None
        body = body_of(outcome.request)
        name = outcome.request.path.decode().removeprefix("data/").replace("/", "").rstrip("CHXMP")
        assert str(digest_of(0, body.data)) == name
