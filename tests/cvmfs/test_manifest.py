"""Reading manifests; what is made of the signature is tested with the trusted set."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cvmfs import real, signing
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs import limits
from shrinkwrap.cvmfs.digest import RMD160, SHAKE128, digest_of, parse_digest
from shrinkwrap.cvmfs.manifest import parse_manifest
from shrinkwrap.errors import TrustError

HASH = "5" * 40


@pytest.mark.parametrize("path", real.manifests())
def test_every_real_manifest_is_read_and_its_hash_line_fits(path: str) -> None:
    data = real.read(path)
    manifest = parse_manifest(data)
    assert manifest.fqrn == path.split("/")[0]
    assert manifest.root_path_md5 == signing.ROOT_PATH
    assert manifest.revision > 0
    assert manifest.timestamp > 1_390_000_000
    assert manifest.certificate is not None
    assert manifest.raw == data
    line = manifest.document.digest
    assert digest_of(line.algorithm, manifest.document.text) == line
    assert len(manifest.document.signature) == 256


@pytest.mark.parametrize("path", real.manifests())
def test_the_root_size_of_real_manifests_is_that_of_the_catalog(path: str) -> None:
    manifest = parse_manifest(real.read(path))
    size = len(real.inflated(manifest.fqrn, manifest.root_hash, "C"))
    assert manifest.root_size in (0, size)


def test_all_fields_are_read() -> None:
    manifest = parse_manifest(
        signing.manifest(
            {
                "C": HASH + "-rmd160",
                "B": "57344",
                "G": "yes",
                "A": "yes",
                "H": HASH + "-shake128",
                "M": HASH,
                "Y": HASH,
                "L": "0" * 40,
            }
        )
    )
    assert manifest.root_hash == parse_digest(HASH + "-rmd160")
    assert manifest.history == parse_digest(HASH + "-shake128")
    assert manifest.metainfo == manifest.reflog == parse_digest(HASH)
    assert (manifest.root_size, manifest.ttl, manifest.revision) == (57344, 240, 7)
    assert manifest.garbage_collectable
    assert manifest.alt_path
    assert manifest.fqrn == signing.FQRN
    assert manifest.timestamp == 1907750000


def test_optional_fields_may_be_missing() -> None:
    absent = dict.fromkeys("BGAXTN", None)
    manifest = parse_manifest(signing.manifest(absent))
    assert (manifest.root_size, manifest.timestamp, manifest.fqrn) == (0, 0, "")
    assert manifest.certificate is manifest.history is manifest.metainfo is manifest.reflog is None
    assert not manifest.garbage_collectable
    assert not manifest.alt_path


@pytest.mark.parametrize("letter", "CRDS")
def test_a_manifest_without_a_required_field_is_refused(letter: str) -> None:
    with pytest.raises(TrustError, match=f"incomplete, no field {letter}"):
        parse_manifest(signing.manifest({letter: None}))


def test_of_a_duplicated_field_the_last_one_counts() -> None:
    text = "".join(f"{name}{value}\n" for name, value in signing.manifest_fields().items())
    doubled = f"S1\nNother.example.org\n{text}S9\nZone\nZtwo\n".encode()
    manifest = parse_manifest(signing.manifest(text=doubled))
    assert (manifest.revision, manifest.fqrn) == (9, signing.FQRN)


@pytest.mark.parametrize("value", ["no", "", "Yes", "YES", "yes ", "true", "1"])
def test_only_the_literal_yes_is_yes(value: str) -> None:
    manifest = parse_manifest(signing.manifest({"A": value, "G": value}))
    assert (manifest.alt_path, manifest.garbage_collectable) == (False, False)


@pytest.mark.parametrize("letter", "BDST")
@pytest.mark.parametrize(
    "value",
    ["", "-1", "+1", " 1", "1 ", "0x10", "1e3", "1_000", "1.5", str(1 << 64), "9" * 21, "9" * 60_000],
    ids=lambda value: value[:8] or "empty",
)
def test_a_number_that_is_none_or_has_more_than_64_bits_is_refused(letter: str, value: str) -> None:
    with pytest.raises(TrustError, match=f"field {letter}"):
        parse_manifest(signing.manifest({letter: value}))


def test_the_largest_number_of_64_bits_is_read() -> None:
    assert parse_manifest(signing.manifest({"S": str((1 << 64) - 1)})).revision == (1 << 64) - 1


@pytest.mark.parametrize("letter", "CXHMY")
@pytest.mark.parametrize("value", ["", HASH[1:], HASH.replace("5", "A"), HASH + "C", HASH + "-md5", "../../x"])
def test_a_field_that_is_no_hash_is_refused(letter: str, value: str) -> None:
    with pytest.raises(TrustError, match=f"field {letter}"):
        parse_manifest(signing.manifest({letter: value}))


def test_a_null_hash_stands_for_none() -> None:
    manifest = parse_manifest(signing.manifest(dict.fromkeys("HMYX", "0" * 40)))
    assert manifest.history is manifest.metainfo is manifest.reflog is manifest.certificate is None


def test_a_null_root_hash_is_refused() -> None:
    with pytest.raises(TrustError, match="null"):
        parse_manifest(signing.manifest({"C": "0" * 40}))


@pytest.mark.parametrize("extra", ["Zä\n".encode(), b"Z\0\n", b"Z\r\n", b"Z\x1b[31m\n", b"Z\xff\n", "S٣\n".encode()])
def test_bytes_other_than_printable_ascii_are_refused(extra: bytes) -> None:
    text = "".join(f"{name}{value}\n" for name, value in signing.manifest_fields().items()).encode()
    with pytest.raises(TrustError, match="printable ASCII"):
        parse_manifest(signing.manifest(text=text + extra))


def test_a_giant_manifest_is_refused_before_it_is_read() -> None:
    with pytest.raises(TrustError, match="larger than"):
        parse_manifest(signing.manifest() + bytes(limits.MANIFEST))


def test_newlines_and_dashes_in_the_binary_signature_do_not_end_it() -> None:
    signature = b"\n--\n" + bytes(100) + b"\n--\nS8\n" + bytes(145)
    assert parse_manifest(signing.manifest(signature=signature)).document.signature == signature


@pytest.mark.parametrize("algorithm", [RMD160, SHAKE128])
def test_the_hash_line_may_be_of_any_algorithm(algorithm: int) -> None:
    assert parse_manifest(signing.manifest(algorithm=algorithm)).document.digest.algorithm == algorithm


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"--\n",
        b"\n--\n",
        b"<html><body>404 Not Found</body></html>",
        b"C" + b"5" * 40 + b"\n",
        signing.manifest().split(b"\n--\n")[0],
        signing.manifest().split(b"\n--\n")[0] + b"\n--\n",
        signing.manifest().split(b"\n--\n")[0] + b"\n--\n" + b"5" * 40,
        signing.manifest().split(b"\n--\n")[0] + b"\n--\n" + b"5" * 40 + b"\n",
        signing.manifest().split(b"\n--\n")[0] + b"\n--\n" + b"5" * 39 + b"\nsignature",
        signing.manifest().replace(b"\n--\n", b"\n-- \n"),
        signing.manifest().replace(b"\n--\n", b"\r\n--\r\n"),
        b"--\n" + signing.manifest(),
    ],
)
def test_a_document_without_all_its_parts_is_refused(data: bytes) -> None:
    with pytest.raises(TrustError):
        parse_manifest(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, data + b"\n--\n" + b"0" * 40 + b"\n" + data):
        with suppress(TrustError):
            parse_manifest(candidate)


@given(st.lists(st.tuples(st.sampled_from("CBRDSGANXHTMYLZ-"), st.text(max_size=45)), max_size=20))
def test_any_fields_are_read_or_refused(fields: list[tuple[str, str]]) -> None:
    text = "".join(f"{letter}{value}\n" for letter, value in fields).encode()
    with suppress(TrustError):
        parse_manifest(text + b"--\n" + b"0" * 40 + b"\nsignature")
