"""Promise 3: after an object that could not be had nothing is replaced, nothing deleted and nothing recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.exporting import broken_names, differences, leftovers, selected, stored_files, words
from support.forking import Forks
from support.golden import Pinned
from support.listing import list_tree
from support.servers import RepoServer

REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
FOLDERS = (b"/special/swap", b"/special/meta")

pytestmark = pytest.mark.root
long = pytest.mark.long


STATUSES = {"missing": (404, 5), "unreachable": (503, 4), "corrupt": (None, 6)}
STEPS = [(REV1, REV2), (REV2, REV3), (REV3, REV1)]
#: Each kind of failure with one step; all with all in long runs.
CASES = [
    pytest.param(*step, *STATUSES[what], id=f"{what}-{step[0].rev}-{step[1].rev}", marks=[] if one == two else long)
    for one, what in enumerate(STATUSES)
    for two, step in enumerate(STEPS)
]


@pytest.mark.parametrize(("before", "after", "status", "code"), CASES)
def test_objects_that_cannot_be_had_leave_the_old_tree_and_its_record(
    before: Pinned, after: Pinned, status: int | None, code: int, cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    spec = tmp_path / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    server = repo_server.with_files()
    source = ["--server", server.repo(before.fqrn), "--keep-suid", "--json", "--retries", "0"]

    def run(at: Pinned, base: Path) -> list[object]:
        return words(at, base, *source, "--tag", at.rev, spec=spec)

    base = tmp_path / "base"
    cli.run(*run(before, base)).ok()
    cli.run(*run(before, tmp_path / "other")).ok()
    had = len(server.requests())
    cli.run(*run(after, tmp_path / "other")).ok()
    wanted = [
        one.path for one in server.requests()[had:] if "/data/" in one.path and not one.path.endswith(("C", "H", "X"))
    ]
    assert len(wanted) > 1
    for path in wanted[::2]:
        if status is None:
            server.flip(path, offset=0, mask=0xFF)
        else:
            server.answer(path, status)
    was = {one.path: one for one in list_tree(base / before.fqrn)}
    record = (base / ".provenance" / before.fqrn / "record.json").read_bytes()
    ended = cli.run(*run(after, base)).ends_with(code)
    assert "could not be had" in ended.err
    assert (base / ".provenance" / before.fqrn / "record.json").read_bytes() == record
    now = {one.path: one for one in list_tree(base / before.fqrn)}
    for path, one in was.items():
        assert path in now
        if one.type != "dir":
            assert (now[path].type, now[path].inode, now[path].target) == (one.type, one.inode, one.target)
    assert broken_names(base, before, after) == []
    kept = set(stored_files(base))
    for path in wanted[::2]:
        server.restore(path)
    asked = len(server.requests())
    ended = cli.run(*run(after, base)).ok()
    assert differences(base, after, expected=selected(after, *FOLDERS)) == []
    assert leftovers(base) == []
    # All that came in spite of the failures is used now; chunks are not kept by themselves.
    again = [one.path for one in server.requests()[asked:] if one.path in wanted and not one.path.endswith("P")]
    assert set(again) <= set(wanted[::2])
    assert kept <= set(stored_files(base))


def test_a_catalog_that_cannot_be_had_ends_the_run_before_anything_is_touched(
    cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    server = repo_server.with_files()
    source = ["--server", server.repo(REV1.fqrn), "--keep-suid", "--retries", "0"]
    base = tmp_path / "base"
    cli.run(*words(REV1, base, *source, "--tag", "rev1", spec="slide")).ok()
    cli.run(*words(REV1, tmp_path / "other", *source, "--tag", "rev1", spec="slide")).ok()
    had = len(server.requests())
    cli.run(*words(REV3, tmp_path / "other", *source, "--tag", "rev3", spec="slide")).ok()
    catalogs = [one.path for one in server.requests()[had:] if one.path.endswith("C")]
    before = list_tree(base / REV1.fqrn)
    stored = set(stored_files(base))
    for path in catalogs:
        server.answer(path, 404)
    for path in catalogs:  # in the order in which they are asked for
        cli.run(*words(REV3, base, *source, "--tag", "rev3", spec="slide")).ends_with(5)
        assert list_tree(base / REV1.fqrn) == before
        assert set(stored_files(base)) == stored
        assert leftovers(base) == []
        server.restore(path)
    ended = cli.run(*words(REV1, base, *source, "--tag", "rev1", "--json", spec="slide")).ok()
    assert ended.json["reason"] == "unchanged"
