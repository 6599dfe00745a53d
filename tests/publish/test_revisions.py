"""Further revisions: what is added, what stays, what goes; tags, garbage, and signing anew."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest
from publish.publishing import FQRN, NOW, Place, differences, file, fill, folder, source_records
from support.golden import Pinned, mounted

from shrinkwrap import Repository
from shrinkwrap.cvmfs.owners import OwnerMap
from shrinkwrap.errors import CorruptObject, LockedError, MissingObject, TrustError, UsageError
from shrinkwrap.publish import SourceEntry, publish
from shrinkwrap.publish.keyring import open_keyring

WHITEOUT = 0o020000


def fingerprints(place: Place) -> dict[str, tuple[int, int]]:
    """Inode and mtime of all objects."""
    found = {}
    for name in place.objects():
        info = os.stat(place.storage / "data" / name)
        found[name] = (info.st_ino, info.st_mtime_ns)
    return found


# ---------------------------------------------------------------------------------------------------------- what is new


def test_the_first_publication_makes_a_repository_and_its_keys(tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path / "srv" / "keys")
    place.publish([file("a", b"one")], keys=None)
    assert {path.name for path in place.keys.iterdir()} == {
        f"{FQRN}.{kind}" for kind in ("masterkey", "pub", "key", "crt")
    }
    found = place.check()
    assert found.fields["S"] == "1"
    assert found.fields["D"] == "240"
    assert set(found.tags) == {"trunk"}
    assert sorted(found.refs.values()) == [0, 1, 2, 3]
    assert place.contents() == {b"/a": b"one"}


def test_entries_are_put_over_what_is_there(place: Place) -> None:
    place.publish([file("a", b"one"), file("d/b", b"two"), file("d/c", b"three")])
    done = place.publish([file("d/b", b"new"), file("e/f", b"four")])
    assert (done.reason, done.revision) == ("published", 2)
    assert place.contents() == {b"/a": b"one", b"/d/b": b"new", b"/d/c": b"three", b"/e/f": b"four"}
    found = place.check()
    assert found.tags["trunk"]["revision"] == 2
    assert found.tags["trunk-previous"]["revision"] == 1
    assert found.properties[b""][b"previous_revision"].decode() == found.tags["trunk-previous"]["hash"].decode()


def test_objects_that_are_there_are_not_written_again(place: Place) -> None:
    source = fill(place.folder / "source")
    place.publish(source)
    before = fingerprints(place)
    (source / "d0" / "new").write_bytes(b"new")
    done = place.publish(source)
    after = fingerprints(place)
    assert {name: after[name] for name in before} == before
    assert done.counts["new_objects"] == 1


def test_the_same_again_makes_no_revision(place: Place) -> None:
    source = fill(place.folder / "source")
    first = place.publish(source)
    manifest = (place.storage / ".cvmfspublished").read_bytes()
    whitelist = (place.storage / ".cvmfswhitelist").read_bytes()
    second = place.publish(source)
    assert (second.reason, second.revision, second.root_hash) == ("unchanged", 1, first.root_hash)
    assert (place.storage / ".cvmfspublished").read_bytes() == manifest
    assert (place.storage / ".cvmfswhitelist").read_bytes() != whitelist
    forced = place.publish(source, force=True)
    assert (forced.reason, forced.revision) == ("published", 2)
    place.check()


def test_the_same_source_at_the_same_time_gives_the_same_root_hash(place: Place, tmp_path: Path) -> None:
    source = fill(place.folder / "source")
    other = Place(tmp_path / "other", place.keys)
    other.folder.mkdir()
    first = place.publish(source, now=NOW)
    second = other.publish(source, now=NOW, workers=2)
    assert first.root_hash == second.root_hash
    assert place.objects() == other.objects()


def test_only_catalogs_that_change_are_written(place: Place) -> None:
    marked = [file(f"{name}/.cvmfscatalog") for name in ("a", "a/b", "c")]
    place.publish([*marked, file("a/x", b"1"), file("a/b/y", b"2"), file("c/z", b"3")])
    before = place.check().catalogs
    assert set(before) == {b"", b"/a", b"/a/b", b"/c"}
    done = place.publish([file("a/b/new", b"4")])
    found = place.check()
    assert done.catalogs == ("/", "/a", "/a/b")
    assert found.catalogs[b"/c"] == before[b"/c"]
    assert found.properties[b"/a/b"][b"revision"] == b"2"
    assert found.properties[b"/a/b"][b"previous_revision"].decode() == before[b"/a/b"]
    assert found.statistics["subtree_regular"] == 7
    # Touched, yet as it was.
    done = place.publish([file("c/z", b"3"), file("a/x", b"5")])
    assert done.catalogs == ("/", "/a")
    place.check()


def test_statistics_stay_right_without_opening_what_is_not_concerned(place: Place) -> None:
    entries = [file(f"n{number}/.cvmfscatalog") for number in range(5)]
    entries += [file(f"n{number}/deep/.cvmfscatalog") for number in range(5)]
    place.publish([*entries, file("n1/deep/x", b"1")])
    place.publish([file("new", b"2")])
    place.check()
    place.publish(None, delete=["/n3", "/n1/deep"])
    found = place.check()
    assert set(found.catalogs) == {b"", b"/n0", b"/n0/deep", b"/n1", b"/n2", b"/n2/deep", b"/n4", b"/n4/deep"}
    place.publish(None, delete=["/n4/.cvmfscatalog"])
    found = place.check()
    assert b"/n4" not in found.catalogs
    assert b"/n4/deep" in found.catalogs


# ---------------------------------------------------------------------------------------------------- names and types


def test_a_type_may_change_where_the_source_says_so(place: Place) -> None:
    place.publish([file("a/b", b"1"), file("c", b"2"), file("n/.cvmfscatalog"), file("n/x", b"3")])
    place.publish([file("a", b"file now"), file("c/d", b"4"), folder("c"), file("n", b"5")])
    assert place.contents() == {b"/a": b"file now", b"/c/d": b"4", b"/n": b"5"}
    place.check()


def test_a_file_of_the_repository_does_not_become_a_directory_by_accident(place: Place) -> None:
    place.publish([file("a", b"1")])
    with pytest.raises(UsageError, match="no directory in the repository") as caught:
        place.publish([file("a/b", b"2")])
    assert "--delete /a" in caught.value.hint
    place.publish([file("a/b", b"2")], delete=["/a"])
    assert place.contents() == {b"/a/b": b"2"}


def test_a_base_directory_is_where_the_source_goes(place: Place) -> None:
    source = fill(place.folder / "source")
    place.publish([file("keep", b"1")])
    place.publish(source, base_dir="/lcg/v1")
    place.check()
    wanted = source_records(source, b"/lcg/v1")
    found = [one for one in place.exported() if one.path.startswith(b"/lcg/v1")]
    assert differences(wanted, found, place.folder) == []
    assert b"/keep" in place.contents()


def test_owners_are_rewritten(place: Place) -> None:
    source = [file("a", uid=5, gid=6), file("b", uid=7, gid=8)]
    place.publish(source, uid=100, gid_map=OwnerMap(((6, 60),)))
    entries = place.check().entries
    assert [(entries[path]["uid"], entries[path]["gid"]) for path in (b"/a", b"/b")] == [(100, 60), (100, 8)]


# ------------------------------------------------------------------------------------------------------------ deletions


def test_mirror_makes_the_base_directory_exactly_the_source(place: Place) -> None:
    place.publish([file("a", b"1"), file("d/b", b"2"), file("d/n/.cvmfscatalog"), file("d/n/x"), file("d/m/y")])
    place.publish([file("b", b"new"), folder("m")], base_dir="/d", mirror=True)
    assert place.contents() == {b"/a": b"1", b"/d/b": b"new"}
    found = place.check()
    assert set(found.entries) == {b"", b"/a", b"/d", b"/d/b", b"/d/m"}
    place.publish([], base_dir="/d", mirror=True)
    assert place.contents() == {b"/a": b"1"}
    place.check()


def test_deletions_come_first(place: Place) -> None:
    place.publish([file("a/b/x", b"1"), file("a/b/.cvmfscatalog"), file("a/c", b"2"), file("n/.cvmfscatalog")])
    done = place.publish([file("a/b/y", b"3")], delete=["/a/b", "n", "/nowhere/at/all"])
    assert place.contents() == {b"/a/b/y": b"3", b"/a/c": b"2"}
    assert done.notices == ["nothing to delete at /nowhere/at/all"]
    assert set(place.check().catalogs) == {b""}


def test_whiteouts_hide_what_was_there_if_asked_for(place: Place) -> None:
    before = [file(name, b"1") for name in ("a/x", "a/y", "b/x", "c/x", "d/x", "e/f/x")]
    layer = [
        file("a/.wh.x"),
        file("b/.wh..wh..opq"),
        file("b/new", b"2"),
        SourceEntry(b"c", WHITEOUT, rdev=0),
        folder("e", xattrs=((b"trusted.overlay.opaque", b"y"),)),
        file("d/.wh..wh.aufs"),
        SourceEntry(b"d/x", 0o120777, target=b"(overlay-whiteout)"),
    ]
    place.publish(before)
    done = place.publish(layer, whiteouts=True)
    assert place.contents() == {b"/a/y": b"1", b"/b/new": b"2"}
    assert set(place.check().entries) == {b"", b"/a", b"/a/y", b"/b", b"/b/new", b"/d", b"/e"}
    assert done.counts["whiteouts"] == 5
    place.publish([file("a/.wh.y", b"3")])
    assert set(place.contents()) == {b"/a/y", b"/a/.wh.y", b"/b/new"}


def test_whiteouts_reach_into_nested_catalogs(place: Place) -> None:
    place.publish([file("n/.cvmfscatalog"), file("n/m/.cvmfscatalog"), file("n/m/x", b"1"), file("n/m/y", b"2")])
    place.publish([file("n/m/.wh.x")], whiteouts=True)
    assert place.contents() == {b"/n/.cvmfscatalog": b"", b"/n/m/.cvmfscatalog": b"", b"/n/m/y": b"2"}
    place.publish([file("n/m/.wh..wh..opq")], whiteouts=True)
    assert place.contents() == {b"/n/.cvmfscatalog": b""}
    place.check()


# ----------------------------------------------------------------------------------------------------------- hard links


def test_hard_links_keep_to_one_directory(place: Place) -> None:
    source = [file("a/x", b"1", identity=(1, 2)), *(file(name, identity=(1, 2)) for name in ("a/y", "a/z", "b/x"))]
    source = [one._replace(size=1) for one in source]
    place.publish(source)
    entries = place.check().entries
    links = {path: row["hardlinks"] for path, row in entries.items() if row["hash"]}
    assert links[b"/a/x"] == links[b"/a/y"] == links[b"/a/z"]
    assert links[b"/a/x"] & 0xFFFFFFFF == 3
    assert links[b"/b/x"] == 1
    assert len({entries[path]["hash"] for path in links}) == 1
    place.publish(None, delete=["/a/x"])
    links = {path: row["hardlinks"] for path, row in place.check().entries.items()}
    assert links[b"/a/y"] & 0xFFFFFFFF == 2
    place.publish([file("a/y", b"2")])
    assert place.check().entries[b"/a/z"]["hardlinks"] == 1


# --------------------------------------------------------------------------------------------------------- tags and gc


def test_a_tag_names_the_revision_for_ever(place: Place) -> None:
    place.publish([file("a", b"1")], tag="v1", message="first")
    place.publish([file("a", b"2")], tag="v2")
    tags = place.check().tags
    assert tags["v1"]["description"] == b"first"
    assert [tags[name]["revision"] for name in ("v1", "v2", "trunk", "trunk-previous")] == [1, 2, 2, 1]
    assert place.contents("v1") == {b"/a": b"1"}
    for wrong in ("v1", "trunk", "no blanks", ""):
        with pytest.raises(UsageError):
            place.publish([file("a", b"3")], tag=wrong, message="" if wrong else "without a name")
    assert place.contents() == {b"/a": b"2"}


def test_the_head_can_be_tagged_without_a_new_revision(place: Place) -> None:
    first = place.publish([file("a", b"1")])
    done = place.publish(None, tag="good")
    assert (done.reason, done.revision, done.root_hash) == ("signed", 1, first.root_hash)
    found = place.check()
    assert found.tags["good"]["revision"] == 1
    assert "trunk-previous" not in found.tags
    assert place.publish(None, tag="good").reason == "unchanged"
    # An unchanged source is the head, too.
    assert place.publish([file("a", b"1")], tag="better").reason == "signed"


def test_garbage_goes_and_all_tags_stay(place: Place) -> None:
    sources = [[file("a", b"%d" % number * 3000), file(f"n{number}/.cvmfscatalog")] for number in range(6)]
    for number, source in enumerate(sources):
        place.publish(source, mirror=True, tag=f"t{number}" if number in (1, 3) else "")
    before = place.objects()
    done = place.publish(None, gc=True)
    found = place.check()
    assert place.objects() == found.objects
    assert done.counts["collected"] == len(before - place.objects()) > 0
    for tag, number in (("t1", 1), ("t3", 3), ("trunk-previous", 4), ("", 5)):
        assert place.contents(tag)[b"/a"] == b"%d" % number * 3000
    assert place.publish(None, gc=True).counts["collected"] == 0


def test_nothing_is_collected_when_a_tagged_catalog_is_missing(place: Place) -> None:
    first = place.publish([file("a", b"1")], tag="old")
    place.publish([file("a", b"2")])
    place.publish([file("a", b"3")])
    lost = place.storage / "data" / first.root_hash[:2] / f"{first.root_hash[2:]}C"
    lost.unlink()
    before = place.objects()
    manifest = (place.storage / ".cvmfspublished").read_bytes()
    with pytest.raises(MissingObject):
        place.publish(None, gc=True)
    assert place.objects() == before
    assert (place.storage / ".cvmfspublished").read_bytes() == manifest


# ------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("name", ["sha1", "rmd160", "shake128"])
@pytest.mark.parametrize("compression", ["zlib", "none"])
def test_every_hash_algorithm_with_and_without_compression(name: str, compression: str, place: Place) -> None:
    source = fill(place.folder / "source")
    place.publish(source, hash=name, compression=compression, catalogs=["/d*"])
    found = place.check()
    tag = "" if name == "sha1" else f"-{name}"
    assert all(found.fields[letter].endswith(tag) for letter in "CXHMY")
    if compression == "none":
        assert all(row["flags"] & 0x800 for row in found.entries.values() if row["hash"])
    found_files = {path: data for path, data in place.contents().items() if not path.endswith(b"/.cvmfscatalog")}
    assert found_files == {
        one.path: (source / os.fsdecode(one.path[1:])).read_bytes()
        for one in source_records(source)
        if one.type == "file"
    }


def test_algorithms_mix_after_a_change(place: Place) -> None:
    place.publish([file("a", b"1"), file("n/.cvmfscatalog"), file("n/x", b"2")])
    place.publish([file("b", b"3")], hash="shake128", compression="none")
    found = place.check()
    assert found.fields["C"].endswith("-shake128")
    assert not found.catalogs[b"/n"].endswith("-shake128")
    assert place.contents() == {b"/a": b"1", b"/b": b"3", b"/n/.cvmfscatalog": b"", b"/n/x": b"2"}
    # What is not said stays: the algorithm of the head.
    place.publish([file("c", b"4")])
    assert place.check().fields["C"].endswith("-shake128")


def test_ttl_whitelist_and_metainfo_are_options(place: Place) -> None:
    place.publish([file("a")], ttl=900, whitelist_days=2, metainfo=b'{"administrator": "Ann"}')
    assert place.check().fields["D"] == "900"
    lines = (place.storage / ".cvmfswhitelist").read_bytes().split(b"\n")
    issued, expires = (time.mktime(time.strptime(text.decode(), "%Y%m%d%H%M%S")) for text in (lines[0], lines[1][1:]))
    assert expires - issued == 2 * 86400
    meta = place.check().fields["M"]
    assert place.publish(None).reason == "unchanged"
    assert place.check().fields["M"] == meta
    assert place.publish(None, ttl=60).reason == "published"
    assert place.check().fields["D"] == "60"
    for wrong in ({"metainfo": b"[]"}, {"ttl": -1}, {"whitelist_days": 0}, {"hash": "md5"}, {"compression": "zstd"}):
        with pytest.raises(UsageError):
            place.publish(None, **wrong)  # type: ignore[arg-type]


def test_a_clock_that_was_set_back_does_not_make_the_manifest_older(place: Place) -> None:
    place.publish([file("a", b"1")])
    place.publish([file("a", b"2")], now=NOW - 10_000)
    assert int(place.check().fields["T"]) == int(NOW) + 1


# -------------------------------------------------------------------------------------------------------------- faults


def test_two_publishers_do_not_mix(place: Place) -> None:
    place.publish([file("a", b"1")])
    with open(place.storage / ".shrinkwrap.lock", "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="somebody else"):
            place.publish([file("a", b"2")])
    place.publish([file("a", b"2")])


def test_a_source_that_fails_leaves_everything_as_it_was(place: Place) -> None:
    place.publish([file("a", b"1")])
    manifest = (place.storage / ".cvmfspublished").read_bytes()

    def broken() -> object:
        yield file("b", b"2")
        raise CorruptObject("the archive is damaged")

    with pytest.raises(CorruptObject):
        place.publish(broken())  # type: ignore[arg-type]
    assert (place.storage / ".cvmfspublished").read_bytes() == manifest
    assert [path.name for path in (place.storage / "data" / "txn").iterdir()] == ["begun"]
    assert place.publish([file("a", b"1")]).reason == "unchanged"
    assert list((place.storage / "data" / "txn").iterdir()) == []


def test_objects_of_a_run_that_the_machine_cut_off_are_compared(place: Place) -> None:
    """After a power cut names are durable before contents are: a name may hold zeros of the right length."""
    place.publish([file("a", b"1")])
    begun = place.storage / "data" / "txn" / "begun"
    place.publish([file("b", b"2" * 500)])
    found = place.check().entries[b"/b"]["hash"].hex()
    damaged = place.storage / "data" / found[:2] / found[2:]
    begun.write_bytes(b"another boot of the machine")
    os.utime(begun, ns=(1, 1))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    place.publish([file("c", b"2" * 500)])
    place.check()


def test_a_damaged_or_foreign_storage_is_not_built_upon(place: Place, tmp_path: Path) -> None:
    place.publish([file("a", b"1")])
    head = place.storage / ".cvmfspublished"
    good = head.read_bytes()
    head.write_bytes(good[:-5] + b"12345")
    with pytest.raises(TrustError, match="signature"):
        place.publish([file("a", b"2")])
    head.write_bytes(good.replace(FQRN.encode(), b"demo.example.com"))
    with pytest.raises(UsageError, match=r"demo\.example\.com"):
        place.publish([file("a", b"2")])
    head.write_bytes(good)
    root = place.check().fields["C"]
    catalog = place.storage / "data" / root[:2] / f"{root[2:]}C"
    data = catalog.read_bytes()
    catalog.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    with pytest.raises(CorruptObject):
        place.publish([file("a", b"2")])


def test_repositories_of_the_reference_can_be_continued(place: Place, repos: Path) -> None:
    """With a key of ours: theirs are not there. Hard links, chunks, nested catalogs and tags are handed on."""
    shutil.copytree(repos / "small.cern.ch", place.storage)
    old = (place.storage / ".cvmfspublished").read_bytes()
    with pytest.raises(UsageError, match="no "):
        publish([file("new/x", b"1")], storage=place.storage, fqrn="small.cern.ch", keys=place.folder / "none")
    assert (place.storage / ".cvmfspublished").read_bytes() == old
    keys = place.folder / "keys"
    open_keyring(str(keys), "small.cern.ch", make=True)
    done = publish(
        [file("special/nest/x", b"1"), file("special/hard/new", b"2")],
        storage=place.storage,
        fqrn="small.cern.ch",
        keys=keys,
        workers=1,
        tag="ours",
    )
    assert (done.revision, done.catalogs) == (5, ("/",))
    rows = {record.path: record for record in mounted(Pinned("small.cern.ch", "rev3"))}
    with Repository("small.cern.ch", storage=place.storage, keys=[keys / "small.cern.ch.pub"]) as repository:
        assert {tag.name for tag in repository.tags()} == {"rev1", "rev2", "rev3", "ours", "trunk", "trunk-previous"}
        found = {entry.path or b"/": entry for entry in repository.head.entries()}
    assert set(found) - set(rows) == {b"/special/nest/x", b"/special/hard/new"}
    for path, record in rows.items():
        entry = found[path]
        assert entry.mtime_ns == record.mtime * 10**9 + record.mtime_ns
        if record.type != "dir":
            assert entry.link_count == record.nlink or record.type == "symlink", path
