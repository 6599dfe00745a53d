"""Reading master keys."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cvmfs import real, signing
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs.keys import FILE_LIMIT, parse_public_keys, read_keys
from shrinkwrap.errors import UsageError

ONE, TWO = signing.master(), signing.stranger()


def private_pem() -> bytes:
    return ONE.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def elliptic_pem() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("fqrn", real.names())
def test_every_real_key_is_read(fqrn: str) -> None:
    (key,) = real.master_keys(fqrn)
    assert key.name.endswith(f"{fqrn}.pub")
    assert (key.rsa.size, key.rsa.exponent) == (256, 65537)


def test_a_file_may_hold_several_keys_and_text() -> None:
    keys = parse_public_keys(b"# ours\n" + ONE.pem + b"# theirs\n" + TWO.pem, "two.pub")
    assert [key.rsa for key in keys] == [ONE.rsa, TWO.rsa]
    assert {key.name for key in keys} == {"two.pub"}


def test_dos_line_ends_and_a_missing_last_newline_do_not_matter() -> None:
    assert parse_public_keys(ONE.pem.replace(b"\n", b"\r\n"), "x")[0].rsa == ONE.rsa
    assert parse_public_keys(ONE.pem.rstrip(), "x")[0].rsa == ONE.rsa


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"not a key",
        private_pem(),
        elliptic_pem(),
        ONE.certificate,
        ONE.pem[:-30],
        ONE.pem.replace(b"MII", b"MIX", 1),
        ONE.pem + TWO.pem[:-30],
        ONE.pem + elliptic_pem(),
        ONE.pem[:-30] + TWO.pem,
    ],
    ids=[
        "nothing",
        "text",
        "private key",
        "elliptic curve",
        "certificate",
        "cut short",
        "damaged",
        "good and cut short",
        "good and elliptic curve",
        "cut short and good",
    ],
)
def test_what_is_no_key_is_refused_and_named(pem: bytes) -> None:
    with pytest.raises(UsageError, match=r"^some\.pub: "):
        parse_public_keys(pem, "some.pub")


def test_files_and_folders_are_read_in_order_and_each_key_once(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "b.pub").write_bytes(ONE.pem)
    (folder / "a.pub").write_bytes(TWO.pem)
    (folder / "readme.txt").write_bytes(b"not a key")
    single = tmp_path / "single.key"
    single.write_bytes(ONE.pem)
    assert [key.name for key in read_keys([folder])] == [str(folder / "a.pub"), str(folder / "b.pub")]
    assert [key.name for key in read_keys([single, str(folder)])] == [str(single), str(folder / "a.pub")]


def test_one_bad_key_in_a_folder_fails_all_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_bytes(ONE.pem)
    (tmp_path / "b.pub").write_bytes(b"rubbish")
    with pytest.raises(UsageError, match=r"b\.pub"):
        read_keys([tmp_path])


def test_no_key_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no master key"):
        read_keys([])
    with pytest.raises(UsageError, match="no master key"):
        read_keys([tmp_path])


def test_paths_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pub"
    os.mkfifo(pipe)
    giant = tmp_path / "giant.pub"
    giant.write_bytes(ONE.pem + b"#" * FILE_LIMIT)
    (tmp_path / "loop.pub").symlink_to("loop.pub")
    for path in (tmp_path / "absent.pub", pipe, giant, tmp_path / "loop.pub"):
        with pytest.raises(UsageError, match=path.name):
            read_keys([path])
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(["a\0b"])


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_are_keys_or_refused(data: bytes, position: int) -> None:
    for pem in (data, ONE.pem[:position] + data + ONE.pem[position:]):
        with suppress(UsageError):
            assert parse_public_keys(pem, "x")
