"""What can be wrong with a destination: each ends in one clear line and its exit code, and the next run mends it."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import golden
from support.cli import run_cli
from support.exporting import (
    broken_names,
    differences,
    from_server,
    from_storage,
    leftovers,
    selected,
    stored_files,
    unlinked_files,
    words,
)
from support.filesystems import Filesystem, filesystem, own_namespace
from support.forking import Ended, Forks
from support.golden import Pinned
from support.listing import AS_ROOT, AS_USER, ORDINARY, as_user, list_tree
from support.processes import dying_with_parent, need
from support.servers import RepoServer
from tree.storing import link_often

root = pytest.mark.root
REV1, REV2, REV3 = (Pinned("small.cern.ch", f"rev{number}") for number in (1, 2, 3))
FQRN = REV1.fqrn
FOLDERS = (b"/special/swap", b"/special/meta", b"/special/hard", b"/special/perm", b"/special/mtime", b"/special/xattr")
MIB = 1024 * 1024


class Here:
    """Exports of some paths to one base."""

    def __init__(self, cli: Forks, repos: Path, folder: Path) -> None:
        self._cli = cli
        self._repos = repos
        self.spec = folder / "paths.spec"
        self.spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))

    def args(self, at: Pinned, base: Path, *options: str) -> list[Any]:
        return words(at, base, *from_storage(at, self._repos, base), "--keep-suid", "--json", *options, spec=self.spec)

    def run(self, at: Pinned, base: Path, *options: str, **how: Any) -> Ended:
        return self._cli.run(*self.args(at, base, *options), **how)

    def fails(self, at: Pinned, base: Path, *options: str, code: int = 8, says: str = "", **how: Any) -> Ended:
        """It must end with that code, one line and a hint, and without a traceback."""
        ended = self.run(at, base, *options, **how).ends_with(code)
        lines = [line for line in ended.err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 2, ended.err
        assert lines[0].startswith("shrinkwrap: ")
        assert says in lines[0]
        assert lines[1].startswith("  hint: ")
        assert ended.json["exit_code"] == code
        return ended

    def check(self, at: Pinned, base: Path) -> None:
        assert differences(base, at, expected=selected(at, *FOLDERS)) == []
        assert broken_names(base, REV1, REV2, REV3) == []
        assert unlinked_files(base, at.fqrn) == []
        assert leftovers(base) == []


@pytest.fixture
def here(cli: Forks, repos: Path, tmp_path: Path) -> Here:
    return Here(cli, repos, tmp_path)


# ------------------------------------------------------------------------------------------- full, read-only, closed


@root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_leaves_the_old_tree_and_the_next_run_finishes(
    kind: str, here: Here, make_filesystem: Callable[..., Filesystem]
) -> None:
    made = make_filesystem(kind, size=64 * MIB)
    base = made.folder("base")
    here.run(REV1, base).ok()
    before = list_tree(base / FQRN)
    for leave in (0, 256 * 1024, MIB, 2 * MIB):
        filler = made.fill(leave)
        here.fails(REV2, base, says="No space left on device")
        assert [one.path for one in list_tree(base / FQRN) if one in before] != []
        assert {one.path: one.sha256 for one in before if one.type == "file"}.items() <= {
            one.path: one.sha256 for one in list_tree(base / FQRN)
        }.items()
        filler.unlink()
    here.run(REV2, base).ok()
    here.check(REV2, base)


@root
def test_a_full_disk_at_the_first_export_is_told_and_gone_on_from(
    here: Here, make_filesystem: Callable[..., Filesystem]
) -> None:
    made = make_filesystem("tmpfs", size=32 * MIB)
    base = made.folder("base")
    for leave in (0, 4096, 64 * 1024, 512 * 1024, 3 * MIB):
        filler = made.fill(leave)
        here.fails(REV1, base, says="No space left on device")
        filler.unlink()
    here.run(REV1, base).ok()
    here.check(REV1, base)


@root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_running_out_of_inodes_is_told_and_gone_on_from(
    kind: str, here: Here, make_filesystem: Callable[..., Filesystem]
) -> None:
    made = make_filesystem(kind, size=64 * MIB, inodes=512)
    base = made.folder("base")
    extra = made.folder("extra")
    for left in (1, 5, 60):
        number = 0
        while made.free()[1] > left:
            (extra / str(number)).touch()
            number += 1
        here.fails(REV1, base, says="No space left on device")
        for file in extra.iterdir():
            file.unlink()
    here.run(REV1, base).ok()
    here.check(REV1, base)


@root
def test_a_read_only_file_system_is_told(here: Here, make_filesystem: Callable[..., Filesystem]) -> None:
    made = make_filesystem("ext4")
    base = made.folder("base")
    here.run(REV1, base).ok()
    mount = need("mount")
    subprocess.run([mount, "-o", "remount,ro", str(made.path)], check=True)
    ended = here.fails(REV2, base, says="Read-only file system")
    assert "read-only" in ended.json["hint"]
    subprocess.run([mount, "-o", "remount,rw", str(made.path)], check=True)
    here.run(REV2, base).ok()
    here.check(REV2, base)


@root
def test_a_destination_that_the_user_may_not_write_to_is_told(repos: Path, scratch: Path) -> None:
    (scratch / "base").mkdir()
    ended = run_cli(*words(REV1, scratch / "base", *from_storage(REV1, repos, scratch)), user=ORDINARY).ends_with(8)
    assert "Permission denied" in ended.err
    assert "writable" in ended.err
    assert list((scratch / "base").iterdir()) == []


def test_a_destination_that_is_a_file_is_told(here: Here, tmp_path: Path) -> None:
    (tmp_path / "base").write_text("mine")
    here.fails(REV1, tmp_path / "base", says="not a folder")
    here.fails(REV1, tmp_path / "base" / "below", says="not a folder")
    assert (tmp_path / "base").read_text() == "mine"


@root
def test_a_destination_that_is_a_link_to_a_folder_is_followed(here: Here, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "base").symlink_to("real")
    here.run(REV1, tmp_path / "base").ok()
    here.check(REV1, tmp_path / "real")


@root
def test_an_export_of_others_is_not_worked_on(here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    os.chown(base / ".data", *ORDINARY)
    here.fails(REV2, base, says="belongs to user 12345")


def everything(folder: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """A folder with all below, down to bytes, modes and times."""
    found = {}
    for path, _, files in os.walk(folder):
        for name in (".", *files):
            info = os.lstat(os.path.join(path, name))
            full = os.path.join(path, name)
            content = Path(full).read_bytes() if stat.S_ISREG(info.st_mode) else b""
            found[full] = (info.st_mode, info.st_mtime_ns, info.st_ino, content)
    return found


@pytest.mark.parametrize("foreign", ["ab/cd/0123.meta", "lock", "tmp/work", "trash/old", "store.json"])
def test_a_store_of_another_tool_is_refused_and_not_touched(foreign: str, here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / ".data" / foreign).parent.mkdir(parents=True)
    (base / ".data" / foreign).write_text('{"version": 77}')
    (base / ".data" / "garbage").write_text("of theirs")
    before = everything(base)
    here.fails(REV1, base, says=".data")
    assert {name: seen for name, seen in everything(base).items() if not name.endswith("/.data/lock")} == {
        name: seen if not name.endswith("/.data/.") else everything(base)[name]
        for name, seen in before.items()
        if not name.endswith("/.data/lock")
    }
    if foreign == "lock":
        assert (base / ".data" / "lock").read_text() == '{"version": 77}'


@root
def test_a_foreign_tree_is_refused_and_taken_over_by_repair(here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / FQRN / "special" / "mine").mkdir(parents=True)
    (base / FQRN / "special" / "mine" / "file").write_text("mine")
    (base / FQRN / "special" / "meta").write_text("no folder")
    before = everything(base / FQRN)
    here.fails(REV1, base, says="no record says")
    assert everything(base / FQRN) == before
    here.run(REV1, base, "--repair").ok()
    here.check(REV1, base)


@root
def test_an_empty_folder_where_the_tree_is_to_be_is_taken(here: Here, tmp_path: Path) -> None:
    (tmp_path / "base" / FQRN).mkdir(parents=True)
    here.run(REV1, tmp_path / "base").ok()
    here.check(REV1, tmp_path / "base")


# --------------------------------------------------------------------------------------------- locks and interrupts


@contextmanager
def locked(base: Path) -> Iterator[None]:
    with (base / ".data" / "lock").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@root
def test_a_second_run_is_refused_while_the_first_works_or_waits_for_it(here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    with locked(base):
        here.fails(REV2, base, code=9, says="another run is working here")
    here.check(REV1, base)
    with locked(base):
        process = subprocess.Popen(
            [*_python(), *map(os.fsdecode, here.args(REV2, base, "--wait"))],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=_env(),
        )
        _wait(lambda: _waits_for_a_lock(process.pid))
        assert process.poll() is None
        here.check(REV1, base)
    assert process.communicate(timeout=60)[1] is not None
    assert process.returncode == 0
    here.check(REV2, base)


def _python() -> list[str]:
    return [*dying_with_parent(), sys.executable, "-m", "shrinkwrap"]


def _env() -> dict[str, str]:
    return {"PATH": os.defpath, "LANG": "C.UTF-8", "PYTHONPATH": str(golden.CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"}


def _waits_for_a_lock(pid: int) -> bool:
    # "1: -> FLOCK  ADVISORY  WRITE 4242 …" is a lock that is waited for.
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class _Stalling(threading.Thread):
    """A server that sends what another one does, until one object: of that it sends nothing, and waits."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._left = after
        self.stalled = threading.Event()
        self.done = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rwb") as stream:
            while line := stream.readline():
                path = line.split()[1].decode()
                while stream.readline().strip():
                    pass
                if "/data/" in path and not path.endswith(("C", "H", "X")):
                    self._left -= 1
                    if self._left < 0:
                        self.stalled.set()
                        self.done.wait(60)
                        return
                body = (self._folder / path.lstrip("/")).read_bytes()
                stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                stream.flush()

    def stop(self) -> None:
        self.done.set()
        self._listening.close()


@root
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_export_says_so_and_the_next_goes_on(name: str, here: Here, repos: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    server = _Stalling(repos, after=7)
    server.start()
    try:
        source = ["--server", f"{server.url}/{FQRN}", "--tag", "rev1", "--keep-suid"]
        process = subprocess.Popen(
            [*_python(), *map(os.fsdecode, words(REV1, base, *source, spec=here.spec))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_env(),
        )
        assert server.stalled.wait(30)
        process.send_signal(getattr(signal, name))
        _, err = process.communicate(timeout=30)
    finally:
        server.stop()
    assert process.returncode == 10, err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("shrinkwrap: ")] == [
        line for line in err.splitlines() if "interrupted" in line
    ]
    had = len(stored_files(base))
    ended = here.run(REV1, base).ok()
    assert ended.json["counts"]["fetched"] <= len(stored_files(base)) - had
    here.check(REV1, base)


# ------------------------------------------------------------------------------------------- kinds of file systems


@contextmanager
def mounted(kind: str, *mkfs: str, size: int = 64 * MIB, options: str = "loop") -> Iterator[Path]:
    """A file system made with options of the test's own."""
    program, mount, umount = need(f"mkfs.{kind}"), need("mount"), need("umount")
    if reason := own_namespace():
        pytest.skip(reason)
    with filesystem("tmpfs", size=size + MIB) as around:
        image, point = around.path / "image", around.path / "mnt"
        with image.open("wb") as file:
            file.truncate(size)
        point.mkdir()
        subprocess.run([program, *mkfs, str(image)], check=True, capture_output=True)
        done = subprocess.run(
            [mount, "-t", kind, "-o", options, str(image), str(point)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"{kind} with {options} cannot be mounted here: {done.stderr.strip()}")
        try:
            yield point
        finally:
            subprocess.run([umount, "-l", str(point)], check=True)


def unchanging(here: Here, at: Pinned, base: Path) -> None:
    """A second look at the disk finds nothing to do, though the file system cannot hold all that is wanted."""
    before = everything(base / FQRN)
    counts = here.run(at, base, "--repair").ok().json["counts"]
    assert [name for name in ("added", "changed", "removed", "fetched", "derived") if counts.get(name)] == []
    assert everything(base / FQRN) == before


@root
@pytest.mark.parametrize(
    ("kind", "mkfs"),
    [
        pytest.param("ext4", ("-q", "-F", "-I", "128", "-b", "4096"), id="ext4-128-byte-inodes"),
        pytest.param("ext2", ("-q", "-F", "-I", "128", "-b", "4096"), id="ext2"),
        pytest.param("ext4", ("-q", "-F", "-I", "256", "-b", "4096"), id="ext4"),
    ],
)
def test_times_that_the_file_system_cannot_hold_are_not_set_again_and_again(
    kind: str, mkfs: tuple[str, ...], here: Here
) -> None:
    with mounted(kind, *mkfs) as point:
        base = point / "base"
        for at in (REV1, REV2):
            here.run(at, base).ok()
            assert differences(base, at, expected=selected(at, *FOLDERS)) == []
            unchanging(here, at, base)


@root
def test_a_file_system_without_attributes_gets_all_but_those(here: Here, tmp_path: Path) -> None:
    if reason := own_namespace():
        pytest.skip(reason)
    point = tmp_path / "ramfs"
    point.mkdir()
    subprocess.run([need("mount"), "-t", "ramfs", "-o", "mode=755", "shrinkwrap-test", str(point)], check=True)
    try:
        ended = here.run(REV1, point / "base").ok()
        assert "no user xattrs" in ended.json["destination"]
        assert ended.json["left_out"]["xattr_lost"] > 0
        assert any("extended attributes that the file system does not hold" in line for line in ended.json["warnings"])
        assert differences(point / "base", REV1, expected=selected(REV1, *FOLDERS)) == []
        unchanging(here, REV1, point / "base")
    finally:
        subprocess.run([need("umount"), "-l", str(point)], check=True)


@root
def test_a_file_system_that_holds_neither_links_nor_owners_is_refused_in_one_line(here: Here) -> None:
    with mounted("vfat") as point:
        here.fails(REV1, point / "base")


@root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_more_paths_of_one_file_than_an_inode_can_have(kind: str, make_filesystem: Callable[..., Filesystem]) -> None:
    made = make_filesystem(kind, size=512 * MIB)
    number = 65_100
    inodes, counts = link_often(made.folder("base"), number)
    assert sum(inodes.values()) == number
    if kind == "ext4":
        assert counts["overflow"] == len(inodes) - 1 == 1


def blocks(base: Path) -> int:
    info = os.statvfs(base)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


@root
def test_reflinks_share_their_blocks_with_the_store(here: Here, make_filesystem: Callable[..., Filesystem]) -> None:
    made = make_filesystem("xfs")
    for mode in ("reflink", "hardlink"):
        base = made.folder(mode)
        before = blocks(base)
        ended = here.run(REV1, base, "--link-mode", mode).ok()
        os.sync()
        used = blocks(base) - before
        held = sum(file.lstat().st_blocks for file in stored_files(base).values()) * 512
        assert used < held * 3 // 2, f"{mode} takes {used} bytes for {held} in the store"
        projection = AS_ROOT.without_groups() if mode == "reflink" else AS_ROOT
        assert differences(base, REV1, projection, selected(REV1, *FOLDERS)) == []
        linked = [one for one in list_tree(base / FQRN, content=False) if one.type == "file" and one.nlink > 1]
        assert bool(linked) == (mode == "hardlink")
        assert "link_fallback" not in ended.json["left_out"]


@root
def test_where_there_are_no_reflinks_they_become_copies(here: Here, make_filesystem: Callable[..., Filesystem]) -> None:
    base = make_filesystem("xfs-noreflink").folder("base")
    ended = here.run(REV1, base, "--link-mode", "reflink").ok()
    assert any("using copy" in line for line in ended.json["warnings"])
    assert differences(base, REV1, AS_ROOT.without_groups(), selected(REV1, *FOLDERS)) == []


# ---------------------------------------------------------------------------------------- planted and changed things


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder that no export has any business in; it must come out as it was."""
    folder = tmp_path / "outside"
    (folder / "special" / "meta").mkdir(parents=True)
    for name in ("precious", "special/meta/precious", "special/README"):
        (folder / name).write_text("precious")
    before = everything(folder)
    yield folder
    assert everything(folder) == before


@root
def test_a_tree_replaced_by_a_link_is_refused_and_put_back_by_repair(here: Here, outside: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    (base / FQRN).rename(tmp_path / "moved")
    (base / FQRN).symlink_to(outside)
    for at in (REV1, REV2):
        here.fails(at, base, says="not a folder")
    here.run(REV2, base, "--repair").ok()
    here.check(REV2, base)


@root
@pytest.mark.parametrize("place", [b"/special", b"/special/meta", b"/special/swap/dir2file"])
def test_a_directory_replaced_by_a_link_leads_nowhere_and_is_put_back_by_repair(
    place: bytes, here: Here, outside: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    path = base / FQRN / os.fsdecode(place[1:])
    path.rename(tmp_path / "moved")
    path.symlink_to(outside)
    if place != b"/special/swap/dir2file":
        here.fails(REV2, base)
    here.run(REV2, base, "--repair").ok()
    here.check(REV2, base)


@root
@pytest.mark.parametrize(
    "place",
    [".data", ".data/tmp", ".data/trash", ".data/00", ".provenance", f".provenance/{FQRN}", ".provenance/.objects"],
)
def test_a_planted_link_is_refused_and_not_followed(place: str, here: Here, outside: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    path = base / place
    if path.exists():
        path.rename(tmp_path / "moved")
    if place == ".data/00":
        # Every shard, whichever are used.
        for number in range(256):
            shard = base / ".data" / f"{number:02x}"
            if shard.exists():
                shard.rename(tmp_path / f"moved-{number}")
            shard.symlink_to(outside)
    else:
        path.symlink_to(outside)
    here.fails(REV2, base, "--repair")
    here.fails(REV2, base)


@root
def test_planted_folders_of_kept_catalogs_are_not_followed(here: Here, outside: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    kept = base / ".provenance" / ".objects"
    kept.rename(tmp_path / "moved")
    kept.mkdir()
    for number in range(256):
        (kept / f"{number:02x}").symlink_to(outside)
    here.fails(REV2, base)


@root
def test_repair_mends_whatever_was_done_by_hand_and_tells(here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    tree = base / FQRN / "special"
    files = [one for one in list_tree(base / FQRN) if one.type == "file" and one.size]
    edited = [base / FQRN / os.fsdecode(one.path[1:]) for one in files[::3]]
    for file in edited:
        with file.open("ab") as out:
            out.write(b"!")
    changed = base / FQRN / os.fsdecode(files[1].path[1:])
    content = changed.read_bytes()
    with changed.open("r+b") as out:
        out.write(bytes(byte ^ 1 for byte in content[:1]))
    (base / FQRN / os.fsdecode(files[2].path[1:])).unlink()
    (tree / "meta" / "added").write_text("mine")
    (tree / "meta" / "added folder").mkdir()
    (tree / "meta" / "added folder" / "file").write_text("mine")
    os.mkfifo(tree / "meta" / "fifo")
    os.chmod(tree / "meta", 0o777)
    os.chmod(tree / "swap", 0)
    os.setxattr(tree / "meta", "user.mine", b"1")
    os.chown(tree / "hard", *ORDINARY)
    assert here.run(REV1, base).ok().json["reason"] == "unchanged"
    counts = here.run(REV1, base, "--repair").ok().json["counts"]
    assert counts["changed"] >= len(edited) + 4
    assert counts["removed"] == 4
    assert counts["added"] == 1
    here.check(REV1, base)


@root
def test_repair_takes_no_content_from_a_stored_file_that_was_changed(here: Here, tmp_path: Path) -> None:
    """Two stored files of one content that differ in their mtime: each would be made from the other."""
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    by_content: dict[str, list[Path]] = {}
    for name, file in stored_files(base).items():
        by_content.setdefault(name.partition(".")[0], []).append(file)
    several = [files for files in by_content.values() if len(files) > 1 and files[0].lstat().st_size]
    assert several
    for file in (file for files in several for file in files):
        content = bytearray(file.read_bytes())
        content[0] ^= 1
        with file.open("r+b") as out:
            out.write(content)
    here.run(REV1, base, "--repair").ok()
    here.check(REV1, base)


@root
def test_repair_sees_a_changed_copy_whose_size_and_time_tell_nothing(here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base, "--link-mode", "copy").ok()
    changed = base / FQRN / "special" / "meta" / "mode"
    info = changed.stat()
    changed.write_bytes(bytes(info.st_size))
    os.utime(changed, ns=(info.st_mtime_ns, info.st_mtime_ns))
    counts = here.run(REV1, base, "--link-mode", "copy", "--repair").ok().json["counts"]
    assert (counts["changed"], counts.get("fetched", 0)) == (1, 0)
    assert differences(base, REV1, AS_ROOT.without_groups(), selected(REV1, *FOLDERS)) == []


@root
def test_repair_sees_changed_attributes_of_files(here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    os.setxattr(base / FQRN / "special" / "meta" / "mode", "user.mine", b"1")
    os.removexattr(base / FQRN / "special" / "meta" / "xattr_del", _an_xattr(base / FQRN / "special/meta/xattr_del"))
    here.run(REV1, base, "--repair").ok()
    here.check(REV1, base)


def _an_xattr(file: Path) -> str:
    return os.listxattr(file)[0]


@root
def test_what_no_export_put_there_stays_with_a_warning_until_repair(here: Here, tmp_path: Path) -> None:
    base = tmp_path / "base"
    here.run(REV1, base).ok()
    spec = tmp_path / "smaller.spec"
    spec.write_text("/special/meta/*\n")
    mine = base / FQRN / "special" / "hard" / "mine"
    mine.write_text("mine")
    here.spec = spec
    ended = here.run(REV1, base).ok()
    assert any("no export put there" in line for line in ended.json["warnings"])
    assert mine.read_text() == "mine"
    here.run(REV1, base, "--repair").ok()
    assert differences(base, REV1, expected=selected(REV1, b"/special/meta")) == []


# -------------------------------------------------------------------------------------------------- without root


@root
def test_an_ordinary_user_updates_over_directories_that_are_closed_to_their_owner(
    repo_server: RepoServer, scratch: Path
) -> None:
    base = scratch / "base"
    base.mkdir()
    os.chown(base, *ORDINARY)
    spec = scratch / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    for at in (REV1, REV2, REV3, REV1):
        run_cli(*words(at, base, *from_server(at, repo_server), spec=spec), user=ORDINARY).ok()
        assert differences(base, at, AS_USER, selected(at, *FOLDERS)) == []
    for folder in sorted((base / FQRN).rglob("*"), reverse=True):
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0)
    run_cli(*words(REV2, base, *from_server(REV2, repo_server), "--repair", spec=spec), user=ORDINARY).ok()
    assert differences(base, REV2, AS_USER, selected(REV2, *FOLDERS)) == []
    assert leftovers(base) == []


@root
def test_a_destination_with_the_setgid_bit_keeps_its_group_and_lends_no_bit(
    repo_server: RepoServer, scratch: Path
) -> None:
    base = scratch / "base"
    base.mkdir()
    os.chown(base, ORDINARY[0], 54321)
    base.chmod(0o2775)
    spec = scratch / "paths.spec"
    spec.write_bytes(b"".join(folder + b"/*\n" for folder in FOLDERS))
    for at in (REV1, REV2):
        run_cli(*words(at, base, *from_server(at, repo_server), spec=spec), user=ORDINARY).ok()
        assert differences(base, at, as_user(ORDINARY[0], 54321), selected(at, *FOLDERS)) == []
    before = everything(base / FQRN)
    run_cli(*words(REV2, base, *from_server(REV2, repo_server), "--repair", spec=spec), user=ORDINARY).ok()
    assert everything(base / FQRN) == before


@root
def test_the_umask_makes_no_difference_to_the_tree(here: Here, tmp_path: Path) -> None:
    for umask in (0o077, 0o000):
        base = tmp_path / f"base{umask}"
        for at in (REV1, REV2):
            here.run(at, base, umask=umask).ok()
            here.check(at, base)
