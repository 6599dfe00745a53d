"""Listings are those of the mount, one way to write each path, one digest over all."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import stat
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshot.walking import components, open_real, walk
from support import golden
from support.golden import Pinned

from shrinkwrap.cvmfs.digest import SHA1, digest_of
from shrinkwrap.cvmfs.entry import FLAG_EXTERNAL, Chunk, Entry
from shrinkwrap.cvmfs.variants import expand
from shrinkwrap.cvmfs.xattr import pack_xattrs
from shrinkwrap.errors import CatalogError
from shrinkwrap.record.listing import ListingDigest, entry_row, line, repository_row

VARIABLES = {name.encode(): value.encode() for name, value in golden.ENVIRONMENT.items()}
#: Known from the mount alone: what the content is, and which inodes it shares.
OF_THE_MOUNT = {"sha256", "inode_group"}
FILE, LINK, DIR = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755


def entry(path: bytes = b"/f", mode: int = FILE, **values: Any) -> Entry:
    content = bytes(20) if stat.S_ISREG(mode) else None
    made = Entry(path, path.rpartition(b"/")[2], mode, 7, 5, 0, 0, 0, content, b"", 1, None, ())
    return made._replace(**values)


def true_path(row: dict[str, Any]) -> bytes:
    return base64.b64decode(row["path_b64"]) if "path_b64" in row else row["path"].encode()


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_the_rows_of_a_repository_are_those_of_its_mount_in_all_fields_that_both_have(at: Pinned, repos: Path) -> None:
    with ExitStack() as stack:
        session, root = open_real(stack, repos, at)
        rows = {true_path(row): row for row in (repository_row(one, VARIABLES) for one in walk(session, root))}
    mounted = {true_path(row): row for row in golden.rows(f"{at.fqrn}/{at.rev}.jsonl")}
    assert rows.keys() == mounted.keys()
    for path, expected in mounted.items():
        found = rows[path]
        assert found == {k: v for k, v in expected.items() if k not in OF_THE_MOUNT}


@pytest.mark.parametrize("at", golden.params(golden.pinned()))
def test_the_lines_of_a_repository_are_those_of_its_golden_listing_byte_for_byte(at: Pinned, repos: Path) -> None:
    with ExitStack() as stack:
        session, root = open_real(stack, repos, at)
        found = {}
        for one in walk(session, root):
            found[one.path or b"/"] = line(repository_row(one, VARIABLES))
    file = repos / "golden" / at.fqrn / f"{at.rev}.jsonl"
    for text in file.read_bytes().splitlines():
        expected = json.loads(text)
        assert line(expected) == text + b"\n"
        kept = {k: v for k, v in expected.items() if k not in OF_THE_MOUNT}
        assert found[true_path(expected)] == line(kept)


@pytest.mark.parametrize("at", golden.params([at for at in golden.pinned() if at.fqrn == "small.cern.ch"]))
def test_the_digest_is_that_of_the_written_listing_in_the_order_of_the_stream(at: Pinned, repos: Path) -> None:
    out, again = io.BytesIO(), ListingDigest()
    written = ListingDigest(out)
    with ExitStack() as stack:
        session, root = open_real(stack, repos, at)
        for one in walk(session, root):
            target = expand(one.target, VARIABLES)
            written.add(one, target)
            again.add(one, target)
    lines = out.getvalue().splitlines()
    assert written.entries == len(lines) == len(golden.mounted(at))
    assert hashlib.sha256(out.getvalue()).hexdigest() == written.hexdigest() == again.hexdigest()
    paths = [true_path(json.loads(text)) for text in lines]
    assert all(components(one) < components(other) for one, other in pairwise(paths[1:]))


def test_an_exports_row_has_no_link_count_and_the_repositorys_owner_and_set_id_bits() -> None:
    row = entry_row(entry(mode=stat.S_IFREG | 0o6755, uid=12345, gid=54321, links=3), b"")
    assert "nlink" not in row
    assert (row["uid"], row["gid"], row["mode"]) == (12345, 54321, "6755")


def test_entries_without_an_owner_are_listed_as_roots_whoever_lists_them() -> None:
    row = entry_row(entry(uid=-1, gid=-1), b"")
    assert (row["uid"], row["gid"]) == (0, 0)


def test_times_before_the_epoch_have_a_positive_part_below_a_second() -> None:
    row = entry_row(entry(mtime_ns=-1), b"")
    assert (row["mtime"], row["mtime_ns"]) == (-1, 999_999_999)


def test_a_link_is_listed_as_it_comes_out_and_as_it_stands_in_the_catalog() -> None:
    row = entry_row(entry(mode=LINK, target=b"$(A)/x"), b"\xff/x")
    assert row["size"] == 3
    assert row["target"] == "\\xff/x"
    assert base64.b64decode(row["target_b64"]) == b"\xff/x"
    assert row["rawlink"] == "$(A)/x"


def test_files_whose_chunks_differ_never_have_the_same_line() -> None:
    def chunked(*contents: bytes) -> Entry:
        chunks = tuple(Chunk(3 * n, 3, digest_of(SHA1, data).raw) for n, data in enumerate(contents))
        return entry(hash=None, chunks=chunks, size=6)

    one, other = chunked(b"one", b"two"), chunked(b"one", b"six")
    assert line(entry_row(one, b"")) != line(entry_row(other, b""))
    assert entry_row(one, b"")["chunks"] == 2
    assert "chunks_hash" not in repository_row(one, {}), "a mount does not show it"
    raws = b"".join(chunk.raw for chunk in one.chunks)
    assert entry_row(one, b"")["chunks_hash"] == hashlib.sha1(raws).hexdigest()


def test_external_files_are_marked() -> None:
    assert entry_row(entry(flags=FLAG_EXTERNAL), b"")["external"] == 1
    assert "external" not in entry_row(entry(), b"")


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
@pytest.mark.parametrize("number", [0x801, -1, -(1 << 63), (1 << 63) - 1])
def test_a_device_with_any_number_can_be_listed(kind: int, number: int) -> None:
    major, minor = entry_row(entry(mode=kind, size=number), b"")["rdev"]
    assert major >= 0
    assert minor >= 0
    if number == 0x801:
        assert (major, minor) == (8, 1)


def test_an_unknown_hash_algorithm_is_an_error_of_the_catalog() -> None:
    with pytest.raises(CatalogError, match="unknown hash algorithm number 7"):
        entry_row(entry(flags=7 << 8), b"")


@pytest.mark.parametrize(
    "name", [b"a\nb", b'"', b"\\", b"\0", b"\x1b[31m", b"\xff", b"\xed\xb2\x80", "ü\u2028".encode()]
)
def test_any_name_is_one_line_that_gives_its_bytes_back(name: bytes) -> None:
    data = line(entry_row(entry(b"/" + name), b""))
    assert data.count(b"\n") == 1
    assert true_path(json.loads(data)) == b"/" + name


def test_a_name_that_is_an_escape_and_one_that_has_it_have_different_lines() -> None:
    assert line(entry_row(entry(b"/\xff"), b"")) != line(entry_row(entry(b"/\\xff"), b""))


def test_attributes_whose_names_could_be_taken_for_others_are_kept_apart() -> None:
    pairs = [(b"user.a", b"\xff"), (b"user.a#b64", b"/w=="), (b"user.\xff", b"x"), (b"user.b", b"text")]
    row = entry_row(entry(xattr=pack_xattrs(pairs)), b"")
    assert row["xattrs"] == {"user.a#b64": "/w==", "user.b": "text"}
    odd = [(base64.b64decode(name), base64.b64decode(value)) for name, value in row["xattrs_b64"]]
    assert odd == [(b"user.a#b64", b"/w=="), (b"user.\xff", b"x")]


NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: b"\0" not in name)
PAIRS = st.dictionaries(
    NAMES | st.sampled_from([b"a", b"a#b64", b"#b64", b"\xff", b"\\xff"]), st.binary(max_size=20), max_size=4
)


@given(PAIRS, PAIRS)
def test_different_attributes_never_have_the_same_line(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> None:
    lines = [line(entry_row(entry(mode=DIR, xattr=pack_xattrs(pairs.items())), b"")) for pairs in (one, other)]
    assert (lines[0] == lines[1]) == (one == other)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_different_paths_never_have_the_same_line(one: bytes, other: bytes) -> None:
    assert (line(entry_row(entry(b"/" + one), b"")) == line(entry_row(entry(b"/" + other), b""))) == (one == other)
