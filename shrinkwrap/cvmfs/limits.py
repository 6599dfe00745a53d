"""Byte and count caps for everything that comes from a server, in one visible place.

A cap is checked before the bytes are parsed, and inflation stops at it. They are far above what real repositories
hold, and far below what would hurt the machine.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

#: ``.cvmfspublished`` is about 600 bytes in real repositories.
MANIFEST: Final = 64 * KIB
#: ``.cvmfswhitelist``: about 60 bytes for each certificate.
WHITELIST: Final = 256 * KIB
#: A PEM certificate, inflated.
CERTIFICATE: Final = 64 * KIB
#: The JSON object about a repository, inflated.
METAINFO: Final = 1 * MIB
#: The tag database, inflated.
HISTORY: Final = 512 * MIB
#: A file catalog, inflated. The reference warns above 500,000 entries, about 150 MiB.
CATALOG: Final = 4 * GIB
#: Nested catalogs inside each other. Real repositories stay below ten; the reference has no limit.
CATALOG_DEPTH: Final = 200
#: Directories inside each other (a path of 4,096 bytes cannot have more).
PATH_DEPTH: Final = 2048
#: Bytes of one name (NAME_MAX) and of a link target (PATH_MAX).
NAME: Final = 255
LINK_TARGET: Final = 4095
#: Chunks of one file.
CHUNKS: Final = 4_000_000


def stored_size(size: int) -> int:
    """Upper bound in bytes of the stored (compressed) form of ``size`` bytes, for any sane zlib stream.

    Deflate grows incompressible data by less than 0.1 % (stored blocks); small blocks or flushes may add more.
    """
    return size + size // 8 + 64 * KIB
