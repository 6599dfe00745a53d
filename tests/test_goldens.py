"""Real repositories, exported by the command line and held against what their mounts show, path by path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import golden
from support.exporting import differences, export, external, from_server, from_storage
from support.filesystems import Filesystem, remove_tree
from support.golden import Export, Pinned
from support.listing import AS_ROOT, ORDINARY, as_user
from support.servers import Proxy, RepoServer
from support.users import reaches

SMALL = Pinned("small.cern.ch", "rev2")
#: Each kind of content and of metadata occurs in one of these.
SELECTED = [
    SMALL,
    Pinned("external.cern.ch", "rev1"),
    Pinned("mixed.cern.ch", "rev3"),
    Pinned("nodes.cern.ch", "rev1"),
]
OTHERS = [at for at in golden.pinned() if at not in SELECTED]
EVERY = golden.params(golden.pinned())
#: The selected in every run, the others in long ones.
MOST = golden.params(SELECTED if golden.pinned() else []) + [
    pytest.param(at, id=str(at), marks=pytest.mark.long) for at in OTHERS
]


@pytest.mark.root
@pytest.mark.parametrize("at", EVERY)
def test_an_export_from_a_web_server_is_what_the_mount_shows(
    at: Pinned, repo_server: RepoServer, scratch: Path
) -> None:
    export(at, scratch, *from_server(at, repo_server), "--keep-suid")
    assert differences(scratch, at) == []


@pytest.mark.root
@pytest.mark.parametrize("at", EVERY)
def test_an_export_from_local_storage_is_what_the_mount_shows(
    at: Pinned, repos: Path, repo_server: RepoServer, scratch: Path
) -> None:
    base = scratch / "base"
    base.mkdir()
    export(at, base, *from_storage(at, repos, scratch), *external(at, repo_server), "--keep-suid")
    assert differences(base, at) == []


@pytest.mark.parametrize("at", EVERY)
def test_an_export_without_root_is_what_the_mount_shows_but_for_owners_and_set_id_bits(
    at: Pinned, repos: Path, repo_server: RepoServer, scratch: Path
) -> None:
    user = ORDINARY if os.getuid() == 0 else (os.getuid(), os.getgid())
    if not reaches(user, repos):
        pytest.skip(f"an ordinary user cannot reach {repos}")
    base = scratch / "base"
    base.mkdir()
    if os.getuid() == 0:
        os.chown(base, *user)
    export(at, base, *from_server(at, repo_server), user=user)
    assert differences(base, at, as_user(*user)) == []


@pytest.mark.root
@pytest.mark.parametrize("at", MOST)
def test_an_export_through_a_proxy_is_what_the_mount_shows(
    at: Pinned, repo_server: RepoServer, proxy: Proxy, scratch: Path
) -> None:
    variant = repo_server.with_files({f"{at.fqrn}/.cvmfspublished": at.manifest})
    options = ["--server", variant.repo(at.fqrn), "--proxy", proxy.url]
    if at.fqrn == "external.cern.ch":
        options += ["--external-server", variant.external(at.fqrn)]
    export(at, scratch, *options, "--keep-suid")
    assert differences(scratch, at) == []
    # External files have proxies of their own (FORMAT.md §8): only those of the repository must have come by this one.
    below = f"{at.fqrn}/"
    asked = [one for one in variant.requests() if one.path.startswith(below)]
    assert len(asked) == sum(url.startswith(f"{variant.url}/{below}") for url in proxy.urls()) > 0


@pytest.fixture(params=["tmpfs", "ext4", "xfs"])
def base_on(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A base folder on a file system of each kind."""
    made: Filesystem = request.getfixturevalue(request.param)
    folder = made.folder("base")
    yield folder
    remove_tree(folder)


@pytest.mark.root
@pytest.mark.parametrize("at", MOST)
def test_an_export_is_what_the_mount_shows_on_each_file_system(
    at: Pinned, base_on: Path, repo_server: RepoServer
) -> None:
    export(at, base_on, *from_server(at, repo_server), "--keep-suid")
    assert differences(base_on, at) == []


@pytest.mark.root
@pytest.mark.parametrize("chosen", golden.params([one for one in golden.exports() if one.spec != "full"]))
def test_a_specification_brings_the_paths_that_it_always_brought(
    chosen: Export, repo_server: RepoServer, scratch: Path
) -> None:
    options = ["--keep-suid", "--spec-rules", "2.12"]  # the version of the reference tool that made the listings
    export(chosen.at, scratch, *from_server(chosen.at, repo_server), *options, spec=chosen.spec)
    assert differences(scratch, chosen.at, expected=golden.exported(chosen)) == []


@pytest.mark.root
def test_set_id_bits_are_cleared_unless_they_are_asked_for(repo_server: RepoServer, scratch: Path) -> None:
    export(SMALL, scratch, *from_server(SMALL, repo_server))
    assert differences(scratch, SMALL, AS_ROOT.without_setid()) == []


@pytest.mark.root
def test_shared_mtimes_are_the_only_thing_that_shared_files_give_up(repo_server: RepoServer, scratch: Path) -> None:
    export(SMALL, scratch, *from_server(SMALL, repo_server), "--keep-suid", "--share-mtime")
    assert differences(scratch, SMALL, AS_ROOT.sharing_mtimes()) == []


@pytest.mark.root
def test_an_updated_export_is_what_a_fresh_one_would_be(repo_server: RepoServer, scratch: Path) -> None:
    for rev in ("rev1", "rev2", "rev3", "rev1"):
        at = Pinned("small.cern.ch", rev)
        export(at, scratch, *from_server(at, repo_server), "--keep-suid")
        assert differences(scratch, at) == [], rev


@pytest.mark.root
def test_an_export_goes_back_to_an_older_head_when_asked_to(repo_server: RepoServer, scratch: Path) -> None:
    served = repo_server.with_files()
    for rev in ("rev3", "rev2"):
        at = Pinned("testmigration.cern.ch", rev)
        served.write(f"{at.fqrn}/.cvmfspublished", at.manifest)
        export(at, scratch, "--server", served.repo(at.fqrn), "--keep-suid", "--allow-rollback")
        assert differences(scratch, at) == [], rev
