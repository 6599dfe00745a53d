"""Numbers and structures of squashfs 4.0, as they lie on disk; all little-endian (docs/internals/squashfs.md)."""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple, Self

from shrinkwrap.errors import CorruptObject

MAGIC: Final = 0x73717368
GZIP: Final = 1
ZSTD: Final = 6

#: Bytes of a metadata block before compression.
METADATA: Final = 8192
#: In the length of a metadata block: it is stored as it is.
PLAIN_METADATA: Final = 0x8000
#: In the size of a data block: it is stored as it is.
PLAIN_BLOCK: Final = 1 << 24
#: The size without that bit; no block is larger.
BLOCK_BYTES: Final = PLAIN_BLOCK - 1
SMALLEST_BLOCK: Final = 4096
LARGEST_BLOCK: Final = 1 << 20
#: A position, an attribute or a fragment that is not there.
NOWHERE: Final = 0xFFFFFFFFFFFFFFFF
NONE: Final = 0xFFFFFFFF
#: An image ends at a multiple of this, so that a loop device shows all of it.
PADDING: Final = 4096
#: Different owners and groups together: their number has 16 bits.
MOST_IDS: Final = 0xFFFF
#: The kernel refuses longer link targets (a page), and no path is longer.
LONGEST_TARGET: Final = 4095

# Inode types. The extended ones are seven higher; directory entries name the basic ones.
DIR: Final = 1
FILE: Final = 2
LINK: Final = 3
EXTENDED: Final = 7

# Flags of the superblock.
NO_FRAGMENTS: Final = 0x10
DUPLICATES: Final = 0x40
EXPORTABLE: Final = 0x80
NO_XATTRS: Final = 0x200
COMPRESSOR_OPTIONS: Final = 0x400

#: Type, mode, index of owner, index of group, mtime, inode number.
INODE: Final = Struct("<HHHHII")
#: Start in the directory table, link count, size, offset, inode number of the parent.
BASIC_DIR: Final = Struct("<IIHHI")
#: Link count, size, start, parent, index entries, offset, attributes.
EXTENDED_DIR: Final = Struct("<IIIIHHI")
#: Offset in the listing, start of its metadata block, length of the name less one.
DIR_INDEX: Final = Struct("<III")
#: Start, fragment, offset in it, size.
BASIC_FILE: Final = Struct("<IIII")
#: Start, size, bytes in holes, link count, fragment, offset in it, attributes.
EXTENDED_FILE: Final = Struct("<QQQIIII")
#: Link count, length of the target.
SYMLINK: Final = Struct("<II")
#: Entries less one, start in the inode table, inode number.
DIR_HEADER: Final = Struct("<III")
#: Offset in the inode table's block, inode number less the header's, type, length of the name less one.
DIR_ENTRY: Final = Struct("<HhHH")
#: Where the pairs of a set of attributes begin, their number, their bytes.
XATTR_ID: Final = Struct("<QII")
#: Where the pairs begin, number of sets, unused.
XATTR_HEADER: Final = Struct("<QII")
#: Prefix, length of the name without it.
XATTR_NAME: Final = Struct("<HH")
U16: Final = Struct("<H")
U32: Final = Struct("<I")
U64: Final = Struct("<Q")

#: Prefixes of attribute names, by their numbers.
PREFIXES: Final = (b"user.", b"trusted.", b"security.")

_SUPERBLOCK: Final = Struct("<IIIIIHHHHHHQQQQQQQQ")


#: Bytes of a superblock.
SUPERBLOCK: Final = _SUPERBLOCK.size


class Superblock(NamedTuple):
    """The first 96 bytes. Positions count from the beginning of the image."""

    inodes: int
    mtime: int
    block_size: int
    compressor: int
    flags: int
    ids: int
    #: Of the root's inode: start of its block in the inode table << 16 | offset in it.
    root: int
    #: Bytes of the image without the padding.
    used: int
    id_table: int
    xattr_table: int
    inode_table: int
    directory_table: int
    fragment_table: int
    export_table: int

    def pack(self) -> bytes:
        return _SUPERBLOCK.pack(
            MAGIC,
            self.inodes,
            self.mtime,
            self.block_size,
            0,
            self.compressor,
            self.block_size.bit_length() - 1,
            self.flags,
            self.ids,
            4,
            0,
            self.root,
            self.used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Raises CorruptObject for what is no superblock of an image like ours."""
        if len(data) < _SUPERBLOCK.size:
            raise CorruptObject(f"not a squashfs image: {len(data)} bytes, a superblock has {_SUPERBLOCK.size}")
        magic, inodes, mtime, block_size, fragments, comp, log, flags, ids, major, minor, *rest = _SUPERBLOCK.unpack(
            data[: _SUPERBLOCK.size]
        )
        if magic != MAGIC:
            raise CorruptObject("not a squashfs image: it does not begin with 'hsqs'")
        if (major, minor) != (4, 0):
            raise CorruptObject(f"squashfs {major}.{minor}: only 4.0 can be read")
        if not SMALLEST_BLOCK <= block_size <= LARGEST_BLOCK or block_size != 1 << log:
            raise CorruptObject(f"a squashfs block size of {block_size} (2^{log}) makes no sense")
        if comp not in (GZIP, ZSTD):
            raise CorruptObject(f"squashfs compressor number {comp}: only gzip (1) and zstd (6) can be read")
        if fragments:
            raise CorruptObject(f"{fragments} squashfs fragments: images of this tool have none")
        return cls(inodes, mtime, block_size, comp, flags, ids, *rest)


def clamp_mtime(mtime_ns: int) -> int:
    """Whole seconds in 32 bits: what is before 1970 becomes 0, what is after 2106 the last second that there is."""
    seconds = mtime_ns // 1_000_000_000
    return 0 if seconds < 0 else seconds if seconds <= NONE else NONE
