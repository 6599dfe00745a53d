"""Objects that are gone everywhere (``--allow-missing``): left out if listed, told of, and looked for again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cvmfs import signing
from support.exporting import leftovers
from support.forking import Forks
from support.repository import Publisher

from shrinkwrap.cvmfs.blacklist import Blacklist
from shrinkwrap.cvmfs.digest import Digest
from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, UsageError
from shrinkwrap.record.runlog import read_runs
from shrinkwrap.spec.grammar import parse
from shrinkwrap.tree.allowed import LIST_BYTES, Allowed, parse_allowed, read_allowed
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.export import export
from shrinkwrap.tree.findings import VerifyResult
from shrinkwrap.tree.gc import gc
from shrinkwrap.tree.request import GAP, ExportRequest, ExportResult
from shrinkwrap.tree.status import status
from shrinkwrap.tree.verify import VerifyRequest, Whence, verify

FILES: Mapping[bytes, bytes] = {
    b"/a": b"first",
    b"/gone": b"lost",
    b"/lcg/also gone": b"lost",
    b"/lcg/b": b"second",
    b"/z": b"last",
}
PIECES = (b"one piece", b"another piece", b"the last")
FQRN = signing.FQRN


class Lossy:
    """A repository some of whose objects can be lost, and exports of it."""

    def __init__(self, folder: Path) -> None:
        self.dest = folder / "base"
        self.publisher = Publisher(folder / "storage")
        self.publish(FILES)

    def publish(self, files: Mapping[bytes, bytes]) -> None:
        root = self.publisher.catalog()
        nested = self.publisher.catalog(b"/lcg")
        root.nest(nested)
        for path, data in files.items():
            (nested if path.startswith(b"/lcg/") else root).file(path, data)
        root.file(b"/pieces", pieces=list(PIECES))
        self.root = self.publisher.publish(root).root_hash

    def object(self, data: bytes, suffix: str = "") -> tuple[Digest, Path]:
        """The object of a content."""
        digest = self.publisher.storage.put(data, suffix)
        return digest, self.publisher.storage.path(digest, suffix)

    def lose(self, data: bytes, suffix: str = "") -> Digest:
        digest, file = self.object(data, suffix)
        file.unlink()
        return digest

    def find(self, data: bytes, suffix: str = "") -> None:
        self.publisher.storage.put(data, suffix)

    def request(self, *lines: str, **options: Any) -> ExportRequest:
        request = ExportRequest(
            source=self.publisher.config(),
            keys=tuple(self.publisher.keys),
            spec=parse(b"/*\n"),
            dest=str(self.dest),
            workers=1,
            allow_missing=parse_allowed("\n".join(lines).encode(), "list"),
        )
        return replace(request, **options)

    def export(self, *lines: str, **options: Any) -> ExportResult:
        return export(self.request(*lines, **options))

    def tree(self, *place: str) -> dict[bytes, bytes]:
        top = self.dest.joinpath(*place) / FQRN
        return {
            os.fsencode(f"/{file.relative_to(top)}"): file.read_bytes() for file in top.rglob("*") if file.is_file()
        }

    def verify(self, **options: Any) -> VerifyResult:
        whence = Whence(tuple(self.publisher.keys), Blacklist(), self.publisher.config())
        return verify(VerifyRequest(str(self.dest), content=True, workers=1, whence=lambda fqrn: whence, **options))

    def missing(self) -> list[dict[str, str]]:
        file = self.dest / ".provenance" / FQRN / "missing.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def last_run(self) -> dict[str, Any]:
        fd = os.open(self.dest / ".provenance" / FQRN, DIRECTORY)
        try:
            return list(read_runs(fd))[-1]
        finally:
            os.close(fd)


ALL = {**FILES, b"/pieces": b"".join(PIECES)}
REST = {path: data for path, data in ALL.items() if data != b"lost"}


@pytest.fixture
def lossy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lossy:
    monkeypatch.setattr(Base, "sync", lambda self: None)  # nothing here is about power cuts
    monkeypatch.setattr("time.time", lambda: float(signing.NOW))
    return Lossy(tmp_path)


# ------------------------------------------------------------------------------------------------------ what is allowed


def test_without_the_list_a_missing_object_ends_the_run_and_says_what_to_do(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    with pytest.raises(MissingObject) as caught:
        lossy.export()
    assert "--allow-missing" in caught.value.hint


def test_files_whose_object_is_listed_are_left_out(lossy: Lossy) -> None:
    digest = lossy.lose(b"lost")
    result = lossy.export(f"# lost in the flood\n\n{digest}\n")
    assert lossy.tree() == REST
    assert result.report.counts[GAP] == 2
    assert leftovers(lossy.dest) == []


def test_only_the_paths_that_are_listed_are_left_out(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    with pytest.raises(MissingObject, match="1 object"):
        lossy.export("/gone")
    lossy.export("/gone", "/lcg//also gone/")
    assert lossy.tree() == REST


def test_what_is_listed_and_not_missing_comes(lossy: Lossy) -> None:
    result = lossy.export("/gone", "/a", str(lossy.object(b"last")[0]), "/nowhere")
    assert lossy.tree() == ALL
    assert GAP not in result.report.counts
    assert lossy.missing() == []
    assert result.counts["files"] == len(ALL)


def test_what_the_store_has_is_not_missing(lossy: Lossy) -> None:
    lossy.export(snapshot="before")
    lossy.lose(b"lost")
    assert GAP not in lossy.export("/gone", "/lcg/also gone").report.counts
    assert lossy.tree() == ALL


def test_a_missing_chunk_counts_for_its_file(lossy: Lossy) -> None:
    lossy.lose(PIECES[0], "P")
    digest = str(lossy.lose(PIECES[1], "P"))
    lossy.export(f"data/{digest[:2]}/{digest[2:]}P")
    assert lossy.tree() == FILES


def test_a_broken_object_is_never_allowed(lossy: Lossy) -> None:
    lossy.object(b"lost")[1].write_bytes(b"broken")
    with pytest.raises(CorruptObject):
        lossy.export("/gone", "/lcg/also gone")


def test_an_object_that_cannot_be_asked_for_is_never_allowed(lossy: Lossy) -> None:
    file = lossy.object(b"lost")[1]
    file.unlink()
    file.symlink_to(file.name)
    with pytest.raises(NetworkError):
        lossy.export("/gone", "/lcg/also gone")


def test_a_missing_catalog_is_never_allowed(lossy: Lossy) -> None:
    for file in (lossy.publisher.folder / "data").rglob("*C"):
        digest = file.parent.name + file.name[:-1]
        if digest != lossy.root:
            file.unlink()
    with pytest.raises(MissingObject):
        lossy.export("/lcg", "/lcg/b", "/lcg/also gone")


# --------------------------------------------------------------------------------------------------------- what is told


def test_what_is_left_out_is_told_everywhere(lossy: Lossy) -> None:
    digest = lossy.lose(b"lost")
    result = lossy.export("/gone", "/lcg/also gone")
    told = result.to_json()
    assert told["left_out"] == {GAP: 2}
    assert [line for line in told["warnings"] if "2 files left out" in line and "/gone" in line]
    assert told["counts"]["files"] == len(REST)
    assert lossy.missing() == [
        {"path": "/gone", "object": str(digest)},
        {"path": "/lcg/also gone", "object": str(digest)},
    ]
    left_out = (lossy.dest / ".provenance" / FQRN / "left-out.jsonl").read_text().splitlines()
    assert [json.loads(line)["path"] for line in left_out] == ["/gone", "/lcg/also gone"]
    run = lossy.last_run()
    assert (run["reason"], run["exit_code"], run["left_out"]) == ("exported", 0, {GAP: 2})
    (one,) = status(str(lossy.dest)).repositories
    assert one.record is not None
    assert one.record.counts[GAP] == 2
    statement = json.loads((lossy.dest / ".provenance" / FQRN / "statement.json").read_text())
    assert f'"{GAP}": 2' in json.dumps(statement)


def test_the_listing_of_the_export_is_that_of_the_tree(lossy: Lossy, tmp_path: Path) -> None:
    lossy.lose(b"lost")
    lossy.export("/gone", "/lcg/also gone", listing=str(tmp_path / "listing"))
    rows = [json.loads(line) for line in (tmp_path / "listing").read_text().splitlines()]
    assert {row["path"].encode() for row in rows if row["type"] == "file"} == set(REST)
    assert lossy.verify(chain=True, now=float(signing.NOW)).ok


def test_verify_tells_of_gaps_and_does_not_call_them_damage(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    lossy.export("/gone", "/lcg/also gone")
    result = lossy.verify()
    (one,) = result.repositories
    assert result.ok
    assert one.allowed == one.to_json()["allowed"] == 2
    assert any("2 files are left out" in note for note in one.notes)
    # The checksums are those of the files that are there.
    assert one.content is not None
    assert one.content["files"] == len(REST)
    (lossy.dest / FQRN / "z").unlink()
    assert lossy.verify().repositories[0].differences["missing"] == 1
    mended = lossy.verify(repair=True)
    assert mended.ok
    assert lossy.tree() == REST
    assert mended.repositories[0].allowed == 2


def test_without_the_list_of_gaps_verify_finds_files_missing(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    lossy.export("/gone", "/lcg/also gone")
    (lossy.dest / ".provenance" / FQRN / "missing.jsonl").unlink()
    assert lossy.verify().repositories[0].differences == {"record": 1, "missing": 2}


def test_the_commands_tell_of_gaps(lossy: Lossy, cli: Forks, tmp_path: Path) -> None:
    lossy.lose(b"lost")
    lossy.export("/gone", "/lcg/also gone")
    assert "2 files left out" in cli.run("status", str(lossy.dest)).ok().out
    assert "2 files are left out" in cli.run("verify", str(lossy.dest)).ok().out


# ----------------------------------------------------------------------------------------------------- before and after


def test_the_next_run_tries_again_though_nothing_else_is_new(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    names = ("/gone", "/lcg/also gone")
    lossy.export(*names)
    again = lossy.export(*names)
    assert (again.reason, again.report.counts[GAP]) == ("exported", 2)
    assert lossy.tree() == REST
    lossy.find(b"lost")
    back = lossy.export(*names)
    assert back.counts["added"] == 2
    assert GAP not in back.report.counts
    assert lossy.tree() == ALL
    assert lossy.missing() == []
    assert lossy.export(*names).reason == "unchanged"
    assert lossy.verify().ok


def test_a_run_without_the_list_does_not_take_the_tree_for_complete(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    lossy.export("/gone", "/lcg/also gone")
    with pytest.raises(MissingObject):
        lossy.export()
    # Neither does one after something else has changed, which passes by catalogs that are as they were.
    lossy.publish({**FILES, b"/a": b"changed"})
    lossy.lose(b"lost")
    with pytest.raises(MissingObject):
        lossy.export()
    lossy.find(b"lost")
    lossy.export()
    assert lossy.tree() == {**ALL, b"/a": b"changed"}


def test_the_list_of_gaps_goes_with_them_though_a_run_was_cut_off(
    lossy: Lossy, monkeypatch: pytest.MonkeyPatch
) -> None:
    lossy.lose(b"lost")
    lossy.export("/gone", "/lcg/also gone")
    lossy.find(b"lost")
    with monkeypatch.context() as patch:
        patch.setattr(Base, "remove_file", _killed)
        with pytest.raises(KeyboardInterrupt):
            lossy.export("/gone", "/lcg/also gone")
    assert len(lossy.missing()) == 2
    lossy.export("/gone", "/lcg/also gone")
    assert lossy.missing() == []
    assert lossy.tree() == ALL


def _killed(base: Base, path: bytes) -> None:
    raise KeyboardInterrupt


def test_a_catalog_that_is_passed_by_has_no_gaps(lossy: Lossy) -> None:
    lossy.export()
    lossy.publish({**FILES, b"/a": b"changed", b"/new": b"new"})
    lossy.lose(b"new")
    result = lossy.export("/new", "/lcg/b")
    assert result.report.counts[GAP] == 1
    assert lossy.tree() == {**ALL, b"/a": b"changed"}
    assert lossy.verify(chain=True, now=float(signing.NOW)).ok


def test_an_older_file_at_the_path_goes_since_it_is_not_what_the_snapshot_has(lossy: Lossy) -> None:
    lossy.export()
    lossy.publish({**FILES, b"/gone": b"newer", b"/lcg/also gone": b"newer"})
    lossy.lose(b"newer")
    with pytest.raises(MissingObject):
        lossy.export()
    assert lossy.tree() == ALL
    lossy.export("/gone", "/lcg/also gone")
    assert lossy.tree() == REST


def test_a_failed_run_with_a_list_deletes_nothing(lossy: Lossy) -> None:
    lossy.export()
    lossy.publish({b"/gone": b"newer", b"/z": b"other"})
    lossy.lose(b"newer")
    lossy.lose(b"other")
    with pytest.raises(MissingObject):
        lossy.export("/gone")
    assert lossy.tree() == ALL


def test_gaps_do_not_keep_garbage_from_being_collected(lossy: Lossy) -> None:
    lossy.export()
    lossy.publish({**FILES, b"/gone": b"newer"})
    lossy.lose(b"newer")
    lossy.export("/gone", link_mode="copy")
    gc(str(lossy.dest), full=True)
    assert lossy.verify().ok
    assert lossy.tree() == {path: data for path, data in ALL.items() if path != b"/gone"}


def test_a_release_with_gaps_is_completed_where_it_is(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    names = ("/gone", "/lcg/also gone")
    first = lossy.export(*names, switch=True)
    assert lossy.export(*names, switch=True).snapshot == first.snapshot
    lossy.find(b"lost")
    last = lossy.export(*names, switch=True)
    assert (last.snapshot, last.switched) == (first.snapshot, False)
    assert lossy.tree("current") == ALL


def test_strict_does_not_foresee_gaps(lossy: Lossy) -> None:
    lossy.lose(b"lost")
    lossy.export("/gone", "/lcg/also gone", strict=True)
    assert lossy.tree() == REST


# ------------------------------------------------------------------------------------------------------------- the list


def test_lines_are_paths_and_digests_as_messages_name_them() -> None:
    sha1, rmd = "ab" * 20, "cd" * 20 + "-rmd160"
    text = f"# comment\n\n  /a path/with blanks \r\n{sha1}\ndata/{rmd[:2]}/{rmd[2:]}P\n/a/\xff\n"
    allowed = parse_allowed(text.encode("latin-1"), "list")
    assert allowed.paths == {b"/a path/with blanks", b"/a/\xff"}
    assert {str(digest) for digest in allowed.digests} == {sha1, rmd}
    assert not parse_allowed(b"# nothing\n", "list")
    assert Allowed() == parse_allowed(b"", "list")


@pytest.mark.parametrize(
    "line", [b"relative/path", b"ab" * 19, b"AB" * 20, b"ab" * 20 + b"C", b"\xff\x00", b"ab" * 20 + b"-md5"]
)
def test_a_line_that_is_neither_is_refused_with_its_number(line: bytes) -> None:
    with pytest.raises(UsageError, match=r"list:2: .* is neither a path nor the digest"):
        parse_allowed(b"/a\n" + line, "list")


def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"#" * (LIST_BYTES + 1))
    for name in ("none", "large", ".", "a\0b"):
        with pytest.raises(UsageError, match="--allow-missing"):
            read_allowed(f"{tmp_path}/{name}")


def test_the_option_takes_the_name_of_a_file(lossy: Lossy, cli: Forks, tmp_path: Path) -> None:
    lossy.lose(b"lost")
    listed, spec = tmp_path / "list", tmp_path / "spec"
    listed.write_text("/gone\n/lcg/also gone\n")
    spec.write_text("/*\n")
    args = (
        *("export", "-r", FQRN, "--storage", str(lossy.publisher.folder), "-t", str(spec), "-z", str(lossy.dest)),
        *("--root-hash", lossy.root, "--accept-unsigned-root-hash", "--json"),
    )
    assert "--allow-missing" in cli.run(*args).ends_with(5).err
    told = cli.run(*args, "--allow-missing", str(listed)).ok().json
    assert (told["left_out"], told["exit_code"]) == ({GAP: 2}, 0)
    assert lossy.tree() == REST
