"""A run that passes by what is as it was says all that a fresh one would have said."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import xxhash
from support import golden
from support.exporting import differences, selected, words
from support.forking import Forks
from support.golden import Pinned
from support.servers import RepoServer, Variant

from shrinkwrap.record.summaries import SummaryStore
from shrinkwrap.record.summary import file_name

pytestmark = pytest.mark.root

REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
FOLDERS = (b"/special/hard", b"/special/meta", b"/special/links", b"/special/swap", b"/lcg/views")
ELSEWHERE = sorted({at.fqrn for at in golden.pinned()} & {"mixed.cern.ch", "rmd160.cern.ch", "shake128.cern.ch"})


def options(at: Pinned, server: Variant) -> list[str]:
    if at.tag is not None:
        return ["--server", server.repo(at.fqrn), "--tag", at.tag]
    server.write(f"{at.fqrn}/.cvmfspublished", at.manifest)
    return ["--server", server.repo(at.fqrn), "--allow-rollback"]


def lines(*folders: bytes) -> bytes:
    return b"".join(folder + b"/*\n" for folder in folders or (b"",))


def store(base: Path) -> SummaryStore:
    return SummaryStore(lambda name: (base / ".provenance" / ".summaries" / name).open("rb"))


def path_of(row: dict[str, Any]) -> bytes:
    raw = base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode()
    return raw.lstrip(b"/")


def wrong_sums(base: Path, fqrn: str) -> list[bytes]:
    """Files whose checksum is missing in the summaries, or is not that of what lies in the tree."""
    record = json.loads((base / ".provenance" / fqrn / "record.json").read_bytes())
    wrong = []
    number = 0
    for line, known in store(base).rows(record["summary"]):
        row = json.loads(line)
        if row["type"] == "file":
            number += 1
            path = path_of(row)
            data = (base / fqrn / path.decode("utf-8", "surrogateescape")).read_bytes()
            if known != xxhash.xxh3_128_digest(data):
                wrong.append(path)
    assert number == record["counts"]["files"] > 0
    return wrong


def said(base: Path, fqrn: str) -> dict[str, bytes]:
    """Everything deterministic that a run says of an export: record, statement, summaries, what was left out."""
    folder = base / ".provenance" / fqrn
    record = json.loads((folder / "record.json").read_bytes())
    found = {name: (folder / name).read_bytes() for name in ("record.json", "statement.json")}
    for file in folder.iterdir():
        if file.name.startswith("left-out"):
            found[file.name] = file.read_bytes()
    for key in store(base).keys(record["summary"]):
        found[key] = (base / ".provenance" / ".summaries" / file_name(key)).read_bytes()
    assert len(found) > 2 + record["counts"]["catalogs"] - 1
    return found


def asked_catalogs(server: Variant) -> list[str]:
    return [one.path for one in server.requests() if "/data/" in one.path and one.path.endswith("C")]


def cases() -> list[Any]:
    return [*((fqrn, ()) for fqrn in ELSEWHERE), (REV1.fqrn, FOLDERS)] if golden.pinned() else []


@pytest.mark.parametrize(("fqrn", "folders"), cases() or golden.params([]))
def test_after_each_update_the_accounts_are_those_of_a_fresh_export(
    fqrn: str, folders: tuple[bytes, ...], cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    revisions, server = [at for at in golden.pinned() if at.fqrn == fqrn], repo_server.with_files()
    spec = tmp_path / "paths.spec"
    spec.write_bytes(lines(*folders))
    fresh: dict[int, dict[str, bytes]] = {}
    for number, at in enumerate(revisions):
        base = tmp_path / f"fresh{number}"
        cli.run(*words(at, base, *options(at, server), "--keep-suid", spec=spec)).ok()
        assert wrong_sums(base, fqrn) == []
        fresh[number] = said(base, fqrn)
    base = tmp_path / "base"
    for number in (0, 1, *((2,) if len(revisions) > 2 else ()), 0):
        at = revisions[number]
        listing = tmp_path / "listing"
        more = ("--keep-suid", "--listing", listing, "--json")
        told = cli.run(*words(at, base, *options(at, server), *more, spec=spec)).ok().json
        assert said(base, fqrn) == fresh[number]
        assert wrong_sums(base, fqrn) == []
        statement = json.loads(fresh[number]["statement.json"])
        assert xxhash.xxh3_64_hexdigest(listing.read_bytes()) == xxhash.xxh3_64_hexdigest(
            b"".join(store(base).listing(json.loads(fresh[number]["record.json"])["summary"]))
        )
        assert statement["subject"][0]["digest"]["sha256"] == _sha256(listing)
        assert told["lines"]


def _sha256(file: Path) -> str:
    import hashlib

    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def test_a_change_of_lines_passes_by_the_catalogs_where_nothing_else_matches(
    cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    server, spec = repo_server.with_files(), tmp_path / "paths.spec"
    base, fresh = tmp_path / "base", tmp_path / "fresh"
    spec.write_bytes(lines(b"/special", b"/lcg/views"))
    cli.run(*words(REV2, base, *options(REV2, server), spec=spec)).ok()
    # Were they opened, they would have to be fetched again.
    kept = sorted((base / ".provenance" / ".objects").rglob("*C"))
    root = json.loads((base / ".provenance" / REV2.fqrn / "record.json").read_bytes())["goal"]["root_hash"]
    for file in kept:
        if file.name.removesuffix("C") not in root:
            file.unlink()
    spec.write_bytes(lines(b"/special", b"/lcg/views") + b"/no/such/path\n")
    before = len(asked_catalogs(server))
    told = cli.run(*words(REV2, base, *options(REV2, server), "--json", spec=spec)).ok().json
    assert told["reason"] == "exported"
    assert told["left_out"]["line_without_match"] == 1
    assert len(asked_catalogs(server)) - before < len(kept)
    cli.run(*words(REV2, fresh, *options(REV2, server), spec=spec)).ok()
    assert said(base, REV2.fqrn) == said(fresh, REV2.fqrn)


@pytest.mark.parametrize("damage", ["gone", "one bit", pytest.param("of another", marks=pytest.mark.long)])
def test_a_broken_summary_is_none_and_its_catalog_is_read_again(
    damage: str, cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    server, spec = repo_server.with_files(), tmp_path / "paths.spec"
    base, fresh = tmp_path / "base", tmp_path / "fresh"
    spec.write_bytes(lines(b"/special"))
    cli.run(*words(REV1, base, *options(REV1, server), "--keep-suid", spec=spec)).ok()
    files = sorted((base / ".provenance" / ".summaries").glob("*/*"))
    contents = [file.read_bytes() for file in files]
    assert len(files) > 1
    for number, file in enumerate(files):
        data = contents[number]
        if damage == "gone":
            file.unlink()
        elif damage == "one bit":
            file.write_bytes(data[:-20] + bytes((data[-20] ^ 1,)) + data[-19:])
        else:
            file.write_bytes(contents[number - 1])
    for at in (REV3,):
        cli.run(*words(at, base, *options(at, server), "--keep-suid", spec=spec)).ok()
        assert differences(base, at, expected=selected(at, b"/special")) == []
        assert wrong_sums(base, at.fqrn) == []
        shutil.rmtree(fresh, ignore_errors=True)
        cli.run(*words(at, fresh, *options(at, server), "--keep-suid", spec=spec)).ok()
        assert said(base, at.fqrn) == said(fresh, at.fqrn)


def test_variables_that_changed_are_seen_in_catalogs_that_did_not(
    cli: Forks, repo_server: RepoServer, tmp_path: Path
) -> None:
    server, spec = repo_server.with_files(), tmp_path / "paths.spec"
    spec.write_bytes(lines(b"/special", b"/lcg"))
    results = []
    for base in (tmp_path / "one", tmp_path / "two"):
        for arch in ("first", "second") if base.name == "one" else ("second",):
            args = words(REV2, base, *options(REV2, server), "--env", f"ARCH={arch}", spec=spec)
            cli.run(*args).ok()
        results.append(said(base, REV2.fqrn))
    assert results[0] == results[1]
    links = [
        file
        for file in (tmp_path / "one" / REV2.fqrn).rglob("*")
        if file.is_symlink() and "second" in str(file.readlink())
    ]
    assert links


def test_checksums_that_nobody_noted_are_computed(cli: Forks, repo_server: RepoServer, tmp_path: Path) -> None:
    server, spec, base = repo_server.with_files(), tmp_path / "paths.spec", tmp_path / "base"
    spec.write_bytes(lines(b"/special"))
    cli.run(*words(REV1, base, *options(REV1, server), spec=spec)).ok()
    shutil.rmtree(base / ".data" / "sums")
    shutil.rmtree(base / ".provenance" / ".summaries")
    (base / ".provenance" / REV1.fqrn / "record.json").unlink()
    asked = len(server.requests())
    cli.run(*words(REV1, base, *options(REV1, server), "--repair", spec=spec)).ok()
    assert wrong_sums(base, REV1.fqrn) == []
    assert [
        one.path for one in server.requests()[asked:] if "/data/" in one.path and one.path[-1] in "0123456789abcdef"
    ] == []
