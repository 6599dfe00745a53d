"""The small file systems are what they are said to be, and leave nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.filesystems import KINDS, MIB, Filesystem, Kind, filesystem, remove_tree, scratch_folder
from support.golden import CHECKOUT
from support.listing import ORDINARY, probe

MakeFilesystem = Callable[..., Filesystem]


def attached() -> str:
    """The loop devices in use."""
    return subprocess.run(["losetup", "--list"], capture_output=True, text=True, check=True).stdout


def write_until_full(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while file.write(bytes(MIB)):
            continue


def touch_many(folder: Path, number: int) -> None:
    for name in range(number):
        (folder / str(name)).touch()


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_system_holds_what_it_should(kind: Kind, make_filesystem: MakeFilesystem) -> None:
    made = make_filesystem(kind, size=32 * MIB)
    seen = probe(made.path)
    assert os.path.ismount(made.path)
    assert seen.nanoseconds
    assert seen.times is None
    assert seen.reflink == (kind == "xfs")
    assert seen.longest_target == (1023 if kind.startswith("xfs") else 4095)
    assert seen.xattrs or kind == "tmpfs"
    assert os.lstat(made.folder("mine", ORDINARY)).st_uid == ORDINARY[0]


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_file_system_can_be_filled(kind: Kind, make_filesystem: MakeFilesystem) -> None:
    made = make_filesystem(kind, size=8 * MIB)
    filler = made.fill(leave=64 * 1024)
    assert made.free()[0] < 64 * 1024 + 4096
    with pytest.raises(OSError, match="No space"):
        write_until_full(made.path / "more")
    (made.path / "more").unlink()
    filler.unlink()
    (made.path / "more").write_bytes(bytes(MIB))


@pytest.mark.root
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_inodes_can_run_out(kind: Kind, make_filesystem: MakeFilesystem) -> None:
    made = make_filesystem(kind, size=16 * MIB, inodes=64)
    assert 0 < made.free()[1] <= 64
    with pytest.raises(OSError, match="No space"):
        touch_many(made.path, 100)
    assert made.free()[0] > 8 * MIB


@pytest.mark.root
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_power_cut_loses_what_was_not_synced(kind: Kind, make_filesystem: MakeFilesystem) -> None:
    made = make_filesystem(kind)
    with (made.path / "kept").open("wb") as file:
        file.write(b"kept")
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(made.path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    (made.path / "lost").write_bytes(b"lost")
    made.power_cut()
    assert (made.path / "kept").read_bytes() == b"kept"
    assert not (made.path / "lost").exists()
    (made.path / "again").write_bytes(b"usable")


@pytest.mark.root
def test_a_file_system_is_gone_after_its_block_even_if_it_is_in_use() -> None:
    with filesystem("ext4", size=8 * MIB) as made:
        image = made.image
        held = (made.path / "held").open("wb")
    held.close()
    assert not os.path.ismount(made.path)
    assert not made.path.exists()
    assert str(image) not in attached()


@pytest.mark.root
def test_a_killed_test_run_leaves_no_mount_and_no_loop_device(scratch: Path) -> None:
    code = (
        "import os, signal\n"
        "from support.filesystems import filesystem\n"
        "with filesystem('ext4', size=8 << 20) as made:\n"
        "    print(made.image, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "tests"), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout:
        pytest.skip("mounting is refused here")
    image = done.stdout.strip()
    assert done.returncode == -9
    assert image not in Path("/proc/self/mountinfo").read_text()
    assert os.path.dirname(image) not in Path("/proc/1/mountinfo").read_text()
    assert image not in attached()


def test_a_scratch_folder_goes_whatever_its_modes_are() -> None:
    with scratch_folder() as folder:
        assert folder.stat().st_mode & 0o777 == 0o755
        (folder / "closed" / "inner").mkdir(parents=True)
        (folder / "closed" / "inner" / "file").touch()
        (folder / "closed" / "inner").chmod(0)
        (folder / "closed").chmod(0o500)
    assert not folder.exists()


def test_removing_a_tree_leaves_alone_what_its_links_name(scratch: Path) -> None:
    (scratch / "kept").mkdir(mode=0o500)
    (scratch / "tree").mkdir()
    (scratch / "tree" / "link").symlink_to(scratch / "kept")
    remove_tree(scratch / "tree")
    assert (scratch / "kept").stat().st_mode & 0o777 == 0o500
