"""What the project says of itself holds."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from support.golden import CHECKOUT

from shrinkwrap import errors
from shrinkwrap.errors import ShrinkwrapError


def classes(of: type[ShrinkwrapError]) -> Iterator[type[ShrinkwrapError]]:
    yield of
    for below in of.__subclasses__():
        yield from classes(below)


def test_the_table_of_exit_codes_is_that_of_the_errors() -> None:
    text = (CHECKOUT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| (\d+) \| `(\w+)`", text, re.MULTILINE))
    codes: dict[str, set[str]] = {}
    for one in classes(ShrinkwrapError):
        if one.__module__ == errors.__name__:
            codes.setdefault(str(one.exit_code), set()).add(one.reason)
    assert set(table) == {"0", *codes}
    for code, reasons in codes.items():
        assert table[code] in reasons
        for reason in reasons:
            assert f"`{reason}`" in text, f"{reason} is not explained"


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    names = {one.__name__ for one in classes(ShrinkwrapError) if one.__module__ == errors.__name__}
    assert names == set(errors.__all__)
    assert errors.__doc__ is not None
    for one in classes(ShrinkwrapError):
        if one.__name__ in names and one is not ShrinkwrapError:
            assert re.search(rf"── {one.__name__} +{one.exit_code} ", errors.__doc__), one.__name__


def test_the_readme_gives_the_command_that_the_checks_run_tests_by() -> None:
    checks = (CHECKOUT / ".ci" / "run").read_text(encoding="utf-8")
    commands = re.findall(r'^ *"(python3 -m venv .* -m pytest -q)"$', checks, re.MULTILINE)
    assert len(commands) == 1
    assert commands[0] in (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_the_licence_is_the_one_that_the_package_names() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    text = (CHECKOUT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
