"""Small trees of all kinds of entries, cut into catalogs anywhere, and specifications that reach into them."""

from __future__ import annotations

import stat
from dataclasses import dataclass

from hypothesis import strategies as st

from support.repository import HIDDEN, CatalogBuilder, Publisher

#: Sorted otherwise when whole paths are compared: ``a-b`` and ``a!`` before ``a/b``. Some need escapes in JSON.
NAMES = [b"a", b"a-b", b"a!", b"lib", b"b", b"\xff", b'"', "ü".encode()]
_COMPONENTS = [b"a", b"a-b", b"lib", b"b", b"*", b"a*", b"**"]
#: Values of a variable that links use, or its lack.
VARIABLES = [{}, {b"V": b""}, {b"V": b"x"}, {b"V": b"\xff", b"W": b"y"}]


@dataclass(frozen=True)
class Tree:
    """Kinds of entries by path (``dir``, ``hidden`` and those of :func:`_make`), and the mounts among them."""

    kinds: dict[bytes, str]
    mounts: tuple[bytes, ...]

    def children(self, path: bytes) -> list[bytes]:
        """Entries right in a directory that a listing shows."""
        return [one for one, kind in self.kinds.items() if one.rpartition(b"/")[0] == path and kind != "hidden"]


KINDS = ["file", "file", "chunked", "external", "set-id", "link", "variant", "unset", "fifo", "attributes", "hidden"]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    way = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)
    folders = {tuple(one[:depth]) for one in draw(st.lists(way, max_size=8)) for depth in range(1, len(one) + 1)}
    leaves = {tuple(one) for one in draw(st.lists(way, max_size=12))} - folders
    leaves = {one for one in leaves if len(one) == 1 or one[:-1] in folders}
    kinds = {_join(one): "dir" for one in sorted(folders)}
    kinds.update((_join(one), draw(st.sampled_from(KINDS))) for one in sorted(leaves))
    mounts = draw(st.lists(st.sampled_from(sorted(folders)), max_size=4, unique=True)) if folders else []
    return Tree(kinds, tuple(sorted(_join(one) for one in mounts)))


def specs() -> st.SearchStrategy[bytes]:
    lines = st.builds(
        lambda sign, way, star: sign + b"".join(b"/" + name for name in way) + star,
        st.sampled_from([b"", b"", b"^", b"!"]),
        st.lists(st.sampled_from(_COMPONENTS), min_size=1, max_size=3),
        st.sampled_from([b"", b"/*"]),
    )
    return st.lists(lines | st.just(b"/*"), min_size=1, max_size=4).map(b"\n".join)


def build(publisher: Publisher, tree: Tree) -> CatalogBuilder:
    """The root catalog; contents are not stored."""
    catalogs = {b"": publisher.catalog()}

    def owner(path: bytes) -> CatalogBuilder:
        while path not in catalogs:
            path = path.rpartition(b"/")[0]
        return catalogs[path]

    for mount in tree.mounts:
        child = publisher.catalog(mount)
        owner(mount).nest(child)
        catalogs[mount] = child
    for path, kind in tree.kinds.items():
        if path not in catalogs:
            _make(owner(path), path, kind)
    return catalogs[b""]


def _make(catalog: CatalogBuilder, path: bytes, kind: str) -> None:
    if kind == "dir":
        catalog.dir(path)
    elif kind == "link":
        catalog.link(path, b"some/where")
    elif kind == "variant":
        catalog.link(path, b"$(V)/x")
    elif kind == "unset":
        catalog.link(path, b"$(V)$(NOT SET)")
    elif kind == "fifo":
        catalog.special(path, stat.S_IFIFO)
    elif kind == "chunked":
        catalog.file(path, pieces=[path, b"more"], store=False)
    elif kind == "external":
        catalog.file(path, path, external=True, store=False)
    elif kind == "set-id":
        catalog.file(path, path, store=False, mode=0o4755)
    elif kind == "attributes":
        catalog.file(path, path, store=False, xattrs={b"user.x": b"y", b"trusted.z": b"\xff"})
    elif kind == "hidden":
        catalog.file(path, path, store=False, flags=HIDDEN)
    else:
        catalog.file(path, path, store=False)


def _join(way: tuple[bytes, ...]) -> bytes:
    return b"".join(b"/" + name for name in way)
