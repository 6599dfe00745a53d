"""How the blocks of an image are made: what has to be equal for two images to be equal to the byte."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from shrinkwrap.errors import UsageError
from shrinkwrap.image.squashfs.layout import GZIP, LARGEST_BLOCK, PLAIN_BLOCK, SMALLEST_BLOCK, U32, ZSTD

#: 128 KiB: readers of small pieces wait for a whole block, and larger blocks save hardly anything.
BLOCK_SIZE: Final = 131072
#: Compressors, with the levels that they have and the one that is taken.
COMPRESSORS: Final = {"zlib": (1, 9, 1), "isal": (0, 3, 1), "zstd": (1, 19, 3)}

_ZEROS: Final = bytes(LARGEST_BLOCK)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How data becomes blocks.

    Attributes:
        block_size: bytes of a block before compression, a power of two from 4,096 to 1,048,576.
        compressor: ``zlib`` and ``isal`` make what squashfs calls gzip, ``zstd`` zstd.
        level: as that library counts.

    Raises:
        UsageError: there is no such block size, compressor or level.
    """

    block_size: int = BLOCK_SIZE
    compressor: str = "zlib"
    level: int = 1

    def __post_init__(self) -> None:
        size = self.block_size
        if not SMALLEST_BLOCK <= size <= LARGEST_BLOCK or size & (size - 1):
            raise UsageError(
                f"a block size of {size} makes no sense",
                hint=f"a power of two from {SMALLEST_BLOCK} to {LARGEST_BLOCK}",
            )
        if self.compressor not in COMPRESSORS:
            raise UsageError(f"compressor {self.compressor}: unknown", hint=f"one of {', '.join(COMPRESSORS)}")
        lowest, highest, _ = COMPRESSORS[self.compressor]
        if not lowest <= self.level <= highest:
            raise UsageError(
                f"{self.compressor} has no level {self.level}", hint=f"a number from {lowest} to {highest}"
            )

    @property
    def verbatim(self) -> bool:
        """Zlib streams of a repository can be blocks as they are."""
        return self.compressor != "zstd"

    @property
    def number(self) -> int:
        """Of the compressor, in the superblock."""
        return GZIP if self.verbatim else ZSTD

    def library(self) -> str:
        """The library that compresses, and its version: another one may give other bytes."""
        if self.compressor == "zlib":
            return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
        if self.compressor == "isal":
            import isal

            return f"isal {isal.__version__}"
        import zstandard

        return f"zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "library": self.library()}

    def compress(self) -> Callable[[bytes], bytes]:
        """A function that compresses one block. Raises UsageError: the library is not there."""
        level = self.level
        if self.compressor == "zlib":
            return lambda data: zlib.compress(data, level)
        if self.compressor == "isal":
            try:
                from isal import isal_zlib
            except ImportError:
                raise UsageError(
                    "compressor isal: there is no such library on this machine", hint="--compressor zlib"
                ) from None
            return lambda data: bytes(isal_zlib.compress(data, level))
        import zstandard

        return zstandard.ZstdCompressor(level=level).compress


def pack_block(data: bytes, compress: Callable[[bytes], bytes]) -> tuple[int, bytes]:
    """The size word of a block and its bytes in the image; a block of zeros is a hole: 0 and nothing."""
    if data == _ZEROS[: len(data)]:
        return 0, b""
    packed = compress(data)
    if len(packed) < len(data):
        return len(packed), packed
    return len(data) | PLAIN_BLOCK, data


def pack_blocks(data: bytes, block_size: int, compress: Callable[[bytes], bytes]) -> tuple[bytes, bytes, int]:
    """Size words of a file's blocks, the blocks one after the other, and the bytes that are in holes."""
    words, blocks, sparse = [], [], 0
    for start in range(0, len(data), block_size):
        piece = data[start : start + block_size]
        word, packed = pack_block(piece, compress)
        words.append(U32.pack(word))
        if word:
            blocks.append(packed)
        else:
            sparse += len(piece)
    return b"".join(words), blocks[0] if len(blocks) == 1 else b"".join(blocks), sparse
