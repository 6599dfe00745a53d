"""Two ordered streams side by side, as two sorted lists are merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from shrinkwrap.snapshot.walk import order_key


class HasPath(Protocol):
    @property
    def path(self) -> bytes: ...


Old = TypeVar("Old", bound=HasPath)
New = TypeVar("New", bound=HasPath)


def merge(old: Iterable[Old], new: Iterable[New]) -> Iterator[tuple[Old | None, New | None]]:
    """Pairs of what stands at a path on either side, in the stream's order; None where a side has nothing.

    Each side is advanced only after the pair that its item was in has been dealt with, so that the consumer can still
    prune what lies below it.
    """
    old_items, new_items = iter(old), iter(new)
    before = next(old_items, None)
    after = next(new_items, None)
    while before is not None or after is not None:
        if after is None:
            yield before, None
            before = next(old_items, None)
            continue
        if before is None:
            yield None, after
            after = next(new_items, None)
            continue
        old_key, new_key = order_key(before.path), order_key(after.path)
        if old_key == new_key:
            yield before, after
            before = next(old_items, None)
            after = next(new_items, None)
        elif old_key < new_key:
            yield before, None
            before = next(old_items, None)
        else:
            yield None, after
            after = next(new_items, None)
