"""Reading blacklists."""

from __future__ import annotations

from pathlib import Path

import pytest
from cvmfs import signing
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs.blacklist import FILE_LIMIT, Blacklist, parse_blacklist, read_blacklists
from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128
from shrinkwrap.cvmfs.signature import parse_certificate
from shrinkwrap.errors import UsageError

CERTIFICATE = parse_certificate(signing.publisher().certificate)


@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
def test_a_listed_certificate_is_forbidden_in_any_algorithm(algorithm: int) -> None:
    line = signing.publisher().fingerprint(algorithm)
    assert parse_blacklist(f"# bad\n{line} # stolen\n".encode()).forbids(CERTIFICATE)
    other = signing.stranger().fingerprint(algorithm)
    assert not parse_blacklist(f"#{line}\n{other}\n".encode()).forbids(CERTIFICATE)


def test_revisions_are_read_and_the_highest_counts() -> None:
    blacklist = parse_blacklist(b"<a.example.org 5\n<b.example.org\t \t7\n<a.example.org 12\n<a.example.org 3\n")
    assert blacklist.lowest_revision("a.example.org") == 12
    assert blacklist.lowest_revision("b.example.org") == 7
    assert blacklist.lowest_revision("c.example.org") == 0


@pytest.mark.parametrize(
    "line",
    [
        "<a.example.org 5 ",
        "<a.example.org 5#",
        "<a.example.org 5x",
        "<a.example.org5",
        "< a.example.org 5",
        " <a.example.org 5",
        "<a.example.org -5",
        "<a.example.org",
        "<a.example.org 5\r",
        "#<a.example.org 5",
        "<a.example.org " + "9" * 30,
        "<a.example.org ٣",
    ],
)
def test_lines_of_neither_form_are_skipped(line: str) -> None:
    assert parse_blacklist(f"{line}\n".encode()) == Blacklist()


def test_several_files_are_one_list_and_missing_ones_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"<a.example.org 5")
    (tmp_path / "two").write_bytes(signing.publisher().fingerprint().encode())
    blacklist = read_blacklists([tmp_path / "one", tmp_path / "absent", str(tmp_path / "two")])
    assert blacklist.lowest_revision("a.example.org") == 5
    assert blacklist.forbids(CERTIFICATE)
    assert read_blacklists([tmp_path / "absent"]) == Blacklist()


def test_a_blacklist_that_is_there_but_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    giant = tmp_path / "giant"
    giant.write_bytes(bytes(FILE_LIMIT + 1))
    for path in (tmp_path, giant, "a\0b"):
        with pytest.raises(UsageError, match="blacklist"):
            read_blacklists([path])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_blacklist(data: bytes) -> None:
    for candidate in (data, b"<" + data + b" 7"):
        assert not parse_blacklist(candidate).forbids(CERTIFICATE)
