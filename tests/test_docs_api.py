"""The examples of docs/python-api.md run, one after the other, and do what is said of them."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support import golden
from support.golden import CHECKOUT

import shrinkwrap
from shrinkwrap import errors
from shrinkwrap.tree.base import Base

PAGE = CHECKOUT / "docs" / "python-api.md"


def examples() -> list[tuple[int, str]]:
    """Line numbers and texts of the examples."""
    text = PAGE.read_text(encoding="utf-8")
    return [
        (text[: found.start(1)].count("\n"), found[1])
        for found in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def test_the_examples_run(repos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "storage").symlink_to(repos)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Base, "sync", lambda self: None)  # nothing here is about power cuts
    scope: dict[str, object] = {"__name__": "example"}
    found = examples()
    assert len(found) > 5
    for line, text in found:
        # Errors point into the page.
        exec(compile("\n" * line + text, str(PAGE), "exec"), scope)
    assert scope["files"] == sum(
        one.type == "file" and (one.path == b"/README" or one.path.startswith(b"/special/swap/"))
        for one in golden.mounted(golden.Pinned("small.cern.ch", "rev2"))
    )
    assert scope["received"]
    assert sorted(os.listdir(tmp_path)) == ["export", "storage"]


def test_every_public_name_stands_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in set(shrinkwrap.__all__) - set(errors.__all__) - {"__version__"}:
        assert f"`{name}`" in text, name


def test_every_method_on_the_page_is_there() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 4
    for owner, words in rows:
        if owner in ("Repository", "Spec"):
            for name in re.findall(r"`(\w+)(?:\([^)]*\))?`", words):
                assert hasattr(getattr(shrinkwrap, owner), name) or name in shrinkwrap.Spec.__slots__, name
