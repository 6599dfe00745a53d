"""Archives: what other programs unpack is what was packed, and the same entries give the same bytes."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from image.making import SECOND, TIME, Held, Maker, special
from support.listing import probe
from support.processes import need

from shrinkwrap.errors import CorruptObject, DestinationError, UsageError
from shrinkwrap.image import tar
from shrinkwrap.image.compress import GZIP, KINDS, NONE, ZSTD, compressor
from shrinkwrap.image.entries import DIR, FILE, LINK, ImageEntry
from shrinkwrap.publish.archive import PipeInput, read_tar
from shrinkwrap.publish.source import SourceEntry


def packed(entries: list[ImageEntry], held: Held, **options: object) -> bytes:
    out = bytearray()
    written = tar.write_tar(entries, held, out.extend, **options)  # type: ignore[arg-type]
    assert (written.entries, written.size) == (len(entries), len(out))
    return bytes(out)


@pytest.fixture(scope="module")
def maker() -> Maker:
    return special(equals=True)


@pytest.fixture(scope="module")
def archive(maker: Maker) -> bytes:
    return packed(maker.stream(), maker.held)


class _Raw:
    """The stream that our own strict reader asks for."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, count: int) -> bytes:
        return self._file.read(count)

    def close(self) -> None:
        self._file.close()


def read_back(data: bytes) -> list[SourceEntry]:
    return list(read_tar(PipeInput(_Raw(data), "test"), "test"))


# ---------------------------------------------------------------------------------------------------- other programs


@pytest.mark.root
def test_gnu_tar_unpacks_what_was_packed(maker: Maker, archive: bytes, tmp_path: Path) -> None:
    holds = probe(tmp_path)
    command = [need("tar"), "--extract", "--preserve-permissions", "--same-owner", "--numeric-owner"]
    if holds.xattrs:
        command += ["--xattrs", "--xattrs-include=*"]
    done = subprocess.run([*command, "--directory", tmp_path], input=archive, capture_output=True, check=False)
    # It warns of times that lie far away; all else is an error.
    assert done.returncode == 0, done.stderr
    top = os.fsencode(tmp_path)
    inodes: dict[ImageEntry, tuple[int, int]] = {}
    for entry in maker.stream():
        path = top + entry.path
        info = os.lstat(path)
        assert (info.st_uid, info.st_gid) == (entry.uid, entry.gid), entry.path
        if holds.nanoseconds and (holds.times is None or holds.times[0] <= entry.mtime_ns // SECOND <= holds.times[1]):
            assert info.st_mtime_ns == entry.mtime_ns, entry.path
        if entry.kind == LINK:
            assert os.readlink(path) == entry.target
        else:
            assert stat.S_IMODE(info.st_mode) == entry.mode, entry.path
            if holds.xattrs:
                found = tuple((os.fsencode(name), os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
                assert found == entry.xattrs, entry.path
        if entry.kind == FILE:
            assert Path(os.fsdecode(path)).read_bytes() == maker.held.by_key[entry.key]
        if entry.link:
            key = entry._replace(path=os.path.dirname(entry.path))
            assert inodes.setdefault(key, (info.st_dev, info.st_ino)) == (info.st_dev, info.st_ino)
    assert len(set(inodes.values())) == len(inodes)
    on_disk = sum(len(folders) + len(files) for _, folders, files in os.walk(top))
    assert on_disk == len(maker.stream()) - 1


def test_python_reads_what_was_packed(maker: Maker, archive: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive), errors="surrogateescape") as opened:
        members = opened.getmembers()
        for entry, member in zip(maker.stream(), members, strict=True):
            name = os.fsencode(member.name)
            assert name == (entry.path[1:] or b"."), entry.path
            assert (member.uid, member.gid, member.mode) == (entry.uid, entry.gid, entry.mode)
            assert Decimal(member.pax_headers.get("mtime", member.mtime)) * SECOND == entry.mtime_ns
            assert (member.uname, member.gname) == ("", "")
            if entry.kind == DIR:
                assert member.isdir()
            elif entry.kind == FILE:
                file = opened.extractfile(member)
                assert file is not None
                assert file.read() == maker.held.by_key[entry.key]
            elif not member.islnk():
                assert os.fsencode(member.linkname) == entry.target


def test_the_publisher_reads_what_was_packed(maker: Maker) -> None:
    kinds = {stat.S_IFDIR: DIR, stat.S_IFREG: FILE, stat.S_IFLNK: LINK}
    # It takes times up to the year 2116.
    entries = [entry for entry in maker.stream() if entry.mtime_ns < 1 << 62]
    found = read_back(packed(entries, maker.held))
    for entry, one in zip(entries, found, strict=True):
        assert one.path == entry.path[1:]
        if one.link is not None:
            assert entry.link
            continue
        assert kinds[stat.S_IFMT(one.mode)] == entry.kind
        assert (one.mtime_ns, one.target, one.uid) == (entry.mtime_ns, entry.target, entry.uid)
    # Two groups of three, and one file more in that of the files: the one between lies in another directory.
    assert sum(one.link is not None for one in found) == 2 + 2 + 1


def test_sizes_above_8_gib_and_big_numbers_are_read(tmp_path: Path) -> None:
    size = 9 * 1024**3 + 1
    entry = ImageEntry(b"/big", FILE, 0o644, 0, 0, TIME, (), b"", size, b"k", 0)
    head = tar.header(entry)
    path = tmp_path / "big.tar"
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size + -size % 512 + 1024)
    listed = subprocess.run([need("tar"), "-tvf", path], check=True, capture_output=True).stdout.split()
    assert (listed[2], listed[-1]) == (b"%d" % size, b"big")
    with tarfile.open(path) as opened:
        assert [member.size for member in opened] == [size]


def test_the_content_of_hard_links_is_asked_for_once(maker: Maker) -> None:
    held = maker.held.cut(1 << 20)
    packed(maker.stream(), held)
    asked = [path.rpartition(b"/")[2] for path in held.asked if path.startswith(b"/sft.cern.ch/folder/")]
    assert asked == [b"link0", b"between", b"zz-other"]


def test_no_pax_records_where_a_plain_header_does(maker: Maker) -> None:
    plain = next(entry for entry in maker.stream() if entry.path == b"/sft.cern.ch/plain")
    assert len(tar.header(plain)) == 512
    assert len(tar.header(plain._replace(path=b"/" + b"p" * 155 + b"/" + b"q" * 100))) == 512


# -------------------------------------------------------------------------------------------------------- sameness


def test_long_targets_may_be_told_in_gnu_tars_way() -> None:
    make = Maker()
    targets = {length: b"/" + b"t" * (length - 1) for length in (1, 100, 101, 510, 511, 512, 513, 1024, 4095)}
    for length, target in targets.items():
        make.link(b"/%d" % length, target)
    make.file(b"/file", b"what follows is in its place")
    data = packed(make.stream(), make.held, gnu=True)
    assert b"linkpath=" not in data
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        found = {member.name: member.linkname.encode() for member in opened if member.issym()}
        file = opened.extractfile("file")
        assert file is not None
        assert file.read() == b"what follows is in its place"
    assert found == {str(length): target for length, target in targets.items()}


def test_the_pieces_of_contents_do_not_matter(maker: Maker, archive: bytes) -> None:
    assert packed(maker.stream(), maker.held.cut(1000)) == archive


@pytest.mark.parametrize("kind", KINDS)
def test_threads_and_pieces_do_not_change_a_compressed_archive(kind: str) -> None:
    make = Maker()
    # More than a job of the compressor's: only then threads matter.
    text = random.Random(1).randbytes(1000) * 5000
    for number in range(5):
        make.file(b"/f%d" % number, text + b"%d" % number)
    results = {
        packed(make.stream(), make.held.cut(pieces), compression=kind, level=None, threads=threads)
        for pieces, threads in ((1 << 20, 1), (77_777, 2), (4096, 3))
    }
    assert len(results) == 1


def test_compressed_archives_hold_the_plain_one(maker: Maker, archive: bytes) -> None:
    for level in (None, 1, 9):
        assert gzip.decompress(packed(maker.stream(), maker.held, compression=GZIP, level=level)) == archive
        raw = packed(maker.stream(), maker.held, compression=ZSTD, level=level)
        assert zstandard.ZstdDecompressor().decompressobj().decompress(raw) == archive


def test_a_gzip_archive_holds_no_time_no_name_and_no_system(maker: Maker) -> None:
    assert packed(maker.stream(), maker.held, compression=GZIP)[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"


def test_an_archive_ends_as_tar_programs_end_theirs(archive: bytes) -> None:
    assert len(archive) % 10_240 == 0
    assert archive.endswith(bytes(1024))


def test_compressors_are_named_with_their_version() -> None:
    assert compressor(NONE) == NONE
    assert compressor(GZIP).startswith("zlib 1.")
    assert compressor(ZSTD).startswith("libzstd 1.")


# -------------------------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize("path", [b"/..", b"/a/../b", b"a", b"//a", b"/a//b", b"/a/", b"/.", b"/a\0b", b"../a"])
def test_paths_that_could_lead_elsewhere_are_refused(path: bytes) -> None:
    entry = ImageEntry(path, DIR, 0o755, 0, 0, 0, (), b"", 0, b"", 0)
    with pytest.raises(UsageError, match="absolute"):
        tar.header(entry)


def test_what_an_archive_cannot_hold_is_refused() -> None:
    entry = ImageEntry(b"/a", "s", 0o755, 0, 0, 0, (), b"", 0, b"", 0)
    with pytest.raises(UsageError, match="of the kind 's'"):
        tar.header(entry)
    for target in (b"", b"a\0b"):
        with pytest.raises(UsageError, match="symlink"):
            tar.header(entry._replace(kind=LINK, target=target))


@pytest.mark.parametrize("size", [5, 7, 0x100000])
def test_content_of_another_size_is_refused(size: int, tmp_path: Path) -> None:
    make = Maker()
    make.file(b"/f", b"123456")
    entries = [entry._replace(size=size) if entry.kind == FILE else entry for entry in make.stream()]
    with pytest.raises(CorruptObject, match=rf"/f: its content has (6 bytes|more), expected {size} bytes"):
        tar.write_tar_file(os.fsencode(tmp_path / "x.tar"), entries, make.held)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(("kind", "level"), [("lz4", None), (NONE, 1), (GZIP, 0), (GZIP, 10), (ZSTD, 20)])
def test_compressions_that_there_are_not_are_refused(kind: str, level: int | None) -> None:
    with pytest.raises(UsageError, match="compression"):
        tar.write_tar([], Held(), print, compression=kind, level=level)


def test_a_reader_that_went_away_is_one_clear_error(maker: Maker) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(DestinationError, match="standard output: cannot be written: Broken pipe"):
            tar.write_tar(maker.stream(), maker.held, tar.writer(writing, b"standard output"))
    finally:
        os.close(writing)


def test_a_file_is_written_and_told(maker: Maker, archive: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    written = tar.write_tar_file(os.fsencode(path), maker.stream(), maker.held)
    assert path.read_bytes() == archive
    digest = subprocess.run([need("sha256sum"), path], check=True, capture_output=True).stdout[:64].decode()
    assert written == tar.Written(len(maker.stream()), len(archive), digest)


# ---------------------------------------------------------------------------------------------------------- any entry

NAMES = st.binary(min_size=1, max_size=255).map(lambda raw: raw.replace(b"/", b"_").replace(b"\0", b"0"))
PATHS = st.lists(NAMES.filter(lambda name: name not in (b".", b"..")), min_size=1, max_size=6).map(
    lambda names: b"/" + b"/".join(names)
)
ATTRIBUTES = st.lists(st.tuples(NAMES.map(lambda name: b"user." + name), st.binary(max_size=255)), max_size=3)


@given(
    path=PATHS,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32 - 2),
    mtime_ns=st.one_of(st.integers(-(2**93), 2**93), st.integers(-(10**10), 10**10)),
    target=st.binary(min_size=1, max_size=4095).filter(lambda raw: b"\0" not in raw),
    xattrs=ATTRIBUTES,
)
@example(b"/" + b"a" * 99, 0, 0, 0, b"x", [])
@example(b"/" + b"a" * 100, 0, 0, -1, b"x", [(b"user.=", b"\0" * 82)])
def test_any_entry_is_read_back_as_it_was(
    path: bytes, mode: int, uid: int, mtime_ns: int, target: bytes, xattrs: list[tuple[bytes, bytes]]
) -> None:
    attributes = tuple(sorted(dict(xattrs).items()))
    entry = ImageEntry(path, LINK, mode, uid, uid, mtime_ns, attributes, target, len(target), b"", 0)
    raw = tar.header(entry) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(raw), errors="surrogateescape") as opened:
        (member,) = opened.getmembers()
    assert (os.fsencode(member.name), os.fsencode(member.linkname)) == (path[1:], target)
    assert (member.mode, member.uid, member.gid) == (mode, uid, uid)
    limit = (2**63 - 1) * SECOND
    time = Decimal(member.pax_headers.get("mtime", str(int(member.mtime))))
    assert int(time.scaleb(9)) == min(max(mtime_ns, -limit), limit)
    found = {
        os.fsencode(key).removeprefix(b"SCHILY.xattr.").replace(b"%3D", b"=").replace(b"%25", b"%"): os.fsencode(value)
        for key, value in member.pax_headers.items()
        if key.startswith("SCHILY")
    }
    assert found == dict(attributes)


def test_memory_does_not_grow_with_entries() -> None:
    make = Maker()
    make.file(b"/x", b"x" * 100)
    (one,) = (entry for entry in make.stream() if entry.kind == FILE)

    def many() -> Iterator[ImageEntry]:
        for number in range(6_000):
            yield one._replace(path=b"/d%d/%d" % (number // 10, number), link=number + 1)

    class Same:
        def pieces(self, _: ImageEntry) -> Iterator[bytes]:
            yield b"x" * 100

    tracemalloc.start()
    try:
        tar.write_tar(many(), Same(), len)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
