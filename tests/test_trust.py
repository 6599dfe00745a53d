"""Attacks on the whole: servers that lie, replay, leave out or spoil, and what an export makes of them.

Nothing that no signature vouches for may become visible, and nothing that is there may suffer.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cli.calling import call
from cvmfs import signing
from support import golden
from support.cli import run_cli
from support.golden import Pinned
from support.listing import AS_ROOT, Record, compare, list_tree
from support.servers import RepoServer, Variant, free_port

from shrinkwrap.cvmfs.blacklist import Blacklist, parse_blacklist
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.cvmfs.keys import MasterKey, read_keys
from shrinkwrap.cvmfs.manifest import Manifest, parse_manifest
from shrinkwrap.cvmfs.signature import format_fingerprint, parse_certificate
from shrinkwrap.errors import (
    CatalogError,
    CorruptObject,
    MissingObject,
    NetworkError,
    RollbackError,
    ShrinkwrapError,
    TrustError,
    UsageError,
)
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.snapshot.session import open_session
from shrinkwrap.snapshot.view import content_of
from shrinkwrap.snapshot.walk import Walk, bring_catalogs
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.export import export
from shrinkwrap.tree.request import ExportRequest, ExportResult

FQRN = "small.cern.ch"
NEWEST = Pinned(FQRN, "rev3")
MANIFEST, WHITELIST = ".cvmfspublished", ".cvmfswhitelist"
ENVIRONMENT = {name.encode(): value.encode() for name, value in golden.ENVIRONMENT.items()}

#: Plain and chunked files, nested catalogs, links: a few hundred entries.
BRANCHES = (b"/special/hard", b"/special/size", b"/special/nest", b"/special/own", b"/special/swap", b"/lcg/views")
SPEC = b"".join(branch + b"/*\n" for branch in BRANCHES)
#: Enough to see whether anything is touched.
LITTLE = b"/special/swap/*\n"

needs_root = pytest.mark.root


# ---------------------------------------------------------------------------------------------------- what attacks need


@dataclass
class Storage:
    """A repository's storage: links to the real one, with some files replaced, added or missing."""

    folder: Path
    real: Path
    changed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "data").symlink_to(self.real / "data")
        for name in (MANIFEST, WHITELIST):
            self.write(name, (self.real / name).read_bytes())

    def read(self, path: str) -> bytes:
        return (self.folder / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        file = self._open_up(path)
        file.unlink(missing_ok=True)
        file.write_bytes(data)

    def flip(self, path: str, offset: int, mask: int = 0x01) -> None:
        data = bytearray(self.read(path))
        data[offset] ^= mask
        self.write(path, bytes(data))

    def remove(self, path: str) -> None:
        self._open_up(path).unlink()

    def restore(self, path: str) -> None:
        self.write(path, (self.real / path).read_bytes())

    def _open_up(self, path: str) -> Path:
        """Folders on the way become real ones, full of links."""
        here, there = self.folder, self.real
        for name in Path(path).parts[:-1]:
            here, there = here / name, there / name
            if here.is_symlink() or not here.exists():
                here.unlink(missing_ok=True)
                here.mkdir()
                for child in there.iterdir() if there.exists() else ():
                    (here / child.name).symlink_to(child)
        return self.folder / path

    @property
    def config(self) -> SourceConfig:
        return SourceConfig(self.real.name, storage=str(self.folder))


@cache
def keys_of(fqrn: str) -> tuple[MasterKey, ...]:
    return tuple(read_keys([golden.repos() / "keys" / f"{fqrn}.pub"]))


def bring(
    config: SourceConfig,
    dest: Path,
    *,
    spec: bytes = LITTLE,
    keys: tuple[MasterKey, ...] | None = None,
    pin: Pin | None = None,
    allow_rollback: bool = False,
    blacklist: Blacklist | None = None,
) -> ExportResult:
    """An export in this process."""
    request = ExportRequest(
        source=config,
        keys=keys_of(FQRN) if keys is None else keys,
        spec=parse(spec),
        dest=str(dest),
        pin=pin or Pin(),
        variables=ENVIRONMENT,
        keep_suid=os.geteuid() == 0,
        allow_rollback=allow_rollback,
        blacklist=blacklist or Blacklist(),
    )
    return export(request)


def served(*urls: str) -> SourceConfig:
    """Web servers in order of preference; no patience with those that stall."""
    return SourceConfig(FQRN, servers=urls, timeout_direct=1.0, backoff_init=0.01, backoff_max=0.02)


def visible(dest: Path) -> list[str]:
    """What people see of a destination: neither the store nor the records."""
    return [name for name in os.listdir(dest) if not name.startswith(".")] if dest.exists() else []


def stored(dest: Path) -> list[str]:
    """Objects in the store."""
    return [str(file) for file in (dest / ".data").glob("[0-9a-f][0-9a-f]/*")]


def state(dest: Path) -> tuple[list[Record], list[Record]]:
    """Tree and records of an export, whole, down to the inodes; the log of runs may grow."""
    records = list_tree(dest / ".provenance" / FQRN)
    return list_tree(dest / FQRN), [record for record in records if record.path not in (b"/", b"/runs.jsonl")]


def wanted(at: Pinned, branches: tuple[bytes, ...] = BRANCHES) -> list[Record]:
    """What an export of these branches must hold."""

    def inside(path: bytes) -> bool:
        return any(
            path == b"/" or path == one or path.startswith(one + b"/") or one.startswith(path + b"/")
            for one in branches
        )

    return [record for record in golden.mounted(at) if inside(record.path)]


def unlike(dest: Path, expected: list[Record]) -> list[str]:
    projection = AS_ROOT if os.geteuid() == 0 else replace(AS_ROOT, uid=os.geteuid(), gid=os.getegid(), clear=0o6000)
    return compare(expected, list_tree(dest / FQRN), projection.on(dest))


def refused(error: type[ShrinkwrapError], run: Callable[[], object]) -> ShrinkwrapError:
    with pytest.raises(error) as caught:
        run()
    assert caught.value.exit_code == error.exit_code
    return caught.value


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts: exports in this process do not wait until a busy disk has all."""
    monkeypatch.setattr(Base, "sync", lambda self: None)


@pytest.fixture
def storage(repos: Path, tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage", repos / FQRN)


@pytest.fixture
def older(repos: Path, tmp_path: Path) -> Path:
    """An export of the second-newest snapshot, as its head."""
    past = Storage(tmp_path / "past", repos / FQRN)
    past.write(MANIFEST, Pinned(FQRN, "rev2").manifest)
    dest = tmp_path / "older"
    assert bring(past.config, dest).reason == "exported"
    return dest


def head_of(manifest: bytes) -> Manifest:
    return parse_manifest(manifest)


@dataclass(frozen=True)
class Inventory:
    """Names of what the newest snapshot is made of: catalogs, and the objects of each file."""

    catalogs: tuple[str, ...]
    files: dict[bytes, tuple[str, ...]]

    def plain(self) -> list[bytes]:
        return self._distinct(False)

    def chunked(self) -> list[bytes]:
        return self._distinct(True)

    def _distinct(self, chunked: bool) -> list[bytes]:
        """One file for each content, in order of paths."""
        first: dict[tuple[str, ...], bytes] = {}
        for path, objects in sorted(self.files.items()):
            if objects[0].endswith("P") is chunked:
                first.setdefault(objects, path)
        return list(first.values())

    def sharing(self, objects: set[str]) -> set[bytes]:
        """Files that need one of these objects."""
        return {path for path, needed in self.files.items() if objects & set(needed)}


@cache
def inventory() -> Inventory:
    config = SourceConfig(FQRN, storage=str(golden.repos() / FQRN))
    files: dict[bytes, tuple[str, ...]] = {}
    matcher = Matcher(parse(SPEC))
    with open_session(config, keys_of(FQRN)) as session:
        root = session.repository.resolve(Pin()).root
        bring_catalogs(session.catalogs, root, matcher)
        catalogs: list[str] = []
        refs = [root]
        while refs:
            ref = refs.pop(0)
            assert ref.digest is not None
            catalogs.append(ref.digest.object_path("C"))
            catalog = session.catalogs.open(ref)
            refs += [catalog.nested[mount] for mount in catalog.nested if mount.startswith(BRANCHES)]
            session.catalogs.release(catalog)
        for entry in Walk(session.catalogs, root, matcher):
            if entry.is_file:
                content = content_of(entry)
                names = [Digest(entry.algorithm, chunk.raw).object_path("P") for chunk in content.chunks]
                files[entry.path] = tuple(names) or (content.digest.object_path(),)
    return Inventory(tuple(catalogs), files)


def some(values: list[bytes], number: int) -> list[bytes]:
    """A few of many, spread evenly."""
    return values[:: max(1, len(values) // number)][:number]


# ------------------------------------------------------------------------------------------------- flipped signed files


def _flip_all(storage: Storage, name: str, older: Path, tmp_path: Path, masks: Callable[[int], list[int]]) -> None:
    good = storage.read(name)
    before = state(older)
    fresh = tmp_path / "fresh"
    for offset in range(len(good)):
        for mask in masks(offset):
            spoilt = bytearray(good)
            spoilt[offset] ^= mask
            storage.write(name, bytes(spoilt))
            refused(TrustError, lambda: bring(storage.config, fresh))
            refused(TrustError, lambda: bring(storage.config, older))
            assert visible(fresh) == [], (offset, mask)
            assert state(older) == before, (offset, mask)
    assert stored(fresh) == []
    # What was refused was the change alone.
    storage.write(name, good)
    assert bring(storage.config, fresh).reason == "exported"
    assert bring(storage.config, older).revision == head_of(storage.read(MANIFEST)).revision


@pytest.mark.parametrize("name", [MANIFEST, WHITELIST])
def test_no_byte_of_the_signed_files_can_be_changed(name: str, storage: Storage, older: Path, tmp_path: Path) -> None:
    _flip_all(storage, name, older, tmp_path, lambda offset: [1 << offset % 8])


@pytest.mark.long
@pytest.mark.parametrize("name", [MANIFEST, WHITELIST])
def test_no_bit_of_the_signed_files_can_be_changed(name: str, storage: Storage, older: Path, tmp_path: Path) -> None:
    _flip_all(storage, name, older, tmp_path, lambda offset: [1 << bit for bit in range(8)])


@pytest.mark.parametrize("name", [MANIFEST, WHITELIST])
def test_the_signed_files_cannot_be_cut_or_continued(name: str, storage: Storage, older: Path) -> None:
    good = storage.read(name)
    before = state(older)
    for spoilt in (b"", good[:1], good[: len(good) // 2], good[:-1], good + b"\0", good + good, b"\n" + good):
        storage.write(name, spoilt)
        refused(TrustError, lambda: bring(storage.config, older))
        assert state(older) == before


@pytest.mark.parametrize("offset", [0, 70, 300, 338, 339, 400, 594])
def test_the_command_line_refuses_a_spoilt_manifest(
    offset: int, repo_server: RepoServer, scratch: Path, repos: Path
) -> None:
    spoilt = repo_server.with_files()
    spoilt.flip(f"{FQRN}/{MANIFEST}", offset)
    _refused_by_the_command_line(spoilt, scratch, repos)


@pytest.mark.parametrize("offset", [0, 20, 60, 130, 405])
def test_the_command_line_refuses_a_spoilt_whitelist(
    offset: int, repo_server: RepoServer, scratch: Path, repos: Path
) -> None:
    spoilt = repo_server.with_files()
    spoilt.flip(f"{FQRN}/{WHITELIST}", offset)
    _refused_by_the_command_line(spoilt, scratch, repos)


def _refused_by_the_command_line(spoilt: Variant, scratch: Path, repos: Path) -> None:
    (scratch / "spec").write_bytes(LITTLE)
    result = call(
        *("export", "-r", FQRN, "--server", spoilt.repo(FQRN), "--key", repos / "keys" / f"{FQRN}.pub"),
        *("-t", scratch / "spec", "-z", scratch / "base", "--json"),
    ).ends_with(3)
    assert result.json["reason"] == "trust"
    assert result.json["exit_code"] == 3
    assert visible(scratch / "base") == []


# ------------------------------------------------------------------------------- flipped certificate, catalogs, history


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 1.0])
def test_a_spoilt_certificate_is_not_trusted(part: float, storage: Storage, older: Path, tmp_path: Path) -> None:
    certificate = head_of(storage.read(MANIFEST)).certificate
    assert certificate is not None
    path = certificate.object_path("X")
    storage.flip(path, int(part * (len(storage.read(path)) - 1)))
    before = state(older)
    refused(TrustError, lambda: bring(storage.config, tmp_path / "fresh"))
    assert visible(tmp_path / "fresh") == []
    # The certificate that is kept from the last run is as good as the server's.
    assert bring(storage.config, older).reason == "exported"
    assert state(older) != before


def test_a_missing_certificate_is_a_matter_of_trust(storage: Storage, tmp_path: Path) -> None:
    certificate = head_of(storage.read(MANIFEST)).certificate
    assert certificate is not None
    storage.remove(certificate.object_path("X"))
    refused(TrustError, lambda: bring(storage.config, tmp_path / "fresh"))


def _catalog_cases() -> list[object]:
    if golden.find_repos() is None:
        return golden.params([])
    number = len(inventory().catalogs)
    return [pytest.param(one, id="root" if one == 0 else f"nested{one}") for one in range(number)]


@pytest.mark.parametrize("number", _catalog_cases())
def test_a_spoilt_catalog_leaves_the_tree_alone(number: int, storage: Storage, older: Path, tmp_path: Path) -> None:
    path = inventory().catalogs[number]
    good = storage.read(path)
    fresh = tmp_path / "fresh"
    mirror = tmp_path / "mirror"
    for offset in (0, 1, 2, len(good) // 3, len(good) // 2, len(good) - 5, len(good) - 1):
        storage.write(path, good)
        storage.flip(path, offset, 0x10)
        refused(CorruptObject, lambda: bring(storage.config, fresh, spec=SPEC))
        assert visible(fresh) == [], offset
    for spoilt in (b"", good[:-1], good + b"\0", zlib.compress(b"SQLite format 3\0")):
        storage.write(path, spoilt)
        refused(CorruptObject, lambda: bring(storage.config, fresh, spec=SPEC))
    assert visible(fresh) == []
    assert stored(fresh) == []
    assert not (fresh / ".provenance" / FQRN / "record.json").exists()
    if not any((older / ".provenance" / ".objects").rglob(f"*{Path(path).name}*")):
        names = _tree_and_record(older)
        refused(CorruptObject, lambda: bring(storage.config, older, spec=SPEC))
        assert _tree_and_record(older) == names
    storage.write(path, good)
    bring(storage.config, mirror, spec=SPEC)
    assert unlike(mirror, wanted(NEWEST)) == []


def _tree_and_record(dest: Path) -> tuple[list[Record], bytes]:
    """What must not be touched when the head was accepted, but not what it stands for."""
    assert not (dest / ".provenance" / FQRN / "intent.json").exists()
    return list_tree(dest / FQRN), (dest / ".provenance" / FQRN / "record.json").read_bytes()


def test_a_missing_catalog_leaves_the_tree_alone(storage: Storage, older: Path) -> None:
    storage.remove(inventory().catalogs[0])
    before = _tree_and_record(older)
    refused(MissingObject, lambda: bring(storage.config, older))
    assert _tree_and_record(older) == before


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_spoilt_history_gives_no_tags(part: float, storage: Storage, older: Path, tmp_path: Path) -> None:
    history = head_of(storage.read(MANIFEST)).history
    assert history is not None
    path = history.object_path("H")
    storage.flip(path, int(part * (len(storage.read(path)) - 1)))
    before = _tree_and_record(older)
    for dest in (older, tmp_path / "fresh"):
        refused(CorruptObject, lambda dest=dest: bring(storage.config, dest, pin=Pin(tag="rev1")))  # type: ignore[misc]
    assert visible(tmp_path / "fresh") == []
    assert _tree_and_record(older) == before
    # The head does not need it.
    assert bring(storage.config, tmp_path / "fresh").reason == "exported"


# ------------------------------------------------------------------------------------------------------- spoilt objects


@dataclass(frozen=True)
class Damage:
    """Objects that one server does not have intact."""

    name: str
    spoil: Callable[[Variant, str], None]
    error: type[ShrinkwrapError]

    def __str__(self) -> str:
        return self.name


def _flip_at(offset: float) -> Callable[[Variant, str], None]:
    def flip(variant: Variant, path: str) -> None:
        variant.flip(path, int(offset * (len(variant.read(path)) - 1)))

    return flip


DAMAGES = [
    Damage("first byte", _flip_at(0.0), CorruptObject),
    Damage("byte in the middle", _flip_at(0.5), CorruptObject),
    Damage("last byte", _flip_at(1.0), CorruptObject),
    Damage("cut", lambda variant, path: variant.cut(path, len(variant.read(path)) - 1), CorruptObject),
    Damage("empty", lambda variant, path: variant.cut(path, 0), CorruptObject),
    Damage("longer", lambda variant, path: variant.write(path, variant.read(path) + b"\0"), CorruptObject),
    Damage("missing", lambda variant, path: variant.answer(path, 404), MissingObject),
    Damage("error 500", lambda variant, path: variant.answer(path, 500), NetworkError),
]


@needs_root
@pytest.mark.parametrize("kind", ["plain", "chunked"])
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_objects_that_cannot_be_had_are_named_and_all_else_is_kept(
    damage: Damage, kind: str, repo_server: RepoServer, scratch: Path
) -> None:
    objects = inventory()
    victims = some(objects.plain() if kind == "plain" else objects.chunked(), 3)
    # Of a chunked file, one chunk in the middle is enough.
    lost = {needed[len(needed) // 2] for needed in (objects.files[path] for path in victims)}
    affected = objects.sharing(lost)
    variant = repo_server.with_files()
    for name in lost:
        damage.spoil(variant, f"{FQRN}/{name}")

    error = refused(damage.error, lambda: bring(served(variant.repo(FQRN)), scratch, spec=SPEC))
    assert len(lost) == len(victims) <= 5
    assert all(any(path.decode() in error.message for path in objects.sharing({name})) for name in lost)
    # Hard link groups that lost a member are not whole; each path that is there is right.
    expected = [record for record in wanted(NEWEST) if record.path not in affected]
    assert unlike(scratch, expected) == []
    assert not (scratch / ".provenance" / FQRN / "record.json").exists()

    for name in lost:
        variant.restore(f"{FQRN}/{name}")
    number = len(variant.requests())
    assert bring(served(variant.repo(FQRN)), scratch, spec=SPEC).reason == "exported"
    assert unlike(scratch, wanted(NEWEST)) == []
    asked = [one.path.removeprefix(f"{FQRN}/") for one in variant.requests()[number:]]
    again = {path for path in asked if path.startswith("data/")}
    assert again == {name for path in affected for name in objects.files[path]}
    assert len(asked) == 1 + len(again), "asked for something twice"
    assert asked.count(MANIFEST) == 1


def test_an_update_that_fails_deletes_and_replaces_nothing(repo_server: RepoServer, scratch: Path) -> None:
    variant = repo_server.with_files({f"{FQRN}/{MANIFEST}": Pinned(FQRN, "rev1").manifest})
    bring(served(variant.repo(FQRN)), scratch, spec=SPEC)
    before = {record.path: record for record in list_tree(scratch / FQRN)}
    record = (scratch / ".provenance" / FQRN / "record.json").read_bytes()
    there = {one.sha256 for one in before.values()}
    new = [one for one in wanted(NEWEST) if one.sha256 not in there and one.sha256 is not None]
    assert new
    variant.restore(f"{FQRN}/{MANIFEST}")
    lost = inventory().files[new[0].path][0]
    variant.answer(f"{FQRN}/{lost}", 404)
    refused(MissingObject, lambda: bring(served(variant.repo(FQRN)), scratch, spec=SPEC))

    after = {record.path: record for record in list_tree(scratch / FQRN)}
    for path, was in before.items():
        assert after[path].sha256 == was.sha256, path
        assert after[path].target == was.target, path
        assert after[path].type == was.type, path
    assert (scratch / ".provenance" / FQRN / "record.json").read_bytes() == record
    variant.restore(f"{FQRN}/{lost}")
    bring(served(variant.repo(FQRN)), scratch, spec=SPEC)
    if os.geteuid() == 0:
        assert unlike(scratch, wanted(NEWEST)) == []


def test_the_command_line_ends_with_the_code_of_the_worst_damage(
    repo_server: RepoServer, scratch: Path, repos: Path
) -> None:
    objects = inventory()
    spoilt, missing = objects.files[objects.plain()[0]][0], objects.files[objects.chunked()[0]][0]
    (scratch / "spec").write_bytes(SPEC)
    variant = repo_server.with_files()

    def code(dest: str) -> int:
        return call(
            *("export", "-r", FQRN, "--server", variant.repo(FQRN), "--key", repos / "keys" / f"{FQRN}.pub"),
            *("-t", scratch / "spec", "-z", scratch / dest),
        ).code

    variant.answer(f"{FQRN}/{missing}", 404)
    assert code("missing") == 5
    variant.flip(f"{FQRN}/{spoilt}", 3)
    assert code("both") == 6
    variant.restore(f"{FQRN}/{missing}")
    assert code("corrupt") == 6


# ----------------------------------------------------------------------------------- documents that are right elsewhere


@pytest.mark.parametrize("fqrn", ["testmigration.cern.ch", "legacy_aufs.cern.ch"])
def test_an_expired_whitelist_is_refused(fqrn: str, repos: Path, tmp_path: Path) -> None:
    old = Storage(tmp_path / "storage", repos / fqrn)
    old.write(WHITELIST, (repos / fqrn / f"{WHITELIST}.orig").read_bytes())
    error = refused(TrustError, lambda: bring(old.config, tmp_path / "base", keys=keys_of(fqrn), spec=b"/*\n"))
    assert "expired" in error.message
    assert visible(tmp_path / "base") == []


@pytest.mark.parametrize("name", [MANIFEST, WHITELIST])
def test_the_documents_of_another_repository_are_refused(name: str, repos: Path, storage: Storage, older: Path) -> None:
    storage.write(name, (repos / "mixed.cern.ch" / name).read_bytes())
    before = state(older)
    refused(TrustError, lambda: bring(storage.config, older))
    assert state(older) == before


def test_a_whole_other_repository_is_refused(repos: Path, tmp_path: Path) -> None:
    other = SourceConfig(FQRN, storage=str(repos / "mixed.cern.ch"))
    everybody = (*keys_of(FQRN), *keys_of("mixed.cern.ch"))
    refused(TrustError, lambda: bring(other, tmp_path / "base", keys=everybody))
    assert visible(tmp_path / "base") == []


def test_a_replayed_older_manifest_is_refused(storage: Storage, tmp_path: Path) -> None:
    dest = tmp_path / "base"
    newest = bring(storage.config, dest)
    before = state(dest)
    for rev in ("rev2", "rev1"):
        storage.write(MANIFEST, Pinned(FQRN, rev).manifest)
        error = refused(RollbackError, lambda: bring(storage.config, dest))
        assert str(newest.revision) in error.message
        assert state(dest) == before
    # A pin is no way round it: the history is that of the replayed head.
    refused(RollbackError, lambda: bring(storage.config, dest, pin=Pin(tag="rev1")))
    assert state(dest) == before
    # Who has seen nothing newer cannot know.
    assert bring(storage.config, tmp_path / "fresh").revision == newest.revision - 2
    back = bring(storage.config, dest, allow_rollback=True)
    assert back.revision == newest.revision - 2
    # And from there on that is the newest that was seen.
    assert bring(storage.config, dest).reason == "unchanged"


def test_pinning_to_the_past_does_not_forget_the_newest_head(storage: Storage, tmp_path: Path) -> None:
    bring(storage.config, tmp_path / "base", pin=Pin(tag="rev1"))
    storage.write(MANIFEST, Pinned(FQRN, "rev2").manifest)
    refused(RollbackError, lambda: bring(storage.config, tmp_path / "base", pin=Pin(tag="rev1")))


def test_the_rollback_has_an_exit_code_and_an_option(repos: Path, repo_server: RepoServer, scratch: Path) -> None:
    (scratch / "spec").write_bytes(LITTLE)
    variant = repo_server.with_files()
    words = ["export", "-r", FQRN, "--server", variant.repo(FQRN), "--key", str(repos / "keys" / f"{FQRN}.pub")]
    words += ["-t", str(scratch / "spec"), "-z", str(scratch / "base"), "--json"]
    run_cli(*words).ok()
    variant.write(f"{FQRN}/{MANIFEST}", Pinned(FQRN, "rev2").manifest)
    result = run_cli(*words).ends_with(3)
    assert result.json["reason"] == "rollback"
    assert run_cli(*words, "--allow-rollback").ok().json["revision"] == head_of(Pinned(FQRN, "rev2").manifest).revision


# ------------------------------------------------------------------------------------------------- documents of our own


@pytest.fixture
def forged(storage: Storage) -> Storage:
    """The same storage under keys of our own, so that anything can be signed."""
    publisher = signing.publisher()
    digest = signing.digest_of(signing.SHA1, publisher.stored_certificate)
    storage.write(digest.object_path("X"), publisher.stored_certificate)
    storage.write(MANIFEST, own_manifest("rev3"))
    storage.write(WHITELIST, own_whitelist())
    return storage


def own_manifest(rev: str, **changes: str | None) -> bytes:
    """A manifest for a real snapshot, signed by the publisher of our own."""
    head = head_of(Pinned(FQRN, rev).manifest)
    fields: dict[str, str | None] = {
        "N": FQRN,
        "C": str(head.root_hash),
        "B": str(head.root_size),
        "S": str(head.revision),
        "T": str(head.timestamp),
        "H": str(head.history),
    }
    return signing.manifest(fields | changes)


def own_whitelist(
    fingerprints: list[str] | None = None, days: float = 30.0, signer: signing.Key | None = None
) -> bytes:
    expires = time.strftime("%Y%m%d%H%M%S", time.gmtime(time.time() + days * 86400))
    return signing.whitelist(fingerprints, fqrn=FQRN, issued="20260101000000", expires=expires, signer=signer)


MASTER = (signing.master().master,)


def test_documents_of_our_own_are_as_good_as_any(forged: Storage, tmp_path: Path) -> None:
    assert bring(forged.config, tmp_path / "base", keys=MASTER).reason == "exported"


def test_the_same_revision_with_another_root_hash_is_refused(forged: Storage, tmp_path: Path) -> None:
    dest = tmp_path / "base"
    bring(forged.config, dest, keys=MASTER)
    before = state(dest)
    number = str(head_of(Pinned(FQRN, "rev3").manifest).revision)
    forged.write(MANIFEST, own_manifest("rev2", S=number))
    error = refused(RollbackError, lambda: bring(forged.config, dest, keys=MASTER))
    assert str(head_of(Pinned(FQRN, "rev2").manifest).root_hash) in error.message
    assert state(dest) == before
    assert bring(forged.config, dest, keys=MASTER, allow_rollback=True).reason == "exported"


def test_a_certificate_that_is_not_listed_is_refused(forged: Storage, tmp_path: Path) -> None:
    forged.write(WHITELIST, own_whitelist([signing.stranger().fingerprint()]))
    error = refused(TrustError, lambda: bring(forged.config, tmp_path / "base", keys=MASTER))
    assert "whitelist" in error.message
    assert visible(tmp_path / "base") == []


def test_a_whitelist_that_ran_out_an_hour_ago_is_refused_even_if_it_was_good_at_the_last_run(
    forged: Storage, tmp_path: Path
) -> None:
    dest = tmp_path / "base"
    bring(forged.config, dest, keys=MASTER)
    before = state(dest)
    forged.write(WHITELIST, own_whitelist(days=-1 / 12))
    forged.write(MANIFEST, own_manifest("rev3", T="1907750000"))
    refused(TrustError, lambda: bring(forged.config, dest, keys=MASTER))
    assert state(dest) == before


@pytest.mark.parametrize("signer", [signing.publisher, signing.stranger])
def test_a_whitelist_signed_by_anybody_but_the_master_is_refused(
    signer: Callable[[], signing.Key], forged: Storage, tmp_path: Path
) -> None:
    forged.write(WHITELIST, own_whitelist(signer=signer()))
    refused(TrustError, lambda: bring(forged.config, tmp_path / "base", keys=MASTER))


def test_the_wrong_master_key_opens_nothing(storage: Storage, older: Path) -> None:
    before = state(older)
    refused(TrustError, lambda: bring(storage.config, older, keys=keys_of("mixed.cern.ch")))
    assert state(older) == before


def test_other_keys_do_not_profit_from_what_an_earlier_run_has_verified(storage: Storage, tmp_path: Path) -> None:
    bring(storage.config, tmp_path / "base")
    refused(TrustError, lambda: bring(storage.config, tmp_path / "base", keys=keys_of("mixed.cern.ch")))


def test_one_right_key_among_several_is_enough(storage: Storage, tmp_path: Path) -> None:
    several = (*keys_of("mixed.cern.ch"), *keys_of("rmd160.cern.ch"), *keys_of(FQRN))
    assert bring(storage.config, tmp_path / "base", keys=several).reason == "exported"


def test_a_folder_of_keys_is_as_good_as_a_key(repos: Path, scratch: Path) -> None:
    (scratch / "spec").write_bytes(LITTLE)
    run_cli(
        *("export", "-r", FQRN, "--storage", repos / FQRN, "--key", repos / "keys"),
        *("-t", scratch / "spec", "-z", scratch / "base"),
    ).ok()


def _fingerprint(repos: Path) -> str:
    certificate = head_of((repos / FQRN / MANIFEST).read_bytes()).certificate
    assert certificate is not None
    pem = zlib.decompress((repos / FQRN / certificate.object_path("X")).read_bytes())
    return format_fingerprint(parse_certificate(pem).fingerprint(0))


def test_a_blacklisted_certificate_is_refused_whatever_was_verified_before(
    repos: Path, storage: Storage, tmp_path: Path
) -> None:
    dest = tmp_path / "base"
    banned = parse_blacklist(_fingerprint(repos).encode() + b"\n")
    assert banned.fingerprints
    refused(TrustError, lambda: bring(storage.config, tmp_path / "fresh", blacklist=banned))
    bring(storage.config, dest)
    before = state(dest)
    error = refused(TrustError, lambda: bring(storage.config, dest, blacklist=banned))
    assert "blacklist" in error.message
    assert state(dest) == before


def test_a_blacklisted_revision_is_refused(storage: Storage, tmp_path: Path) -> None:
    number = head_of(storage.read(MANIFEST)).revision
    banned = parse_blacklist(f"<{FQRN} {number + 1}\n".encode())
    refused(TrustError, lambda: bring(storage.config, tmp_path / "base", blacklist=banned))
    allowed = parse_blacklist(f"<{FQRN} {number}\n<mixed.cern.ch 99\n".encode())
    assert bring(storage.config, tmp_path / "base", blacklist=allowed).reason == "exported"


@pytest.mark.parametrize("line", ["certificate", "revision"])
def test_the_command_line_reads_blacklists(line: str, repos: Path, scratch: Path) -> None:
    (scratch / "spec").write_bytes(LITTLE)
    text = _fingerprint(repos) if line == "certificate" else f"<{FQRN} 1000"
    (scratch / "blacklist").write_text(f"# ours\n{text}\n")
    run_cli(
        *("export", "-r", FQRN, "--storage", repos / FQRN, "--key", repos / "keys" / f"{FQRN}.pub"),
        *("-t", scratch / "spec", "-z", scratch / "base", "--blacklist", scratch / "blacklist"),
    ).ends_with(3)
    assert visible(scratch / "base") == []


# ---------------------------------------------------------------------------------------------------------- two servers


@contextmanager
def stalling() -> Iterator[str]:
    """A server that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/{FQRN}"


@contextmanager
def hotel() -> Iterator[str]:
    """A web server that answers everything with a page of its own, and calls that a success."""
    page = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body>Please log in.</body></html>\n"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            """Nothing on the test's standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/{FQRN}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def closed() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}/{FQRN}"


def _golden_from_the_second(first: str, second: str, dest: Path) -> ExportResult:
    result = bring(served(first, second), dest, spec=SPEC)
    if os.geteuid() == 0:
        assert unlike(dest, wanted(NEWEST)) == []
    told = [line for line in result.notices if first in line]
    assert told, f"nobody says that {first} failed: {result.notices}"
    return result


def _spoil(variant: Variant, what: str, repos: Path) -> None:
    """Break one kind of thing on a server."""
    objects = inventory()
    if what == "manifest":
        variant.flip(f"{FQRN}/{MANIFEST}", 20)
    elif what == "whitelist":
        variant.flip(f"{FQRN}/{WHITELIST}", 20)
    elif what == "certificate":
        certificate = head_of((repos / FQRN / MANIFEST).read_bytes()).certificate
        assert certificate is not None
        variant.flip(f"{FQRN}/{certificate.object_path('X')}", 20)
    elif what == "root catalog":
        variant.flip(f"{FQRN}/{objects.catalogs[0]}", 20)
    elif what == "nested catalog":
        variant.flip(f"{FQRN}/{objects.catalogs[-1]}", 20)
    elif what == "object":
        variant.flip(f"{FQRN}/{objects.files[objects.plain()[1]][0]}", 5)
    elif what == "chunk":
        variant.flip(f"{FQRN}/{objects.files[objects.chunked()[0]][1]}", 5)
    elif what == "old manifest":
        variant.write(f"{FQRN}/{MANIFEST}", Pinned(FQRN, "rev2").manifest)
    elif what == "expired whitelist":
        old = (repos / "testmigration.cern.ch" / f"{WHITELIST}.orig").read_bytes()
        variant.write(f"{FQRN}/{WHITELIST}", old)
    elif what == "missing manifest":
        variant.answer(f"{FQRN}/{MANIFEST}", 404)
    elif what == "missing whitelist":
        variant.answer(f"{FQRN}/{WHITELIST}", 404)
    elif what == "missing root catalog":
        variant.answer(f"{FQRN}/{objects.catalogs[0]}", 404)
    elif what == "missing object":
        variant.answer(f"{FQRN}/{objects.files[objects.plain()[1]][0]}", 404)
    elif what == "missing chunk":
        variant.answer(f"{FQRN}/{objects.files[objects.chunked()[0]][1]}", 404)
    else:
        raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        "manifest",
        "whitelist",
        "certificate",
        "root catalog",
        "nested catalog",
        "object",
        "chunk",
        "expired whitelist",
        "missing manifest",
        "missing whitelist",
        "missing root catalog",
        "missing object",
        "missing chunk",
    ],
)
def test_a_good_server_makes_up_for_a_bad_one(what: str, repos: Path, repo_server: RepoServer, scratch: Path) -> None:
    bad = repo_server.with_files()
    _spoil(bad, what, repos)
    _golden_from_the_second(bad.repo(FQRN), repo_server.repo(FQRN), scratch)


def test_a_server_that_lags_behind_makes_room_for_one_that_does_not(
    repos: Path, repo_server: RepoServer, scratch: Path
) -> None:
    newest = bring(served(repo_server.repo(FQRN)), scratch, spec=SPEC)
    lagging = repo_server.with_files()
    _spoil(lagging, "old manifest", repos)
    result = bring(served(lagging.repo(FQRN), repo_server.repo(FQRN)), scratch, spec=SPEC)
    assert result.reason == "unchanged"
    assert result.revision == newest.revision
    assert any(lagging.repo(FQRN) in line for line in result.notices)


@pytest.mark.parametrize("first", [closed, stalling, hotel], ids=["closed port", "stalled", "hotel"])
def test_a_good_server_makes_up_for_none(
    first: Callable[[], Iterator[str]], repo_server: RepoServer, scratch: Path
) -> None:
    with first() as url:  # type: ignore[attr-defined]
        _golden_from_the_second(url, repo_server.repo(FQRN), scratch)


def test_the_command_line_names_the_host_that_stalls(repos: Path, repo_server: RepoServer, scratch: Path) -> None:
    (scratch / "spec").write_bytes(LITTLE)
    with stalling() as url:
        result = run_cli(
            *("export", "-r", FQRN, "--server", url, "--server", repo_server.repo(FQRN), "--timeout", "1"),
            *(
                "--retries",
                "0",
                "--key",
                repos / "keys" / f"{FQRN}.pub",
                "-t",
                scratch / "spec",
                "-z",
                scratch / "base",
            ),
        ).ok()
    assert url in result.err


def test_nothing_but_the_page_of_a_hotel_is_a_matter_of_trust(scratch: Path) -> None:
    with hotel() as url:
        refused(TrustError, lambda: bring(served(url), scratch / "base"))
    assert visible(scratch / "base") == []


def test_the_page_of_a_hotel_instead_of_objects_is_corrupt(repo_server: RepoServer, scratch: Path) -> None:
    page = b"<html>Please log in.</html>" * 100
    objects = inventory()
    variant = repo_server.with_files({f"{FQRN}/{name}": page for one in objects.files.values() for name in one})
    refused(CorruptObject, lambda: bring(served(variant.repo(FQRN)), scratch, spec=SPEC))
    assert stored(scratch) == []
    assert not any(record.type == "file" for record in list_tree(scratch / FQRN))


def test_no_server_at_all_is_a_matter_of_the_network(scratch: Path) -> None:
    with closed() as one, closed() as two:
        refused(NetworkError, lambda: bring(served(one, two), scratch / "base"))
    assert visible(scratch / "base") == []


def test_two_servers_that_both_lie_are_refused_for_what_the_first_did(
    repos: Path, repo_server: RepoServer, scratch: Path
) -> None:
    one, two = repo_server.with_files(), repo_server.with_files()
    _spoil(one, "expired whitelist", repos)
    _spoil(two, "manifest", repos)
    alone = refused(TrustError, lambda: bring(served(one.repo(FQRN)), scratch / "base"))
    both = refused(TrustError, lambda: bring(served(one.repo(FQRN), two.repo(FQRN)), scratch / "base"))
    assert both.message == alone.message


@needs_root
def test_what_no_server_has_is_missing_and_the_rest_is_kept(repo_server: RepoServer, scratch: Path) -> None:
    objects = inventory()
    victim = objects.chunked()[0]
    lost = objects.files[victim][0]
    servers = [repo_server.with_files(missing=[f"{FQRN}/{lost}"]) for _ in range(2)]
    urls = [server.repo(FQRN) for server in servers]
    error = refused(MissingObject, lambda: bring(served(*urls), scratch, spec=SPEC))
    assert all(url in error.message for url in urls)
    affected = objects.sharing({lost})
    assert unlike(scratch, [record for record in wanted(NEWEST) if record.path not in affected]) == []


def test_missing_is_only_said_when_everybody_was_asked(repo_server: RepoServer, scratch: Path) -> None:
    objects = inventory()
    lost = objects.files[objects.plain()[0]][0]
    variant = repo_server.with_files(missing=[f"{FQRN}/{lost}"])
    with closed() as url:
        refused(NetworkError, lambda: bring(served(variant.repo(FQRN), url), scratch, spec=SPEC))


# ----------------------------------------------------------------------------------------------------------------- pins


_OPTIONS = {"CVMFS_REPOSITORY_TAG": "--tag", "CVMFS_REPOSITORY_DATE": "--at", "CVMFS_ROOT_HASH": "--root-hash"}
_PINS = golden.rows(f"{FQRN}/pins.jsonl") if golden.find_repos() is not None else []


def _pin_words(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in (_OPTIONS[setting.split("=")[0]], setting.split("=")[1])]


def _info(repos: Path, *words: str) -> list[str]:
    return ["info", "-r", FQRN, "--storage", str(repos / FQRN), "--key", str(repos / "keys"), "--json", *words]


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row["pin"]) for row in _PINS if "pin" in row] or golden.params([])
)
def test_a_pin_gives_what_it_gives_the_reference_client(row: dict[str, object], repos: Path) -> None:
    settings = row["settings"]
    assert isinstance(settings, list)
    result = call(*_info(repos, *_pin_words(settings)))
    if len(settings) > 1:
        # The client takes the stronger of two pins in silence; here they are a mistake.
        assert result.ends_with(2).json["reason"] == "usage"
    elif not row["mounts"]:
        assert result.ends_with(3 if "CVMFS_ROOT_HASH" in settings[0] else 2).json["exit_code"] == result.code
    else:
        found = result.ok().json
        assert (found["root_hash"], found["revision"]) == (row["root_hash"], row["revision"])
        assert (found["tag"] or "") == row["tag_xattr"]
        assert found["signed"] is True


def test_revision_numbers_of_the_history_can_be_pinned(repos: Path, tmp_path: Path) -> None:
    (manifests,) = (row["manifests"] for row in _PINS if "manifests" in row)
    config = SourceConfig(FQRN, storage=str(repos / FQRN))
    for rev, expected in manifests.items():
        result = bring(config, tmp_path / rev, pin=Pin(revision=expected["revision"]))
        assert result.root_hash == expected["root_hash"]
        assert result.timestamp == expected["timestamp"]
    for number in (0, 1, 5, 10**15):
        refused(UsageError, lambda number=number: bring(config, tmp_path / "none", pin=Pin(revision=number)))  # type: ignore[misc]
    assert visible(tmp_path / "none") == []


@needs_root
def test_an_export_can_be_pinned_to_a_root_hash_of_the_history(repos: Path, scratch: Path) -> None:
    config = SourceConfig(FQRN, storage=str(repos / FQRN))
    old = head_of(Pinned(FQRN, "rev1").manifest)
    assert bring(config, scratch, spec=SPEC, pin=Pin(root_hash=str(old.root_hash))).revision == old.revision
    assert unlike(scratch, wanted(Pinned(FQRN, "rev1"))) == []


def test_a_root_hash_that_nobody_signed_is_taken_only_when_asked_to(repos: Path, tmp_path: Path) -> None:
    # The root catalog of another repository: a real one, but not in this history.
    config = SourceConfig(FQRN, storage=str(repos / "mixed.cern.ch"))
    foreign = head_of(Pinned("mixed.cern.ch", "rev1").manifest).root_hash
    mixed = Storage(tmp_path / "storage", repos / "mixed.cern.ch")
    for name in (MANIFEST, WHITELIST):
        mixed.write(name, (repos / FQRN / name).read_bytes())
    for digest, suffix in _head_objects(repos):
        mixed.write(digest.object_path(suffix), (repos / FQRN / digest.object_path(suffix)).read_bytes())
    with_head = replace(config, storage=str(mixed.folder))
    dest = tmp_path / "base"
    refused(TrustError, lambda: bring(with_head, tmp_path / "signed", pin=Pin(root_hash=str(foreign))))
    assert visible(tmp_path / "signed") == []
    result = bring(with_head, dest, keys=(), spec=b"/*\n", pin=Pin(root_hash=str(foreign), unsigned=True))
    assert result.root_hash == str(foreign)
    assert any("signature" in line for line in result.notices)
    # Nothing of it counts as a head that was seen.
    assert not (dest / ".provenance" / FQRN / "head.json").exists()


def _head_objects(repos: Path) -> list[tuple[Digest, str]]:
    head = head_of((repos / FQRN / MANIFEST).read_bytes())
    assert head.certificate is not None
    assert head.history is not None
    return [(head.certificate, "X"), (head.history, "H")]


def test_an_unsigned_root_hash_is_held_to_the_hash_all_the_same(storage: Storage, tmp_path: Path) -> None:
    root = head_of(storage.read(MANIFEST)).root_hash
    storage.flip(root.object_path("C"), 30)
    refused(
        CorruptObject,
        lambda: bring(storage.config, tmp_path / "base", keys=(), pin=Pin(root_hash=str(root), unsigned=True)),
    )
    assert visible(tmp_path / "base") == []


def test_an_object_that_is_no_catalog_cannot_be_a_root(storage: Storage, tmp_path: Path) -> None:
    # A valid object under a valid hash: only that it is no catalog.
    data = zlib.compress(b"not a database" * 100)
    digest = signing.digest_of(signing.SHA1, data)
    storage.write(digest.object_path("C"), data)
    refused(
        CatalogError,
        lambda: bring(storage.config, tmp_path / "base", keys=(), pin=Pin(root_hash=str(digest), unsigned=True)),
    )
    assert visible(tmp_path / "base") == []


def test_the_memory_of_heads_survives_a_record_that_was_spoilt(storage: Storage, tmp_path: Path) -> None:
    dest = tmp_path / "base"
    bring(storage.config, dest)
    (dest / ".provenance" / FQRN / "record.json").write_text("{")
    storage.write(MANIFEST, Pinned(FQRN, "rev2").manifest)
    refused(RollbackError, lambda: bring(storage.config, dest))


def test_verified_bytes_of_the_head_are_kept_beside_the_tree(storage: Storage, tmp_path: Path) -> None:
    dest = tmp_path / "base"
    bring(storage.config, dest)
    folder = dest / ".provenance" / FQRN
    assert (folder / "manifest").read_bytes() == storage.read(MANIFEST)
    assert (folder / "whitelist").read_bytes() == storage.read(WHITELIST)
    assert json.loads((folder / "head.json").read_text())["revision"] == head_of(storage.read(MANIFEST)).revision
