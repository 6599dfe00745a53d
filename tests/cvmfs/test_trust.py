"""The trusted set: every rule, and the attacks that it is there for."""

from __future__ import annotations

import random
import zlib

import pytest
from cvmfs import real, signing
from cvmfs.signing import FQRN, NOW, Attempt, root_hash
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.blacklist import Blacklist, parse_blacklist
from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, digest_of
from shrinkwrap.cvmfs.manifest import parse_manifest
from shrinkwrap.cvmfs.trust import KnownHead, TrustedSet, check_fqrn, verify_object
from shrinkwrap.errors import CorruptObject, RollbackError, ShrinkwrapError, TrustError, UsageError

#: 2027-01-01, when the whitelists of the real repositories hold.
REAL_NOW = 1798761600.0
GOOD = Attempt()


def trusted(
    fqrn: str = FQRN,
    *,
    now: float = NOW,
    known: KnownHead | None = None,
    allow_rollback: bool = False,
    blacklist: Blacklist | None = None,
) -> TrustedSet:
    return TrustedSet(
        fqrn,
        [signing.master().master],
        now=now,
        known=known,
        allow_rollback=allow_rollback,
        blacklist=blacklist or Blacklist(),
    )


def real_set(fqrn: str, known: KnownHead | None = None) -> TrustedSet:
    return TrustedSet(fqrn, real.master_keys(fqrn), now=REAL_NOW, known=known)


def real_attempt(path: str) -> Attempt:
    fqrn = path.split("/")[0]
    data = real.read(path)
    certificate = parse_manifest(data).certificate
    assert certificate is not None
    return Attempt(data, real.stored(fqrn, certificate, "X"), real.read(f"{fqrn}/.cvmfswhitelist"))


def known_from(path: str) -> KnownHead:
    manifest = parse_manifest(real.read(path))
    return KnownHead(manifest.revision, manifest.root_hash, manifest.timestamp)


# -- the real repositories -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", real.manifests())
def test_every_revision_of_every_real_repository_is_trusted(path: str) -> None:
    fqrn = path.split("/")[0]
    attempt = real_attempt(path)
    checked = attempt.through(real_set(fqrn))
    head = checked.head
    assert head.raw == attempt.manifest
    assert checked.whitelist.raw == attempt.whitelist


@pytest.mark.parametrize("path", ["small.cern.ch/.cvmfspublished", "mixed.cern.ch/.cvmfspublished"])
@pytest.mark.parametrize("change", [0x01, 0x20, 0x80])
def test_any_flipped_byte_of_a_real_manifest_is_refused(path: str, change: int, repos: object) -> None:
    attempt = real_attempt(path)
    fqrn = path.split("/")[0]
    for position in range(len(attempt.manifest)):
        flipped = bytearray(attempt.manifest)
        flipped[position] ^= change
        checked = real_set(fqrn)
        with pytest.raises(TrustError):  # noqa: PT012 - which step notices depends on the byte
            checked.add_manifest(bytes(flipped))
            checked.add_certificate(attempt.certificate)


@pytest.mark.parametrize("fqrn", real.names())
def test_the_manifest_of_another_real_repository_is_refused(fqrn: str) -> None:
    for other in real.names():
        if other != fqrn:
            with pytest.raises(TrustError, match="it is that of"):
                real_set(fqrn).add_manifest(real.read(f"{other}/.cvmfspublished"))


@pytest.mark.parametrize("fqrn", real.names())
def test_the_whitelist_of_another_real_repository_is_refused(fqrn: str) -> None:
    attempt = real_attempt(f"{fqrn}/.cvmfspublished")
    for other in real.names():
        if other != fqrn:
            checked = real_set(fqrn)
            checked.add_manifest(attempt.manifest)
            checked.add_certificate(attempt.certificate)
            with pytest.raises(TrustError, match="it is for"):
                checked.add_whitelist(real.read(f"{other}/.cvmfswhitelist"))


@pytest.mark.parametrize("fqrn", real.expired())
def test_an_expired_real_whitelist_is_refused(fqrn: str) -> None:
    attempt = real_attempt(f"{fqrn}/.cvmfspublished")
    attempt.whitelist = real.read(f"{fqrn}/.cvmfswhitelist.orig")
    with pytest.raises(TrustError, match="expired"):
        attempt.through(real_set(fqrn))


def test_a_replayed_older_real_manifest_is_refused(repos: object) -> None:
    known = known_from("small.cern.ch/.cvmfspublished.rev3")
    for revision in ("rev1", "rev2"):
        checked = real_attempt(f"small.cern.ch/.cvmfspublished.{revision}").through(real_set("small.cern.ch", known))
        with pytest.raises(RollbackError, match="was seen before"):
            checked.head  # noqa: B018
    assert real_attempt("small.cern.ch/.cvmfspublished").through(real_set("small.cern.ch", known)).head


def test_a_newer_real_manifest_is_accepted_over_a_known_one(repos: object) -> None:
    known = known_from("small.cern.ch/.cvmfspublished.rev1")
    checked = real_attempt("small.cern.ch/.cvmfspublished").through(real_set("small.cern.ch", known))
    assert checked.head.revision == 4


# -- order -----------------------------------------------------------------------------------------------------


def test_a_good_head_is_trusted() -> None:
    attempt = Attempt()
    assert attempt.through(trusted()).head.raw == attempt.manifest


@pytest.mark.parametrize("algorithm", [RMD160, SHAKE128])
def test_a_good_head_in_another_algorithm_is_trusted(algorithm: int) -> None:
    attempt = Attempt(
        manifest=signing.manifest(algorithm=algorithm),
        whitelist=signing.whitelist([signing.publisher().fingerprint(algorithm)], algorithm=algorithm),
    )
    assert attempt.through(trusted()).head.certificate == digest_of(algorithm, attempt.certificate)


def test_nothing_is_trusted_before_every_step_is_done() -> None:
    attempt = Attempt()
    checked = trusted()
    waiting = (
        lambda: checked.head,
        lambda: checked.whitelist,
    )
    steps = (
        lambda: checked.add_manifest(attempt.manifest),
        lambda: checked.add_certificate(attempt.certificate),
        lambda: checked.add_whitelist(attempt.whitelist),
    )
    for step in steps:
        for early in waiting:
            with pytest.raises(TrustError):
                early()
        step()
    assert checked.head.revision == 7


def test_steps_in_another_order_are_refused() -> None:
    attempt = Attempt()
    checked = trusted()
    for early in (
        lambda: checked.add_certificate(attempt.certificate),
        lambda: checked.add_whitelist(attempt.whitelist),
        lambda: checked.certificate_request(),
    ):
        with pytest.raises(TrustError):
            early()
    checked.add_manifest(attempt.manifest)
    with pytest.raises(TrustError, match="after the certificate"):
        checked.add_whitelist(attempt.whitelist)


def test_no_step_can_be_replaced_by_a_second_one() -> None:
    attempt = Attempt()
    checked = attempt.through(trusted())
    with pytest.raises(TrustError, match="before"):
        checked.add_manifest(signing.manifest({"S": "8"}))
    with pytest.raises(TrustError, match="before"):
        checked.add_certificate(attempt.certificate)
    with pytest.raises(TrustError, match="before"):
        checked.add_whitelist(attempt.whitelist)
    assert checked.head.revision == 7


def test_a_step_that_failed_can_be_tried_with_other_bytes() -> None:
    attempt = Attempt()
    checked = trusted()
    with pytest.raises(TrustError):
        checked.add_manifest(b"<html>")
    checked.add_manifest(attempt.manifest)
    with pytest.raises(CorruptObject):
        checked.add_certificate(b"<html>")
    checked.add_certificate(attempt.certificate)
    with pytest.raises(TrustError):
        checked.add_whitelist(signing.whitelist(expires="20200101000000"))
    checked.add_whitelist(attempt.whitelist)
    assert checked.head.raw == attempt.manifest


# -- manifest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["other.example.org", FQRN + ".", FQRN.upper(), "", None])
def test_a_manifest_of_another_name_or_none_is_refused(name: str | None) -> None:
    with pytest.raises(TrustError, match="it is that of"):
        trusted().add_manifest(signing.manifest({"N": name}))


@pytest.mark.parametrize("value", ["", "d41d8cd98f00b204e9800998ecf8427f", "D41D8CD98F00B204E9800998ECF8427E"])
def test_a_manifest_of_a_catalog_that_is_not_the_root_is_refused(value: str) -> None:
    with pytest.raises(TrustError, match="field R"):
        trusted().add_manifest(signing.manifest({"R": value}))


def test_a_manifest_without_a_certificate_is_refused() -> None:
    with pytest.raises(TrustError, match="field X"):
        trusted().add_manifest(signing.manifest({"X": None}))


def test_a_manifest_changed_under_its_good_signature_is_refused() -> None:
    with pytest.raises(TrustError, match="hash line"):
        trusted().add_manifest(signing.manifest().replace(b"\nS7\n", b"\nS8\n"))


def test_a_manifest_changed_together_with_its_hash_line_is_refused() -> None:
    signature = parse_manifest(signing.manifest()).document.signature
    with pytest.raises(TrustError, match="signature does not fit"):
        Attempt(manifest=signing.manifest({"S": "8"}, signature=signature)).through(trusted())


def test_a_manifest_signed_by_a_wrong_key_is_refused() -> None:
    with pytest.raises(TrustError, match="signature does not fit"):
        Attempt(manifest=signing.manifest(signer=signing.stranger())).through(trusted())


def test_a_manifest_signed_like_a_whitelist_is_refused() -> None:
    with pytest.raises(TrustError, match="signature does not fit"):
        Attempt(manifest=signing.manifest(kind="raw")).through(trusted())


def test_a_manifest_signed_over_its_text_instead_of_its_hash_line_is_refused() -> None:
    text = parse_manifest(signing.manifest()).document.text
    with pytest.raises(TrustError, match="signature does not fit"):
        Attempt(manifest=signing.manifest(signature=signing.publisher().sign_sha1(text))).through(trusted())


def test_the_whitelists_signature_does_not_serve_for_a_manifest() -> None:
    """The master key signs hash lines too; its certificate is not on the list, and the kinds differ."""
    master = signing.master()
    attempt = Attempt(
        manifest=signing.manifest(certificate=master.stored_certificate, signer=master, kind="raw"),
        certificate=master.stored_certificate,
    )
    with pytest.raises(TrustError, match="signature does not fit"):
        attempt.through(trusted())


# -- certificate -----------------------------------------------------------------------------------------------


def test_the_certificate_is_asked_for_by_its_hash_and_with_a_cap() -> None:
    checked = trusted()
    manifest = checked.add_manifest(signing.manifest())
    assert manifest.certificate is not None
    path, cap = checked.certificate_request()
    assert path == manifest.certificate.object_path("X")
    assert limits.CERTIFICATE < cap < 4 * limits.CERTIFICATE


def test_the_alternative_path_is_used_where_the_manifest_asks_for_it() -> None:
    checked = Attempt(manifest=signing.manifest({"A": "yes"}, algorithm=SHAKE128)).through(trusted())
    certificate = checked.head.certificate
    assert str(certificate).endswith("-shake128")
    assert checked.certificate_request()[0] == f".cvmfsalt-{certificate}X"


def test_another_certificate_than_the_manifest_names_is_corrupt() -> None:
    with pytest.raises(CorruptObject, match="have the hash"):
        Attempt(certificate=signing.stranger().stored_certificate).through(trusted())


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        (signing.publisher().certificate, CorruptObject),
        (signing.publisher().stored_certificate + b"x", CorruptObject),
        (signing.publisher().stored_certificate[:-1], CorruptObject),
        (zlib.compress(signing.publisher().certificate + bytes(30_000_000)), CorruptObject),
        (random.Random(1).randbytes(4 * limits.CERTIFICATE), CorruptObject),
        (zlib.compress(b""), TrustError),
        (zlib.compress(b"no certificate"), TrustError),
        (zlib.compress(signing.publisher().pem), TrustError),
    ],
    ids=["not compressed", "bytes after", "cut short", "bomb", "giant", "empty", "text", "bare key"],
)
def test_a_certificate_object_that_is_none_is_refused_though_its_hash_fits(
    stored: bytes, error: type[ShrinkwrapError]
) -> None:
    with pytest.raises(error):
        Attempt(manifest=signing.manifest(certificate=stored), certificate=stored).through(trusted())


def test_an_unlisted_certificate_is_refused_though_all_else_is_right() -> None:
    """The attack that whitelists are for: a manifest that is well signed, by somebody."""
    stranger = signing.stranger()
    attempt = Attempt(
        manifest=signing.manifest(certificate=stranger.stored_certificate, signer=stranger),
        certificate=stranger.stored_certificate,
    )
    with pytest.raises(TrustError, match="not on the whitelist"):
        attempt.through(trusted())


def test_another_certificate_for_the_listed_key_is_refused() -> None:
    """The list is of certificates, not of keys."""
    stored = zlib.compress(signing.publisher().make_certificate(2))
    attempt = Attempt(manifest=signing.manifest(certificate=stored), certificate=stored)
    with pytest.raises(TrustError, match="not on the whitelist"):
        attempt.through(trusted())


def test_a_whitelist_that_lists_nobody_trusts_nobody() -> None:
    with pytest.raises(TrustError, match="not on the whitelist"):
        Attempt(whitelist=signing.whitelist([])).through(trusted())


def test_a_fingerprint_of_the_pem_is_not_that_of_the_certificate() -> None:
    wrong = digest_of(SHA1, signing.publisher().certificate).raw.hex(":").upper()
    with pytest.raises(TrustError, match="not on the whitelist"):
        Attempt(whitelist=signing.whitelist([wrong])).through(trusted())


def test_a_commented_out_certificate_is_not_listed() -> None:
    line = "# " + signing.publisher().fingerprint()
    with pytest.raises(TrustError, match="not on the whitelist"):
        Attempt(whitelist=signing.whitelist([line])).through(trusted())


# -- whitelist -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("whitelist", "message"),
    [
        (signing.whitelist(fqrn="other.example.org"), "it is for"),
        (signing.whitelist(signer=signing.stranger()), "none of the master keys"),
        (signing.whitelist(signer=signing.publisher()), "none of the master keys"),
        (signing.whitelist(kind="sha1"), "none of the master keys"),
        (signing.whitelist(expires="20300615120000"), "expired"),
        (signing.whitelist(expires="20300615125959"), "expired"),
        (signing.whitelist(extra=["Vpkcs7"]), "not supported"),
        (signing.whitelist(extra=["Wcachain"]), "not supported"),
        (signing.manifest(), "line 1"),
    ],
    ids=[
        "of another repository",
        "signed by a stranger",
        "signed by the publisher himself",
        "signed like a manifest",
        "expired within this hour",
        "expires within this hour",
        "PKCS#7",
        "CA",
        "the manifest again",
    ],
)
def test_a_whitelist_that_does_not_hold_is_refused(whitelist: bytes, message: str) -> None:
    with pytest.raises(TrustError, match=message):
        Attempt(whitelist=whitelist).through(trusted())


@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
def test_a_blacklisted_certificate_is_refused_though_it_is_whitelisted(algorithm: int) -> None:
    blacklist = parse_blacklist(signing.publisher().fingerprint(algorithm).encode())
    with pytest.raises(TrustError, match="blacklist"):
        Attempt().through(trusted(blacklist=blacklist))
    other = parse_blacklist(signing.stranger().fingerprint(algorithm).encode())
    assert Attempt().through(trusted(blacklist=other)).head


# -- head ------------------------------------------------------------------------------------------------------


def head_over(known: KnownHead, changes: dict[str, str | None], *, allow_rollback: bool = False) -> int:
    attempt = Attempt(manifest=signing.manifest(changes))
    return attempt.through(trusted(known=known, allow_rollback=allow_rollback)).head.revision


def test_a_replayed_older_manifest_is_refused() -> None:
    with pytest.raises(RollbackError, match=r"revision 7 .* revision 8 .* was seen before"):
        head_over(KnownHead(8, signing.ROOT, 0), {})


def test_the_same_revision_with_another_root_hash_is_refused() -> None:
    with pytest.raises(RollbackError, match="root catalog"):
        head_over(KnownHead(7, root_hash(1), 0), {})


def test_the_same_revision_with_the_same_root_hash_is_accepted_whatever_its_time_stamp() -> None:
    for timestamp in (0, 1907750000, 1 << 40):
        assert head_over(KnownHead(7, signing.ROOT, timestamp), {}) == 7


def test_a_higher_revision_is_accepted_though_its_time_stamp_is_earlier() -> None:
    assert head_over(KnownHead(6, root_hash(1), 1 << 40), {"T": "5"}) == 7


def test_a_rollback_is_accepted_when_it_is_allowed() -> None:
    assert head_over(KnownHead(8, signing.ROOT, 0), {}, allow_rollback=True) == 7
    assert head_over(KnownHead(7, root_hash(1), 0), {}, allow_rollback=True) == 7


def test_impossible_time_stamps_do_not_break_the_message() -> None:
    with pytest.raises(RollbackError, match="second 18446744073709551615"):
        head_over(KnownHead(8, signing.ROOT, 0), {"T": str((1 << 64) - 1)})


def test_a_blacklisted_revision_is_refused_even_if_rollbacks_are_allowed() -> None:
    attempt = Attempt()
    for lowest, good in ((7, True), (8, False)):
        blacklist = parse_blacklist(f"<{FQRN} {lowest}\n<other.example.org 100\n".encode())
        checked = attempt.through(trusted(blacklist=blacklist, allow_rollback=True))
        if good:
            assert checked.head.revision == 7
        else:
            with pytest.raises(TrustError, match="blacklist"):
                checked.head  # noqa: B018


# -- objects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
def test_an_object_is_hashed_as_stored_and_then_inflated(algorithm: int) -> None:
    stored = zlib.compress(b"content")
    digest = digest_of(algorithm, stored)
    assert verify_object(digest, stored, 7) == b"content"
    for bad in (b"", b"content", stored[:-1], stored + b"x", zlib.compress(b"content", 0)):
        with pytest.raises(CorruptObject, match=str(digest)):
            verify_object(digest, bad, 7)
    with pytest.raises(CorruptObject, match="more than the 6 bytes"):
        verify_object(digest, stored, 6)
    with pytest.raises(CorruptObject):
        verify_object(digest_of(algorithm, b"content"), stored, 7)


def test_an_object_larger_than_any_honest_stream_is_not_even_hashed() -> None:
    stored = bytes(limits.stored_size(10) + 1)
    with pytest.raises(CorruptObject, match="that are allowed"):
        verify_object(digest_of(SHA1, stored), stored, 10)


# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sft.cern.ch", "a", "A-b_c.9", "x" * 60, "unpacked.cern.ch", "_x", "-x"])
def test_names_of_repositories_are_accepted(name: str) -> None:
    assert check_fqrn(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "x" * 61, "a/b", "../x", "a b", "a\n", "a\0b", "ä.cern.ch", "a%2fb", "a:b", "$(x)", "٣"],
)
def test_what_could_lead_elsewhere_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="name of a repository"):
        check_fqrn(name)
    with pytest.raises(UsageError, match="name of a repository"):
        TrustedSet(name, [], now=NOW)


@given(st.binary(max_size=400), st.binary(max_size=400), st.binary(max_size=400))
def test_no_bytes_raise_anything_but_our_errors(first: bytes, second: bytes, third: bytes) -> None:
    for manifest, certificate, whitelist in (
        (first, second, third),
        (GOOD.manifest, second, third),
        (GOOD.manifest, zlib.compress(second), third),
        (GOOD.manifest, GOOD.certificate, third),
    ):
        with pytest.raises(ShrinkwrapError):
            Attempt(manifest, certificate, whitelist).through(trusted())
