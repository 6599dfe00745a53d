"""Keys: made once, kept safe, checked before anything is signed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from publish.publishing import FQRN, NOW, Place, file

from shrinkwrap.cvmfs.keys import read_keys
from shrinkwrap.cvmfs.signature import verify_raw, verify_sha1
from shrinkwrap.errors import ShrinkwrapError, UsageError
from shrinkwrap.publish.keyring import open_keyring


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    made = open_keyring(str(tmp_path / "k"), FQRN, make=True)
    modes = {name.rpartition(".")[2]: stat.S_IMODE(Path(name).stat().st_mode) for name in made.made}
    assert modes == {"masterkey": 0o600, "key": 0o600, "pub": 0o644, "crt": 0o644}
    assert "RSA key of 2048 bits" in repr(made.key)
    assert str(made.key.p) not in repr(made)
    again = open_keyring(str(tmp_path / "k"), FQRN, make=True)
    assert again.made == ()
    assert again.certificate == made.certificate


def test_signatures_are_those_of_the_format(keys: Path) -> None:
    ring = open_keyring(str(keys), FQRN, make=False)
    assert ring.master is not None
    (master,) = read_keys([ring.public])
    assert verify_raw(master.rsa, ring.master.sign(b"a text"), b"a text")
    for algorithm in (0, 1, 2):
        document = ring.sign_manifest(b"Cx\n", algorithm)
        line, _, signature = document.partition(b"--\n")[2].partition(b"\n")
        assert verify_sha1(ring.certificate.key, signature, line)


def test_public_halves_are_made_again_and_private_ones_are_not(tmp_path: Path) -> None:
    made = open_keyring(str(tmp_path), FQRN, make=True)
    public = (tmp_path / f"{FQRN}.pub").read_bytes()
    (tmp_path / f"{FQRN}.pub").unlink()
    (tmp_path / f"{FQRN}.crt").unlink()
    again = open_keyring(str(tmp_path), FQRN, make=False)
    assert (tmp_path / f"{FQRN}.pub").read_bytes() == public
    assert again.certificate.key == made.certificate.key
    for kind in ("key", "crt"):
        (tmp_path / f"{FQRN}.{kind}").unlink()
    with pytest.raises(UsageError, match=r"no .*\.key"):
        open_keyring(str(tmp_path), FQRN, make=False)


def test_keys_that_do_not_fit_each_other_are_refused(tmp_path: Path, keys: Path) -> None:
    open_keyring(str(tmp_path), FQRN, make=True)
    for kind, message in (("key", "is not the key of"), ("pub", "is not the public key of")):
        file_there = tmp_path / f"{FQRN}.{kind}"
        good = file_there.read_bytes()
        file_there.write_bytes((keys / f"{FQRN}.{kind}").read_bytes())
        with pytest.raises(UsageError, match=message):
            open_keyring(str(tmp_path), FQRN, make=False)
        file_there.write_bytes(good)
    for data in (
        b"",
        b"rubbish",
        b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        b"x" * 70_000,
    ):
        (tmp_path / f"{FQRN}.key").write_bytes(data)
        with pytest.raises(ShrinkwrapError):
            open_keyring(str(tmp_path), FQRN, make=False)


def test_the_master_key_may_be_kept_elsewhere(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path / "keys")
    place.publish([file("a", b"1")])
    whitelist = (place.storage / ".cvmfswhitelist").read_bytes()
    (place.keys / f"{FQRN}.masterkey").unlink()
    done = place.publish([file("a", b"2")])
    assert "master key is not here" in done.notices[0]
    assert (place.storage / ".cvmfswhitelist").read_bytes() == whitelist
    place.check()
    manifest = (place.storage / ".cvmfspublished").read_bytes()
    with pytest.raises(UsageError, match="expired"):
        place.publish([file("a", b"3")], now=NOW + 40 * 86400)
    assert (place.storage / ".cvmfspublished").read_bytes() == manifest


def test_a_new_certificate_is_listed_and_named(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path / "keys")
    place.publish([file("a", b"1")])
    for kind in ("key", "crt"):
        (place.keys / f"{FQRN}.{kind}").unlink()
    other = open_keyring(str(tmp_path / "other"), FQRN, make=True)
    for name in other.made:
        if name.endswith((".key", ".crt")):
            (place.keys / Path(name).name).write_bytes(Path(name).read_bytes())
    done = place.publish(None)
    assert done.reason == "signed"
    place.check()
    assert place.contents() == {b"/a": b"1"}
