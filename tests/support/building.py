"""Trees made from listings, to hold listings and comparisons against something known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from support.listing import Record, probe

#: Contents are cut to this many bytes: their length does not matter here.
_LONGEST = 2000


def build(records: Iterable[Record], root: Path) -> list[Record]:
    """Make a tree by a listing, below ``root``, which must not exist; the records of what was made.

    A listing tells contents by their sums alone, so files get content of our own, the same for the same sum:
    their ``sha256`` and ``size`` in the result are other ones. What an export leaves out is left out. Owners
    are set only by root.
    """
    top = os.fsencode(root)
    holds = probe(root.parent)
    first: dict[bytes, bytes] = {}
    made = []
    for record in sorted(records, key=lambda one: one.path):
        path = top + record.path.rstrip(b"/")
        if record.type == "dir":
            os.mkdir(path)
        elif record.type == "symlink" and record.target:
            os.symlink(record.target, path)
        elif record.type == "file":
            content = (record.sha256 or "").encode() * (record.size // 64 + 1)
            content = content[: min(record.size, _LONGEST)]
            record = replace(record, size=len(content), sha256=hashlib.sha256(content).hexdigest())
            if record.group in first:
                os.link(first[record.group], path)
            else:
                with open(path, "wb") as file:
                    file.write(content)
            if record.group is not None:
                first.setdefault(record.group, path)
        else:
            continue
        made.append(record)
    # Children first: making them changed the times of their parents.
    for record in reversed(made):
        path = top + record.path.rstrip(b"/")
        for name, value in record.xattrs.items() if holds.xattrs else ():
            os.setxattr(path, name, value, follow_symlinks=False)
        if os.getuid() == 0:
            os.chown(path, record.uid, record.gid, follow_symlinks=False)
        if record.type != "symlink":
            os.chmod(path, int(record.mode, 8))
        when = record.mtime * 10**9 + record.mtime_ns
        os.utime(path, ns=(when, when), follow_symlinks=False)
    return made
