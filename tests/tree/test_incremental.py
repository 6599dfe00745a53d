"""An updated tree is the tree that a fresh export makes, and costs no more than what is new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.exporting import broken_names, differences, leftovers, selected, unlinked_files, words
from support.forking import Forks
from support.golden import Export, Pinned
from support.listing import AS_ROOT, Record, list_tree
from support.servers import RepoServer, Variant

pytestmark = pytest.mark.root

#: Each ordered pair of two and of three revisions is a step of one of these walks.
WALKS = {2: (0, 1, 0), 3: (0, 1, 0, 2, 1, 2, 0)}
REVISIONS = {
    fqrn: [at for at in golden.pinned() if at.fqrn == fqrn]
    for fqrn in sorted({at.fqrn for at in golden.pinned()})
    if sum(at.fqrn == fqrn for at in golden.pinned()) > 1
}
REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
FOLDERS = (b"/special/swap", b"/special/meta", b"/special/hard", b"/special/links", b"/lcg/views")


def options(at: Pinned, server: Variant) -> list[str]:
    """Pins a revision on a server of the test's own: by its tag, else by serving its manifest."""
    if at.tag is not None:
        return ["--server", server.repo(at.fqrn), "--tag", at.tag]
    server.write(f"{at.fqrn}/.cvmfspublished", at.manifest)
    return ["--server", server.repo(at.fqrn), "--allow-rollback"]


def objects(server: Variant) -> list[str]:
    """Contents of whole files that were asked for: neither catalogs, histories and certificates, nor chunks."""
    return [
        one.path for one in server.requests() if "/data/" in one.path and not one.path.endswith(("C", "H", "X", "P"))
    ]


def listing(base: Path, fqrn: str) -> list[Record]:
    """A tree without what differs between two places: inode numbers, link counts, sizes of directories."""
    return [
        replace(one, inode=None, nlink=0, size=0 if one.type == "dir" else one.size) for one in list_tree(base / fqrn)
    ]


def cases() -> list[Any]:
    """Repositories, of the large one a part unless there is time."""
    if not REVISIONS:
        return golden.params([])
    whole = [pytest.param(fqrn, (), id=fqrn) for fqrn in REVISIONS if fqrn != REV1.fqrn]
    return [
        *whole,
        pytest.param(REV1.fqrn, FOLDERS, id=f"part-of-{REV1.fqrn}"),
        pytest.param(REV1.fqrn, (), id=REV1.fqrn, marks=pytest.mark.long),
    ]


@pytest.mark.parametrize(("fqrn", "folders"), cases())
def test_from_each_revision_to_each_other_the_tree_is_what_the_mount_shows(
    fqrn: str, folders: tuple[bytes, ...], cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    revisions, server = REVISIONS[fqrn], repo_server.with_files()
    spec = tmp_path / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in folders or (b"",)))
    for step in WALKS[len(revisions)]:
        at = revisions[step]
        args = words(at, tmp_path, *options(at, server), "--keep-suid", "--json", spec=spec)
        assert cli.run(*args).ok().json["reason"] == "exported"
        assert differences(tmp_path, at, expected=selected(at, *folders) if folders else None) == []
        assert unlinked_files(tmp_path, fqrn) == []
        asked = len(server.requests())
        assert cli.run(*args).ok().json["reason"] == "unchanged"
        assert [one.path for one in server.requests()[asked:]] == [f"{fqrn}/.cvmfspublished"]
    assert broken_names(tmp_path, *revisions) == []
    assert leftovers(tmp_path) == []
    # The store forgets nothing, so no content came twice in all these steps, nor did a catalog. (Chunks are not kept.)
    asked_for = [one.path for one in server.requests() if "/data/" in one.path and not one.path.endswith("P")]
    assert sorted(asked_for) == sorted(set(asked_for))


def test_a_change_of_metadata_fetches_no_content(
    cli: Forks, repo_server: RepoServer, repos: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "meta.spec"
    paths = [b"/special/meta/%s" % name for name in (b"mtime", b"mtime_ns", b"mode", b"owner", b"xattr_add")]
    spec.write_bytes(b"\n".join(paths))
    server = repo_server.with_files()
    for at in (REV1, REV2):
        asked = len(objects(server))
        cli.run(*words(at, tmp_path / "base", *options(at, server), spec=spec)).ok()
        assert differences(tmp_path / "base", at, expected=selected(at, *paths)) == []
        assert (len(objects(server)) > asked) == (at is REV1)


@pytest.mark.parametrize(
    "specs",
    [
        pytest.param(("slide", "views", "slide", "empty", "slide"), id="parts"),
        pytest.param(("full", "slide", "full"), id="full", marks=pytest.mark.long),
    ],
)
def test_a_smaller_and_again_a_larger_specification_gives_what_a_fresh_export_gives(
    specs: tuple[str, ...], cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    server = repo_server.with_files()
    for spec in specs:
        cli.run(*words(REV3, tmp_path, *options(REV3, server), "--keep-suid", spec=spec)).ok()
        expected = None if spec == "full" else golden.exported(Export(REV3, spec))
        assert differences(tmp_path, REV3, expected=expected) == []
        assert unlinked_files(tmp_path, REV3.fqrn) == []
    asked = objects(server)
    assert len(asked) == len(set(asked))


CHANGES = [
    pytest.param((), ("--keep-suid",), id="keep-suid"),
    pytest.param(("--keep-suid",), ("--claim-ownership",), id="claim-ownership"),
    pytest.param((), ("--env", "ARCH=riscv64"), id="variable"),
    pytest.param((), ("--link-mode", "copy"), id="copy"),
    pytest.param(("--link-mode", "copy"), ("--env", "ARCH=riscv64"), id="copy-to-links-with-variable"),
]


@pytest.mark.parametrize(("one", "two"), CHANGES)
def test_a_change_of_options_there_and_back_gives_what_a_fresh_export_gives(
    one: tuple[str, ...], two: tuple[str, ...], cli: Forks, repos: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    source = ["--storage", str(repos / REV2.fqrn), "--tag", "rev2", "--json"]
    fresh = []
    for number, chosen in enumerate((one, two)):
        base = tmp_path / f"fresh{number}"
        cli.run(*words(REV2, base, *source, *chosen, spec=spec)).ok()
        fresh.append(listing(base, REV2.fqrn))
    assert fresh[0] != fresh[1] or "--link-mode" in (*one, *two)
    base = tmp_path / "base"
    for step in (0, 1, 0):
        chosen = (one, two)[step]
        ended = cli.run(*words(REV2, base, *source, *chosen, spec=spec)).ok()
        assert ended.json["reason"] == "exported"
        assert listing(base, REV2.fqrn) == fresh[step]
        linked = unlinked_files(base, REV2.fqrn) == []
        assert linked == ("--link-mode" not in chosen)
        assert broken_names(base, REV2) == []


def test_sharing_mtimes_there_and_back_gives_what_a_fresh_export_gives_but_for_shared_mtimes(
    cli: Forks, repos: Path, tmp_path: Path
) -> None:
    spec = tmp_path / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    for at, chosen, projection in (
        (REV1, (), AS_ROOT),
        (REV1, ("--share-mtime",), AS_ROOT.sharing_mtimes()),
        (REV2, ("--share-mtime",), AS_ROOT.without_file_mtimes()),
        (REV3, ("--share-mtime",), AS_ROOT.without_file_mtimes()),
        (REV3, (), AS_ROOT),
    ):
        source = ["--storage", str(repos / at.fqrn), "--tag", at.rev, "--keep-suid"]
        cli.run(*words(at, tmp_path / "base", *source, *chosen, spec=spec)).ok()
        assert differences(tmp_path / "base", at, projection, selected(at, *FOLDERS)) == []
        assert unlinked_files(tmp_path / "base", at.fqrn) == []


def test_copies_are_updated_like_links(cli: Forks, repos: Path, tmp_path: Path) -> None:
    spec = tmp_path / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    for at in (REV1, REV3, REV2, REV1):
        source = ["--storage", str(repos / at.fqrn), "--tag", at.rev, "--keep-suid", "--link-mode", "copy"]
        cli.run(*words(at, tmp_path / "base", *source, spec=spec)).ok()
        assert differences(tmp_path / "base", at, AS_ROOT.without_groups(), selected(at, *FOLDERS)) == []


def test_a_lost_record_is_made_up_for_by_looking_at_the_disk(cli: Forks, repos: Path, tmp_path: Path) -> None:
    spec = tmp_path / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    record = tmp_path / "base" / ".provenance" / REV1.fqrn / "record.json"
    for at, spoil in ((REV1, b"{}"), (REV2, b"not JSON"), (REV3, b"")):
        source = ["--storage", str(repos / at.fqrn), "--tag", at.rev, "--keep-suid", "--json"]
        ended = cli.run(*words(at, tmp_path / "base", *source, spec=spec)).ok()
        assert differences(tmp_path / "base", at, expected=selected(at, *FOLDERS)) == []
        record.write_bytes(spoil)
    ended = cli.run(*words(REV3, tmp_path / "base", *source, spec=spec)).ok()
    assert ended.json["counts"].get("changed", 0) == ended.json["counts"].get("fetched", 0) == 0
    assert differences(tmp_path / "base", REV3, expected=selected(REV3, *FOLDERS)) == []
