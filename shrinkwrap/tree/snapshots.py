"""Snapshots side by side: destinations of their own below another one, which share its store (docs/snapshots.md).

``<dest>/<name>/<fqrn>`` is a tree of the snapshot ``name``, ``<dest>/<name>/.provenance`` has its records, and the
stored files lie in the store of ``<dest>``. The link ``<dest>/current`` leads to the snapshot that readers are to use.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from shrinkwrap.errors import DestinationError, UsageError
from shrinkwrap.record.record import RECORD_BYTES, Goal, SeenHead
from shrinkwrap.tree.base import Base
from shrinkwrap.tree.beneath import DIRECTORY
from shrinkwrap.tree.known import Known, same_wish
from shrinkwrap.tree.records import FOLDER, Records
from shrinkwrap.tree.request import ExportRequest
from shrinkwrap.tree.storage import explain, read_description

#: The link to the snapshot that readers are to use.
CURRENT: Final = "current"
#: Most bytes of a name.
NAME_BYTES: Final = 100
#: Snapshots of one revision under different specifications or options.
_MOST_ALIKE: Final = 1000


def check_name(name: str) -> str:
    """The name itself, if a snapshot can have it.

    Raises:
        UsageError: empty, ``current``, with a slash, a leading dot, or what cannot be printed; too long.
    """
    if (
        not name
        or name == CURRENT
        or name.startswith(".")
        or name.strip() != name
        or "/" in name
        or not name.isprintable()
        or len(os.fsencode(name)) > NAME_BYTES
    ):
        raise UsageError(
            f"--as {name[:80]!a}: no name for a snapshot",
            hint=f"such as 2026Q3: printable, no slash, no dot in front, up to {NAME_BYTES} bytes, not {CURRENT!r}",
        )
    return name


def place_of(dest: str, name: str) -> str:
    """The folder of a snapshot, whether or not it is there.

    Raises:
        UsageError: no name for one; or that of a repository in the destination itself.
        DestinationError: something else stands there.
    """
    top = os.path.realpath(dest)
    place = os.path.join(top, check_name(name))
    if os.path.lexists(os.path.join(os.fsencode(top), FOLDER, os.fsencode(name))):
        raise UsageError(f"--as {name}: a repository of that name is exported in {top}", hint="choose another name")
    if os.path.islink(place) or (os.path.lexists(place) and not os.path.isdir(place)):
        raise DestinationError(f"{place} is not a folder", hint="choose another name for the snapshot")
    with suppress(FileNotFoundError):
        if not is_destination(place) and os.listdir(place):
            raise DestinationError(
                f"{place} is there already, and is no snapshot", hint="choose another name for the snapshot"
            )
    return place


def existing(dest: str, name: str) -> str:
    """The folder of a snapshot that is there.

    Raises:
        DestinationError: there is none of that name. UsageError: nor can there be.
    """
    place = place_of(dest, name)
    if not is_destination(place):
        there = ", ".join(snapshots(dest)) or "none"
        raise DestinationError(f"{os.path.realpath(dest)}: no snapshot {name}", hint=f"there are: {there}")
    return place


def is_destination(place: str) -> bool:
    """Whether exports were made to a folder."""
    return any(os.path.lexists(os.path.join(place, name)) for name in (".provenance", ".data"))


def snapshots(dest: str) -> list[str]:
    """The names of the snapshots of a destination, sorted; none if that may not be read."""
    top = os.path.realpath(dest)
    try:
        names = os.listdir(top)
    except OSError:
        return []
    return sorted(
        name
        for name in names
        if not name.startswith(".")
        and not os.path.islink(os.path.join(top, name))
        and not os.path.lexists(os.path.join(os.fsencode(top), FOLDER, os.fsencode(name)))
        and is_destination(os.path.join(top, name))
    )


# ------------------------------------------------------------------------------------------------------------- requests


def beside(request: ExportRequest, *, look: bool = False) -> ExportRequest:
    """The request for a snapshot as one for a destination of its own; another one as it is.

    Args:
        look: nothing is made.

    Raises:
        UsageError, DestinationError: it cannot be there.
    """
    if not request.snapshot:
        return request
    if request.snapshot == request.source.fqrn:
        raise UsageError(f"--as {request.snapshot}: that is the repository's name", hint="choose another name")
    if request.adopt:
        raise UsageError(
            "--adopt takes over a destination, not a snapshot in it", hint="leave out --as or --switch, or --adopt"
        )
    top = os.path.realpath(request.dest)
    place = place_of(top, request.snapshot)
    try:
        store = _store_of(top, request, look=look)
    except OSError as exc:
        raise explain(exc, top) from exc
    return replace(request, dest=place, store=store, among=top)


def _store_of(top: str, request: ExportRequest, *, look: bool) -> str:
    """The store of a destination, which that of its snapshots is. It is begun if there is none."""
    wish = request.store
    data = os.path.join(top, ".data")
    description = None
    with suppress(FileNotFoundError):
        fd = os.open(data, DIRECTORY)
        try:
            description = read_description(fd)
        finally:
            os.close(fd)
    if description is None and look:
        return wish or data
    if description is None or wish:
        # All checks of a destination are made of this one too, and its snapshots find the store by it later.
        base = Base(top, wait=request.wait, look=look, store=wish)
        try:
            return base.store.path
        finally:
            base.close()
    there = description.get("store")
    return there if isinstance(there, str) and os.path.isabs(there) else data


def heads(top: str, fqrn: str) -> Iterator[tuple[int, SeenHead]]:
    """The heads of a repository that a destination and its snapshots have seen last, with the times of that."""
    for place in (top, *(os.path.join(top, name) for name in snapshots(top))):
        with suppress(OSError, DestinationError), Records(place) as records:
            found = records.read(fqrn, "head.json", RECORD_BYTES)
            seen = None if found is None else SeenHead.from_json(records.json(fqrn, "head.json"))
            if found is not None and seen is not None:
                yield found[1].st_mtime_ns, seen


def seen_last(top: str, fqrn: str) -> SeenHead | None:
    """The head of a repository that was accepted last, in whichever snapshot.

    Not the newest: an older one counts from when it was accepted with ``--allow-rollback``.
    """
    found = max(heads(top, fqrn), key=lambda one: (one[0], one[1].revision), default=None)
    return None if found is None else found[1]


# -------------------------------------------------------------------------------------------------------------- current


def current(dest: str) -> str | None:
    """The name of the snapshot that readers are to use; None if there is no link.

    Raises:
        DestinationError: what stands there is not a link that ``--switch`` made.
    """
    top = os.path.realpath(dest)
    place = os.path.join(top, CURRENT)
    try:
        target = os.readlink(place)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        target = ""
    try:
        ours = check_name(target) == target
    except UsageError:
        ours = False
    there = os.path.join(top, target)
    if not ours or (os.path.lexists(there) and (os.path.islink(there) or not is_destination(there))):
        raise DestinationError(
            f"{place} is not a link to a snapshot" + (f" but to {target!a}" if target else ""),
            hint="move it away: --switch puts a link there",
        )
    return target


def is_current(place: str) -> bool:
    """Whether a destination is the snapshot that readers are to use, whoever made the link, and however."""
    place = os.path.realpath(place)
    top = os.path.dirname(place)
    link = os.path.join(top, CURRENT)
    return os.path.islink(link) and os.path.realpath(link) == place and is_destination(top)


def leave_to_readers(place: str, there: Known, goal: Goal, variables: Mapping[bytes, bytes]) -> None:
    """The snapshot that readers use may be mended, or finished, but not become another one under them.

    Args:
        place: the snapshot that is about to change.
        there: what is in it.

    Raises:
        DestinationError: it would.
    """
    if is_current(place) and not (there.record is not None and same_wish(there.record, goal, variables)):
        top, name = os.path.split(place)
        raise DestinationError(
            f"{top}/{CURRENT} leads to {name}: readers would see half of a change",
            hint="choose another name with --as, or leave it to --switch to choose one",
        )


def switch(base: Base, top: str, name: str) -> None:
    """Let ``current`` lead to a snapshot, in one step, durably.

    Args:
        base: the snapshot, open: its work folder takes the link until it gets its place.

    Raises:
        OSError.
    """
    temporary = os.fsdecode(base.temporary())
    work = base.folders.fd(base.tmp)
    folder = os.open(top, DIRECTORY)
    try:
        os.symlink(name, temporary, dir_fd=work)
        os.rename(temporary, CURRENT, src_dir_fd=work, dst_dir_fd=folder)
        os.fsync(folder)
    finally:
        os.close(folder)


def stem_of(revision: int, root_hash: str) -> str:
    """What the names of all releases of a snapshot of the repository begin with."""
    return f"r{revision}-{root_hash[:8]}"


def release_name(
    top: str, fqrn: str, goal: Goal, revision: int, variables: Mapping[bytes, bytes], now: str | None
) -> str:
    """The name of the snapshot to make for a goal: ``r<revision>-<first eight digits of the root hash>``.

    One that is whole and was made for something else stays as it is: a number after the name tells the new one from it.

    Args:
        now: the one that readers use.

    Raises:
        DestinationError: there are too many alike.
    """
    stem = stem_of(revision, goal.root_hash)
    for number in range(1, _MOST_ALIKE):
        name = stem if number == 1 else f"{stem}.{number}"
        place = os.path.join(top, name)
        if not os.path.lexists(place):
            return name
        try:
            with Records(place) as records:
                kept = records.kept(fqrn) if fqrn in records.names() else None
        except OSError:
            continue
        record = None if kept is None else kept.record
        if record is not None and same_wish(record, goal, variables):
            return name
        # Nothing that was ever whole: what a run was cut off at.
        if record is None and name != now and (kept is None or not kept.unreadable):
            return name
    raise DestinationError(
        f"{top}: there are {_MOST_ALIKE} snapshots {stem}", hint="remove some, or name one with --as"
    )


def lacking(top: str, now: str | None, place: str, fqrn: str) -> list[str]:
    """The repositories in the snapshot that readers use which another one lacks, or has in parts.

    Args:
        now: its name.
        place: folder of the other one.
        fqrn: a repository that is about to be exported there.
    """
    if now is None or place == os.path.join(top, now):
        return []
    found = _whole(os.path.join(top, now)) if is_destination(os.path.join(top, now)) else set()
    return sorted(found - _whole(place, ended=True) - {fqrn})


def _whole(place: str, *, ended: bool = False) -> set[str]:
    """The repositories that a snapshot shows; ``ended``: only those of which no run is open."""
    try:
        with Records(place) as records:
            kept = [records.kept(fqrn) for fqrn in records.names()]
    except FileNotFoundError:
        return set()
    return {one.fqrn for one in kept if one.record is not None and one.tree and not (ended and one.intent is not None)}


def refuse_less(top: str, now: str | None, place: str, fqrn: str) -> None:
    """Raises DestinationError if readers would find less repositories in a snapshot than in the current one."""
    lost = lacking(top, now, place, fqrn)
    if lost:
        raise DestinationError(
            f"{top}/{CURRENT} leads to {now}, which has {', '.join(lost)}: {os.path.basename(place)} has not",
            hint="export each of them with the same --as NAME first, and use --switch with the last one",
        )


def shows(place: str, fqrn: str) -> bool:
    """Whether a snapshot has a record of a repository."""
    try:
        with Records(place) as records:
            return fqrn in records.names() and records.kept(fqrn).record is not None
    except FileNotFoundError:
        return False
