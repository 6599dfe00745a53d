"""Which layer of an OCI image each subtree goes to, so that the images of two releases share most of their layers.

A repository is a tree of catalogs, and its owner cuts it where it grows: a release is a catalog or some. A layer is one
of these:

- a *subtree*: a catalog with all below it, if that weighs no more than a threshold, or has no catalog below it;
- a *run*: neighbouring subtrees below one catalog that are light;
- an *own part*: what lies in a catalog itself, if what is below it went to other layers.

Whether a subtree is cut depends on its own weight and on the threshold, which is doubled until there are no more layers
than are allowed. Where a run ends depends on the hash of the next subtree's path. So what changes in one place leaves
the layers of others as they are, as long as the threshold is the same.

Layers are ordered from the bottom up, deep ones first: in each the directories above it stand with plain metadata, and
the layer that has them for what they are comes later and wins. Otherwise a new neighbour, which changes the time of the
directory that both lie in, would change every layer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from shrinkwrap.errors import UsageError
from shrinkwrap.image.entries import DIR, ImageEntry, parent_of
from shrinkwrap.snapshot.walk import order_key

#: Runtimes take 127 at most, some fewer.
MOST_LAYERS: Final = 100
#: A threshold below which nothing is cut: every layer costs a registry requests.
LIGHTEST: Final = 16 * 1024**2
#: What an entry weighs besides its content: its header.
_ENTRY: Final = 512
_RUN_HASH_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer to be.

    Attributes:
        path: of the first catalog in it.
        scattered: it is an own part: other layers' entries come between its own.
    """

    path: bytes
    scattered: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes:
    layers: from the bottom up.
    number: of the layer that each catalog goes to, by the path of its mount point.
    threshold: what the weights were held against.
    """

    layers: tuple[Layer, ...]
    number: Mapping[bytes, int]
    threshold: int


def single_layer() -> Plan:
    """Everything in one layer."""
    return Plan((Layer(b"", scattered=False),), {b"": 0}, 0)


def weigh(entries: Iterable[ImageEntry], mounts: Container[bytes]) -> dict[bytes, int]:
    """How much lies in each catalog itself: the weights for :func:`plan_layers`.

    Args:
        mounts: paths of the catalogs' mount points in the image. Those that the stream does not have do not count.
    """
    weights = {b"": 0}
    at: list[bytes] = [b""]
    for entry in entries:
        path = entry.path
        while not _beneath(path, at[-1]):
            at.pop()
        if entry.kind == DIR and path and path in mounts:
            at.append(path)
            weights[path] = 0
        weights[at[-1]] += entry.size + _ENTRY
    return weights


def plan_layers(weights: Mapping[bytes, int], *, limit: int = MOST_LAYERS, lightest: int = LIGHTEST) -> Plan:
    """Divide catalogs among layers; a function of the arguments.

    Args:
        weights: bytes in each catalog itself, by the path of its mount point; the root's is ``b""``.
        limit: most layers.
        lightest: threshold to begin with, in bytes.

    Raises:
        UsageError: a limit below 1.
    """
    if limit < 1 or lightest < 1:
        raise UsageError(f"{limit} layers from {lightest} bytes on: expected at least one of each")
    catalogs = _Catalogs(weights)
    threshold = lightest
    while True:
        layers, numbers = catalogs.divided(threshold)
        if len(layers) <= limit:
            break
        threshold *= 2
    last = len(layers) - 1
    number = {path: last - at for path, at in zip(catalogs.paths, numbers, strict=True)}
    return Plan(tuple(reversed(layers)), number, threshold)


class _Catalogs:
    """The tree of catalogs, parents before children, with the weights of subtrees."""

    def __init__(self, weights: Mapping[bytes, int]) -> None:
        self.paths = sorted({b"", *weights}, key=order_key)
        self._parents: list[int] = []
        self._children = [0] * len(self.paths)
        self._totals = [weights.get(path, 0) for path in self.paths]
        open_: list[int] = []
        for at, path in enumerate(self.paths):
            while open_ and not _beneath(path, self.paths[open_[-1]]):
                open_.pop()
            self._parents.append(open_[-1] if open_ else -1)
            open_.append(at)
        for at in range(len(self.paths) - 1, 0, -1):
            self._totals[self._parents[at]] += self._totals[at]
            self._children[self._parents[at]] += 1

    def divided(self, threshold: int) -> tuple[list[Layer], list[int]]:
        """Layers in the order of their first entries, and the number of each catalog's."""
        layers: list[Layer] = []
        numbers: list[int] = []
        cut = bytearray(len(self.paths))
        runs: dict[int, int] = {}
        spans = self._spans(threshold)
        for at, path in enumerate(self.paths):
            parent = self._parents[at]
            if parent >= 0 and not cut[parent]:
                numbers.append(numbers[parent])
                continue
            if self._totals[at] <= threshold and parent >= 0:
                run = runs.get(parent)
                if run is None or _hash(path) % spans[parent] == 0:
                    run = runs[parent] = len(layers)
                    layers.append(Layer(path, scattered=False))
                numbers.append(run)
                continue
            # Heavy ones end a run: its entries would not be together any more.
            runs.pop(parent, None)
            cut[at] = self._totals[at] > threshold and self._children[at] > 0
            numbers.append(len(layers))
            layers.append(Layer(path, scattered=bool(cut[at])))
        return layers, numbers

    def _spans(self, threshold: int) -> dict[int, int]:
        """How many light subtrees below a catalog a run shall have, about; a power of two."""
        light: dict[int, tuple[int, int]] = {}
        for at in range(1, len(self.paths)):
            if self._totals[at] <= threshold:
                count, weight = light.get(self._parents[at], (0, 0))
                light[self._parents[at]] = (count + 1, weight + self._totals[at])
        return {
            parent: 1 << max(0, (threshold * count // (2 * weight + 1)).bit_length() - 1)
            for parent, (count, weight) in light.items()
        }


class Sorter:
    """Tells the layer of each entry of a stream."""

    def __init__(self, plan: Plan) -> None:
        self._number = plan.number
        self._open: list[tuple[bytes, int]] = [(b"", plan.number[b""])]

    def layer(self, entry: ImageEntry) -> tuple[int, bool]:
        """The number of the layer, and whether the entry is where the stream goes down into another one."""
        path = entry.path
        while not _beneath(path, self._open[-1][0]):
            self._open.pop()
        if entry.kind == DIR and path:
            number = self._number.get(path)
            if number is not None:
                entered = number != self._open[-1][1]
                self._open.append((path, number))
                return number, entered
        return self._open[-1][1], False


def ancestors(path: bytes) -> list[bytes]:
    """The directories above a path, from the root (which is left out) down."""
    out: list[bytes] = []
    parent = parent_of(path)
    while parent:
        out.append(parent)
        parent = parent_of(parent)
    return out[::-1]


def _beneath(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder + b"/")


def _hash(path: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(path, digest_size=_RUN_HASH_BYTES).digest(), "big")
