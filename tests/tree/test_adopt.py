"""A destination that the original made is taken over: what can be proved is kept, nothing else is believed."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from support import golden
from support.cli import run_cli
from support.exporting import broken_names, differences, leftovers, stored_files, unlinked_files, words
from support.filesystems import remove_tree
from support.forking import Ended, Forks
from support.golden import Export, Pinned
from support.listing import AS_ROOT, ORDINARY, as_user, list_tree
from support.original import build_original, spoil
from support.users import reaches

from shrinkwrap.cvmfs.digest import SHA1, Digest, digest_of
from shrinkwrap.cvmfs.entry import Chunk
from shrinkwrap.snapshot.view import Content
from shrinkwrap.tree.adopt import proves

SEED = int(os.environ.get("CI_SEED", "1"))
REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
PLAIN = Pinned("plain.cern.ch", "rev1")
#: Each hash algorithm, and contents that are stored as they are.
OTHERS = [
    PLAIN,
    Pinned("rmd160.cern.ch", "rev1"),
    Pinned("shake128.cern.ch", "rev1"),
    Pinned("mixed.cern.ch", "rev3"),
]
#: Folders of the original in a store of ours.
TWO_LEVELS = "[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]"

pytestmark = pytest.mark.root


class Bases:
    """Destinations of the original, and exports to them in forks."""

    def __init__(self, cli: Forks, repos: Path, folder: Path) -> None:
        self._cli = cli
        self._repos = repos
        self._folder = folder

    def contents(self, export: Export) -> Path:
        """The tree of an export, made by our own tool."""
        place = self._folder / f"{export.at.fqrn}-{export.at.rev}-{export.spec}"
        if not place.exists():
            self.run(export.at, place, spec=export.spec).ok()
        return place / export.at.fqrn

    def original(self, base: Path, export: Export) -> dict[bytes, Path]:
        return build_original(base, export, self.contents(export))

    def run(self, at: Pinned, base: Path, *options: str, spec: str = "full", die_at: int | None = None) -> Ended:
        where = ["--storage", str(self._repos / at.fqrn), "--tag", at.rev, "--keep-suid", "--json"]
        rules = ["--spec-rules", "2.12"]
        return self._cli.run(*words(at, base, *where, *rules, *options, spec=spec), die_at=die_at)

    def check(self, base: Path, export: Export, *, alone: bool = True) -> None:
        """``alone``: no other repository is or was in this base."""
        assert differences(base, export.at, expected=golden.exported(export)) == []
        revisions = [REV1, REV2, REV3] if export.at.fqrn == REV1.fqrn else [export.at]
        assert not alone or broken_names(base, *revisions) == []
        assert unlinked_files(base, export.at.fqrn) == []
        assert leftovers(base) == []
        infos = {one.name for one in (base / ".provenance" / export.at.fqrn).iterdir()}
        assert not infos & {"src.info", "src.config", "dest.info"}
        assert list((base / ".data").glob(TWO_LEVELS)) == []
        assert not alone or not (base / ".data" / "old").exists()


@pytest.fixture(scope="module")
def bases(cli: Forks, repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bases]:
    folder = tmp_path_factory.mktemp("contents")
    yield Bases(cli, repos, folder)
    remove_tree(folder)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "base"


# ---------------------------------------------------------------------------------------------------------- all is well


@pytest.mark.parametrize("at", golden.params([REV1, *OTHERS] if golden.pinned() else []))
def test_a_whole_destination_is_taken_over_and_nothing_is_fetched(at: Pinned, bases: Bases, base: Path) -> None:
    export = Export(at, "full")
    had = set(bases.original(base, export).values())
    ended = bases.run(at, base, "--adopt").ok().json
    assert ended["counts"]["fetched"] == 0
    assert "not_proved" not in ended["counts"]
    # One of each content; those that differ in metadata only are made from each other.
    contents = {name.partition(".")[0] for name in stored_files(base)}
    assert ended["counts"]["adopted"] == len(contents) <= len(had)
    assert any(f"taken over from the original: {len(contents)} stored files" in line for line in ended["warnings"])
    bases.check(base, export)
    assert bases.run(at, base).ok().json["reason"] == "unchanged"


def test_files_are_renamed_and_not_copied_where_only_their_time_has_to_change(bases: Bases, base: Path) -> None:
    export = Export(REV1, "full")
    stored = bases.original(base, export)
    before = {file.stat().st_ino for file in stored.values()}
    adopted = bases.run(REV1, base, "--adopt").ok().json["counts"]["adopted"]
    kept = before & {file.stat().st_ino for file in stored_files(base).values()}
    # One inode of each content. Set-id bits, which the original loses, make a few copies necessary.
    assert adopted >= len(kept) > 0.95 * adopted


def test_an_update_is_made_while_a_destination_is_taken_over(bases: Bases, base: Path) -> None:
    export = Export(REV3, "slide")
    had = {file.name.partition(".")[0] for file in bases.original(base, Export(REV1, "slide")).values()}
    counts = bases.run(REV3, base, "--adopt", spec="slide").ok().json["counts"]
    assert had
    assert counts["fetched"] > 0
    assert counts["adopted"] > 0
    bases.check(base, export)


def test_a_destination_is_taken_over_in_copy_mode(bases: Bases, base: Path) -> None:
    export = Export(REV1, "slide")
    bases.original(base, export)
    counts = bases.run(REV1, base, "--adopt", "--link-mode", "copy", spec="slide").ok().json["counts"]
    assert counts["fetched"] == 0
    assert differences(base, REV1, AS_ROOT.without_groups(), golden.exported(export)) == []
    assert not (base / ".data" / "old").exists()


def test_an_ordinary_user_takes_over_what_is_theirs(bases: Bases, repos: Path, scratch: Path) -> None:
    if not reaches(ORDINARY, repos):
        pytest.skip(f"an ordinary user cannot reach {repos}")
    base = scratch / "base"
    export = Export(REV1, "full")
    bases.original(base, export)
    for place in (base, *base.rglob("*")):
        os.chown(place, *ORDINARY, follow_symlinks=False)
    where = ["--storage", repos / REV1.fqrn, "--tag", REV1.rev, "--json", "--adopt"]
    ended = run_cli(*words(REV1, base, *where), user=ORDINARY).ok()
    assert ended.json["counts"]["fetched"] == 0
    assert differences(base, REV1, as_user(*ORDINARY)) == []
    assert not (base / ".data" / "old").exists()


def test_files_that_are_to_have_other_owners_are_copied(bases: Bases, base: Path) -> None:
    export = Export(REV1, "meta")
    bases.original(base, export)
    counts = bases.run(REV1, base, "--adopt", "--claim-ownership", spec="meta").ok().json["counts"]
    assert counts["fetched"] == 0
    assert counts["adopted"] > 0
    assert {(one.uid, one.gid) for one in list_tree(base / REV1.fqrn)} == {(os.getuid(), os.getgid())}
    assert unlinked_files(base, REV1.fqrn) == []


# ----------------------------------------------------------------------------------------------------- nothing believed


def test_empty_cut_off_and_broken_files_are_fetched_anew(bases: Bases, base: Path) -> None:
    export = Export(REV1, "full")
    stored = bases.original(base, export)
    by_name: dict[str, Path] = {}
    for file in stored.values():
        if file.stat().st_size > 10:
            by_name.setdefault(file.parent.parent.name + file.parent.name + file.name.partition(".")[0], file)
    victims = random.Random(SEED).sample(sorted(by_name.values()), 30)
    for number, file in enumerate(victims):
        content = file.read_bytes()
        spoil(file, (b"", content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1]))[number % 3])
    # The same content with other metadata is whole, unless it was drawn too.
    names = {(file.parent, file.name.partition(".")[0]) for file in victims}
    left = {
        (file.parent, file.name.partition(".")[0])
        for file in stored.values()
        if file not in victims and (file.parent, file.name.partition(".")[0]) in names
    }
    counts = bases.run(REV1, base, "--adopt").ok().json["counts"]
    assert counts["not_proved"] >= len(names - left) > 0
    # Chunked files that the original named by a bulk hash, and others by their chunks, may be the same content to us.
    assert 0 < counts["fetched"] <= len(names - left)
    bases.check(base, export)


def test_what_bears_a_name_but_is_no_file_is_not_taken(bases: Bases, base: Path, tmp_path: Path) -> None:
    export = Export(REV1, "slide")
    stored = sorted(set(bases.original(base, export).values()))
    outside = tmp_path / "outside"
    for file, make in zip(stored, (lambda f: f.symlink_to(outside), os.mkfifo, Path.mkdir), strict=False):
        outside.write_bytes(file.read_bytes())
        file.unlink()
        make(file)
    ended = bases.run(REV1, base, "--adopt", spec="slide").ok()
    assert ended.json["counts"]["fetched"] > 0
    bases.check(base, export)


@pytest.mark.parametrize("kind", ["z", "n"])
def test_content_is_proved_whole_and_by_its_chunks(kind: str, tmp_path: Path) -> None:
    data = os.urandom(100_000) + bytes(1_500_000) + os.urandom(5)
    file = tmp_path / "file"
    file.write_bytes(data)

    def store(piece: bytes) -> bytes:
        return digest_of(SHA1, zlib.compress(piece, 6) if kind == "z" else piece).raw

    cuts = [0, 400_000, 1_000_001, len(data)]
    chunks = tuple(Chunk(one, two - one, store(data[one:two])) for one, two in pairwise(cuts))
    listed = Digest(SHA1, digest_of(SHA1, b"".join(chunk.raw for chunk in chunks)).raw)
    whole = Content(Digest(SHA1, store(data)), kind, len(data), (), None)
    pieces = Content(listed, "c" + kind, len(data), chunks, None)
    with file.open("r+b") as opened:
        assert proves(opened.fileno(), whole)
        assert proves(opened.fileno(), pieces)
        for position in (0, 99_999, 1_200_000, len(data) - 1):
            os.pwrite(opened.fileno(), bytes([data[position] ^ 1]), position)
            assert not proves(opened.fileno(), whole)
            assert not proves(opened.fileno(), pieces)
            os.pwrite(opened.fileno(), data[position : position + 1], position)
        os.pwrite(opened.fileno(), b"x", len(data))
        assert not proves(opened.fileno(), whole)
        assert not proves(opened.fileno(), pieces)
    folder = os.open(tmp_path, os.O_RDONLY)
    assert not proves(folder, whole._replace(size=os.fstat(folder).st_size))
    os.close(folder)


# ------------------------------------------------------------------------------------------------------------- refusals


def listing(base: Path) -> list[tuple[str, int, int]]:
    found = [base, *base.rglob("*")]
    return sorted((str(one), one.lstat().st_mode, one.lstat().st_mtime_ns) for one in found)


def test_without_the_option_a_destination_of_the_original_is_refused_and_left_alone(bases: Bases, base: Path) -> None:
    bases.original(base, Export(REV1, "slide"))
    before = listing(base)
    ended = bases.run(REV1, base, spec="slide").ends_with(8)
    assert "was not made by this tool" in ended.err
    assert "--adopt" in ended.err
    assert listing(base) == before


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_a_store_that_holds_anything_else_is_not_one_of_the_original(what: str, bases: Bases, base: Path) -> None:
    bases.original(base, Export(REV1, "slide"))
    if what == "folder":
        (base / ".data" / "mine").mkdir()
    else:
        (base / ".data" / "ab").rename(base / "elsewhere")
        if what == "file":
            (base / ".data" / "ab").touch()
        else:
            (base / ".data" / "ab").symlink_to(base / "elsewhere")
    before = listing(base)
    assert "--adopt" not in bases.run(REV1, base, "--adopt", spec="slide").ends_with(8).err
    assert listing(base) == before


def test_a_tree_that_the_original_did_not_make_is_not_taken_over(bases: Bases, base: Path) -> None:
    (base / REV1.fqrn).mkdir(parents=True)
    (base / REV1.fqrn / "thesis.tex").touch()
    ended = bases.run(REV1, base, "--adopt", spec="slide").ends_with(8)
    assert "no record says" in ended.err
    assert (base / REV1.fqrn / "thesis.tex").exists()


def test_a_tree_of_the_original_without_its_store_is_taken_over_and_all_is_fetched(bases: Bases, base: Path) -> None:
    export = Export(REV1, "slide")
    bases.original(base, export)
    remove_tree(base / ".data")
    assert "--adopt" in bases.run(REV1, base, spec="slide").ends_with(8).err
    counts = bases.run(REV1, base, "--adopt", spec="slide").ok().json["counts"]
    assert counts["fetched"] == len({name.partition(".")[0] for name in stored_files(base)})
    assert differences(base, REV1, expected=golden.exported(export)) == []


# ----------------------------------------------------------------------------------------------------- several, crashes


def test_the_trees_of_other_repositories_keep_their_files_until_they_are_taken_over_too(
    bases: Bases, base: Path
) -> None:
    small, plain = Export(REV1, "slide"), Export(PLAIN, "full")
    bases.original(base, small)
    stored = bases.original(base, plain)
    before = list_tree(base / PLAIN.fqrn)
    bases.run(REV1, base, "--adopt", spec="slide").ok()
    assert list_tree(base / PLAIN.fqrn) == before
    assert (base / ".data" / "old").is_dir()
    waiting = {(base / ".data" / "old" / file.relative_to(base / ".data")) for file in stored.values()}
    assert {one for one in (base / ".data" / "old").glob("*/*/*") if one.is_file()} == waiting
    bases.check(base, small, alone=False)
    assert bases.run(REV1, base, spec="slide").ok().json["reason"] == "unchanged"
    # It was said once that the destination is to be taken over.
    assert bases.run(PLAIN, base).ok().json["counts"]["fetched"] == 0
    assert not (base / ".data" / "old").exists()
    bases.check(base, plain, alone=False)
    bases.check(base, small, alone=False)


@pytest.mark.parametrize("turns", [pytest.param(8, id="some"), pytest.param(300, id="many", marks=pytest.mark.long)])
def test_a_takeover_killed_at_any_call_is_finished_by_the_next_run_with_or_without_the_option(
    turns: int, bases: Bases, tmp_path: Path
) -> None:
    first, export = Export(REV1, "slide"), Export(REV2, "slide")
    quiet = tmp_path / "quiet"
    bases.original(quiet, first)
    ended = bases.run(REV2, quiet, "--adopt", spec="slide").ok()
    fetched = ended.json["counts"]["fetched"]
    chosen = random.Random(SEED)
    # The first calls move the folders aside.
    numbers = sorted({chosen.randrange(1, 280) for _ in range(turns // 3)})
    numbers += sorted({chosen.randrange(280, ended.calls + 1) for _ in range(turns - turns // 3)})
    for turn, number in enumerate(numbers):
        base = tmp_path / f"base{number}"
        bases.original(base, first)
        died = bases.run(REV2, base, "--adopt", spec="slide", die_at=number)
        try:
            assert died.killed
            begun = (base / ".data" / "old").exists() or (base / ".provenance" / REV2.fqrn / "record.json").exists()
            again = bases.run(REV2, base, *([] if begun and turn % 2 else ["--adopt"]), spec="slide").ok()
            assert again.json["counts"].get("fetched", 0) <= fetched
            bases.check(base, export)
        except BaseException as exc:
            exc.add_note(f"seed {SEED}, killed at call {number} of {ended.calls}: {died.last}")
            raise
        remove_tree(base)
