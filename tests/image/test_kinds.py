"""Archives, OCI layouts and SIF straight from repositories: the usual programs make of them what mounts show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from image.building import SQUASHFS, from_server, from_storage, leftovers, listed, part, request
from support import golden
from support.golden import Pinned
from support.listing import Projection, compare, list_tree
from support.servers import RepoServer

from shrinkwrap.errors import UsageError
from shrinkwrap.image.build import build
from shrinkwrap.image.formats import Form, form_of
from shrinkwrap.image.inspect import describe, open_image, verify
from shrinkwrap.image.request import Part
from shrinkwrap.image.sif import PARTITION, read_sif

pytestmark = pytest.mark.root

SMALL = Pinned("small.cern.ch", "rev2")
MIXED = Pinned("mixed.cern.ch", "rev3")
KINDS = [("tar", "zstd"), ("oci", "zstd"), ("sif", "")]
#: In long runs.
MORE = [("tar", "none"), ("tar", "gzip"), ("oci-archive", "gzip")]


def need(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


@pytest.fixture
def small(repos: Path, tmp_path: Path) -> Part:
    return part(SMALL, from_storage(SMALL, repos, tmp_path))


@pytest.fixture
def python(repos: Path, tmp_path: Path) -> Part:
    """Files of all sizes up to some hundred kilobytes."""
    spec = tmp_path / "python.spec"
    spec.write_text("/lcg/releases/Python/*\n")
    return part(SMALL, from_storage(SMALL, repos, tmp_path), spec)


def extracted(archive: Path, tree: Path) -> Path:
    tree.mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", str(archive), "-C", str(tree)]
    subprocess.run(command, check=True)
    return tree


@pytest.mark.parametrize("at", [SMALL, MIXED, Pinned("legacy_aufs.cern.ch", "head")], ids=str)
def test_tar_extracts_what_the_mount_shows(at: Pinned, repos: Path, tmp_path: Path) -> None:
    output = tmp_path / "image.tar"
    built = build(request(output, part(at, from_storage(at, repos, tmp_path)), form=Form("tar", "none")))
    tree = extracted(output, tmp_path / "tree")
    assert compare(golden.mounted(at), list_tree(tree / at.fqrn), Projection()) == []
    assert sorted(os.listdir(tree)) == [".provenance", at.fqrn]
    assert json.loads((tree / ".provenance" / "image.json").read_bytes())["format"] == "tar"
    assert (tree / ".provenance" / at.fqrn / "statement.json").exists()
    assert leftovers(tmp_path) == []
    assert built.size == output.stat().st_size


def test_umoci_unpacks_what_the_mount_shows(small: Part, tmp_path: Path) -> None:
    program = need("umoci")
    output = tmp_path / "image.oci"
    built = build(request(output, small, form=Form("oci", "gzip")))
    assert built.counts["layers"] > 1
    bundle = tmp_path / "bundle"
    subprocess.run([program, "unpack", "--image", f"{output}:latest", str(bundle)], check=True)
    # No layer can hold an attribute without a value, which is told.
    wrong = compare(golden.mounted(SMALL), list_tree(bundle / "rootfs" / SMALL.fqrn), Projection())
    assert [line.partition(":")[0] for line in wrong] == ["b'/special/xattr/empty'"]
    assert any("/special/xattr/empty (user.empty)" in line for line in built.notices)


def test_folder_and_archive_are_one_image(python: Part, tmp_path: Path) -> None:
    one = build(request(tmp_path / "image.oci", python, form=Form("oci", "zstd")))
    two = build(request(tmp_path / "image.oci.tar", python, form=Form("oci-archive", "zstd")))
    assert one.sha256 == two.sha256
    index = json.loads((tmp_path / "image.oci" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == f"sha256:{one.sha256}"
    single = build(request(tmp_path / "single.oci", python, form=Form("oci", "zstd", single_layer=True)))
    assert single.counts["layers"] == 1


def test_a_sif_holds_a_squashfs_and_says_what_is_in_it(small: Part, tmp_path: Path) -> None:
    output = tmp_path / "image.sif"
    build(request(output, small, form=Form("sif")))
    made = read_sif(os.fsencode(output))
    data = made.first(PARTITION)
    assert data is not None
    assert (data.filesystem, data.part) == ("squashfs", "data")
    assert f"{SMALL.fqrn}.statement.json".encode() in [one.name for one in made.objects]
    inner = tmp_path / "inner"
    inner.write_bytes(output.read_bytes()[data.offset : data.offset + data.size])
    assert compare(golden.mounted(SMALL), listed(inner, SMALL.fqrn), SQUASHFS) == []
    with open_image(str(output)) as image:
        assert [one.fqrn for one in describe(image, str(output)).statements] == [SMALL.fqrn]
        assert verify(image).number == 0


@pytest.mark.parametrize(
    ("kind", "compression"), [*KINDS, *(pytest.param(*one, marks=pytest.mark.long) for one in MORE)]
)
def test_the_same_request_gives_the_same_bytes_whatever_the_workers_and_the_source(
    python: Part, repo_server: RepoServer, tmp_path: Path, kind: str, compression: str
) -> None:
    form = Form(kind, compression)
    one = build(request(tmp_path / "one", python, form=form))
    served = Part(from_server(SMALL, repo_server), python.keys, python.spec, python.pin, python.variables)
    two = build(request(tmp_path / "two", served, form=form, workers=3))
    # The bill of materials of a SIF names the file.
    assert kind == "sif" or one.sha256 == two.sha256
    again = build(request(tmp_path / "one", python, form=form))
    assert again.sha256 == one.sha256


def test_what_a_name_ends_in_tells_the_kind_and_an_option_wins() -> None:
    assert form_of("a.SquashFS") == ("squashfs", "")
    assert form_of("a.oci.tar") == ("oci-archive", "zstd")
    assert form_of("a.tar.gz") == ("tar", "gzip")
    assert form_of("a.tar", "oci-archive") == ("oci-archive", "zstd")
    for output, wish in (("a.zip", ""), ("a.tar", "zip")):
        with pytest.raises(UsageError):
            form_of(output, wish)


def test_only_archives_go_to_standard_output(python: Part, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="standard output"):
        build(request(Path("-"), python))
