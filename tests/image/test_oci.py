"""OCI layouts: what skopeo and umoci make of them is what was packed; sameness, sharing, and what is refused."""

from __future__ import annotations

import gc
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import tarfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from image.making import SECOND, TIME, Held, Maker, special
from support.filesystems import Filesystem
from support.listing import probe
from support.processes import need

from shrinkwrap.errors import CorruptObject, DestinationError, UsageError
from shrinkwrap.image import oci
from shrinkwrap.image.blobs import layout_archive, put
from shrinkwrap.image.compress import GZIP, KINDS, NONE, ZSTD, Stream, compressing
from shrinkwrap.image.entries import DIR, FILE, LINK, ImageEntry
from shrinkwrap.image.layers import Plan, plan_layers, weigh
from shrinkwrap.image.oci import ARCHIVE, ARTIFACT_TYPE, FOLDER, OciImage, OciOptions, write_oci

TIMESTAMP = 1_795_346_014
MOUNTS = {b"/sft.cern.ch", b"/sft.cern.ch/folder", b"/sft.cern.ch/folder/sub", b"/sft.cern.ch/a", b"/" + b"l" * 90}


@pytest.fixture(scope="module")
def maker() -> Maker:
    return special()


@pytest.fixture(scope="module")
def plan(maker: Maker) -> Plan:
    found = plan_layers(weigh(maker.stream(), MOUNTS), lightest=1)
    assert len(found.layers) == 6
    return found


def write(path: Path, maker: Maker, plan: Plan | None, held: Held | None = None, **options: Any) -> OciImage:
    return write_oci(
        os.fsencode(path),
        maker.stream(),
        held or maker.held,
        plan=plan,
        options=OciOptions(**options),
        labels={"org.opencontainers.image.version": "12"},
        timestamp=TIMESTAMP,
    )


@pytest.fixture(scope="module")
def layout(maker: Maker, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oci") / "layout"
    write(path, maker, plan, compression=GZIP)
    return path


def blob(layout: Path, digest: str) -> bytes:
    data = (layout / "blobs" / "sha256" / digest.removeprefix("sha256:")).read_bytes()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == digest
    return data


def manifest_of(layout: Path) -> dict[str, Any]:
    index = json.loads((layout / "index.json").read_bytes())
    (top,) = index["manifests"]
    data = blob(layout, top["digest"])
    assert len(data) == top["size"]
    return json.loads(data)  # type: ignore[no-any-return]


def inflated(data: bytes) -> bytes:
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return data


def files_below(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def compare(maker: Maker, top: Path) -> None:
    """A tree on disk is what was packed, owners and times included."""
    holds = probe(top.parent)
    root = os.fsencode(top)
    inodes: dict[ImageEntry, tuple[int, int]] = {}
    for entry in maker.stream():
        path = root + entry.path
        info = os.lstat(path)
        assert (info.st_uid, info.st_gid) == (entry.uid, entry.gid), entry.path
        if holds.times is None or holds.times[0] <= entry.mtime_ns // SECOND <= holds.times[1]:
            assert info.st_mtime_ns == entry.mtime_ns, entry.path
        if entry.kind == LINK:
            assert os.readlink(path) == entry.target
        else:
            assert stat.S_IMODE(info.st_mode) == entry.mode, entry.path
        if entry.kind == FILE:
            assert Path(os.fsdecode(path)).read_bytes() == maker.held.by_key[entry.key]
        if entry.kind != LINK and holds.xattrs:
            found = tuple((os.fsencode(name), os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
            assert found == tuple((name, value) for name, value in entry.xattrs if value), entry.path
        if entry.link:
            key = entry._replace(path=os.path.dirname(entry.path))
            assert inodes.setdefault(key, (info.st_dev, info.st_ino)) == (info.st_dev, info.st_ino)
    assert sum(len(folders) + len(files) for _, folders, files in os.walk(root)) == len(maker.stream()) - 1


# ---------------------------------------------------------------------------------------------------------- the layout


@pytest.mark.parametrize("kind", KINDS)
def test_blobs_are_what_their_names_and_descriptors_say(maker: Maker, plan: Plan, tmp_path: Path, kind: str) -> None:
    layout = tmp_path / "layout"
    image = write(layout, maker, plan, compression=kind)
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    manifest = manifest_of(layout)
    config = json.loads(blob(layout, manifest["config"]["digest"]))
    suffix = {NONE: "", GZIP: "+gzip", ZSTD: "+zstd"}[kind]
    assert len(manifest["layers"]) == len(config["rootfs"]["diff_ids"]) == len(image.layers) == 6
    for layer, diff_id in zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar{suffix}"
        data = blob(layout, layer["digest"])
        assert len(data) == layer["size"]
        assert "sha256:" + hashlib.sha256(inflated(data)).hexdigest() == diff_id
    assert config["created"] == manifest["annotations"]["org.opencontainers.image.created"] == "2026-11-22T11:13:34Z"
    assert config["config"]["Labels"] == {"org.opencontainers.image.version": "12"}
    assert manifest["annotations"]["org.opencontainers.image.version"] == "12"
    assert len(os.listdir(layout / "blobs" / "sha256")) == 6 + 2
    assert os.listdir(tmp_path) == ["layout"]


def test_an_entry_is_in_one_layer_and_directories_above_are_plain_in_those_below(maker: Maker, layout: Path) -> None:
    seen: dict[str, list[tarfile.TarInfo]] = {}
    for layer in manifest_of(layout)["layers"]:
        with tarfile.open(fileobj=io.BytesIO(inflated(blob(layout, layer["digest"])))) as opened:
            for member in opened:
                seen.setdefault(member.name, []).append(member)
    for entry in maker.stream():
        *plain, last = seen.pop(os.fsdecode(entry.path[1:] or b"."))
        assert last.mode == entry.mode
        assert not plain or entry.kind == DIR
        assert all((one.mode, one.uid, one.mtime, one.pax_headers) == (0o755, 0, 0, {}) for one in plain)
    assert not seen


def test_without_a_plan_there_is_one_layer(maker: Maker, tmp_path: Path) -> None:
    image = write(tmp_path / "layout", maker, None)
    assert [layer.entries for layer in image.layers] == [len(maker.stream())]
    assert image.size == image.layers[0].blob.size


def test_an_archive_holds_the_files_of_the_folder(maker: Maker, plan: Plan, layout: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    image = write(path, maker, plan, compression=GZIP, form=ARCHIVE)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([need("tar"), "-xf", path, "-C", out], check=True)
    assert files_below(out) == files_below(layout)
    assert image.digest == json.loads((out / "index.json").read_bytes())["manifests"][0]["digest"]
    assert path.stat().st_size % 10_240 == 0
    with tarfile.open(path) as opened:
        assert {member.mtime for member in opened} == {TIMESTAMP}


def test_the_same_content_in_two_layers_is_one_file_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    with layout_archive(os.fsencode(path), 0) as blobs:
        long = b"x" * 100_000
        assert put(blobs, long) == put(blobs, long)
        blobs.finish(b"{}")
    with tarfile.open(path) as opened:
        assert [member.size for member in opened if member.isfile()] == [100_000, 2, 30]
    assert path.stat().st_size < 120_000


# ------------------------------------------------------------------------------------------------------ other programs


@pytest.mark.root
def test_umoci_unpacks_what_was_packed(maker: Maker, layout: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    subprocess.run([need("umoci"), "unpack", "--image", f"{layout}:latest", bundle], check=True, capture_output=True)
    compare(maker, bundle / "rootfs")


def test_skopeo_tells_and_copies_an_archive(maker: Maker, plan: Plan, tmp_path: Path) -> None:
    skopeo = [need("skopeo"), "--insecure-policy", "--tmpdir", str(tmp_path)]
    path = tmp_path / "image.tar"
    image = write(path, maker, plan, compression=ZSTD, form=ARCHIVE, architecture="arm64")
    told = subprocess.run([*skopeo, "inspect", f"oci-archive:{path}:latest"], check=True, capture_output=True)
    found = json.loads(told.stdout)
    assert (found["Digest"], found["Architecture"]) == (image.digest, "arm64")
    assert found["Layers"] == [f"sha256:{layer.blob.sha256}" for layer in image.layers]
    # It inflates every layer on the way and holds it against its digest.
    copied = tmp_path / "copied"
    command = [*skopeo, "copy", "--dest-decompress", f"oci-archive:{path}:latest", f"dir:{copied}"]
    subprocess.run(command, check=True, capture_output=True)
    for layer in image.layers:
        assert hashlib.sha256((copied / layer.diff_id).read_bytes()).hexdigest() == layer.diff_id


# ---------------------------------------------------------------------------------------------- sameness and sharing


def test_pieces_and_threads_do_not_matter(maker: Maker, plan: Plan, tmp_path: Path) -> None:
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    write(first, maker, plan, form=ARCHIVE)
    write(second, maker, plan, maker.held.cut(999), form=ARCHIVE, threads=3)
    assert first.read_bytes() == second.read_bytes()


def test_two_releases_share_the_layers_of_what_did_not_change(tmp_path: Path) -> None:
    images = []
    for count in (8, 9):
        make = Maker()
        mounts = {b"/demo.example.org"}
        for release in range(count):
            top = b"/demo.example.org/releases/%d" % release
            mounts.add(top)
            make.file(top + b"/lib", b"%d" % release * 5000)
        # Its time changes with every release, as that of all above it may.
        make.folder(b"/demo.example.org/releases", mtime_ns=TIME + count)
        plan = plan_layers(weigh(make.stream(), mounts), lightest=1000)
        images.append(write(tmp_path / str(count), make, plan))
    old, new = ({layer.blob.sha256: layer.path for layer in image.layers} for image in images)
    assert [path for sha256, path in old.items() if sha256 not in new] == [b"/demo.example.org"]
    assert {path for sha256, path in new.items() if sha256 not in old} == {
        b"/demo.example.org",
        b"/demo.example.org/releases/8",
    }


def test_an_artifact_has_no_configuration(maker: Maker, plan: Plan, tmp_path: Path) -> None:
    write(tmp_path / "layout", maker, plan, artifact=True)
    manifest = manifest_of(tmp_path / "layout")
    assert manifest["artifactType"] == ARTIFACT_TYPE
    assert manifest["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
    assert blob(tmp_path / "layout", manifest["config"]["digest"]) == b"{}"
    assert manifest["layers"][-1]["annotations"] == {"org.opencontainers.image.title": "/"}


def test_one_compressor_is_alive_at_a_time(
    maker: Maker, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Stream]] = []

    def counted(*arguments: Any, **options: Any) -> Stream:
        assert not [one for one in made if one() is not None]
        stream = compressing(*arguments, **options)
        made.append(weakref.ref(stream))
        return stream

    monkeypatch.setattr(oci, "compressing", counted)
    collecting = gc.isenabled()
    gc.disable()
    try:
        write(tmp_path / "x", maker, plan)
    finally:
        if collecting:
            gc.enable()
    assert len(made) == 6


# ------------------------------------------------------------------------------------------------------------ refusing


@pytest.mark.parametrize("form", [FOLDER, ARCHIVE])
@pytest.mark.parametrize("name", [b".wh.gone", b".wh..wh..opq"])
def test_names_that_would_remove_files_are_refused(tmp_path: Path, name: bytes, form: str) -> None:
    make = Maker()
    make.file(b"/r/" + name, b"")
    with pytest.raises(UsageError, match=r"begins with \.wh\. means a removed file"):
        write(tmp_path / "x", make, None, form=form)
    assert not any(tmp_path.iterdir())


def test_attributes_that_no_layer_can_hold_are_told(tmp_path: Path) -> None:
    make = Maker()
    make.file(b"/r/f", b"", xattrs=((b"user.a=b", b"v"), (b"user.c", b"v"), (b"user.d", b"")))
    image = write(tmp_path / "x", make, None, compression=NONE)
    assert (image.lost, sorted(image.cases)) == (2, [(b"/r/f", b"user.a=b"), (b"/r/f", b"user.d")])
    data = blob(tmp_path / "x", manifest_of(tmp_path / "x")["layers"][0]["digest"])
    assert (b"user.a" in data, b"user.c" in data, b"user.d" in data) == (False, True, False)


@pytest.mark.parametrize("form", [FOLDER, ARCHIVE])
def test_a_failed_image_leaves_nothing_and_the_old_one(maker: Maker, plan: Plan, tmp_path: Path, form: str) -> None:
    write(tmp_path / "x", maker, plan, form=form)
    before = files_below(tmp_path)
    entries = [one._replace(size=one.size + 1) if one.kind == FILE else one for one in maker.stream()]
    with pytest.raises(CorruptObject, match="expected"):
        write_oci(os.fsencode(tmp_path / "x"), entries, maker.held, plan=plan, options=OciOptions(form=form))
    assert files_below(tmp_path) == before


def test_an_old_layout_gives_way_and_nothing_else_does(maker: Maker, plan: Plan, tmp_path: Path) -> None:
    write(tmp_path / "x", maker, None)
    image = write(tmp_path / "x", maker, plan)
    assert len(manifest_of(tmp_path / "x")["layers"]) == len(image.layers) == 6
    assert os.listdir(tmp_path) == ["x"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_bytes(b"keep")
    with pytest.raises(DestinationError, match="no OCI image layout"):
        write(tmp_path / "mine", maker, plan)
    assert (tmp_path / "mine" / "file").read_bytes() == b"keep"
    with pytest.raises(DestinationError, match="No such file"):
        write(tmp_path / "absent" / "x", maker, plan)


@pytest.mark.parametrize("form", [FOLDER, ARCHIVE])
def test_a_full_disk_is_said_and_leaves_nothing(
    maker: Maker, plan: Plan, make_filesystem: Callable[..., Filesystem], form: str
) -> None:
    small = make_filesystem("tmpfs", size=512 * 1024)
    with pytest.raises(DestinationError, match="No space left"):
        write(Path(small.path) / "x", maker, plan, form=form)
    assert os.listdir(small.path) == []


@pytest.mark.parametrize("options", [{"form": "zip"}, {"compression": "lz4"}, {"compression": GZIP, "level": 99}])
def test_options_that_make_no_sense_are_refused(maker: Maker, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        write(tmp_path / "x", maker, None, **options)
    assert not any(tmp_path.iterdir())
