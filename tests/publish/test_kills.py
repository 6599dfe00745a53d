"""Killed at any instant: readers see the old revision as it was, and the next run does what it would have done."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from publish.publishing import FQRN, Place, file, fill
from support.cli import kill_after, run_cli

from shrinkwrap.errors import ShrinkwrapError
from shrinkwrap.publish import objects
from shrinkwrap.publish.objects import Piece, StoreSettings
from shrinkwrap.publish.pool import Workers


def archive(folder: Path) -> Path:
    """Enough for several batches, so that all processes have something to do."""
    source = fill(folder / "big", files=40)
    for number in range(12):
        (source / f"large{number}").write_bytes(os.urandom(1 << 20))
    made = folder / "big.tar"
    with tarfile.open(made, "w") as out:
        out.add(source, ".")
    return made


def test_killed_at_some_instants(place: Place) -> None:
    """With real processes: the workers die with their parent."""
    first = place.publish([file("a", b"1")], tag="v1")
    made = archive(place.folder)
    words = ("publish", made, "-r", FQRN, "--storage", place.storage, "--keys", place.keys, "--workers", "2")
    finished = 0
    for delay in (0.3, 0.6, 0.9, 1.2):
        killed = kill_after(delay, *words)
        if killed.finished:
            finished += 1
            break
        assert place.check().fields["C"] == first.root_hash
        assert place.contents() == {b"/a": b"1"}
    run_cli(*words).ok()
    found = place.check()
    assert found.fields["S"] == "2"
    assert place.contents()[b"/a"] == b"1"
    assert len(place.contents()) == 55
    assert list((place.storage / "data" / "txn").iterdir()) == []


class KilledError(BaseException):
    """Stands for the end of the process."""


def test_cut_off_before_each_rename_and_each_removal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step that others can see: what is there is the old or the new revision, never something between."""
    old = place.publish([file("a", b"1"), file("n/.cvmfscatalog"), file("n/x", b"2")])
    seen = set()
    step = 0
    rename = os.rename
    while True:
        left = [step]

        def cut(*args: object, left: list[int] = left, **options: object) -> None:
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            rename(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "rename", cut)
        try:
            place.publish([file("a", b"new"), file("n/y", b"3")], tag="v2")
        except KilledError:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(os, "rename", rename)
        head = (place.storage / ".cvmfspublished").read_bytes()
        seen.add(head)
        assert f"C{old.root_hash}\n".encode() in head
        assert place.contents() == {b"/a": b"1", b"/n/.cvmfscatalog": b"", b"/n/x": b"2"}
        step += 1
    # Objects, catalogs, certificate and the like, whitelist, reflog, manifest.
    assert step >= 6
    assert len(seen) == 1
    place.check()
    assert place.contents()[b"/a"] == b"new"


def test_a_worker_that_fails_ends_the_publication(place: Place) -> None:
    place.publish([file("a", b"1")])
    big = [file(f"f{number}", os.urandom(1 << 20)) for number in range(12)]
    with pytest.raises(ShrinkwrapError):
        place.publish([*big, file("short", b"12")._replace(size=3)], workers=2, chunks=None)
    assert place.contents() == {b"/a": b"1"}
    place.publish(big, workers=2, chunks=None)
    assert len(place.contents()) == 13


def test_a_worker_that_dies_is_an_error_with_a_hint(tmp_path: Path) -> None:
    settings = StoreSettings(os.fsencode(tmp_path), os.fsencode(tmp_path), 0, 0)

    def work() -> None:
        with Workers(settings, 2, print) as workers:
            for number in range(10):
                workers.add(Piece(number, -1, 4 << 20, _Deadly(), b"x"))  # type: ignore[arg-type]
            workers.finish()

    with pytest.raises(ShrinkwrapError, match="worker process") as caught:
        work()
    assert "fewer workers" in caught.value.hint


def test_a_script_is_not_run_again_by_its_workers(place: Place) -> None:
    made = archive(place.folder)
    script = place.folder / "script.py"
    script.write_text(
        "from shrinkwrap.publish import publish\n"
        "print('run')\n"
        f"done = publish({str(made)!r}, storage={str(place.storage)!r}, fqrn={FQRN!r}, keys={str(place.keys)!r},"
        " workers=2)\n"
        "print(done.reason)\n"
    )
    process = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert process.stdout == "run\npublished\n"
    place.check()


class _Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os._exit, (3,))


def test_two_workers_that_make_the_same_object_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "data" / "ab").mkdir(parents=True)
    for number in range(256):
        (tmp_path / "data" / f"{number:02x}").mkdir(exist_ok=True)
    settings = StoreSettings(os.fsencode(tmp_path), os.fsencode(tmp_path), 0, 0)
    results = []
    with Workers(settings, 2, results.extend) as workers:
        for number in range(40):
            workers.add(Piece(number, -1, 1 << 20, b"same" * (1 << 18), b"x"))
        workers.finish()
    assert len({one.raw for one in results}) == 1
    assert sorted(one.ident for one in results) == list(range(40))
    stored = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(stored) == 1
    assert objects.store_bytes(settings, b"same" * (1 << 18), "", 0) == (results[0].raw, 0)
