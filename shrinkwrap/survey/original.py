"""Where ``cvmfs_shrinkwrap`` would not do what a specification says (FORMAT.md §10.2), for files that both read.

Its parser keeps a directory that it has only met above exclusions out of reach of later lines, and loops for ever on
some of them. Put exclusions last, and none of this is met.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shrinkwrap.spec.grammar import Line, Mode
from shrinkwrap.survey.findings import Finding, about

Names = tuple[bytes, ...]
_FIX = "put it before the lines that begin with !"


def original_findings(lines: Sequence[Line]) -> Iterator[Finding]:
    """What the original makes of each line, if that is something else."""
    for line in lines:
        if line.classic is not None:
            yield about(
                "original_knows_no_globs",
                line,
                "is a glob here; to the original tool its wildcards are plain characters",
                "for that tool write a line for each path",
            )
    yield from _lost(lines)
    yield from _dropped(lines)


def _lost(lines: Sequence[Line]) -> Iterator[Finding]:
    """Lines that end in a loop, or get lost, after an exclusion."""
    veiled: set[Names] = set()  # directories met only above exclusions
    met: set[Names] = set()
    deep: set[Names] = set()
    before: Names = ()
    for line in lines:
        names = classic(line)
        above = [names[:depth] for depth in range(1, len(names))]
        if not line.mode.includes:
            veiled.update(one for one in above if one not in met)
        else:
            if any(one in veiled for one in above):
                if _loops(line, names, before, veiled):
                    reason = "the original tool never ends on this line: it was led here by an exclusion above"
                    yield about("original_hangs", line, reason, _FIX)
                elif not any(names[:depth] in deep for depth in range(len(names))):
                    reason = (
                        "the original tool loses this line: a directory on its way was met above an exclusion first"
                    )
                    yield about("original_loses", line, reason, _FIX)
            met.update(one for one in (*above, names) if one not in veiled or one == names)
            veiled.discard(names)
            if line.mode is Mode.DEEP:
                deep.add(names)
        before = names


def _loops(line: Line, names: Names, before: Names, veiled: set[Names]) -> bool:
    """The condition of FORMAT.md §10.2."""
    path = line.raw.lstrip(b"^").removesuffix(b"*")
    # As written, without a final slash, the last name is no directory yet.
    reach = len(names) if path.endswith(b"/") else len(names) - 1
    depth = 0
    while depth < min(reach, len(before)) and names[depth] == before[depth]:
        depth += 1
    shared = names[:depth]
    left = len(names) - depth
    return (shared in veiled and left == 1) or (left == 0 and shared in veiled and shared[:-1] in veiled)


def _dropped(lines: Sequence[Line]) -> Iterator[Finding]:
    """Children of flat directories that are mentioned only on the way to an exclusion."""
    modes = {classic(line): line.mode for line in lines}
    including = [names for names, mode in modes.items() if mode.includes]
    reached = {names[:depth] for names in including for depth in range(len(names) + 1)}
    deep = {names for names, mode in modes.items() if mode is Mode.DEEP}
    told: set[Names] = set()
    for line in lines:
        if line.mode.includes:
            continue
        names = classic(line)
        for depth in range(1, len(names)):
            child = names[:depth]
            covered = any(child[:shorter] in deep for shorter in range(depth))
            if modes.get(child[:-1]) is Mode.FLAT and child not in reached and not covered and child not in told:
                told.add(child)
                shown = (b"/" + b"/".join(child)).decode("utf-8", "backslashreplace")
                yield about(
                    "original_drops_directory",
                    line,
                    f"because of this line the original tool leaves out {shown}, which a ^ line above it brings",
                    f"for that tool add a line {shown}",
                )


def classic(line: Line) -> Names:
    """The path as the original reads it."""
    if line.classic is not None:
        return line.classic
    return tuple(part for part in line.parts if isinstance(part, bytes))
