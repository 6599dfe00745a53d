"""Holds a published storage against the format, with nothing but sqlite3, zlib and openssl's arithmetic.

:func:`check` goes over all that FORMAT.md §12.2 says of the reference's own check, and more: signatures, every hash and
size, statistics recomputed, link counts, markers, keys of paths, history, reflog. It shares no code with the publisher.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import stat
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

TAGS = {0: "", 1: "-rmd160", 2: "-shake128"}
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"
MARKER = b".cvmfscatalog"
COUNTERS = (
    "regular",
    "symlink",
    "special",
    "dir",
    "nested",
    "chunked",
    "chunks",
    "file_size",
    "chunked_size",
    "xattr",
    "external",
    "external_file_size",
)
TABLES = {"catalog", "chunks", "nested_catalogs", "bind_mountpoints", "statistics", "properties"}
_SHA1_INFO = bytes.fromhex("3021300906052b0e03021a05000414")
Row = dict[str, Any]


def digest(data: bytes, tag: str) -> str:
    if tag == "-rmd160":
        return hashlib.new("ripemd160", data).hexdigest()
    if tag == "-shake128":
        return hashlib.shake_128(data).hexdigest(20)
    assert tag == ""
    return hashlib.sha1(data).hexdigest()


def tag_of(text: str) -> str:
    assert re.fullmatch(r"[0-9a-f]{40}(-rmd160|-shake128)?", text), text
    return text[40:]


def key(path: bytes) -> tuple[int, int]:
    one, two = struct.unpack("<qq", hashlib.md5(path).digest())
    return one, two


@dataclass
class Checked:
    """What was found on the way.

    Attributes:
        fields: of the manifest.
        entries: rows of the head by path, without the second copies of transition directories.
        catalogs: hash of each catalog of the head, by mount path.
        statistics: of the root catalog.
        objects: names of all objects that the head and the tags lead to.
        tags: rows of the history by name.
        refs: kind of each entry of the reflog.
    """

    fields: dict[str, str] = field(default_factory=dict)
    entries: dict[bytes, Row] = field(default_factory=dict)
    catalogs: dict[bytes, str] = field(default_factory=dict)
    statistics: dict[str, int] = field(default_factory=dict)
    properties: dict[bytes, dict[bytes, bytes]] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    tags: dict[str, Row] = field(default_factory=dict)
    refs: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check(storage: Path, public_key: Path, fqrn: str = "demo.example.org") -> Checked:
    """Check everything that can be reached; problems are listed in the result, and raised."""
    checker = _Checker(storage, fqrn)
    checker.run(public_key)
    assert checker.found.problems == []
    return checker.found


class _Checker:
    def __init__(self, storage: Path, fqrn: str) -> None:
        self.storage = storage
        self.fqrn = fqrn
        self.found = Checked()
        self.seen: dict[str, tuple[dict[str, int], int]] = {}

    def claim(self, holds: object, problem: str) -> None:
        if not holds:
            self.found.problems.append(problem)

    # -- objects -----------------------------------------------------------------------------------------------------

    def stored(self, text: str, suffix: str) -> bytes:
        """An object as it is stored, held against its name."""
        tag = tag_of(text)
        name = f"{text[:2]}/{text[2:40]}{tag}{suffix}"
        self.found.objects.add(name)
        file = self.storage / "data" / name
        if not file.is_file():
            self.claim(False, f"object {name} is missing")
            return b""
        data = file.read_bytes()
        self.claim(digest(data, tag) == text[:40], f"object {name} has another hash")
        self.claim(stat.S_IMODE(file.stat().st_mode) == 0o644, f"object {name} is not readable for all")
        return data

    def metadata(self, text: str, suffix: str) -> bytes:
        data = self.stored(text, suffix)
        self.claim(data[:2] == b"\x78\x9c", f"object {text}{suffix} is no zlib stream of the default level")
        return zlib.decompress(data)

    def rows(self, data: bytes, statement: str) -> list[Row]:
        with closing(sqlite3.connect(":memory:")) as db:
            db.deserialize(data)
            db.text_factory = bytes
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(statement)]

    # -- signatures --------------------------------------------------------------------------------------------------

    def document(self, name: str) -> tuple[list[str], str, bytes]:
        """Lines, hash line and signature."""
        data = (self.storage / name).read_bytes()
        text, _, rest = data.partition(b"\n--\n")
        line, _, signature = rest.partition(b"\n")
        text += b"\n"
        hash_line = line.decode()
        self.claim(digest(text, tag_of(hash_line)) == hash_line[:40], f"{name}: hash line")
        return text.decode().splitlines(), hash_line, signature

    def signed(self, public: RSAPublicKey, signature: bytes, payload: bytes, name: str) -> None:
        numbers = public.public_numbers()
        size = (numbers.n.bit_length() + 7) // 8
        block = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(size, "big")
        wanted = b"\x00\x01" + b"\xff" * (size - 3 - len(payload)) + b"\x00" + payload
        self.claim(len(signature) == size and block == wanted, f"{name}: signature")

    def run(self, public_key: Path) -> None:
        lines, hash_line, signature = self.document(".cvmfspublished")
        fields = self.found.fields = {line[0]: line[1:] for line in lines}
        self.claim("".join(line[0] for line in lines) == "CBRDSGANXHTMY", f"order of the manifest's fields: {lines}")
        self.claim(fields["R"] == EMPTY_MD5, "manifest: R")
        self.claim(fields["N"] == self.fqrn, "manifest: N")
        self.claim(fields["G"] == "yes" and fields["A"] == "no", "manifest: G and A")
        pem = self.metadata(fields["X"], "X")
        certificate = x509.load_pem_x509_certificate(pem)
        public = certificate.public_key()
        assert isinstance(public, RSAPublicKey)
        self.signed(public, signature, _SHA1_INFO + hashlib.sha1(hash_line.encode()).digest(), "manifest")
        self.whitelist(public_key, certificate)
        self.metadata(fields["M"], "M")
        self.history(fields)
        self.reflog(fields)
        self.root(fields["C"], int(fields["B"]), head=True)
        for row in self.found.tags.values():
            self.root(row["hash"].decode(), row["size"], head=False)

    def whitelist(self, public_key: Path, certificate: x509.Certificate) -> None:
        lines, hash_line, signature = self.document(".cvmfswhitelist")
        self.claim(re.fullmatch(r"\d{14}", lines[0]), "whitelist: time of issue")
        self.claim(re.fullmatch(r"E\d{14}", lines[1]) and lines[1][1:] > lines[0], "whitelist: expiry")
        self.claim(lines[2] == f"N{self.fqrn}", "whitelist: name")
        from cryptography.hazmat.primitives.serialization import Encoding

        der = certificate.public_bytes(Encoding.DER)
        tag = tag_of(hash_line)
        plain = digest(der, tag).upper()
        fingerprint = ":".join(plain[at : at + 2] for at in range(0, 40, 2)) + tag.upper()
        self.claim(lines[3:] == [fingerprint], f"whitelist: fingerprint {lines[3:]}, expected {fingerprint}")
        master = load_pem_public_key(public_key.read_bytes())
        assert isinstance(master, RSAPublicKey)
        self.signed(master, signature, hash_line.encode(), "whitelist")

    # -- history and reflog ------------------------------------------------------------------------------------------

    def history(self, fields: dict[str, str]) -> None:
        data = self.metadata(fields["H"], "H")
        properties = {row["key"]: row["value"] for row in self.rows(data, "SELECT * FROM properties")}
        self.claim(properties[b"schema"] == b"1.0" and properties[b"schema_revision"] == b"3", "history: schema")
        self.claim(properties[b"fqrn"] == self.fqrn.encode(), "history: fqrn")
        self.claim(
            re.fullmatch(rb"[0-9a-f]{40}(-rmd160|-shake128)?", properties[b"previous_revision"]), "history: before"
        )
        branches = {row["branch"] for row in self.rows(data, "SELECT * FROM branches")}
        tags = self.rows(data, "SELECT * FROM tags")
        self.claim(branches == {row["branch"] for row in tags}, "history: a branch that no tag uses")
        self.claim(all(row["channel"] == 0 for row in tags), "history: channels")
        self.claim(self.rows(data, "SELECT * FROM recycle_bin") == [], "history: the recycle bin is not empty")
        self.found.tags = {row["name"].decode(): row for row in tags}
        trunk = self.found.tags["trunk"]
        self.claim(trunk["hash"].decode() == fields["C"], "history: trunk is not the head")
        self.claim(trunk["revision"] == int(fields["S"]), "history: trunk's revision")
        self.claim(trunk["size"] == int(fields["B"]), "history: trunk's size")

    def reflog(self, fields: dict[str, str]) -> None:
        data = (self.storage / ".cvmfsreflog").read_bytes()
        self.claim(digest(data, tag_of(fields["Y"])) == fields["Y"][:40], "manifest: Y is not the reflog's hash")
        properties = {row["key"]: row["value"] for row in self.rows(data, "SELECT * FROM properties")}
        self.claim(
            properties == {b"schema": b"1.0", b"schema_revision": b"0", b"fqrn": self.fqrn.encode()},
            "reflog: properties",
        )
        self.found.refs = {row["hash"].decode(): row["type"] for row in self.rows(data, "SELECT * FROM refs")}
        for kind, letter in enumerate("CXHM"):
            self.claim(self.found.refs.get(fields[letter]) == kind, f"reflog: the manifest's {letter} is not in it")
        for text, kind in self.found.refs.items():
            name = f"{text[:2]}/{text[2:]}{'CXHM'[kind]}"
            self.claim((self.storage / "data" / name).is_file(), f"reflog: {name} does not exist")

    # -- catalogs ----------------------------------------------------------------------------------------------------

    def root(self, text: str, size: int, *, head: bool) -> None:
        own, length = self.catalog(text, b"", head, None)
        self.claim(length == size, f"root catalog {text}: {length} bytes, {size} are registered")
        if head:
            properties = self.found.properties[b""]
            self.claim(int(properties[b"revision"]) == int(self.found.fields["S"]), "root catalog: revision")
            self.claim(int(properties[b"TTL"]) == int(self.found.fields["D"]), "root catalog: TTL")
            self.claim(b"root_prefix" not in properties, "root catalog: root_prefix")
            self.found.statistics = own

    def catalog(self, text: str, mount: bytes, head: bool, transition: Row | None) -> tuple[dict[str, int], int]:
        """Check a catalog and all below; all its counters (self and subtree), and its size."""
        if text in self.seen and not head:
            return self.seen[text]
        data = self.metadata(text, "C")
        where = f"catalog of {mount!r}"
        with closing(sqlite3.connect(":memory:")) as db:
            db.deserialize(data)
            self.claim(db.execute("PRAGMA integrity_check").fetchone() == ("ok",), f"{where}: integrity")
            self.claim(db.execute("PRAGMA foreign_key_check").fetchall() == [], f"{where}: foreign keys")
        self.claim(data[18:20] == b"\x01\x01", f"{where}: not a rollback journal database")
        tables = {
            row["name"].decode() for row in self.rows(data, "SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        self.claim(tables == TABLES, f"{where}: tables {tables}")
        properties = {row["key"]: row["value"] for row in self.rows(data, "SELECT * FROM properties")}
        self.claim(properties[b"schema"] == b"2.5" and properties[b"schema_revision"] == b"7", f"{where}: schema")
        self.claim(all(isinstance(value, bytes) for value in properties.values()), f"{where}: properties are not text")
        self.claim(properties.get(b"root_prefix", b"") == mount, f"{where}: root_prefix")
        self.claim(int(properties[b"last_modified"]) > 0, f"{where}: last_modified")
        previous = properties.get(b"previous_revision")
        if mount:
            self.claim(previous is not None, f"{where}: previous_revision")
        rows = self.rows(data, "SELECT * FROM catalog")
        chunks: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for row in self.rows(data, "SELECT * FROM chunks ORDER BY offset"):
            chunks[row["md5path_1"], row["md5path_2"]].append(row)
        paths = self.paths(rows, mount, where, transition)
        nested = {row["path"]: row for row in self.rows(data, "SELECT * FROM nested_catalogs")}
        for path, row in paths.items():
            self.entry(path, row, mount, nested, chunks, where)
        self.link_counts(paths, nested, where)
        self.markers(paths, mount, nested, where)
        self.claim(set(chunks) <= {key(path) for path in paths}, f"{where}: chunks of no file")
        counted = self.count(paths, chunks, nested)
        below = dict.fromkeys(COUNTERS, 0)
        if head:
            self.found.catalogs[mount] = text
            self.found.properties[mount] = properties
            self.found.entries.update({path: row for path, row in paths.items() if path == b"" or path != mount})
        for path, ref in nested.items():
            child, length = self.catalog(ref["sha1"].decode(), path, head, paths.get(path))
            self.claim(length == ref["size"], f"{where}: size of {path!r} is {ref['size']}, expected {length}")
            for name in COUNTERS:
                below[name] += child[f"self_{name}"] + child[f"subtree_{name}"]
        wanted = {f"self_{name}": counted[name] for name in COUNTERS}
        wanted |= {f"subtree_{name}": below[name] for name in COUNTERS}
        stored = {row["counter"].decode(): row["value"] for row in self.rows(data, "SELECT * FROM statistics")}
        self.claim(stored == wanted, f"{where}: statistics {stored}, expected {wanted}")
        rows_by_kind = sum(counted[name] for name in ("regular", "symlink", "special", "dir"))
        self.claim(len(rows) == rows_by_kind, f"{where}: {len(rows)} rows")
        self.seen[text] = (wanted, len(data))
        return self.seen[text]

    def paths(self, rows: list[Row], mount: bytes, where: str, transition: Row | None) -> dict[bytes, Row]:
        """Rows by path, found by going down from the root: each must be reached."""
        children: dict[tuple[int, int], list[Row]] = defaultdict(list)
        tops = []
        for row in rows:
            if (row["md5path_1"], row["md5path_2"]) == key(mount):
                tops.append(row)
            else:
                children[row["parent_1"], row["parent_2"]].append(row)
        self.claim(len(tops) == 1, f"{where}: {len(tops)} root entries")
        top = tops[0]
        parent = (top["parent_1"], top["parent_2"])
        self.claim(
            parent == (key(mount.rpartition(b"/")[0]) if mount else (0, 0)), f"{where}: parent of the root entry"
        )
        self.claim(top["name"] == mount.rpartition(b"/")[2], f"{where}: name of the root entry")
        self.claim(bool(top["flags"] & 32) == bool(mount), f"{where}: flags of the root entry")
        if transition is not None:
            for name in top:
                if name == "flags":
                    self.claim(top[name] & ~32 == transition[name] & ~2, f"{where}: flags of the mountpoint")
                else:
                    self.claim(top[name] == transition[name], f"{where}: {name} differs from the mountpoint's")
        found = {mount: top}
        waiting = [mount]
        while waiting:
            path = waiting.pop()
            for row in children.pop(key(path), []):
                below = path + b"/" + row["name"]
                self.claim((row["md5path_1"], row["md5path_2"]) == key(below), f"{where}: key of {below!r}")
                self.claim(below not in found, f"{where}: {below!r} twice")
                found[below] = row
                waiting.append(below)
        self.claim(not children, f"{where}: rows that cannot be reached: {list(children.values())[:3]}")
        return found

    def entry(
        self,
        path: bytes,
        row: Row,
        mount: bytes,
        nested: dict[bytes, Row],
        chunks: dict[tuple[int, int], list[Row]],
        where: str,
    ) -> None:
        what = f"{where}: {path!r}"
        mode, flags = row["mode"], row["flags"]
        kind = stat.S_IFMT(mode)
        base = {stat.S_IFREG: 4, stat.S_IFDIR: 1, stat.S_IFLNK: 12}.get(kind, 20)
        extra = {0}
        if kind == stat.S_IFDIR:
            extra = {2} if path in nested else {32} if path == mount and mount else {0}
        elif kind == stat.S_IFREG:
            extra = {0, 64}
        low = flags & 0xFF
        self.claim(low - base in extra and low & base == base, f"{what}: flags {flags:#x}")
        self.claim(kind == stat.S_IFREG or flags >> 8 == 0, f"{what}: bits 8 and up of the flags")
        self.claim(type(row["name"]) is bytes and type(row["symlink"]) is bytes, f"{what}: columns that are not text")
        self.claim(bool(row["symlink"]) == (kind == stat.S_IFLNK), f"{what}: link target")
        self.claim(kind != stat.S_IFLNK or row["size"] == len(row["symlink"]), f"{what}: size of a link")
        self.claim(row["xattr"] is None or row["xattr"][:1] == b"\x01", f"{what}: xattrs")
        self.claim(row["mtimens"] is None or 0 <= row["mtimens"] < 10**9, f"{what}: nanoseconds")
        if path in nested:
            self.claim(path != mount, f"{what}: mounted on itself")
        own = chunks.get(key(path), [])
        if kind != stat.S_IFREG:
            self.claim(row["hash"] is None and not own, f"{what}: a hash or chunks")
            return
        tag = TAGS[(flags >> 8) & 7]
        compressed = (flags >> 11) & 7 == 0
        if flags & 64:
            self.claim(len(own) > 1, f"{what}: {len(own)} chunks")
            self.claim(row["hash"] is None, f"{what}: chunked, with a hash")
            position = 0
            for chunk in own:
                self.claim(chunk["offset"] == position, f"{what}: chunks do not tile it")
                data = self.stored(chunk["hash"].hex() + tag, "P")
                data = zlib.decompress(data) if compressed else data
                self.claim(len(data) == chunk["size"], f"{what}: size of a chunk")
                position += chunk["size"]
            self.claim(position == row["size"], f"{what}: {position} bytes in chunks")
        else:
            self.claim(not own, f"{what}: chunks of a file that is not chunked")
            self.claim(row["hash"] is not None, f"{what}: no hash")
            data = self.stored(row["hash"].hex() + tag, "")
            data = zlib.decompress(data) if compressed else data
            self.claim(len(data) == row["size"], f"{what}: {len(data)} bytes, expected {row['size']}")

    def link_counts(self, paths: dict[bytes, Row], nested: dict[bytes, Row], where: str) -> None:
        subdirs: dict[bytes, int] = defaultdict(int)
        groups: dict[tuple[bytes, int], list[Row]] = defaultdict(list)
        numbers: dict[int, set[bytes]] = defaultdict(set)
        for path, row in paths.items():
            parent = path.rpartition(b"/")[0]
            count, group = row["hardlinks"] & 0xFFFFFFFF, row["hardlinks"] >> 32
            self.claim(count > 0, f"{where}: {path!r} has link count 0")
            if stat.S_ISDIR(row["mode"]):
                if path:
                    subdirs[parent] += 1
                self.claim(group == 0, f"{where}: the directory {path!r} is in a hard link group")
            else:
                self.claim((count > 1) == (group > 0), f"{where}: {path!r}: link count {count}, group {group}")
                if group:
                    groups[parent, group].append(row)
                    numbers[group].add(parent)
        for path, row in paths.items():
            if stat.S_ISDIR(row["mode"]) and path not in nested:
                self.claim(row["hardlinks"] == 2 + subdirs[path], f"{where}: link count of {path!r}")
        for (parent, group), members in groups.items():
            counts = {row["hardlinks"] & 0xFFFFFFFF for row in members}
            self.claim(counts == {len(members)}, f"{where}: group {group} in {parent!r}: {counts}, {len(members)}")
            for name in ("mode", "size", "mtime", "mtimens", "uid", "gid", "hash", "symlink", "xattr", "flags"):
                self.claim(len({row[name] for row in members}) == 1, f"{where}: group {group} differs in {name}")
        for group, parents in numbers.items():
            self.claim(len(parents) == 1, f"{where}: group {group} spans directories")

    def markers(self, paths: dict[bytes, Row], mount: bytes, nested: dict[bytes, Row], where: str) -> None:
        found = {path.rpartition(b"/")[0] for path in paths if path.endswith(b"/" + MARKER)}
        self.claim(found == ({mount} if mount else set()), f"{where}: markers in {found}")
        for path in nested:
            self.claim(path in paths, f"{where}: no entry for the mountpoint {path!r}")
            inside = [one for one in paths if one.startswith(path + b"/")]
            self.claim(not inside, f"{where}: the mountpoint {path!r} has entries here")

    def count(
        self, paths: dict[bytes, Row], chunks: dict[tuple[int, int], list[Row]], nested: dict[bytes, Row]
    ) -> dict[str, int]:
        counted = dict.fromkeys(COUNTERS, 0)
        for row in paths.values():
            mode = row["mode"]
            kind = (
                "regular" if stat.S_ISREG(mode)
                else "symlink" if stat.S_ISLNK(mode)
                else "dir" if stat.S_ISDIR(mode)
                else "special"
            )  # fmt: skip
            counted[kind] += 1
            counted["xattr"] += row["xattr"] is not None
            if kind == "regular":
                counted["file_size"] += row["size"]
                if row["flags"] & 64:
                    counted["chunked"] += 1
                    counted["chunked_size"] += row["size"]
        counted["chunks"] = sum(len(one) for one in chunks.values())
        counted["nested"] = len(nested)
        return counted


def object_names(storage: Path) -> Iterator[str]:
    """All objects of a storage, as ``ab/cdef…``."""
    for shard in sorted((storage / "data").iterdir()):
        if len(shard.name) == 2:
            for file in sorted(shard.iterdir()):
                yield f"{shard.name}/{file.name}"
