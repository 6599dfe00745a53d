"""Two images held against each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from image.building import from_storage, part, request
from support import golden
from support.golden import Pinned
from support.listing import Record
from typer.testing import CliRunner

from shrinkwrap.cli.main import app
from shrinkwrap.image.build import build
from shrinkwrap.image.differ import changes
from shrinkwrap.image.formats import Form
from shrinkwrap.image.inspect import open_image
from shrinkwrap.image.squashfs.recipe import Recipe
from shrinkwrap.snapshot.diff import Change

REV1, REV2 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2))

Made = Callable[..., Path]


@pytest.fixture(scope="module")
def made(repos: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Images of the special paths of a revision, each made once."""
    folder = tmp_path_factory.mktemp("images")
    spec = folder / "special.spec"
    spec.write_text("/special/*\n")

    def make(at: Pinned, recipe: Recipe | None = None, kind: str = "squashfs") -> Path:
        recipe = recipe or Recipe()
        output = folder / f"{at.rev}-{recipe.compressor}-{recipe.block_size}.{kind}"
        if not output.exists():
            source = from_storage(at, repos, folder)
            build(request(output, part(at, source, spec), recipe=recipe, form=Form(kind)))
        return output

    return make


def differing(old: Path, new: Path, *ignore: str) -> list[Change]:
    with open_image(str(old)) as one, open_image(str(new)) as two:
        return list(changes(one, two, ignore))


def held(one: Record) -> tuple[object, ...]:
    """What squashfs holds of a path, and the command compares."""
    size = 0 if one.type == "dir" else one.size
    seconds = max(0, min(one.mtime, 2**32 - 1))
    return one.type, one.mode, one.uid, one.gid, seconds, size, one.target, one.sha256, one.xattrs


def test_differences_are_those_of_the_mounts(made: Made) -> None:
    found = differing(made(REV1), made(REV2))
    prefix = b"/small.cern.ch"
    special = [
        {one.path: one for one in golden.mounted(at) if one.path.startswith(b"/special/")} for at in (REV1, REV2)
    ]
    shown = [{path for path, one in side.items() if one.type in ("file", "dir", "symlink")} for side in special]
    kinds = {
        kind: {one.path.removeprefix(prefix) for one in found if one.kind == kind and one.path.count(b"/") > 2}
        for kind in ("added", "removed", "changed")
    }
    assert kinds["added"] == shown[1] - shown[0]
    assert kinds["removed"] == shown[0] - shown[1]
    both = shown[0] & shown[1]
    expected = {path for path in both if held(special[0][path]) != held(special[1][path])}
    assert kinds["changed"] == expected
    assert kinds["added"]
    assert kinds["removed"]
    assert expected


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [(Recipe(65536, "zstd", 3), "squashfs"), (Recipe(4096), "squashfs"), (Recipe(), "sif")],
    ids=["compressor", "block size", "sif"],
)
def test_how_an_image_is_made_makes_no_difference(made: Made, recipe: Recipe, kind: str) -> None:
    assert differing(made(REV1), made(REV1, recipe, kind)) == []


def test_the_command_tells_it_and_may_end_with_1(made: Made) -> None:
    one, two = str(made(REV1)), str(made(REV2))
    same = CliRunner().invoke(app, ["image", "diff", "--exit-code", one, one])
    assert same.exit_code == 0
    assert "no differences" in same.output
    differ = CliRunner().invoke(app, ["image", "diff", "--exit-code", "--no-mtime", "--json", one, two])
    assert differ.exit_code == 1
    rows = [json.loads(line) for line in differ.output.splitlines()]
    assert rows[-1]["reason"] == "different"
    assert all("mtime" not in row.get("what", ()) for row in rows[:-1])
