"""Showing the configuration that is in force."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shrinkwrap.cli.configuration import show
from shrinkwrap.snapshot.client import client_settings

TEXT = "CVMFS_HTTP_PROXY='http://me:secret@proxy:3128'\nCVMFS_QUOTA_LIMIT=1\nCVMFS_SERVER_ULR=x\nEVIL=\x1b[31m\n"


def test_each_parameter_is_shown_with_its_line_and_without_passwords(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.conf"
    file.write_text(TEXT, encoding="utf-8")
    settings = client_settings("sft.cern.ch", [str(file)])
    show(settings, as_json=False)
    text = capsys.readouterr().out
    assert f"CVMFS_HTTP_PROXY=http://proxy:3128    # {file}:1\n" in text
    assert "not used: CVMFS_QUOTA_LIMIT (" in text
    assert f"unknown: CVMFS_SERVER_ULR ({file}:3)" in text
    assert "secret" not in text
    assert "\x1b" not in text

    show(settings, as_json=True)
    out = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert out["files"] == [str(file)]
    assert {"name": "CVMFS_HTTP_PROXY", "value": "http://proxy:3128", "origin": f"{file}:1"} in out["parameters"]
    assert out["exit_code"] == 0
