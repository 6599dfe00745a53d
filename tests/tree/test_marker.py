"""The marker file of the original: there when it is asked for, and nowhere else."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.golden import MARKER, Pinned
from support.listing import AS_ROOT, as_user
from support.original import differences_beside_marker
from support.repository import CatalogBuilder, Publisher

from shrinkwrap.cvmfs.digest import SHA1, digest_of
from shrinkwrap.cvmfs.keys import read_keys
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.snapshot.view import DIR, FILE, LINK, Content, Node
from shrinkwrap.snapshot.walk import order_key
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.export import export
from shrinkwrap.tree.marker import MARKER as KIND
from shrinkwrap.tree.marker import NAME, PATH, TEXT, with_marker
from shrinkwrap.tree.request import ExportRequest, ExportResult

REV1, REV3 = Pinned("small.cern.ch", "rev1"), Pinned("small.cern.ch", "rev3")
PROJECTION = AS_ROOT if os.getuid() == 0 else as_user(os.getuid(), os.getgid())


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "sync", lambda self: None)


def run(repos: Path, base: Path, at: Pinned = REV1, **options: Any) -> ExportResult:
    request = ExportRequest(
        source=SourceConfig(at.fqrn, storage=str(repos / at.fqrn)),
        keys=tuple(read_keys([str(at.key)])),
        spec=parse(golden.spec_file("slide").read_bytes(), rules="2.12"),
        dest=str(base),
        pin=Pin(tag=at.rev),
        variables={os.fsencode(name): os.fsencode(value) for name, value in golden.ENVIRONMENT.items()},
        keep_suid=os.getuid() == 0,
        **options,
    )
    return export(request)


def wrong(base: Path, at: Pinned, *, marked: bool) -> list[str]:
    expected = golden.exported(golden.Export(at, "slide"))
    return differences_beside_marker(base, at.fqrn, expected, PROJECTION, marked=marked)


# ----------------------------------------------------------------------------------------------------------- the stream


def node(path: bytes, kind: str = DIR) -> Node:
    content = Content(digest_of(SHA1, b""), "n", 0, (), None) if kind == FILE else None
    return Node(path, kind, 0o755, 1, 2, 3, (), b"t" if kind == LINK else b"", content)


NEIGHBOURS = [b"", b"/A", b"/A/z", b"/DO", b"/DO/x", b"/DO_NOT/x", PATH[:-1], PATH[:-1] + b"/x", PATH + b"-"]
NEIGHBOURS += [PATH + b"A", b"/a", b"/\xff", b"/\x01", b"/DP", b"/D\xff"]


def test_it_stands_where_its_name_belongs() -> None:
    paths = sorted(NEIGHBOURS, key=order_key)
    for missing in range(len(paths) + 1):
        some = [path for number, path in enumerate(paths) if number == 0 or number != missing]
        found = list(with_marker(node(path) for path in some))
        assert [one.path for one in found] == sorted([*some, PATH], key=order_key)
        (marker,) = [one for one in found if one.path == PATH]
        assert (marker.kind, marker.uid, marker.gid, marker.mtime_ns) == (KIND, 1, 2, 3)


@pytest.mark.parametrize("kind", [FILE, LINK, DIR])
def test_an_entry_of_that_very_name_wins(kind: str) -> None:
    stream = [node(b""), node(b"/A"), node(PATH, kind), *([node(PATH + b"/x")] if kind == DIR else []), node(b"/a")]
    assert list(with_marker(stream)) == stream


def test_without_a_root_there_is_none() -> None:
    assert list(with_marker([])) == []
    assert [one.path for one in with_marker([node(b"")])] == [b"", PATH]


# ------------------------------------------------------------------------------------------------------------- the tree


def test_it_contains_its_name_and_the_root_has_the_metadata_of_the_repository(repos: Path, tmp_path: Path) -> None:
    result = run(repos, tmp_path, marker=True)
    file = tmp_path / REV1.fqrn / os.fsdecode(NAME)
    assert file.read_bytes() == TEXT == MARKER[1:]
    assert file.stat().st_mtime_ns == (tmp_path / REV1.fqrn).stat().st_mtime_ns
    assert wrong(tmp_path, REV1, marked=True) == []
    expected = golden.exported(golden.Export(REV1, "slide"))
    assert result.counts["files"] == sum(one.type == "file" for one in expected)


def test_it_is_nowhere_if_nobody_asks_for_it(repos: Path, tmp_path: Path) -> None:
    run(repos, tmp_path)
    assert wrong(tmp_path, REV1, marked=False) == []


@pytest.mark.parametrize("link_mode", ["hardlink", "copy"])
@pytest.mark.parametrize("lost", [False, True], ids=["by the record", "by the disk"])
def test_it_comes_and_goes_with_the_command(lost: bool, link_mode: str, repos: Path, tmp_path: Path) -> None:
    projection = PROJECTION.without_groups() if link_mode == "copy" else PROJECTION
    for turn, (at, marked) in enumerate(
        [(REV1, True), (REV1, False), (REV3, True), (REV1, True), (REV3, False), (REV3, False), (REV3, True)]
    ):
        if turn and lost:
            (tmp_path / ".provenance" / at.fqrn / "record.json").write_bytes(b"{}")
        run(repos, tmp_path, at, marker=marked, link_mode=link_mode)
        expected = golden.exported(golden.Export(at, "slide"))
        assert differences_beside_marker(tmp_path, at.fqrn, expected, projection, marked=marked) == [], turn


def test_a_second_run_finds_nothing_new(repos: Path, tmp_path: Path) -> None:
    run(repos, tmp_path, marker=True)
    assert run(repos, tmp_path, marker=True).reason == "unchanged"
    assert run(repos, tmp_path, marker=True, repair=True).counts.get("changed", 0) == 0


def gone(file: Path) -> None:
    file.unlink()


def changed(file: Path) -> None:
    file.write_bytes(b"Do modify this.")


def shown_elsewhere(file: Path) -> None:
    os.link(file, file.parent.parent / "elsewhere")


def of_another_mode(file: Path) -> None:
    file.chmod(0o600)


def a_link(file: Path) -> None:
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


def a_folder(file: Path) -> None:
    file.unlink()
    (file / "below").mkdir(parents=True)


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("spoil", [gone, changed, shown_elsewhere, of_another_mode, a_link, a_folder, a_pipe])
def test_repair_mends_it(spoil: Callable[[Path], None], repos: Path, tmp_path: Path) -> None:
    run(repos, tmp_path, marker=True)
    spoil(tmp_path / REV1.fqrn / os.fsdecode(NAME))
    run(repos, tmp_path, marker=True, repair=True)
    assert wrong(tmp_path, REV1, marked=True) == []


# ------------------------------------------------------------------------------------------------ a repository with one


def a_file(root: CatalogBuilder) -> None:
    root.file(PATH, b"ours")


def a_symlink(root: CatalogBuilder) -> None:
    root.link(PATH, b"target")


def a_directory(root: CatalogBuilder) -> None:
    root.dir(PATH)
    root.file(PATH + b"/x", b"below")


def a_fifo(root: CatalogBuilder) -> None:
    root.special(PATH, stat.S_IFIFO)


def nothing(root: CatalogBuilder) -> None:
    return


KINDS: dict[Callable[[CatalogBuilder], None], str] = {a_file: "ours", a_symlink: "link", a_directory: "folder"}


def shown(base: Path, fqrn: str) -> str:
    place = base / fqrn / os.fsdecode(NAME)
    if place.is_symlink():
        return "link" if os.readlink(place) == "target" else "another link"
    if place.is_dir():
        return "folder" if (place / "x").read_bytes() == b"below" else "another folder"
    if not place.exists():
        return "nothing"
    data = place.read_bytes()
    return {b"ours": "ours", TEXT: "marker"}.get(data, "another file")


def test_an_entry_of_the_repository_with_that_name_is_shown_instead(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "storage")
    base = tmp_path / "base"
    steps = [nothing, a_file, a_symlink, nothing, a_directory, a_file, a_fifo, a_directory, a_symlink, a_directory]
    steps += [nothing, a_symlink, a_fifo, nothing]
    for number, put in enumerate(steps):
        root = publisher.catalog()
        root.file(b"/A", b"%d" % number)
        root.file(b"/a", b"%d" % number)
        put(root)
        publisher.publish(root)
        for marked in (True, False, True) if number % 2 else (True,):
            request = ExportRequest(
                source=publisher.config(),
                keys=tuple(publisher.keys),
                spec=parse(b"/*\n"),
                dest=str(base),
                marker=marked,
            )
            export(request)
            assert shown(base, publisher.fqrn) == KINDS.get(put, "marker" if marked else "nothing")
            assert (base / publisher.fqrn / "a").read_bytes() == b"%d" % number
