"""What is published comes out again: exports of published trees equal their sources."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from publish.publishing import CHUNKS, Place, differences, fill, source_records
from support.filesystems import remove_tree, scratch_folder

from shrinkwrap.errors import CorruptObject

NAMES = st.one_of(
    st.sampled_from(
        [b"a", b"b", b"-x", b" ", b"*", b"[a]", b"\n", b"\xff\xfe", "é".encode(), b"~", b"x" * 255, b".hidden", b"\\"]
    ),
    st.binary(min_size=1, max_size=20).filter(
        lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
    ),
)
#: Around the limits of chunks, of blocks, and of nothing.
SIZES = st.sampled_from([0, 1, 2, 511, 512, 513, 1023, 1024, 1025, 2048, 4095, 4096, 4097, 8192, 8193, 40_000])
TIMES = st.one_of(
    st.sampled_from([0, -1, 1, 10**9 - 1, 2**31 * 10**9, -(2**31) * 10**9 + 1]),
    st.integers(-(2**30) * 10**9, 2**32 * 10**9),
)
XATTRS = st.dictionaries(
    st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name), st.binary(max_size=40), max_size=3
)
TARGETS = st.binary(min_size=1, max_size=60).filter(lambda text: b"\0" not in text and b"$(" not in text)
ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["file", "file", "dir", "dir", "symlink", "link"]),
        st.lists(st.integers(0, 9), max_size=4),
        NAMES,
        st.integers(0, 0o7777),
        SIZES,
        TIMES,
        XATTRS,
        TARGETS,
        st.integers(0, 2**16),
    ),
    max_size=14,
)


def build(top: bytes, entries: list[tuple[Any, ...]]) -> None:
    """A tree by a description; what cannot be is left out."""
    folders = [top]
    files: list[bytes] = []
    late: list[tuple[bytes, int, int]] = []
    for kind, way, name, mode, size, when, xattrs, target, number in entries:
        path = folders[sum(way) % len(folders)] + b"/" + name
        if os.path.lexists(path) or len(path) > 3000:
            continue
        if kind == "dir":
            os.mkdir(path)
            folders.append(path)
        elif kind == "symlink":
            os.symlink(target, path)
        elif kind == "link" and files:
            os.link(files[number % len(files)], path)
        elif kind != "link":
            with open(path, "wb") as out:
                out.write((number.to_bytes(4, "big") * 11_000)[:size])
            files.append(path)
        else:
            continue
        if kind in ("file", "dir"):
            for key, value in xattrs.items():
                os.setxattr(path, b"user." + key, value)
            if os.geteuid() == 0:
                os.chown(path, number, number ^ 0x55)
        elif kind == "symlink" and os.geteuid() == 0:
            os.lchown(path, number, 1)
        late.append((path, mode | (0o700 if os.geteuid() else 0), when))
    # Children first: making them changed the times of their parents, and modes may forbid it.
    for path, mode, when in reversed(late):
        if not os.path.islink(path):
            os.chmod(path, mode)
        os.utime(path, ns=(when, when), follow_symlinks=False)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=(Phase.explicit, Phase.generate),
)
@given(entries=ENTRIES)
def test_an_export_of_a_published_tree_equals_the_tree(entries: list[tuple[Any, ...]], keys: Path) -> None:
    with scratch_folder() as scratch:
        place = Place(scratch, keys)
        source = scratch / "source"
        source.mkdir()
        build(os.fsencode(source), entries)
        place.publish(source)
        place.check()
        wanted = source_records(source)
        assert differences(wanted, place.exported(), scratch) == []
        # The same again is no news, neither is an archive of it.
        assert place.publish(source).reason == "unchanged"
        assert place.publish(source, mirror=True).reason == "unchanged"
        archive = scratch / "x.tar"
        pack(source, archive)
        again = place.publish(archive, mirror=True)
        assert (again.reason, again.catalogs) == ("unchanged", ())
        remove_tree(source)


def pack(source: Path, archive: Path) -> None:
    """An archive with all that the source has; what ustar has no room for is in pax headers."""
    options = ["--format=pax", "--xattrs", "--xattrs-include=user.*"]
    subprocess.run(["tar", "-C", source, *options, "-cf", archive, "."], check=True)


@pytest.mark.parametrize("layout", ["gnu", "pax", "ustar", "v7"])
def test_archives_of_gnu_tar_are_the_directory(layout: str, place: Place) -> None:
    source = fill(place.folder / "source")
    long = source / ("n" * 90) / ("m" * 60 if layout != "v7" else "")
    if layout != "v7":
        long.mkdir(parents=True)
        (long / "x").write_bytes(b"far down")
        (source / "far").symlink_to("t" * 99)
    os.remove(source / "d2" / "pipe")
    for path in [*source.rglob("*"), source]:
        os.utime(path, (1_600_000_000, 1_600_000_000), follow_symlinks=False)
    place.publish(source)
    archive = place.folder / "x.tar"
    subprocess.run(["tar", "-C", source, f"--format={layout}", "-cf", archive, "."], check=True)
    assert place.publish(archive, mirror=True).reason == "unchanged"
    place.check()


@pytest.mark.parametrize("tool", ["gzip", "xz", "bzip2", "zstd"])
def test_compressed_archives_are_known_by_their_first_bytes(tool: str, place: Place) -> None:
    source = fill(place.folder / "source")
    place.publish(source)
    plain = subprocess.run(["tar", "-C", source, "--format=pax", "-cf", "-", "."], check=True, capture_output=True)
    packed = subprocess.run([tool, "-c"], input=plain.stdout, check=True, capture_output=True).stdout
    archive = place.folder / "nameless"
    # Two streams, one after the other, as parallel compressors write them.
    half = len(plain.stdout) // 2
    both = b"".join(
        subprocess.run([tool, "-c"], input=part, check=True, capture_output=True).stdout
        for part in (plain.stdout[:half], plain.stdout[half:])
    )
    for data in (packed, both):
        archive.write_bytes(data)
        assert place.publish(archive, mirror=True).reason == "unchanged"
    archive.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(CorruptObject, match=r"cut short|not a tar archive"):
        place.publish(archive, mirror=True)


@pytest.mark.root
def test_devices_and_other_special_files_are_in_the_catalog(place: Place) -> None:
    source = place.folder / "source"
    source.mkdir()
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mkfifo(source / "fifo")
    os.mknod(source / "socket", stat.S_IFSOCK | 0o755)
    place.publish(source)
    entries = place.check().entries
    assert entries[b"/null"]["size"] == 259
    assert entries[b"/loop"]["size"] == os.makedev(7, 300)
    assert entries[b"/fifo"]["size"] == entries[b"/socket"]["size"] == 0
    archive = place.folder / "x.tar"
    subprocess.run(["tar", "-C", source, "--format=pax", "-cf", archive, "null", "loop", "fifo"], check=True)
    assert place.publish(archive).reason == "unchanged"


def test_big_files_are_cut_and_come_out_whole(place: Place) -> None:
    source = place.folder / "source"
    source.mkdir()
    for size in (CHUNKS.least, CHUNKS.least + 1, CHUNKS.most + 1, 100_000):
        (source / f"f{size}").write_bytes(os.urandom(size))
    place.publish(source)
    entries = place.check().entries
    chunked = {path for path, row in entries.items() if row["flags"] & 64}
    assert chunked >= {b"/f100000", b"/f4097"}
    assert b"/f1024" not in chunked
    assert differences(source_records(source), place.exported(), place.folder) == []
    assert place.publish(source, chunks=None).reason == "published"
    assert not any(row["flags"] & 64 for row in place.check().entries.values())
    assert differences(source_records(source), place.exported(), place.folder) == []
