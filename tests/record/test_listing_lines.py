"""The fast way to write a line gives the same bytes as the plain one, for any entry."""

from __future__ import annotations

import stat
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot.walking import open_real, walk
from support import golden
from support.golden import Pinned

from shrinkwrap.cvmfs.digest import SHA1
from shrinkwrap.cvmfs.entry import FLAG_EXTERNAL, Chunk, Entry
from shrinkwrap.cvmfs.xattr import pack_xattrs
from shrinkwrap.errors import CatalogError
from shrinkwrap.record.listing import ListingDigest, entry_line, entry_row, line

KINDS = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK, 0]
#: All that JSON escapes, what it does not, what is no UTF-8, and what could be taken for a part of a line.
ODD = [b"\0", b"\x1f", b" ", b'"', b"\\", b"\x7f", b"\x80", b"\xff", "ü\u2028".encode(), b'","type":"file","', b"%b{}"]
TEXT = st.lists(st.sampled_from([b"a", b"lib", b"-", b"/", *ODD]), max_size=6).map(b"".join) | st.binary(max_size=12)
OWNERS = st.sampled_from([-1, 0, 1000, (1 << 32) - 1])
TIMES = st.integers(-(1 << 63), (1 << 63) - 1) | st.sampled_from([-1, 0, 1, 999_999_999, 10**9, -(10**9)])
FLAGS = st.builds(
    lambda algorithm, compression, external, rest: algorithm << 8 | compression << 11 | external | rest,
    st.sampled_from([0, 0, 1, 2, 3, 7]),
    st.sampled_from([0, 0, 1, 2]),
    st.sampled_from([0, FLAG_EXTERNAL]),
    st.sampled_from([0, 4, 12, 0x40, 0x10000, 0x8000]),
)
HASHES = st.binary(min_size=20, max_size=20)


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    path = draw(st.just(b"") | TEXT.map(b"/".__add__))
    chunks = draw(st.just(()) | st.lists(HASHES, max_size=3).map(lambda raws: tuple(Chunk(0, 1, raw) for raw in raws)))
    return Entry(
        path=path,
        name=path.rpartition(b"/")[2],
        mode=draw(st.sampled_from(KINDS)) | draw(st.integers(0, 0o7777)),
        size=draw(st.integers(0, (1 << 63) - 1)),
        mtime_ns=draw(TIMES),
        uid=draw(OWNERS),
        gid=draw(OWNERS),
        flags=draw(FLAGS),
        hash=draw(HASHES) if not chunks else draw(st.none() | HASHES),
        target=draw(TEXT),
        links=1,
        xattr=draw(st.sampled_from([None, None, None, b"", b"\xff", pack_xattrs([(b"user.a", b"\xff")])])),
        chunks=chunks,
    )


def outcome(made: Any, one: Entry, target: bytes) -> bytes | str:
    try:
        return bytes(made(one, target))
    except CatalogError as exc:
        return exc.message


@settings(max_examples=600, deadline=None)
@given(entries(), st.none() | TEXT)
def test_a_line_is_that_of_the_row_whatever_the_entry(one: Entry, other: bytes | None) -> None:
    target = (one.target if other is None else other) if one.is_link else b""
    assert outcome(entry_line, one, target) == outcome(lambda *args: line(entry_row(*args)), one, target)


@pytest.mark.parametrize("at", golden.params([at for at in golden.pinned() if at.fqrn == "small.cern.ch"]))
def test_the_lines_of_a_real_repository_are_those_of_its_rows(at: Pinned, repos: Path) -> None:
    with ExitStack() as stack:
        session, root = open_real(stack, repos, at)
        kinds = set()
        for one in walk(session, root):
            assert entry_line(one, one.target) == line(entry_row(one, one.target))
            kinds.add(stat.S_IFMT(one.mode))
    assert {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK} <= kinds


def test_a_line_that_was_made_before_counts_as_its_entry() -> None:
    one = Entry(b"/f", b"f", stat.S_IFREG | 0o644, 7, 5, 0, 0, SHA1, bytes(20), b"", 1, None, ())
    by_entry, by_line = ListingDigest(), ListingDigest()
    by_entry.add(one)
    by_line.add_line(entry_line(one))
    assert by_entry.hexdigest() == by_line.hexdigest() != ListingDigest().hexdigest()
    assert by_entry.entries == by_line.entries == 1
