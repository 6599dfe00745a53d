"""Archives from anybody: what they may hold, and what is refused. Nothing ever gets outside."""

from __future__ import annotations

import base64
import gzip
import io
import os
import random
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from publish.publishing import Place

from shrinkwrap.errors import CorruptObject, ShrinkwrapError, UsageError
from shrinkwrap.publish.archive import FileInput, PipeInput, read_tar
from shrinkwrap.publish.source import FileRange, SourceEntry
from shrinkwrap.publish.streams import RawStream


def header(name: bytes = b"a", kind: bytes = b"0", size: int = 0, **fields: bytes) -> bytes:
    """One header block, with fields as they are given."""
    parts = {
        "name": name.ljust(100, b"\0"),
        "mode": b"0000644\0",
        "uid": b"0000001\0",
        "gid": b"0000002\0",
        "size": b"%011o\0" % size,
        "mtime": b"00000000012\0",
        "sum": b" " * 8,
        "kind": kind,
        "link": b"",
        "magic": b"ustar\x0000",
        "owner": bytes(64),
        "device": b"",
        "prefix": b"",
        **fields,
    }
    parts["link"] = parts["link"].ljust(100, b"\0")
    parts["device"] = parts["device"].ljust(16, b"\0")
    block = b"".join(parts.values()).ljust(512, b"\0")
    assert len(block) == 512
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(records: dict[bytes, bytes], kind: bytes = b"x") -> bytes:
    lines = b""
    for key, value in records.items():
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest)
        while len(str(length)) + len(rest) != length:
            length = len(str(length)) + len(rest)
        lines += b"%d" % length + rest
    return header(b"pax", kind, len(lines)) + padded(lines)


END = bytes(1024)


class Pipe:
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int = 700) -> None:
        self._stream = io.BytesIO(data)
        self._step = step

    def read(self, count: int) -> bytes:
        return self._stream.read(min(count, self._step))


def entries(data: bytes) -> list[SourceEntry]:
    """Members, with their contents as bytes."""
    found = []
    for one in read_tar(PipeInput(Pipe(data), "x.tar"), "x.tar"):
        content: Any = one.content
        found.append(one if content is None else one._replace(content=content.read(one.size)))
    return found


def test_a_member_is_read_as_it_is_written() -> None:
    data = header(b"dir/a", size=3, prefix=b"first") + padded(b"abc") + END
    (one,) = entries(data)
    assert one == SourceEntry(b"first/dir/a", stat.S_IFREG | 0o644, 1, 2, 10 * 10**9, 3, content=b"abc")


def test_pax_headers_win_over_the_ustar_fields() -> None:
    long = b"n" * 200 + b"/\xff\xfe\n"
    records = {
        b"path": long,
        b"size": b"4",
        b"uid": b"4000000000",
        b"mtime": b"-1.25",
        b"SCHILY.xattr.user.a%3Db": b"\0\n=",
        b"LIBARCHIVE.xattr.user.c%20d": base64.b64encode(b"value").rstrip(b"="),
    }
    data = pax({b"gid": b"77"}, b"g") + pax(records) + header(size=0) + padded(b"abcd") + header(b"b") + END
    one, two = entries(data)
    assert (one.path, one.content, one.uid, one.gid) == (long, b"abcd", 4_000_000_000, 77)
    assert one.mtime_ns == -1_250_000_000
    assert dict(one.xattrs) == {b"user.a=b": b"\0\n=", b"user.c d": b"value"}
    assert (two.path, two.gid, two.uid, two.xattrs) == (b"b", 77, 1, ())


def test_gnu_long_names_and_big_numbers() -> None:
    name, target = b"d/" + b"x" * 300, b"t" * 150
    data = header(b"././@LongLink", b"L", len(name) + 1) + padded(name + b"\0")
    data += header(b"././@LongLink", b"K", len(target) + 1) + padded(target + b"\0")
    data += header(kind=b"2", uid=b"\x80\0\0\0\xee\x6b\x28\0", mtime=b"\xff" * 11 + b"\xfe", magic=b"ustar  \0") + END
    (one,) = entries(data)
    assert (one.path, one.target, one.uid, one.mtime_ns) == (name, target, 4_000_000_000, -2 * 10**9)


def test_leading_slashes_and_dots_are_dropped() -> None:
    data = b"".join(header(name) for name in (b"/etc/x", b"./y", b"a//b/./c", b"..z/.y")) + header(b"./", b"5") + END
    assert [one.path for one in entries(data)] == [b"etc/x", b"y", b"a/b/c", b"..z/.y", b""]


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        pytest.param(header(b"../x") + END, UsageError, "'..'", id="a path upwards"),
        pytest.param(header(b"a/../../x") + END, UsageError, "'..'", id="a path upwards inside"),
        pytest.param(pax({b"path": b"/a/.."}) + header() + END, UsageError, "'..'", id="a path upwards in pax"),
        pytest.param(pax({b"path": b"a\0b"}) + header() + END, UsageError, "NUL", id="NUL in a path"),
        pytest.param(header(b".") + END, UsageError, "without a name", id="a file without a name"),
        pytest.param(header(kind=b"S") + END, UsageError, "sparse", id="sparse"),
        pytest.param(pax({b"GNU.sparse.major": b"1"}) + header() + END, UsageError, "sparse", id="sparse by pax"),
        pytest.param(header(kind=b"M") + END, UsageError, "volume", id="several volumes"),
        pytest.param(header(kind=b"Z") + END, UsageError, "unknown type", id="unknown"),
        pytest.param(header(kind=b"1") + END, UsageError, "hard link to nothing", id="link to nothing"),
        pytest.param(header(kind=b"1", link=b"../x") + END, UsageError, "'..'", id="link upwards"),
        pytest.param(header(kind=b"3", device=b"7777777\x007777777\0") + END, UsageError, "device", id="device"),
        pytest.param(b"", CorruptObject, "not a tar", id="nothing"),
        pytest.param(b"hello, world" * 100, CorruptObject, "not a tar", id="no archive"),
        pytest.param(header(), CorruptObject, "cut short", id="no end"),
        pytest.param(header(size=600) + bytes(512), CorruptObject, "cut short", id="cut in a member"),
        pytest.param(header(size=8**11 - 1) + END, CorruptObject, "cut short", id="a size that lies"),
        pytest.param(header() + header()[:100] + bytes(412) + END, CorruptObject, "damaged", id="checksum"),
        pytest.param(header(size=0, mtime=b"zzzzzzzzzzz\0") + END, CorruptObject, "time", id="no number"),
        pytest.param(header(uid=b"-1     \0") + END, CorruptObject, "owner", id="negative owner"),
        pytest.param(header(kind=b"x", size=1 << 30) + END, CorruptObject, "extended header", id="huge header"),
        pytest.param(header(kind=b"x", size=9) + padded(b"99 a=bcd\n"), CorruptObject, "pax", id="pax length"),
        pytest.param(header(kind=b"x", size=9) + padded(b"abcdefghi"), CorruptObject, "pax", id="no pax"),
        pytest.param(pax({b"size": b"1e3"}) + header() + END, CorruptObject, "size", id="pax size"),
        pytest.param(pax({b"mtime": b"NaN"}) + header() + END, CorruptObject, "time", id="pax time"),
        pytest.param(pax({b"mtime": b"9e99"}) + header() + END, CorruptObject, "time", id="pax time beyond"),
        pytest.param(pax({b"LIBARCHIVE.xattr.a": b"!"}) + header() + END, CorruptObject, "base64", id="xattr"),
        pytest.param(header() + END + header() + END, CorruptObject, "follow the end", id="two archives"),
    ],
)
def test_what_cannot_be_is_refused(data: bytes, kind: type[ShrinkwrapError], message: str, tmp_path: Path) -> None:
    with pytest.raises(kind, match=message):
        entries(data)
    archive = tmp_path / "x.tar"
    archive.write_bytes(data)
    with open(archive, "rb") as file, pytest.raises(kind, match=message):
        list(read_tar(FileInput(file.fileno(), os.fsencode(archive)), "x.tar"))


def test_random_damage_never_leaks_an_error_of_another_kind() -> None:
    chance = random.Random(1)
    whole = pax({b"path": b"p" * 200, b"mtime": b"1.5"}) + header(size=700) + padded(b"x" * 700)
    whole += header(b"l", b"1", link=b"p") + header(b"d/", b"5") + END
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = bytes(data[: chance.choice((len(data), chance.randrange(len(data))))])
        with suppress(ShrinkwrapError):
            entries(cut)


def test_workers_read_members_of_an_archive_on_disk_themselves(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(header(size=3) + padded(b"abc") + END)
    with open(archive, "rb") as file:
        (one,) = list(read_tar(FileInput(file.fileno(), os.fsencode(archive)), "x.tar"))
    assert isinstance(one.content, FileRange)
    assert (one.content.start, one.size) == (512, 3)


# -------------------------------------------------------------------------------------------------- publishing them


def packed(folder: Path, *members: tuple[str, bytes | str | None] | tarfile.TarInfo) -> Path:
    """An archive: bytes make a file, text a hard link to that name, None a directory."""
    archive = folder / "made.tar"
    with tarfile.open(archive, "w") as out:
        for one in members:
            if isinstance(one, tarfile.TarInfo):
                out.addfile(one)
                continue
            info = tarfile.TarInfo(one[0])
            if one[1] is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o750
                out.addfile(info)
            elif isinstance(one[1], str):
                info.type, info.linkname = tarfile.LNKTYPE, one[1]
                out.addfile(info)
            else:
                info.size = len(one[1])
                out.addfile(info, io.BytesIO(one[1]))
    return archive


def test_hard_links_are_found_whatever_the_order(place: Place) -> None:
    archive = packed(
        place.folder,
        ("a/early", "a/first"),
        ("a/chain", "a/early"),
        ("a/first", b"one" * 3000),
        ("a/late", "./a/first"),
        ("b/other", "a/late"),
    )
    place.publish(archive)
    entries = place.check().entries
    names = [b"/a/early", b"/a/chain", b"/a/first", b"/a/late"]
    assert len({entries[name]["hardlinks"] for name in names}) == 1
    assert entries[b"/a/first"]["hardlinks"] & 0xFFFFFFFF == 4
    assert entries[b"/b/other"]["hardlinks"] == 1
    assert set(place.contents().values()) == {b"one" * 3000}


def test_a_hard_link_has_the_content_of_its_time(place: Place) -> None:
    place.publish(packed(place.folder, ("f", b"old"), ("g", "f"), ("f", b"new")))
    assert place.contents() == {b"/f": b"new", b"/g": b"old"}
    place.check()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        pytest.param([("a", "nowhere")], "not in the source", id="missing"),
        pytest.param([("a", "b"), ("b", "a")], "not in the source", id="loop"),
        pytest.param([("a", "a")], "to itself", id="itself"),
        pytest.param([("d", None), ("a", "d")], "is a directory", id="directory"),
    ],
)
def test_hard_links_that_lead_nowhere_are_refused(members: list[Any], message: str, place: Place) -> None:
    with pytest.raises(CorruptObject, match=message):
        place.publish(packed(place.folder, *members))
    assert not (place.storage / ".cvmfspublished").exists()


def test_the_last_of_several_members_counts(place: Place) -> None:
    members = [("f", b"1"), ("d/x", b"2"), ("d", None), ("f", b"3"), ("e", b"4"), ("e", None), ("e/y", b"5")]
    place.publish(packed(place.folder, *members))
    assert place.contents() == {b"/f": b"3", b"/d/x": b"2", b"/e/y": b"5"}
    assert place.check().entries[b"/d"]["mode"] == 0o040750


def test_something_inside_of_a_file_or_a_link_is_refused(place: Place) -> None:
    for members in ([("f", b"1"), ("f/x", b"2")], [("f/x", b"2"), ("f", b"1")]):
        with pytest.raises(UsageError, match="not a directory"):
            place.publish(packed(place.folder, *members))
    link = tarfile.TarInfo("out")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    with pytest.raises(UsageError, match="not a directory"):
        place.publish(packed(place.folder, link, ("out/passwd", b"3")))


def test_directories_that_are_not_mentioned_are_made(place: Place) -> None:
    place.publish(packed(place.folder, ("a/b/c", b"1")), base_dir="x/y")
    entries = place.check().entries
    assert [entries[path]["mode"] for path in (b"/x", b"/x/y", b"/x/y/a", b"/x/y/a/b")] == [0o040755] * 4


def test_names_that_no_file_system_holds_are_refused(place: Place) -> None:
    for name in ("a/" + "x" * 256, "y" * 300 + "/a", "/".join(["d"] * 3000)):
        with pytest.raises(UsageError):
            place.publish(packed(place.folder, (name, b"1")))


def test_xattrs_that_cannot_be_kept_are_named(place: Place) -> None:
    info = tarfile.TarInfo("a")
    info.pax_headers = {
        "SCHILY.xattr.user.ok": "1",
        "SCHILY.xattr.user.long": "x" * 256,
        "SCHILY.xattr.security.selinux": "label",
        "SCHILY.xattr.security.capability": "cap",
    }
    done = place.publish(packed(place.folder, info))
    assert sorted(line.partition(":")[0] for line in done.notices) == [
        "extended attributes left out, above 255 bytes or 255 in number",
        "extended attributes left out, neither user.* nor security.capability",
    ]
    assert place.check().entries[b"/a"]["xattr"] == b"\x01\x02\x13\x03security.capabilitycap\x07\x01user.ok1"


def test_big_members_of_a_pipe_are_cut_or_kept_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from shrinkwrap.publish import intake

    monkeypatch.setattr(intake, "_SPOOL", 5000)
    data = os.urandom(30_000)
    archive = packed(place.folder, ("big", data), ("small", b"1"))
    place.publish(archive)
    plain = place.check().fields["C"]
    packed_archive = place.folder / "x.tar.gz"
    packed_archive.write_bytes(gzip.compress(archive.read_bytes()))
    assert place.publish(packed_archive).root_hash == plain
    whole = place.publish(packed_archive, chunks=None)
    assert whole.reason == "published"
    assert place.publish(archive, chunks=None).reason == "unchanged"
    assert place.contents() == {b"/big": data, b"/small": b"1"}
    assert list((place.storage / "data" / "txn").iterdir()) == []


def test_an_archive_that_changes_while_it_is_read_is_noticed(place: Place) -> None:
    archive = packed(place.folder, ("a", b"1" * 10_000), ("b", b"2"))

    def changing() -> Iterator[SourceEntry]:
        with open(archive, "rb") as file:
            yield from read_tar(FileInput(file.fileno(), os.fsencode(archive)), "x.tar")
        archive.write_bytes(archive.read_bytes() + bytes(512))

    with pytest.raises(UsageError, match="changed while it was read"):
        place.publish(changing(), chunks=None)


def test_standard_input_is_read_to_its_end(place: Place) -> None:
    archive = packed(place.folder, ("a", b"1"))
    code = "from shrinkwrap.publish.opening import open_source\nwith open_source('-') as s: print(len(list(s)))"
    process = subprocess.run(
        [sys.executable, "-c", code], input=archive.read_bytes() + bytes(1 << 20), capture_output=True, check=True
    )
    assert process.stdout == b"1\n"
    with open(archive, "rb") as file:
        assert RawStream(file.fileno(), "x").read(5) == archive.read_bytes()[:5]
