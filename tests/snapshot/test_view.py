"""How entries come out: identity of stored files, owners, modes, variables, what is left out."""

from __future__ import annotations

import re
import stat
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from snapshot.walking import walk
from support.repository import EXTERNAL, CatalogBuilder, Publisher

from shrinkwrap.cvmfs.digest import RMD160, SHA1, SHAKE128, Digest, digest_of
from shrinkwrap.cvmfs.entry import Chunk, Entry
from shrinkwrap.cvmfs.owners import HIGHEST, OwnerMap
from shrinkwrap.errors import CatalogError
from shrinkwrap.snapshot.view import (
    DIR,
    FILE,
    LINK,
    NOBODY,
    Content,
    Node,
    Report,
    View,
    ViewOptions,
    content_of,
    object_name,
)

RAW = bytes(range(1, 21))
PLAIN = ViewOptions(claim=False, uid=500, gid=501)


def content(**fields: Any) -> Content:
    values = {"digest": Digest(SHA1, RAW), "kind": "z", "size": 7, "chunks": (), "external": None, **fields}
    return Content(**values)  # type: ignore[arg-type]


def node(**fields: Any) -> Node:
    values = {
        "path": b"/d/f",
        "kind": FILE,
        "mode": 0o644,
        "uid": 1,
        "gid": 2,
        "mtime_ns": 3,
        "xattrs": (),
        "target": b"",
        "content": None,
        **fields,
    }
    return Node(**values)  # type: ignore[arg-type]


# -- identity ----------------------------------------------------------------------------------------------------

CONTENTS = [
    {},
    {"digest": Digest(RMD160, RAW)},
    {"digest": Digest(SHAKE128, RAW)},
    {"digest": Digest(SHA1, RAW[::-1])},
    {"digest": Digest(SHA1, RAW[:-1] + b"\0")},
    *({"kind": kind} for kind in ("n", "cz", "cn", "xz", "xn", "xcz", "xcn")),
    {"size": 8},
    {"size": 70},
    {"size": 0},
]
FAR = 1 << 63
METADATA = [
    {},
    *({"mode": mode} for mode in (0, 0o755, 0o1644, 0o2644, 0o4644)),
    {"uid": 2, "gid": 1},
    {"uid": 1 << 31},
    {"gid": (1 << 32) - 1},
    *({"mtime_ns": mtime} for mtime in (-3, 4, 3 + 10**9, FAR - 1, FAR, FAR + 1, -FAR, -FAR - 1)),
    *({"mtime_ns": seconds * 10**9 + ns} for seconds in (FAR - 1, -FAR) for ns in (0, 10**9 - 1)),
    {"xattrs": ((b"user.a", b""),)},
    {"xattrs": ((b"user.a", b"b"),)},
    {"xattrs": ((b"user.ab", b""),)},
    {"xattrs": ((b"user.a", b""), (b"user.b", b""))},
    {"xattrs": ((b"user.a", b"user.b"),)},
    {"xattrs": ((b"user.a", b"6 0 user.b"),)},
]


def test_stored_files_that_differ_in_anything_have_different_names() -> None:
    named = {
        (number, other): object_name(content(**one), node(**two), share_mtime=False)
        for number, one in enumerate(CONTENTS)
        for other, two in enumerate(METADATA)
    }
    for (key, name), (other_key, other_name) in combinations(named.items(), 2):
        assert name != other_name, (key, other_key)


def test_the_same_digest_under_another_interpretation_is_another_stored_file() -> None:
    kinds = ("z", "n", "cz", "cn", "xz", "xn", "xcz", "xcn")
    assert len({object_name(content(kind=kind), node(), share_mtime=False) for kind in kinds}) == len(kinds)


def test_where_a_file_lies_and_how_it_is_cut_does_not_matter() -> None:
    name = object_name(content(), node(), share_mtime=False)
    for other in (
        object_name(content(), node(path=b"/elsewhere", target=b"x", kind=LINK), share_mtime=False),
        object_name(content(chunks=(Chunk(0, 7, RAW),), external=b"/d/f"), node(), share_mtime=False),
    ):
        assert other == name


def test_files_may_share_an_inode_across_mtimes_but_across_nothing_else() -> None:
    def name(**fields: Any) -> str:
        return object_name(content(), node(**fields), share_mtime=True)

    assert name(mtime_ns=1) == name(mtime_ns=FAR * 10)
    rest = [fields for fields in METADATA if "mtime_ns" not in fields]
    assert len({name(**fields) for fields in rest}) == len(rest)


@given(
    st.binary(min_size=20, max_size=20),
    st.integers(0, 2),
    st.sampled_from(["z", "n", "cz", "cn", "xz", "xn", "xcz", "xcn"]),
    st.integers(0, (1 << 63) - 1),
)
def test_a_name_is_a_folder_and_a_file_of_bounded_length(raw: bytes, algorithm: int, kind: str, size: int) -> None:
    name = object_name(content(digest=Digest(algorithm, raw), kind=kind, size=size), node(), share_mtime=False)
    assert re.fullmatch(r"[0-9a-f]{2}/[0-9a-f]{38}[rs]?x?c?[zn][0-9]+\.[0-9a-f]{40}", name)
    assert len(name) < 120
    tag = {SHA1: "", RMD160: "r", SHAKE128: "s"}[algorithm]
    assert name.partition(".")[0] == f"{raw.hex()[:2]}/{raw.hex()[2:]}{tag}{kind}{size}"


# -- content -----------------------------------------------------------------------------------------------------


def entries(publisher: Publisher, builder: CatalogBuilder) -> dict[bytes, Entry]:
    root = builder.ref()
    with publisher.open() as opened:
        return {entry.path: entry for entry in walk(opened, root)}


def entry_of(publisher: Publisher, builder: CatalogBuilder, path: bytes) -> Entry:
    return entries(publisher, builder)[path]


@pytest.mark.parametrize("algorithm", [SHA1, RMD160, SHAKE128])
@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_interpretation_of_a_file_is_that_of_its_flags(
    publisher: Publisher, algorithm: int, external: bool, chunked: bool, compressed: bool
) -> None:
    builder = publisher.catalog()
    pieces = [b"one", b"three"] if chunked else []
    digest = builder.file(
        *(b"/f", b"whole"), pieces=pieces, algorithm=algorithm, external=external, compressed=compressed
    )
    found = content_of(entry_of(publisher, builder, b"/f"))
    raws = [raw for _, _, _, raw in builder.chunk_rows]
    assert found.kind == "x" * external + "c" * chunked + ("z" if compressed else "n")
    assert found.compressed == compressed
    assert found.external == (b"/f" if external else None)
    assert found.digest == (digest_of(algorithm, b"".join(raws)) if chunked else digest)
    assert found.size == (8 if chunked else 5)
    assert [chunk.raw for chunk in found.chunks] == raws


def test_a_list_of_chunks_is_never_named_by_the_bulk_hash_beside_it(publisher: Publisher) -> None:
    builder = publisher.catalog()
    builder.file(b"/with", pieces=[b"one", b"two"], bulk=True)
    builder.file(b"/without", pieces=[b"one", b"two"])
    builder.file(b"/plain", b"onetwo")
    found = entries(publisher, builder)
    assert found[b"/with"].hash == found[b"/plain"].hash
    assert content_of(found[b"/with"])._replace(bulk=None) == content_of(found[b"/without"])
    assert content_of(found[b"/with"]).digest.raw != found[b"/plain"].hash


@pytest.mark.parametrize("bits", [0x300, 0x700, 0x1000, 0x1800, 0x3800])
def test_a_file_of_unknown_algorithm_or_compression_is_refused(publisher: Publisher, bits: int) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", flags=bits)
    with pytest.raises(CatalogError, match="/f: unknown"):
        content_of(entry_of(publisher, builder, b"/f"))


# -- nodes -------------------------------------------------------------------------------------------------------


def shown(
    publisher: Publisher,
    builder: CatalogBuilder,
    options: ViewOptions = PLAIN,
    variables: dict[bytes, bytes] | None = None,
) -> tuple[dict[bytes, Node], Report]:
    report = Report()
    view = View(options, variables or {}, report)
    nodes = [view.node(entry) for entry in entries(publisher, builder).values()]
    return {one.path: one for one in nodes if one is not None}, report


def test_nodes_carry_all_that_comes_out(publisher: Publisher) -> None:
    builder = publisher.catalog()
    builder.dir(b"/d", mode=0o1777, mtime=-5, mtimens=1, xattrs={b"user.d": b"1"})
    builder.file(b"/d/f", b"content", mode=0o640, xattrs={b"user.b": b"2", b"user.a": b"1"})
    builder.link(b"/l", b"../t", mode=0o777)
    nodes, report = shown(publisher, builder)
    assert nodes[b"/d"] == Node(b"/d", DIR, 0o1777, 1000, 100, -5 * 10**9 + 1, ((b"user.d", b"1"),), b"", None)
    file = nodes[b"/d/f"]
    assert (file.kind, file.mode, file.xattrs) == (FILE, 0o640, ((b"user.a", b"1"), (b"user.b", b"2")))
    assert file.content is not None
    assert file.content.size == 7
    assert (nodes[b"/l"].kind, nodes[b"/l"].target, nodes[b"/l"].content) == (LINK, b"../t", None)
    assert report == Report()


def test_what_is_claimed_belongs_to_whoever_exports(publisher: Publisher) -> None:
    builder = publisher.catalog()
    builder.file(b"/f")
    nodes, _ = shown(publisher, builder, ViewOptions(claim=True, uid=500, gid=501))
    assert {(one.uid, one.gid) for one in nodes.values()} == {(500, 501)}


def test_an_owner_that_no_file_can_have_is_nobody_not_whoever_exports(publisher: Publisher) -> None:
    builder = publisher.catalog()
    for name, uid, gid in ((b"/uid", (1 << 32) - 1, 8), (b"/gid", 7, (1 << 32) - 1), (b"/high", HIGHEST, HIGHEST)):
        builder.file(name, uid=uid, gid=gid, mode=0o4755)
    squashed = OwnerMap(((0, 1000),))
    for options in (PLAIN, ViewOptions(claim=False, uid=0, gid=0, keep_suid=True, uid_map=squashed, gid_map=squashed)):
        nodes, _ = shown(publisher, builder, options)
        owners = {path: (one.uid, one.gid) for path, one in nodes.items() if path}
        assert owners == {b"/uid": (NOBODY, 8), b"/gid": (7, NOBODY), b"/high": (HIGHEST, HIGHEST)}


def test_entries_of_old_catalogs_belong_to_whoever_exports(publisher: Publisher) -> None:
    builder = publisher.catalog(schema="1.2")
    builder.file(b"/f")
    nodes, _ = shown(publisher, builder)
    assert {(one.uid, one.gid) for one in nodes.values()} == {(500, 501)}


def modes(publisher: Publisher) -> CatalogBuilder:
    builder = publisher.catalog()
    builder.file(b"/suid", mode=0o4755)
    builder.file(b"/sgid", mode=0o2755)
    builder.file(b"/sticky", mode=0o1755)
    builder.dir(b"/shared", mode=0o2775)
    builder.link(b"/link", b"t", mode=0o6777)
    return builder


def test_set_id_bits_are_taken_away_and_told(publisher: Publisher) -> None:
    nodes, report = shown(publisher, modes(publisher))
    assert [oct(nodes[path].mode) for path in (b"/suid", b"/sgid", b"/sticky", b"/shared")] == [
        *("0o755", "0o755", "0o1755", "0o775"),
    ]
    assert report.counts == {"set_id_stripped": 3}
    assert report.cases["set_id_stripped"] == [(b"/sgid", "2755"), (b"/shared", "2775"), (b"/suid", "4755")]


def test_set_id_bits_are_kept_on_demand(publisher: Publisher) -> None:
    options = ViewOptions(claim=False, uid=0, gid=0, keep_suid=True)
    nodes, report = shown(publisher, modes(publisher), options)
    assert [oct(nodes[path].mode) for path in (b"/suid", b"/sgid", b"/sticky", b"/shared")] == [
        *("0o4755", "0o2755", "0o1755", "0o2775"),
    ]
    assert report.counts == {}


ATTRIBUTES = {
    b"user.a": b"1",
    b"user.": b"2",
    b"user": b"3",
    b"security.selinux": b"label",
    b"security.capability": b"caps",
    b"system.posix_acl_access": b"acl",
    b"trusted.x": b"5",
    b"xuser.a": b"6",
}


def test_only_attributes_of_users_come_out_and_others_are_told(publisher: Publisher) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", xattrs=ATTRIBUTES)
    builder.link(b"/l", b"t", xattrs=ATTRIBUTES)
    nodes, report = shown(publisher, builder)
    assert nodes[b"/f"].xattrs == ((b"user.", b"2"), (b"user.a", b"1"))
    assert nodes[b"/l"].xattrs == ()
    assert sorted(detail for _, detail in report.cases["xattr_left_out"]) == sorted(
        name.decode() for name in ATTRIBUTES if not name.startswith(b"user.")
    )


def test_capabilities_go_with_set_id_bits(publisher: Publisher) -> None:
    builder = publisher.catalog()
    builder.file(b"/f", xattrs=ATTRIBUTES)
    nodes, _ = shown(publisher, builder, ViewOptions(claim=False, uid=0, gid=0, keep_suid=True))
    assert dict(nodes[b"/f"].xattrs)[b"security.capability"] == b"caps"
    assert b"security.selinux" not in dict(nodes[b"/f"].xattrs)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (stat.S_IFIFO, "fifo"),
        (stat.S_IFSOCK, "socket"),
        (stat.S_IFCHR, "chardev"),
        (stat.S_IFBLK, "blockdev"),
        (0o150000, "unknown"),
        (0, "unknown"),
    ],
)
def test_special_files_are_left_out_and_told(publisher: Publisher, kind: int, word: str) -> None:
    builder = publisher.catalog()
    builder.special(b"/s", kind)
    nodes, report = shown(publisher, builder)
    assert list(nodes) == [b""]
    assert report.cases == {"special_file": [(b"/s", word)]}


@pytest.mark.parametrize("target", [b"", b"$(UNSET)", b"$(EMPTY:-x)", b"a\0b"])
def test_links_that_cannot_be_made_are_left_out_and_told(publisher: Publisher, target: bytes) -> None:
    builder = publisher.catalog()
    builder.link(b"/l", target)
    nodes, report = shown(publisher, builder, variables={b"EMPTY": b""})
    assert list(nodes) == [b""]
    assert report.cases["empty_link_target"] == [(b"/l", target.decode())]


def test_a_variable_may_not_smuggle_a_nul_into_a_target(publisher: Publisher) -> None:
    builder = publisher.catalog()
    builder.link(b"/l", b"$(SLY)")
    nodes, report = shown(publisher, builder, variables={b"SLY": b"a\0b"})
    assert list(nodes) == [b""]
    assert report.counts == {"empty_link_target": 1}


def test_variables_are_expanded_and_unset_ones_told(publisher: Publisher) -> None:
    builder = publisher.catalog()
    builder.link(b"/set", b"lib/$(ARCH)")
    builder.link(b"/unset", b"lib/$(VIEW)")
    builder.link(b"/default", b"$(SITE:-default)")
    nodes, report = shown(publisher, builder, variables={b"ARCH": b"x86_64", b"OTHER": b"y"})
    assert [nodes[path].target for path in (b"/set", b"/unset", b"/default")] == [b"lib/x86_64", b"lib/", b"default"]
    assert report.variables == {b"ARCH": b"x86_64", b"VIEW": None, b"SITE": None}
    assert report.cases == {"unset_variable": [(b"/default", "SITE"), (b"/unset", "VIEW")]}


def test_a_report_counts_all_and_keeps_the_first() -> None:
    report = Report()
    for number in range(Report.KEEP + 5):
        report.add("what", b"/%d" % number)
    assert report.counts["what"] == Report.KEEP + 5
    assert len(report.cases["what"]) == Report.KEEP
    assert report.cases["what"][-1][0] == b"/%d" % (Report.KEEP - 1)


def test_the_flag_for_external_files_means_nothing_on_what_is_no_file(publisher: Publisher, tmp_path: Path) -> None:
    builder = publisher.catalog()
    builder.link(b"/l", b"t", flags=12 | EXTERNAL)
    builder.dir(b"/d", flags=1 | EXTERNAL | 0x3F00)
    nodes, report = shown(publisher, builder)
    assert [one.content for one in nodes.values()] == [None, None, None]
    assert report == Report()
