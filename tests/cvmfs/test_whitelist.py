"""Reading and checking whitelists."""

from __future__ import annotations

import calendar

import pytest
from cvmfs import real, signing
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, digest_of
from shrinkwrap.cvmfs.whitelist import check_whitelist, parse_whitelist
from shrinkwrap.errors import TrustError

KEYS = [signing.master().master]


def at(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> float:
    return float(calendar.timegm((year, month, day, hour, minute, second)))


def check(data: bytes, fqrn: str = signing.FQRN, now: float = signing.NOW) -> None:
    check_whitelist(parse_whitelist(data), fqrn, KEYS, now)


@pytest.mark.parametrize("fqrn", real.names())
def test_every_real_whitelist_is_good_for_its_repository_and_key(fqrn: str) -> None:
    whitelist = parse_whitelist(real.read(f"{fqrn}/.cvmfswhitelist"))
    keys = real.master_keys(fqrn)
    assert check_whitelist(whitelist, fqrn, keys, at(2027, 1, 1)) == keys[0]
    assert len(whitelist.fingerprints) >= 1


@pytest.mark.parametrize("fqrn", real.names())
def test_every_real_whitelist_is_refused_with_the_key_of_another_repository(fqrn: str) -> None:
    # The two old repositories are signed with one key.
    mine = set(real.master_keys(fqrn)[0].rsa)
    strangers = [key for other in real.names() for key in real.master_keys(str(other)) if set(key.rsa) != mine]
    assert strangers
    whitelist = parse_whitelist(real.read(f"{fqrn}/.cvmfswhitelist"))
    with pytest.raises(TrustError, match="none of the master keys"):
        check_whitelist(whitelist, fqrn, strangers, at(2027, 1, 1))


@pytest.mark.parametrize("fqrn", real.expired())
def test_the_original_whitelists_of_old_repositories_were_good_once_and_are_expired_now(fqrn: str) -> None:
    whitelist = parse_whitelist(real.read(f"{fqrn}/.cvmfswhitelist.orig"))
    keys = real.master_keys(fqrn)
    assert check_whitelist(whitelist, fqrn, keys, whitelist.expires - 1) == keys[0]
    with pytest.raises(TrustError, match="expired"):
        check_whitelist(whitelist, fqrn, keys, whitelist.expires)
    with pytest.raises(TrustError, match="expired"):
        check_whitelist(whitelist, fqrn, keys, at(2026, 11, 22))


@pytest.mark.parametrize("change", [0x01, 0x20, 0x80])
@pytest.mark.parametrize("fqrn", ["small.cern.ch", "shake128.cern.ch"])
def test_any_flipped_byte_of_a_real_whitelist_is_refused(fqrn: str, change: int, repos: object) -> None:
    data = real.read(f"{fqrn}/.cvmfswhitelist")
    keys = real.master_keys(fqrn)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= change
        with pytest.raises(TrustError):
            check_whitelist(parse_whitelist(bytes(flipped)), fqrn, keys, at(2027, 1, 1))


@pytest.mark.parametrize("expires", ["20300615130000", "20300615135959"])
def test_it_holds_up_to_the_last_second_before_the_hour_of_expiry_and_not_within_it(expires: str) -> None:
    data = signing.whitelist(expires=expires)
    check(data, now=at(2030, 6, 15, 12, 59, 59) + 0.999)
    for now in (at(2030, 6, 15, 13), at(2030, 6, 15, 13, 30), at(2030, 6, 15, 14), at(2040, 1, 1)):
        with pytest.raises(TrustError, match=r"expired in the hour of 2030-06-15 13:00 UTC"):
            check(data, now=now)


def test_a_clock_that_tells_no_time_lets_nothing_pass() -> None:
    with pytest.raises(TrustError, match="expired"):
        check(signing.whitelist(), now=float("nan"))


def test_the_whitelist_of_another_repository_is_refused_though_the_same_key_signed_it() -> None:
    with pytest.raises(TrustError, match=r"it is for 'other\.example\.org'"):
        check(signing.whitelist(fqrn="other.example.org"))


@pytest.mark.parametrize("name", [f"{signing.FQRN}x", signing.FQRN[:-1], signing.FQRN.upper(), f"{signing.FQRN} ", ""])
def test_the_name_must_fit_to_the_letter(name: str) -> None:
    with pytest.raises(TrustError, match="it is for"):
        check(signing.whitelist(fqrn=name))


def test_a_wrong_master_key_is_refused() -> None:
    with pytest.raises(TrustError, match="none of the master keys"):
        check(signing.whitelist(signer=signing.stranger()))


def test_no_key_at_all_trusts_nothing() -> None:
    with pytest.raises(TrustError, match="none given"):
        check_whitelist(parse_whitelist(signing.whitelist()), signing.FQRN, [], signing.NOW)


def test_any_of_several_master_keys_may_have_signed() -> None:
    keys = [signing.stranger().master, signing.master().master]
    whitelist = parse_whitelist(signing.whitelist())
    assert check_whitelist(whitelist, signing.FQRN, keys, signing.NOW) == keys[1]


def test_a_whitelist_signed_like_a_manifest_is_refused() -> None:
    with pytest.raises(TrustError, match="none of the master keys"):
        check(signing.whitelist(kind="sha1"))


def test_a_text_that_was_changed_under_its_good_signature_is_refused() -> None:
    good = signing.whitelist()
    longer = good.replace(signing.EXPIRES.encode(), b"20990715123000")
    with pytest.raises(TrustError, match="hash line"):
        check(longer)


def test_a_text_that_was_changed_together_with_its_hash_line_is_refused() -> None:
    good = parse_whitelist(signing.whitelist())
    changed = signing.whitelist(expires="20990715123000", signature=good.document.signature)
    with pytest.raises(TrustError, match="none of the master keys"):
        check(changed)


@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
def test_hash_line_and_fingerprints_may_be_of_any_algorithm(algorithm: int) -> None:
    data = signing.whitelist([signing.publisher().fingerprint(algorithm)], algorithm=algorithm)
    check(data)
    expected = digest_of(algorithm, signing.publisher().certificate_der)
    assert parse_whitelist(data).fingerprints == {expected}


def test_fingerprints_are_read_with_comments_and_without_colons() -> None:
    one, two, three = (digest_of(number, b"x") for number in (SHA1, RMD160, SHAKE128))
    lines = [
        "# a comment",
        f"{one.raw.hex().upper()} # no colons",
        f"{two.raw.hex(':').upper()}-RMD160\tafter a tab",
        f"{three.raw.hex(':')}-shake128#lower case",
        "",
        "not a fingerprint at all",
        "Grüße",
        "AB:CD",
        f" {one.raw.hex(':')[:-2]}00",
        "0" * 32,
    ]
    assert parse_whitelist(signing.whitelist(lines)).fingerprints == {one, two, three}


@pytest.mark.parametrize("demand", ["Vpkcs7", "Wcachain", "Vpkcs7 ", "Wcachain\t"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_demands_for_pkcs7_or_a_ca_are_refused_by_name(demand: str, place: str) -> None:
    listed = signing.publisher().fingerprint()
    extra, prints = ([demand], [listed]) if place == "before" else ((), [listed, demand])
    with pytest.raises(TrustError, match=f"{demand.strip()}.*not supported"):
        parse_whitelist(signing.whitelist(prints, extra=extra))


@pytest.mark.parametrize("issued", ["", "2030060100000", "203006010000000", "20300601000000\r"])
def test_a_first_line_of_another_length_is_refused(issued: str) -> None:
    with pytest.raises(TrustError, match="line 1"):
        parse_whitelist(signing.whitelist(issued=issued))


@pytest.mark.parametrize(
    "expires",
    [
        "",
        "2030071512300",
        "203007151230000",
        "20301315000000",
        "20300732000000",
        "20300715240000",
        "00000715000000",
        "2030071512300x",
        "+2030071512300",
        "２０３００７１５123000",
        "-0300715123000",
    ],
)
def test_an_expiry_that_is_no_time_is_refused(expires: str) -> None:
    with pytest.raises(TrustError, match="line 2"):
        parse_whitelist(signing.whitelist(expires=expires))


def test_the_letter_before_the_expiry_is_not_inspected() -> None:
    text = signing.whitelist().split(b"--\n")[0].replace(b"\nE2", b"\nX2")
    check(signing.whitelist(text=text))


def test_a_third_line_that_is_no_name_is_refused() -> None:
    text = signing.whitelist().split(b"--\n")[0].replace(b"\nN", b"\nM")
    with pytest.raises(TrustError, match="line 3"):
        parse_whitelist(signing.whitelist(text=text))


def test_too_few_lines_are_refused() -> None:
    with pytest.raises(TrustError, match="2 lines"):
        parse_whitelist(signing.whitelist(text=b"20300601000000\nE20300715123000\n"))


def test_a_giant_whitelist_is_refused_before_it_is_read() -> None:
    with pytest.raises(TrustError, match="larger than"):
        parse_whitelist(signing.whitelist(extra=["# comment" * 20] * (limits.WHITELIST // 100)))


def test_a_whitelist_that_lists_nobody_is_read() -> None:
    assert parse_whitelist(signing.whitelist([])).fingerprints == frozenset()


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    head = b"20300601000000\nE20300715123000\nN" + data
    for candidate in (data, head, head + b"\n--\n" + b"0" * 40 + b"\n" + data):
        with pytest.raises(TrustError):
            check(candidate)
