"""Which directories get a catalog of their own: markers, patterns, size."""

from __future__ import annotations

import pytest
from publish.publishing import Place, file, folder

from shrinkwrap.errors import UsageError
from shrinkwrap.publish import SourceEntry
from shrinkwrap.publish.nesting import parse_patterns


def test_a_marker_makes_a_catalog_and_its_loss_dissolves_it(place: Place) -> None:
    place.publish([file("a/.cvmfscatalog"), file("a/x", b"1"), file("a/b/.cvmfscatalog"), file("a/b/c/y", b"2")])
    assert set(place.check().catalogs) == {b"", b"/a", b"/a/b"}
    place.publish(None, delete=["/a/.cvmfscatalog"])
    assert set(place.check().catalogs) == {b"", b"/a/b"}
    place.publish([file("a/.cvmfscatalog")])
    assert set(place.check().catalogs) == {b"", b"/a", b"/a/b"}
    place.publish(None, delete=["/a/b/.cvmfscatalog", "/a/.cvmfscatalog"])
    assert set(place.check().catalogs) == {b""}
    assert place.contents() == {b"/a/x": b"1", b"/a/b/c/y": b"2"}


def test_hard_link_groups_move_with_their_rows(place: Place) -> None:
    def pair(name: str, number: int) -> list[SourceEntry]:
        return [file(f"{name}/{one}", b"1", identity=(1, number)) for one in "xy"]

    place.publish([*pair("a", 1), *pair("b", 2), file("b/.cvmfscatalog"), *pair("c", 3)])
    place.check()
    place.publish([file("a/.cvmfscatalog")], delete=["/b/.cvmfscatalog"])
    entries = place.check().entries
    for name in (b"a", b"b", b"c"):
        assert entries[b"/%s/x" % name]["hardlinks"] == entries[b"/%s/y" % name]["hardlinks"]
    assert entries[b"/b/x"]["hardlinks"] != entries[b"/c/x"]["hardlinks"]


def test_markers_where_none_can_be(place: Place) -> None:
    done = place.publish([file(".cvmfscatalog"), file("a")])
    assert "repository's root" in done.notices[0]
    assert set(place.check().entries) == {b"", b"/a"}
    for wrong in (folder("d/.cvmfscatalog"), SourceEntry(b"d/.cvmfscatalog", 0o120777, target=b"x")):
        with pytest.raises(UsageError, match="regular file"):
            place.publish([wrong])


def test_patterns_put_markers_there(place: Place) -> None:
    source = [file(f"lcg/{name}/{platform}/x", b"1") for name in ("a", "b") for platform in ("el9", "el8", "src")]
    patterns = ["/lcg/*", "/lcg/*/el?", "! */el8", "# a comment", ""]
    place.publish(source, catalogs=patterns)
    mounts = {b"", b"/lcg/a", b"/lcg/b", b"/lcg/a/el9", b"/lcg/b/el9"}
    assert set(place.check().catalogs) == mounts
    assert place.publish(source, catalogs=patterns).reason == "unchanged"
    # The markers are there now, and stay.
    assert place.publish(source).reason == "unchanged"
    assert place.publish(source, catalogs=patterns, mirror=True).reason == "unchanged"
    place.publish(source, mirror=True)
    assert set(place.check().catalogs) == {b""}


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/a/*", "/a/b", True),
        ("/a/*", "/a/b/c", False),
        ("/a/?", "/a/b", True),
        ("/a/?", "/a/bb", False),
        (r"/a/\*", "/a/*", True),
        (r"/a/\*", "/a/b", False),
        ("/a.b", "/axb", False),
        ("/a/", "/a", True),
        ("/a/***b", "/a/xb", True),
        ("/[a]", "/a", False),
        ("/[a]", "/[a]", True),
    ],
)
def test_patterns_are_those_of_cvmfsdirtab(pattern: str, path: str, matches: bool) -> None:
    assert parse_patterns([pattern.encode()]).match(path.encode()) == matches


def test_stars_of_exceptions_cross_directories() -> None:
    patterns = parse_patterns([b"/a/*/*", b"!/a/*c"])
    assert patterns.match(b"/a/b/d")
    assert not patterns.match(b"/a/b/c")


@pytest.mark.parametrize("lines", [["a/b"], ["/a", "!/a"], ["/a\\"], [r"/a\b"]])
def test_patterns_that_make_no_sense_are_refused(lines: list[str]) -> None:
    with pytest.raises(UsageError, match="pattern"):
        parse_patterns([line.encode() for line in lines])


def test_catalogs_that_grow_too_large_are_split(place: Place) -> None:
    source = [file(f"d{number // 40}/e{number // 10 % 4}/f{number}") for number in range(400)]
    done = place.publish(source, max_entries=100)
    found = place.check()
    assert len(found.catalogs) > 3
    sizes = {mount: found.properties[mount] for mount in found.catalogs}
    assert sizes
    for mount in found.catalogs:
        inside = [
            path
            for path in found.entries
            if path.startswith(mount + b"/")
            and max((one for one in found.catalogs if path.startswith(one + b"/")), key=len) == mount
        ]
        assert len(inside) <= 100
        if mount:
            assert mount + b"/.cvmfsautocatalog" in found.entries
    assert done.catalogs[0] == "/"
    assert place.publish(source, max_entries=100).reason == "unchanged"
    assert place.publish(source, max_entries=100, mirror=True).reason == "unchanged"
    assert len(place.contents()) == 400 + 2 * (len(found.catalogs) - 1)


def test_automatic_catalogs_that_became_small_are_dissolved(place: Place) -> None:
    source = [file(f"d{number // 300}/f{number}") for number in range(900)]
    place.publish(source, max_entries=500)
    before = place.check().catalogs
    assert len(before) > 1
    mount = next(path for path in before if path).decode()
    keep = source[0]
    place.publish([keep], delete=[f"{mount}/f{number}" for number in range(900)], max_entries=500)
    assert len(place.check().catalogs) <= len(before)
    place.publish([file("d0/f0")], max_entries=100_000, mirror=True)
    assert set(place.check().catalogs) == {b""}
