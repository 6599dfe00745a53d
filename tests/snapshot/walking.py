"""Walks through repositories that tests have made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from support.golden import Pinned
from support.repository import Opened

from shrinkwrap.cvmfs.catalog import NestedRef
from shrinkwrap.cvmfs.keys import read_keys
from shrinkwrap.cvmfs.manifest import parse_manifest
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.snapshot.session import Session, open_session
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.grammar import parse
from shrinkwrap.spec.matcher import Matcher


def matcher(spec: bytes, rules: str = "2.14") -> Matcher:
    return Matcher(parse(spec, rules=rules))


def components(path: bytes) -> list[bytes]:
    """The key of the stream's order, said in the plainest way."""
    return path.split(b"/")


def walk(
    opened: Opened | Session, root: NestedRef, spec: bytes = b"/*", notice: Callable[[str], None] | None = None
) -> Walk:
    return Walk(opened.catalogs, root, matcher(spec), notice=notice)


def paths(opened: Opened | Session, root: NestedRef, spec: bytes = b"/*") -> list[bytes]:
    return [entry.path for entry in walk(opened, root, spec)]


def open_real(stack: ExitStack, repos: Path, at: Pinned) -> tuple[Session, NestedRef]:
    """A real repository at one revision, and the root catalog of that."""
    config = SourceConfig(at.fqrn, storage=str(repos / at.fqrn))
    session = stack.enter_context(open_session(config, read_keys([at.key])))
    manifest = parse_manifest(at.manifest)
    return session, NestedRef(b"", manifest.root_hash, manifest.root_size, False)
