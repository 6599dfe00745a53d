"""``shrinkwrap publish``."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.calling import Result, call

from shrinkwrap.publish import storage as storages
from shrinkwrap.publish.storage import Storage

FQRN = "demo.example.org"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about power cuts."""
    monkeypatch.setattr(Storage, "sync", lambda self: None)
    monkeypatch.setattr(storages, "fsync", lambda fd: None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "bin" / "t").symlink_to("tool")
    return folder


def publish(tmp_path: Path, *words: str | Path, code: int = 0) -> Result:
    return call("publish", *words, "-r", FQRN, "--storage", tmp_path / "srv" / FQRN).ends_with(code)


def test_what_is_published_can_be_exported(tmp_path: Path, source: Path) -> None:
    told = publish(tmp_path, source, "--base-dir", "/lcg/x", "--tag", "v1", "--message", "first", "--json").json
    assert (told["command"], told["reason"], told["revision"], told["exit_code"]) == ("publish", "published", 1, 0)
    assert told["tags"] == ["v1"]
    assert told["public_key"] == str(tmp_path / "srv" / "keys" / f"{FQRN}.pub")
    assert told["counts"]["files"] == 1
    where = ("-r", FQRN, "--storage", tmp_path / "srv" / FQRN, "--key", told["public_key"])
    (tmp_path / "all.spec").write_text("/*\n")
    call("export", *where, "-t", tmp_path / "all.spec", "-z", tmp_path / "out").ends_with(0)
    assert (tmp_path / "out" / FQRN / "lcg" / "x" / "bin" / "t").read_text() == "#!/bin/sh\n"
    tags = call("tags", *where, "--json").ends_with(0).json["tags"]
    assert {row["name"]: row["description"] for row in tags} == {"v1": "first", "trunk": "current HEAD"}


def test_people_read_what_was_done(tmp_path: Path, source: Path) -> None:
    first = publish(tmp_path, source)
    assert first.out == ""
    assert "new keys in" in first.err
    assert f"{FQRN} revision 1: published" in first.err
    assert "source: 1 files, 2 directories, 1 symbolic links, 10 B; 1 new objects" in first.err
    again = publish(tmp_path, source)
    assert "nothing new; the whitelist was renewed" in again.err
    assert "signed anew" in publish(tmp_path, "--tag", "x").err
    (source / "bin" / "tool").unlink()
    publish(tmp_path, source, "--mirror", "--quiet")
    collected = publish(tmp_path, "--delete", "/bin/t", "--gc")
    assert "revision 3: published" in collected.err
    assert "garbage: " in collected.err
    assert publish(tmp_path, source, "-q").err == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "no repository"),
        (["/nowhere"], 2, "cannot be read"),
        (["{source}", "--chunk", "4M"], 2, "sizes of chunks"),
        (["{source}", "--chunk", "1M:2M:4M", "--no-chunk"], 2, "exclude"),
        (["{source}", "--hash", "md5"], 2, "sha1"),
        (["{source}", "--compression", "zstd"], 2, "zlib"),
        (["{source}", "--base-dir", "/a/../b"], 2, "not a path"),
        (["{source}", "--message", "x"], 2, "without a tag"),
        (["{source}", "--uid", "1", "--uid-map", "{map}"], 2, "exclude"),
        (["{source}", "--uid-map", "/nowhere"], 2, "cannot be read"),
        (["{source}", "--delete", "/"], 2, "root"),
        (["--mirror"], 2, "mirror"),
        (["{source}", "--metainfo", "{map}"], 2, "JSON"),
        (["{source}/bin/tool"], 6, "not a tar archive"),
        ([""], 2, "empty"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], code: int, message: str, tmp_path: Path, source: Path
) -> None:
    (tmp_path / "map").write_text("1 2\n")
    given = [word.format(source=source, map=tmp_path / "map") for word in words]
    result = publish(tmp_path, *given, code=code)
    assert message in result.err
    assert not (tmp_path / "srv" / FQRN / ".cvmfspublished").exists()


def test_options_reach_the_repository(tmp_path: Path, source: Path) -> None:
    (tmp_path / "map").write_text("* 77\n")
    (tmp_path / "meta").write_text('{"administrator": "Ann"}')
    options = ["--uid-map", tmp_path / "map", "--gid", "5", "--hash", "shake128", "--compression", "none"]
    options += ["--ttl", "60", "--catalogs", "/bin", "--metainfo", tmp_path / "meta", "--no-chunk", "--json"]
    told = publish(tmp_path, source, *options).json
    assert told["root_hash"].endswith("-shake128")
    assert told["catalogs"] == ["/", "/bin"]
    key = told["public_key"]
    listed = call("ls", "-r", FQRN, "--storage", tmp_path / "srv" / FQRN, "--key", key, "-l", "/bin").ends_with(0).out
    assert listed.count(" 77 ") == 3
    assert listed.count(" 5 ") == 3


def test_help_has_examples() -> None:
    text = call("publish", "--help").ends_with(0).out
    assert "Examples:" in text
    assert "shrinkwrap publish release/ -r demo.example.org --storage srv/demo.example.org" in text
