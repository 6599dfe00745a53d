"""SIF, the single-file image of Singularity and Apptainer: a header, a table of descriptors, data objects.

What is written is a function of what is given: no identifier is drawn, and all times are the caller's one time.
The squashfs comes first, at :func:`data_start`, so that it can be mounted in place (``mount -o loop,offset=32768``).
All numbers are little-endian.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final, NamedTuple

from shrinkwrap.cvmfs.entry import show
from shrinkwrap.errors import CorruptObject, UsageError
from shrinkwrap.image.output import copy_range, read_some, whole_file, write_all

DATA: Final = "data"
SYSTEM: Final = "system"
UNKNOWN: Final = "unknown"

#: Numbers of architectures, as Go names them.
ARCHITECTURES: Final = {
    UNKNOWN: b"00",
    "386": b"01",
    "amd64": b"02",
    "arm": b"03",
    "arm64": b"04",
    "ppc64": b"05",
    "ppc64le": b"06",
    "mips": b"07",
    "mipsle": b"08",
    "mips64": b"09",
    "mips64le": b"10",
    "s390x": b"11",
    "riscv64": b"12",
    "loong64": b"13",
}
_ARCHITECTURE_NAMES: Final = {number: name for name, number in ARCHITECTURES.items()}

DEFINITION: Final = 0x4001
LABELS: Final = 0x4003
PARTITION: Final = 0x4004
JSON: Final = 0x4006
SBOM: Final = 0x4009
_TYPES: Final = {
    DEFINITION: "definition",
    0x4002: "environment",
    LABELS: "labels",
    PARTITION: "partition",
    0x4005: "signature",
    JSON: "json",
    0x4007: "generic",
    0x4008: "cryptographic message",
    SBOM: "sbom",
    0x400A: "oci root index",
    0x400B: "oci blob",
}
_FILE_SYSTEMS: Final = {1: "squashfs", 2: "ext3", 3: "immutable objects", 4: "raw"}
_SQUASHFS: Final = 1
_PARTS: Final = {1: "system, not primary", 2: SYSTEM, 3: DATA, 4: "overlay"}
_PART_NUMBERS: Final = {name: number for number, name in _PARTS.items()}
_SPDX_JSON: Final = 4

_LAUNCH: Final = b"#!/usr/bin/env run-singularity\n"
MAGIC: Final = b"SIF_MAGIC\0"
#: Where it stands: behind the line that launches an image.
MAGIC_AT: Final = 32
_VERSION: Final = b"01\0"
_HEADER: Final = Struct("<32s10s3s3s16s8q")
_DESCRIPTOR: Final = Struct("<iBIIIqqqqqqq128s384s")
_PARTITION_EXTRA: Final = Struct("<ii3s")
_SBOM_EXTRA: Final = Struct("<i")
_TABLE: Final = 4096
_PLACES: Final = 48
_ALIGNMENT: Final = 4096
_GROUP: Final = 0xF0000001
_GROUP_FLAG: Final = 0xF0000000
#: What other writers of reproducible images put: the first of January of the year 1.
NO_TIME: Final = -62_135_596_800
_NAME_BYTES: Final = 128
#: Places in the table of an image from elsewhere. The programs that write them make 48, and never more.
_MOST_PLACES: Final = 4096

#: Superblock of squashfs 4.0: magic, and the bytes that the image uses, at 40.
_SUPERBLOCK: Final = Struct("<4s36xQ48x")
_SQUASHFS_MAGIC: Final = b"hsqs"


class _Part(NamedTuple):
    """A data object to be written; ``data`` is None for the squashfs."""

    type: int
    name: str
    data: bytes | None
    extra: bytes


@dataclass(frozen=True, slots=True)
class SifObject:
    """A data object of an image.

    Attributes:
        id: number that tools name it by.
        type, kind: number and word.
        group, link: of the group that it belongs to, and the object that it is about; 0 for none.
        offset, size: in bytes, from the start of the file.
        created, modified: seconds since the epoch.
        name: as stored.
        filesystem, part, architecture: of a partition, else empty. ``part`` is :data:`DATA`, :data:`SYSTEM`, ...
    """

    id: int
    type: int
    kind: str
    group: int
    link: int
    offset: int
    size: int
    created: int
    modified: int
    name: bytes
    filesystem: str = ""
    part: str = ""
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class Sif:
    """What the header and the descriptors of an image say.

    Attributes:
        architecture: of the system in it; :data:`UNKNOWN` without one.
        uuid: 16 bytes, all zero in reproducible images.
        created, modified: seconds since the epoch.
        objects: in the order of the table.
    """

    architecture: str
    uuid: bytes
    created: int
    modified: int
    objects: tuple[SifObject, ...]

    def first(self, kind: int, part: str = "") -> SifObject | None:
        """The first object of a type, and of a kind of partition if one is named."""
        return next((one for one in self.objects if one.type == kind and part in ("", one.part)), None)


def data_start(objects: int = _PLACES) -> int:
    """Where the squashfs lies in an image with so many data objects: 32,768 for up to 48."""
    return _aligned(_TABLE + max(objects, _PLACES) * _DESCRIPTOR.size)


# ----------------------------------------------------------------------------------------------------------- writing


def write_sif(
    path: bytes,
    squashfs: bytes | int,
    *,
    records: Sequence[tuple[str, bytes]],
    labels: Mapping[str, str],
    sbom: bytes,
    definition: bytes = b"",
    part: str = DATA,
    architecture: str = UNKNOWN,
    timestamp: int = NO_TIME,
    name: str = "image.squashfs",
) -> Sif:
    """Write an image around a squashfs; the same arguments give the same bytes.

    Args:
        squashfs: path of the file, or a descriptor of it (left open).
        records: names and JSON documents that say what the image was made from.
        sbom: SPDX document in JSON.
        definition: text of a definition file; none if empty.
        part: :data:`DATA` is for binding (``-B IMAGE:/cvmfs:image-src=/``), :data:`SYSTEM` can be run.
        architecture: one of :data:`ARCHITECTURES`. Data partitions need none: software for several lies in one
            repository, so the default claims nothing. It is never the building machine's.
        timestamp: seconds since the epoch for all times in the image: the root catalog's. One that 64 bits cannot
            hold counts as none.
        name: of the partition.

    Returns:
        what :func:`read_sif` would say of the image.

    Raises:
        UsageError: an argument makes no sense; the squashfs cannot be read, or is none.
        DestinationError: the image cannot be written.
    """
    if architecture not in ARCHITECTURES:
        raise UsageError(
            f"architecture {architecture!r}: not one that SIF knows", hint=f"one of {', '.join(ARCHITECTURES)}"
        )
    if part not in (DATA, SYSTEM):
        raise UsageError(f"partition {part!r}: expected {DATA!r} or {SYSTEM!r}")
    if part == SYSTEM and architecture == UNKNOWN:
        raise UsageError("a system image needs the architecture of what is in it", hint="name it, for example amd64")
    if not -(1 << 63) <= timestamp < 1 << 63:
        timestamp = NO_TIME
    number = ARCHITECTURES[architecture]
    parts = [
        _Part(PARTITION, name, None, _PARTITION_EXTRA.pack(_SQUASHFS, _PART_NUMBERS[part], number)),
        *(_Part(JSON, title, document, b"") for title, document in records),
        _Part(LABELS, "labels.json", json.dumps(dict(labels), indent=1, sort_keys=True).encode() + b"\n", b""),
        _Part(SBOM, "sbom.spdx.json", sbom, _SBOM_EXTRA.pack(_SPDX_JSON)),
    ]
    if definition:
        parts.append(_Part(DEFINITION, "definition", definition, b""))
    if isinstance(squashfs, int):
        return _write(path, squashfs, b"the squashfs image", parts, part, number, timestamp)
    with _opened(squashfs) as source:
        return _write(path, source, squashfs, parts, part, number, timestamp)


def _write(
    path: bytes, source: int, name: bytes, parts: Sequence[_Part], part: str, number: bytes, timestamp: int
) -> Sif:
    size = _squashfs_size(source, name)
    places = max(len(parts), _PLACES)
    names = [_name(item.name) for item in parts]
    # Only what holds a system can be run, as a program or by hand.
    with whole_file(path, 0o777 if part == SYSTEM else 0o666) as fd:
        start = end = _TABLE + places * _DESCRIPTOR.size
        table = bytearray()
        for at, (item, title) in enumerate(zip(parts, names, strict=True), start=1):
            if item.data is None:
                offset, length = _aligned(end), size
                copy_range(source, 0, size, fd, offset, name=name)
            else:
                offset, length = end, len(item.data)
                write_all(fd, item.data, offset)
            stored = offset + length - end
            times = (timestamp, timestamp)
            table += _DESCRIPTOR.pack(
                item.type, 1, at, _GROUP, 0, offset, length, stored, *times, 0, 0, title, item.extra
            )
            end = offset + length
        header = _HEADER.pack(
            _LAUNCH,
            MAGIC,
            _VERSION,
            # The header's is that of the system to be run.
            number if part == SYSTEM else ARCHITECTURES[UNKNOWN],
            bytes(16),
            timestamp,
            timestamp,
            places - len(parts),
            places,
            _TABLE,
            places * _DESCRIPTOR.size,
            start,
            end - start,
        )
        write_all(fd, header, 0)
        write_all(fd, bytes(table), _TABLE)
        os.ftruncate(fd, end)
        return _parse(fd, path)


def _squashfs_size(fd: int, name: bytes) -> int:
    try:
        size = os.fstat(fd).st_size
    except OSError as exc:
        raise UsageError(f"{show(name)}: cannot be read: {exc.strerror}") from None
    head = read_some(fd, 0, _SUPERBLOCK.size, name) if size >= _SUPERBLOCK.size else b""
    magic, used = _SUPERBLOCK.unpack(head) if len(head) == _SUPERBLOCK.size else (b"", 0)
    if magic != _SQUASHFS_MAGIC:
        raise UsageError(f"{show(name)}: not a squashfs image: expected {_SQUASHFS_MAGIC!r} at its start")
    if used > size:
        raise UsageError(f"{show(name)}: cut short: the image uses {used} bytes, the file has {size}")
    return size


def _name(text: str) -> bytes:
    raw = text.encode("utf-8", "surrogateescape")
    if not raw or len(raw) >= _NAME_BYTES or b"\0" in raw:
        raise UsageError(f"{show(raw)}: names in a SIF have 1 to {_NAME_BYTES - 1} bytes and no NUL; it has {len(raw)}")
    return raw


def _aligned(position: int) -> int:
    return -(-position // _ALIGNMENT) * _ALIGNMENT


# ----------------------------------------------------------------------------------------------------------- reading


def read_sif(path: bytes) -> Sif:
    """Read header and descriptors of any SIF; every number is held against the file's size.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        CorruptObject: it is no SIF, or a damaged one.
    """
    with _opened(path) as fd:
        return _parse(fd, path)


def read_object(path: bytes, item: SifObject, *, limit: int) -> bytes:
    """The bytes of a data object.

    Raises:
        UsageError: the file cannot be read.
        CorruptObject: the object has more than ``limit`` bytes.
    """
    if item.size > limit:
        raise _corrupt(path, f"object {item.id} has {item.size} bytes, expected at most {limit}")
    with _opened(path) as fd:
        return _read(fd, item.offset, item.size, path, os.fstat(fd).st_size)


@contextmanager
def _opened(path: bytes) -> Iterator[int]:
    try:
        # Not blocking: the path may be a pipe's.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise UsageError(f"{show(path)}: cannot be read: {exc.strerror}") from None
    try:
        yield fd
    finally:
        os.close(fd)


def _parse(fd: int, path: bytes) -> Sif:
    size = os.fstat(fd).st_size
    head = _read(fd, 0, _HEADER.size, path, size)
    _, magic, version, number, uuid, created, modified, free, total, table, length, _, _ = _HEADER.unpack(head)
    if magic != MAGIC:
        raise _corrupt(path, "no SIF image: its magic is not at byte 32")
    if version != _VERSION:
        raise _corrupt(path, f"SIF version {version!r}, expected {_VERSION!r}")
    if not 0 <= free <= total <= _MOST_PLACES or length < total * _DESCRIPTOR.size:
        raise _corrupt(path, f"{total} descriptors, {free} of them free, in {length} bytes")
    raw = _read(fd, table, total * _DESCRIPTOR.size, path, size)
    objects = [_object(fields, path, size) for fields in _DESCRIPTOR.iter_unpack(raw) if fields[1]]
    if len({one.id for one in objects}) != len(objects):
        raise _corrupt(path, "two data objects have the same number")
    return Sif(_architecture(number), uuid, created, modified, tuple(objects))


def _object(fields: tuple[Any, ...], path: bytes, end: int) -> SifObject:
    kind, _, number, group, link, offset, size, _, created, modified, _, _, name, extra = fields
    if offset < 0 or size < 0 or offset + size > end:
        raise _corrupt(path, f"object {number} lies at {offset} with {size} bytes; the file has {end}")
    system, part, architecture = _PARTITION_EXTRA.unpack_from(extra)
    partition = kind == PARTITION
    return SifObject(
        id=number,
        type=kind,
        kind=_TYPES.get(kind, f"type {kind:#x}"),
        group=group & ~_GROUP_FLAG,
        link=link & ~_GROUP_FLAG,
        offset=offset,
        size=size,
        created=created,
        modified=modified,
        name=name.partition(b"\0")[0],
        filesystem=_FILE_SYSTEMS.get(system, f"file system {system}") if partition else "",
        part=_PARTS.get(part, f"part {part}") if partition else "",
        architecture=_architecture(architecture) if partition else "",
    )


def _architecture(number: bytes) -> str:
    raw = number.partition(b"\0")[0]
    return _ARCHITECTURE_NAMES.get(raw, f"architecture {show(raw)}")


def _read(fd: int, start: int, count: int, path: bytes, size: int) -> bytes:
    if start < 0 or start + count > size:
        raise _corrupt(path, f"cut short: {count} bytes expected at {start}, the file has {size}")
    out = bytearray()
    while len(out) < count:
        out += read_some(fd, start + len(out), count - len(out), path)
    return bytes(out)


def _corrupt(path: bytes, reason: str) -> CorruptObject:
    return CorruptObject(f"{show(path)}: {reason}", hint="make the image again, or copy it again from where it came")
