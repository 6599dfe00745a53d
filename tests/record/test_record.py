"""Records, intents and heads: written, read again, and files that are none of these."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwrap.cvmfs.digest import RMD160, SHAKE128, Digest
from shrinkwrap.cvmfs.keys import MasterKey
from shrinkwrap.cvmfs.limits import CATALOG
from shrinkwrap.cvmfs.signature import RsaKey
from shrinkwrap.record.record import Goal, Intent, Record, SeenHead, key_ring
from shrinkwrap.snapshot.view import ViewOptions

HASH = "0123456789" * 4
KEYS = [MasterKey("one.pub", RsaKey(12345, 65537)), MasterKey("two.pub", RsaKey(67890, 3))]


def goal(spec: bytes = b"/lcg/*\n", **fields: Any) -> Goal:
    values: dict[str, Any] = {
        "fqrn": "test.example.org",
        "root_hash": HASH + "-rmd160",
        "root_size": 4096,
        "spec": spec,
        "spec_sha256": hashlib.sha256(spec).hexdigest(),
        "rules": "2.14",
        "view": ViewOptions(claim=True, uid=500, gid=501, keep_suid=False, share_mtime=True),
        "link_mode": "hardlink",
        **fields,
    }
    return Goal(**values)


def record(**fields: Any) -> Record:
    values: dict[str, Any] = {
        "goal": goal(),
        "revision": 7,
        "timestamp": 1_900_000_000,
        "tag": "v7",
        "variables": {"ARCH": "x86_64", "VIEW": None, "\udcff": "\udcfe"},
        "counts": {"files": 3, "bytes": 1 << 50},
        "tool": "0.1.0",
        **fields,
    }
    return Record(**values)


INTENT = Intent(goal(), "boot", 1_900_000_000_000_000_001, "run-1")
HEAD = SeenHead(7, Digest(SHAKE128, bytes(range(20))), 1_900_000_000, b"manifest".hex(), 2_000_000_000, key_ring(KEYS))


def as_json(thing: Record | Intent | SeenHead) -> dict[str, Any]:
    value = json.loads(thing.to_bytes())
    assert isinstance(value, dict)
    return value


# -- there and back ----------------------------------------------------------------------------------------------


def test_what_is_written_is_read_again() -> None:
    assert Record.from_json(as_json(record())) == record()
    assert Intent.from_json(as_json(INTENT)) == INTENT
    assert SeenHead.from_json(as_json(HEAD)) == HEAD


@given(st.binary(max_size=60), st.integers(0, 1 << 64), st.text(max_size=10).filter(str.isprintable))
def test_any_spec_number_and_tag_survives(spec: bytes, number: int, tag: str) -> None:
    one = record(goal=goal(spec), revision=number, tag=tag)
    assert Record.from_json(as_json(one)) == one


def test_equal_records_are_equal_bytes_and_plain_text() -> None:
    one = record(variables={"B": "1", "A": None}, counts={"x": 1, "a": 2})
    two = record(variables={"A": None, "B": "1"}, counts={"a": 2, "x": 1})
    assert one.to_bytes() == two.to_bytes()
    assert one.to_bytes().endswith(b"}\n")
    assert one.to_bytes().isascii()


@pytest.mark.parametrize(
    "change",
    [
        {"fqrn": "other.example.org"},
        {"root_hash": HASH},
        {"root_size": 8192},
        {"spec": b"/*\n", "spec_sha256": hashlib.sha256(b"/*\n").hexdigest()},
        {"rules": "2.12"},
        {"link_mode": "copy"},
        *(
            {"view": replace(goal().view, **{name: value})}
            for name, value in (
                *(("claim", False), ("uid", 1), ("gid", 1)),
                *(("keep_suid", True), ("share_mtime", False)),
            )
        ),
    ],
    ids=str,
)
def test_goals_that_differ_in_anything_stay_different(change: dict[str, Any]) -> None:
    other = record(goal=goal(**change))
    read = Record.from_json(as_json(other))
    assert read == other
    assert read != record()


def test_the_root_of_a_goal_is_a_catalog() -> None:
    root = goal().root
    assert (root.mount, root.size, root.bind, root.prefix) == (b"", 4096, False, b"")
    assert root.digest == Digest(RMD160, bytes.fromhex(HASH))


def test_an_intent_that_could_not_be_read_can_be_written_and_read() -> None:
    lost = replace(INTENT, goal=None)
    assert Intent.from_json(as_json(lost)) == lost


# -- what is no record -------------------------------------------------------------------------------------------

WRONG = [None, "x", -1, 1.5, [], {}, [1], {"a": 1}, True, float("inf"), float("nan"), 10**400, "\ud800", "9" * 5000]


def places(value: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All keys of nested objects."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield (*way, key)
            yield from places(below, (*way, key))


def changed(value: dict[str, Any], way: tuple[str, ...], new: Any) -> dict[str, Any]:
    """A copy with another value at a place, or without it (``...``)."""
    whole = copy.deepcopy(value)
    here = whole
    for key in way[:-1]:
        here = here[key]
    if new is ...:
        del here[way[-1]]
    else:
        here[way[-1]] = new
    return whole


@pytest.mark.parametrize("thing", [record(), INTENT, HEAD], ids=["record", "intent", "head"])
def test_whatever_stands_in_a_file_it_is_read_or_refused_without_an_exception(
    thing: Record | Intent | SeenHead,
) -> None:
    value = as_json(thing)
    for way in places(value):
        for new in (..., *WRONG):
            type(thing).from_json(changed(value, way, new))


@pytest.mark.parametrize("value", [None, [], "x", 7, {}, {"version": 1}, {"version": 1, "goal": None}], ids=str)
def test_json_of_another_shape_is_no_record(value: Any) -> None:
    assert Record.from_json(value) is None
    assert SeenHead.from_json(value) is None
    if value is not None:
        assert Intent.from_json(value) == Intent(None, "", 0, "")


@pytest.mark.parametrize("version", [0, 2, "1", None, ...])
def test_a_record_of_another_version_is_none(version: Any) -> None:
    assert Record.from_json(changed(as_json(record()), ("version",), version)) is None


@pytest.mark.parametrize("way", sorted(places(as_json(record()))), ids=".".join)
def test_a_record_that_lacks_anything_but_a_count_or_variable_is_none(way: tuple[str, ...]) -> None:
    read = Record.from_json(changed(as_json(record()), way, ...))
    optional = way[0] in ("variables", "counts") and len(way) == 2
    defaulted = way[-1] in ("keep_suid", "share_mtime", "uid_map", "gid_map", "world_readable", "summary")
    optional = optional or way[0] == "matched"
    assert (read is not None) == (optional or defaulted)


@pytest.mark.parametrize(
    ("way", "new"),
    [
        (("goal", "root_hash"), HASH[:-1]),
        (("goal", "root_hash"), HASH.replace("0", "G")),
        (("goal", "root_size"), -1),
        (("goal", "root_size"), CATALOG + 1),
        (("goal", "spec"), "/*\n"),
        (("goal", "spec_sha256"), "0" * 64),
        (("goal", "view", "claim"), "no"),
        (("goal", "view", "claim"), 0),
        (("goal", "view", "keep_suid"), None),
        (("goal", "view", "share_mtime"), 1),
        (("goal", "view", "uid"), "500"),
        (("goal", "view", "uid"), -1),
        (("goal", "view", "gid"), 1.0),
        (("goal", "view", "gid"), True),
        (("goal", "view", "more"), 1),
        (("goal", "view"), None),
        (("revision",), "seven"),
        (("timestamp",), float("inf")),
        (("counts",), {"files": "many"}),
        (("variables",), ["ARCH"]),
    ],
    ids=str,
)
def test_a_record_with_something_impossible_is_none(way: tuple[str, ...], new: Any) -> None:
    assert Record.from_json(changed(as_json(record()), way, new)) is None
    if way[0] == "goal":
        assert Intent.from_json(changed(as_json(INTENT), way, new)).goal is None


# -- the head that was seen last ---------------------------------------------------------------------------------


def test_a_head_vouches_for_the_very_same_manifest_with_the_same_keys_until_its_whitelist_expires() -> None:
    now = HEAD.expires - 1.0
    assert HEAD.vouches_for(b"manifest", KEYS, now)
    assert HEAD.vouches_for(b"manifest", reversed(KEYS), now)
    assert not HEAD.vouches_for(b"manifest2", KEYS, now)
    assert not HEAD.vouches_for(b"", KEYS, now)
    assert not HEAD.vouches_for(b"manifest", KEYS, HEAD.expires)
    assert not HEAD.vouches_for(b"manifest", KEYS[:1], now)
    assert not HEAD.vouches_for(b"manifest", [], now)
    assert not HEAD.vouches_for(b"manifest", [*KEYS, MasterKey("three.pub", RsaKey(1, 3))], now)


def test_a_ring_of_keys_does_not_depend_on_their_order_or_the_names_of_their_files() -> None:
    renamed = [MasterKey("other", key.rsa) for key in reversed(KEYS)]
    assert key_ring(renamed) == key_ring(KEYS)
    assert key_ring(KEYS[:1]) != key_ring(KEYS)
    assert key_ring([MasterKey("one.pub", RsaKey(12345, 3))]) != key_ring(KEYS[:1])
    assert key_ring([]) != key_ring(KEYS)
