"""Entries: flags, numbers packed into other numbers, and paths as people see them."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs import entry as module
from shrinkwrap.cvmfs.entry import Entry, kind_of, show
from shrinkwrap.errors import CatalogError


def entry(**fields: Any) -> Entry:
    values: dict[str, Any] = {
        "path": b"/a/b",
        "name": b"b",
        "mode": stat.S_IFREG | 0o644,
        "size": 0,
        "mtime_ns": 0,
        "uid": 0,
        "gid": 0,
        "flags": 0,
        "hash": bytes(20),
        "target": b"",
        "links": 1,
        "xattr": None,
        "chunks": (),
        **fields,
    }
    return Entry(**values)


@pytest.mark.parametrize(
    ("mode", "is_dir", "is_file", "is_link", "kind"),
    [
        (stat.S_IFDIR | 0o7777, True, False, False, "dir"),
        (stat.S_IFREG, False, True, False, "file"),
        (stat.S_IFLNK | 0o777, False, False, True, "symlink"),
        (stat.S_IFIFO, False, False, False, "fifo"),
        (stat.S_IFSOCK, False, False, False, "socket"),
        (stat.S_IFCHR, False, False, False, "chardev"),
        (stat.S_IFBLK, False, False, False, "blockdev"),
        (0o644, False, False, False, "unknown"),
        (0o170644, False, False, False, "unknown"),
    ],
)
def test_the_type_comes_from_the_mode_whatever_the_flags_say(
    mode: int, is_dir: bool, is_file: bool, is_link: bool, kind: str
) -> None:
    for flags in (0, module.FLAG_DIR, module.FLAG_FILE | module.FLAG_LINK, module.FLAG_FILE | module.FLAG_SPECIAL):
        one = entry(mode=mode, flags=flags)
        assert (one.is_dir, one.is_file, one.is_link, kind_of(one.mode)) == (is_dir, is_file, is_link, kind)


@pytest.mark.parametrize(
    ("name", "bit"), [("is_chunked", 0x40), ("is_external", 0x80), ("is_hidden", 0x8000)], ids=lambda value: str(value)
)
def test_each_flag_is_its_own_bit(name: str, bit: int) -> None:
    assert getattr(entry(flags=bit), name)
    assert not getattr(entry(flags=~bit & 0x1FFFF), name)


def test_the_link_count_and_the_group_share_a_number() -> None:
    one = entry(links=7 << 32 | 3)
    assert (one.link_group, one.link_count) == (7, 3)
    assert (entry(links=1).link_group, entry(links=1).link_count) == (0, 1)


@pytest.mark.parametrize("number", range(8))
def test_hash_algorithms_are_bits_eight_to_ten_and_unknown_ones_are_refused(number: int) -> None:
    one = entry(flags=0x1F8FF | number << 8)
    if number < 3:
        assert one.algorithm == number
        return
    with pytest.raises(CatalogError, match=f"/a/b: unknown hash algorithm number {number}"):
        _ = one.algorithm


@pytest.mark.parametrize("number", range(8))
def test_compressions_are_bits_eleven_to_thirteen_and_unknown_ones_are_refused(number: int) -> None:
    one = entry(flags=0x1C7FF | number << 11)
    if number < 2:
        assert one.compression == number
        return
    with pytest.raises(CatalogError, match=f"/a/b: unknown compression number {number}"):
        _ = one.compression


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"", "/"),
        (b"/plain/path", "/plain/path"),
        ("/\u00e4\u20ac".encode(), "/\u00e4\u20ac"),
        (b"/\xff\xfe", r"/\xff\xfe"),
        (b"/new\nline\ttab", r"/new\nline\ttab"),
        (b"/\x1b[31mred", r"/\x1b[31mred"),
        (b"/\x7f\xc2\x9b", r"/\x7f\x9b"),
        ("/\u202egnp.exe".encode(), r"/\u202egnp.exe"),
        ("/\U000e0001".encode(), r"/\U000e0001"),
    ],
)
def test_paths_for_people_are_printable(path: bytes, shown: str) -> None:
    assert show(path) == shown


@given(st.binary(max_size=40))
def test_no_path_reaches_a_terminal_with_something_to_act_on(path: bytes) -> None:
    assert show(path).isprintable()
