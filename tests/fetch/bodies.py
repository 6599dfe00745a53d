"""Bodies and small helpers for the tests of sources."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from shrinkwrap.errors import CorruptObject
from shrinkwrap.fetch.types import Outcome, Request, Source

GOOD = b"the right bytes " * 64
#: The object's path in the repository, and on a server whose root is the repository.
PATH = "data/ab/cdef"
URL = "/data/ab/cdef"


class Checked:
    """Keeps the bytes, and demands that they are the ones expected, by digest."""

    def __init__(self, expected: bytes) -> None:
        self.digest = hashlib.sha256(expected).digest()
        self.data = b""
        self.starts = 0
        self.finished = False

    def start(self) -> None:
        self.starts += 1
        self.data = b""
        self.finished = False

    def write(self, data: bytes, /) -> None:
        self.data += data

    def finish(self) -> None:
        if hashlib.sha256(self.data).digest() != self.digest:
            raise CorruptObject("the digest is another")
        self.finished = True


def wanted(path: str | bytes, expected: bytes = b"", *, limit: int = 1 << 20, **more: Any) -> Request:
    raw = path if isinstance(path, bytes) else path.encode()
    return Request(raw, Checked(expected), limit, **more)


def body_of(request: Request) -> Checked:
    assert isinstance(request.body, Checked)
    return request.body


def fetch_one(source: Source, request: Request) -> Outcome:
    (outcome,) = source.fetch([request])
    assert outcome.request is request
    return outcome


def drain(source: Source, requests: Iterable[Request]) -> dict[bytes, Outcome]:
    return {outcome.request.path: outcome for outcome in source.fetch(requests)}
