"""What a selection needs and does not have: repositories of small software, published for these tests."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from cli.calling import Result, call
from publish.publishing import FQRN, Place
from survey.elves import make_elf

from shrinkwrap import Spec, export
from shrinkwrap.cvmfs.keys import read_keys
from shrinkwrap.engine.several import read_several
from shrinkwrap.errors import CorruptObject, MissingObject
from shrinkwrap.fetch.source import SourceConfig
from shrinkwrap.publish.keyring import open_keyring
from shrinkwrap.snapshot.repository import Pin
from shrinkwrap.snapshot.session import Session, open_session
from shrinkwrap.snapshot.view import ViewOptions
from shrinkwrap.snapshot.walk import Walk
from shrinkwrap.spec.grammar import Mode, parse
from shrinkwrap.spec.matcher import Matcher
from shrinkwrap.survey.closure import elf
from shrinkwrap.survey.closure.close import close
from shrinkwrap.survey.closure.elf import folders_of, read_elf
from shrinkwrap.survey.closure.places import HERE, LOOP, MISSING, OTHER, SYSTEM, Places
from shrinkwrap.survey.closure.result import Closure
from shrinkwrap.survey.closure.texts import Shebang, Venv, read_pth, read_shebang, read_venv
from shrinkwrap.survey.closure.write import closed_text
from shrinkwrap.survey.plan import Wish
from shrinkwrap.survey.texts import Text

MOUNT = f"/cvmfs/{FQRN}"
OTHER_FQRN = "other.example.org"


def fill(top: Path) -> None:
    """Software: programs, their libraries, scripts, an environment of Python, links of all kinds."""

    def put(path: str, content: bytes | str, mode: int = 0o644) -> None:
        place = top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
        place.chmod(mode)

    def link(path: str, target: str) -> None:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).symlink_to(target)

    runpath = b"$ORIGIN/../lib"
    put("sw/bin/tool", make_elf(needed=(b"libone.so.1", b"libc.so.6"), runpath=runpath), 0o755)
    put("sw/lib/libone.so.1.2", make_elf(needed=(b"libtwo.so",), runpath=b"${ORIGIN}/deep"))
    link("sw/lib/libone.so.1", "libone.so.1.2")
    put("sw/lib/deep/libtwo.so", make_elf(needed=(b"libgone.so.3",)))
    # DT_RPATH counts for the libraries of libraries too; the same name lies in a wrong place.
    put("rp/bin/tool", make_elf(needed=(b"liba.so",), rpath=b"/cvmfs/demo.example.org/rp/lib:$ORIGIN/../more"), 0o755)
    put("rp/lib/liba.so", make_elf(needed=(b"libb.so",)))
    put("rp/more/libb.so", make_elf())
    put("zz/libb.so", make_elf())
    # Neither: beside a library of the selection (LD_LIBRARY_PATH).
    put("ld/bin/tool", make_elf(needed=(b"libq.so",)), 0o755)
    put("ld/lib/libp.so", make_elf())
    put("ld/lib/libq.so", make_elf())
    # A distribution with a loader of its own.
    put("compat/bin/run", make_elf(interpreter=f"{MOUNT}/compat/lib64/ld.so".encode(), needed=(b"libc.so.6",)), 0o755)
    put("compat/lib64/ld.so", make_elf(), 0o755)
    put("compat/lib64/libc.so.6", make_elf())
    put("away/tool", make_elf(needed=(b"libo.so",), runpath=f"/cvmfs/{OTHER_FQRN}/lib".encode()), 0o755)
    put("real/true", Path("/bin/true").read_bytes(), 0o755)
    put("bad/elf", b"\x7fELF" + bytes(range(200)), 0o755)
    put("data/huge", b"\x7fELF" + bytes(200))
    # Scripts.
    put("scripts/a", f"#!{MOUNT}/scripts/b -x\n", 0o755)
    put("scripts/b", f"#! /cvmfs/{OTHER_FQRN}/bin/sh\n", 0o755)
    put("scripts/c", "#!/usr/bin/env python3\n", 0o755)
    put("scripts/d", "#!/usr/bin/env -S LANG=C perl -w\n", 0o755)
    put("scripts/perl", "x", 0o755)
    put("scripts/e", "#!../bin/x\n", 0o755)
    put("scripts/f.py", "#!/no/such/python\n")
    put("scripts/g", f"#!{MOUNT}/bin/none\n", 0o755)
    # Python.
    put("py/bin/python3.11", make_elf(), 0o755)
    link("py/bin/python3", "python3.11")
    put("py/lib/python3.11/os.py", "")
    put("py/lib/python3.11/json/decoder.py", "")
    put("venv/pyvenv.cfg", f"home = {MOUNT}/py/bin\nversion = 3.11.4\n")
    put(
        "venv/lib/python3.11/site-packages/a.pth", f"# x\nimport os; os.x()\n../../../src\n{MOUNT}/eggs/one.egg\nnone\n"
    )
    put("venv/src/module.py", "")
    put("eggs/one.egg", "x")
    put("models/net.pth", "../scripts\n")
    # Links.
    link("links/chain", "next")
    link("links/next", "/cvmfs/demo.example.org/links/dir/../dir/last")
    link("links/dir", "real")
    put("links/real/last", "x")
    put("links/real/beside", "x")
    link("links/variant", "$(ARCH)/last")
    put("links/x86/last", "x")
    link("links/loop", "pool")
    link("links/pool", "loop")
    link("links/gone", "no/such")
    link("links/system", "/etc/localtime")
    link("links/out", "../../../usr/share")
    link("links/other", f"../../{OTHER_FQRN}/views/$(ARCH)")
    link("links/all", f"/cvmfs/{OTHER_FQRN}")
    link("links/up", "..")
    link("links/top", "/cvmfs/demo.example.org/")
    link("tree", "links/real")
    put("odd/a*b\nc", "x")
    link("odd/link", "a*b\nc")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("closure")
    keys = folder / "keys"
    open_keyring(str(keys), FQRN, make=True)
    fill(folder / "tree")
    made = Place(folder, keys)
    made.publish(folder / "tree")
    return made


@pytest.fixture(scope="module")
def opened(place: Place) -> Iterator[tuple[Session, Wish]]:
    config = SourceConfig(FQRN, storage=str(place.storage))
    with ExitStack() as stack:
        session = stack.enter_context(open_session(config, read_keys([str(place.public_key)])))
        root = session.snapshot(Pin()).root
        yield session, Wish(root, parse(b""), ViewOptions(False, 0, 0), {b"ARCH": b"x86"})


Opened = tuple[Session, Wish]


def closed(opened: Opened, text: str, *, trees: bool = True, rules: str = "2.14") -> Closure:
    session, wish = opened
    spec = parse(text.encode(), rules=rules)
    mine = Wish(wish.root, spec, wish.view, wish.variables)
    found = close(session, mine, partial(read_several, session), trees=trees)
    assert session.catalogs.in_use == 0
    return found


def added(found: Closure) -> dict[str, str]:
    """Paths, with /* for trees, and the kinds of their reasons."""
    return {os.fsdecode(path) + ("/*" if one.mode is Mode.DEEP else ""): one.kind for path, one in found.added.items()}


def left(found: Closure) -> set[tuple[str, str]]:
    return set(found.left)


# -- libraries and programs --------------------------------------------------------------------------------------------


def test_a_program_gets_its_libraries_and_theirs_and_the_links_to_them(opened: Opened) -> None:
    found = closed(opened, "/sw/bin/tool\n")
    assert added(found) == dict.fromkeys(
        ("/sw/lib/libone.so.1", "/sw/lib/libone.so.1.2", "/sw/lib/deep/libtwo.so"), "library"
    )
    assert found.added[b"/sw/lib/libone.so.1.2"].why == "/sw/bin/tool needs libone.so.1"
    assert found.added[b"/sw/lib/deep/libtwo.so"].by == b"/sw/lib/libone.so.1.2"
    # What comes with the system's loader is told apart from what is nowhere.
    assert set(found.system) == {b"libc.so.6"}
    assert left(found) == {("library", "libgone.so.3")}


def test_what_is_selected_already_is_not_added(opened: Opened) -> None:
    assert added(closed(opened, "/sw/*\n")) == {}
    assert added(closed(opened, "/*\n")) == {}


def test_directories_of_an_rpath_count_for_libraries_of_libraries_and_win_over_others(opened: Opened) -> None:
    found = closed(opened, "/rp/bin/tool\n/zz/*\n")
    assert added(found) == {"/rp/lib/liba.so": "library", "/rp/more/libb.so": "library"}


def test_a_library_beside_one_of_the_selection_is_found(opened: Opened) -> None:
    found = closed(opened, "/ld/bin/tool\n/ld/lib/libp.so\n")
    assert added(found) == {"/ld/lib/libq.so": "library"}
    assert left(closed(opened, "/ld/bin/tool\n")) == {("library", "libq.so")}


def test_a_loader_in_the_repository_brings_the_libraries_beside_it(opened: Opened) -> None:
    found = closed(opened, "/compat/bin/run\n")
    assert added(found) == {"/compat/lib64/ld.so": "interpreter", "/compat/lib64/libc.so.6": "library"}
    assert (found.system, found.unresolved) == ({}, 0)


def test_a_library_of_another_repository_is_named_there(opened: Opened) -> None:
    found = closed(opened, "/away/tool\n")
    assert (added(found), found.unresolved) == ({}, 0)
    one = found.others[OTHER_FQRN][b"/lib/libo.so"]
    assert (one.kind, one.mode) == ("library", Mode.EXACT)
    assert "may be there" in one.why


def test_a_program_of_this_machine_needs_the_system_only(opened: Opened) -> None:
    found = closed(opened, "/real/true\n")
    assert (added(found), found.unresolved) == ({}, 0)
    assert any(b"libc" in name for name in found.system)
    assert any(name.startswith(b"/lib") for name in found.system)


def test_a_file_that_is_no_sound_elf_is_told_and_data_is_not_looked_into(opened: Opened) -> None:
    found = closed(opened, "/bad/*\n/data/*\n")
    assert left(found) == {("not_sound", "/bad/elf")}
    assert found.read == 1


def test_a_content_is_looked_into_once(opened: Opened) -> None:
    # Three libraries without any need have the same bytes.
    assert closed(opened, "/zz/libb.so\n/rp/more/libb.so\n/ld/lib/libp.so\n").read == 1


# -- scripts -----------------------------------------------------------------------------------------------------------


def test_scripts_get_their_interpreters_and_those_theirs(opened: Opened) -> None:
    found = closed(opened, "/scripts/a\n")
    assert added(found) == {"/scripts/b": "script"}
    assert [(path, one.mode) for path, one in found.others[OTHER_FQRN].items()] == [(b"/bin/sh", Mode.EXACT)]


def test_what_env_looks_for_is_beside_the_script_or_selected_or_the_systems(opened: Opened) -> None:
    found = closed(opened, "/scripts/c\n/scripts/d\n")
    assert added(found) == {"/scripts/perl": "script"}
    assert set(found.system) == {b"/usr/bin/env", b"python3"}
    found = closed(opened, "/scripts/c\n/py/*\n")
    assert set(found.system) == {b"/usr/bin/env"}


def test_interpreters_that_are_not_there_are_told_and_files_that_nobody_executes_need_none(opened: Opened) -> None:
    found = closed(opened, "/scripts/e\n/scripts/f.py\n/scripts/g\n")
    assert left(found) == {("relative", "../bin/x"), ("dangling", "/bin/none")}
    assert found.system == {}


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"#!/bin/sh\nrest", Shebang(b"/bin/sh", b"")),
        (b"#! \t/bin/sh -e", Shebang(b"/bin/sh", b"")),
        (b"#!/usr/bin/env -S A=b python3 -u\n", Shebang(b"/usr/bin/env", b"python3")),
        (b"#!/usr/bin/env\n", Shebang(b"/usr/bin/env", b"")),
        (b"#!\n", None),
        (b"#!/a\0b\n", None),
        (b"echo", None),
        (b"#!" + b"/x" * 500, Shebang(b"/x" * 127, b"")),
    ],
)
def test_first_lines_are_read_as_the_kernel_does(head: bytes, expected: Shebang | None) -> None:
    assert read_shebang(head) == expected


# -- Python ------------------------------------------------------------------------------------------------------------


def test_an_environment_gets_its_interpreter_its_library_and_what_its_path_files_name(opened: Opened) -> None:
    found = closed(opened, "/venv/pyvenv.cfg\n/venv/lib/*\n")
    assert added(found) == {
        "/venv/src/*": "pth",
        "/eggs/one.egg": "pth",
        "/py/bin/python3": "venv",
        "/py/bin/python3.11": "venv",
        "/py/lib/python3.11/*": "venv",
    }
    assert left(found) == {("dangling", "/venv/lib/python3.11/site-packages/none")}


def test_an_interpreter_gets_its_own_library(opened: Opened) -> None:
    found = closed(opened, "/py/bin/python3\n")
    assert added(found) == {"/py/bin/python3.11": "link", "/py/lib/python3.11/*": "python"}


def test_other_files_with_the_ending_of_path_files_are_left_alone(opened: Opened) -> None:
    found = closed(opened, "/models/*\n")
    assert (added(found), found.read) == ({}, 0)


def test_path_files_and_environments_are_read_with_bounds() -> None:
    assert read_pth(b"\xef\xbb\xbfa\r\n\n# b\nimport c\n/d e \n") == [b"a", b"/d e"]
    assert read_pth(b"a\0b") == read_pth(b"a\n" * 40_000) == []
    assert len(read_pth(b"a\n" * 5000)) == 1000
    assert read_venv(b"Home=/a/bin\nversion_info = 3.9.1.final.0\n") == Venv(b"/a/bin", b"3.9")
    assert read_venv(b"home = /a\nversion = x\n") == Venv(b"/a", b"")
    assert read_venv(b"home = a\n") is read_venv(b"version = 3.9\n") is read_venv(b"home = /a\0\n") is None


# -- links -------------------------------------------------------------------------------------------------------------


def test_chains_are_followed_and_each_link_of_them_comes_out(opened: Opened) -> None:
    found = closed(opened, "/links/chain\n")
    assert added(found) == dict.fromkeys(("/links/next", "/links/dir", "/links/real/last"), "link")
    assert "through this link" in found.added[b"/links/dir"].why


def test_a_link_to_a_directory_brings_what_is_in_it_unless_that_is_not_wanted(opened: Opened) -> None:
    assert added(closed(opened, "/tree\n")) == {"/links/real/*": "link"}
    assert added(closed(opened, "/tree\n", trees=False)) == {"/links/real": "link"}
    # A directory that was selected without what is in it is not enough.
    assert added(closed(opened, "/tree\n/links/real\n")) == {"/links/real/*": "link"}


def test_a_link_to_a_directory_that_it_lies_in_brings_nothing(opened: Opened) -> None:
    found = closed(opened, "/links/up\n/links/top\n")
    assert (added(found), found.unresolved) == ({}, 0)


def test_variables_lead_to_what_they_stand_for_and_unset_ones_are_told(opened: Opened) -> None:
    assert added(closed(opened, "/links/variant\n")) == {"/links/x86/last": "link"}
    session, wish = opened
    found = closed((session, Wish(wish.root, wish.spec, wish.view, {})), "/links/variant\n")
    assert left(found) == {("variable", "ARCH")}
    # Without a value the target is /last.
    assert set(found.system) == {b"/last"}


def test_links_to_nothing_in_circles_and_out_of_the_repository_are_told_apart(opened: Opened) -> None:
    found = closed(opened, "/links/loop\n/links/gone\n/links/system\n/links/out\n/links/other\n/links/all\n")
    assert set(added(found)) == {"/links/pool"}
    assert {kind for kind, _ in left(found)} == {"loop", "dangling"}
    assert ("dangling", "/links/no/such") in left(found)
    assert ("dangling", f"/cvmfs/{OTHER_FQRN}") in left(found)
    assert set(found.system) == {b"/etc/localtime", b"/usr/share"}
    assert [(path, one.mode) for path, one in found.others[OTHER_FQRN].items()] == [(b"/views/x86", Mode.DEEP)]


@pytest.mark.parametrize(
    ("path", "where", "expected"),
    [
        (f"{MOUNT}/links/dir/last", HERE, "/links/real/last"),
        (f"{MOUNT}/links/dir/../x86/last", HERE, "/links/x86/last"),
        (f"{MOUNT}//links/./real/../real/", HERE, "/links/real"),
        (f"{MOUNT}/links/real/last/x", MISSING, "/links/real/last/x"),
        (f"{MOUNT}/links/real/last/", MISSING, "/links/real/last"),
        (f"{MOUNT}/links/loop/x", LOOP, ""),
        (f"{MOUNT}", HERE, ""),
        (f"{MOUNT}/../../usr/lib", SYSTEM, "/usr/lib"),
        (f"/usr/../cvmfs/{FQRN}/tree/last", HERE, "/links/real/last"),
        ("/usr/..", SYSTEM, "/"),
        ("/", SYSTEM, "/"),
        ("/cvmfs", SYSTEM, "/cvmfs"),
        ("/cvmfs/nodots/x", SYSTEM, "/cvmfs/nodots/x"),
        (f"{MOUNT}/../{OTHER_FQRN}/a/../b", OTHER, "/b"),
        ("/cvmfs/.x.y/b", SYSTEM, "/cvmfs/.x.y/b"),
        ("/cvmfs/a;b.c/b", SYSTEM, "/cvmfs/a;b.c/b"),
    ],
)
def test_paths_are_followed_as_the_kernel_does(opened: Opened, path: str, where: str, expected: str) -> None:
    session, wish = opened
    found = Places(session, wish.root, wish.variables).follow(path.encode())
    assert found.where == where
    if where != LOOP:
        assert os.fsdecode(found.path) == expected


def test_a_link_to_a_directory_of_which_a_part_is_selected_does_not_bring_the_rest(opened: Opened) -> None:
    assert added(closed(opened, "/tree\n/links/real/beside\n")) == {}
    assert added(closed(opened, "/tree\n^/links/real/*\n")) == {}
    assert added(closed(opened, "/tree\n/links/real\n!/links/real/beside\n")) == {"/links/real/*": "link"}


# -- a program that runs -----------------------------------------------------------------------------------------------


def fill_with_a_shell(top: Path) -> None:
    """This machine's shell, with a loader and libraries of its own, and a script. Skips where that cannot be."""
    with open("/bin/sh", "rb") as file:
        shell, headers = file.read(), read_elf(file)
    loader = f"{MOUNT}/ld".encode()
    if not headers.interpreter or len(loader) > len(headers.interpreter):
        pytest.skip("the shell of this machine has no loader, or a name of it that is too short")
    (top / "lib").mkdir(parents=True)
    (top / "bin").mkdir()
    # The loader's name is replaced where it stands.
    (top / "bin" / "shell").write_bytes(
        shell.replace(headers.interpreter, loader.ljust(len(headers.interpreter), b"\0"), 1)
    )
    (top / "lib" / "loader").write_bytes(Path(os.fsdecode(headers.interpreter)).read_bytes())
    (top / "ld").symlink_to("lib/loader")
    needed = [os.fsdecode(name) for name in headers.needed]
    for name in needed:
        folders = (
            Path(folder) for folder in ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib/aarch64-linux-gnu")
        )
        found = next((folder / name for folder in folders if (folder / name).exists()), None)
        if found is None:
            pytest.skip(f"{name} is not where this test looks for it")
        (top / "lib" / f"real-{name}").write_bytes(found.read_bytes())
        (top / "lib" / name).symlink_to(f"real-{name}")
    (top / "bin" / "sh").symlink_to(f"{MOUNT}/bin/shell")
    (top / "bin" / "start").write_text(f"#!{MOUNT}/bin/sh\necho it runs: $((6 * 7))\n")
    (top / "unneeded").mkdir()
    (top / "unneeded" / "file").write_text("x")
    for path in (top / "bin" / "shell", top / "lib" / "loader", top / "bin" / "start"):
        path.chmod(0o755)


def test_a_script_runs_on_what_was_closed_over_where_there_is_nothing_else(place: Place, tmp_path: Path) -> None:
    chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin")
    own = ["unshare", "-Ur"] if os.geteuid() else []
    if not chroot or subprocess.run([*own, chroot, "/", "true"], capture_output=True, check=False).returncode:
        pytest.skip("neither root nor user namespaces here")
    fill_with_a_shell(tmp_path / "tree")
    mine = Place(tmp_path, place.keys)
    mine.publish(tmp_path / "tree")
    spec = tmp_path / "start.spec"
    spec.write_text("/bin/start\n")
    result = command(mine, "-t", spec, "-o", tmp_path / "closed.spec", "--strict").ok()
    assert "0 unresolved" in result.err
    outcomes = []
    for name in ("start", "closed"):
        root = tmp_path / name
        with mine.repository() as repository:
            export(repository, Spec.from_files(tmp_path / f"{name}.spec"), root / "cvmfs")
        env = {"LD_LIBRARY_PATH": f"{MOUNT}/lib", "PATH": os.defpath}
        ran = subprocess.run([*own, chroot, root, f"{MOUNT}/bin/start"], capture_output=True, env=env, check=False)
        outcomes.append((ran.returncode == 0, ran.stdout))
        assert not (root / "cvmfs" / FQRN / "unneeded").exists()
    assert outcomes == [(False, b""), (True, b"it runs: 42\n")]


# -- exclusions, and what is written -----------------------------------------------------------------------------------


@pytest.mark.parametrize("exclusion", ["!/sw/lib", "!/sw/lib/*", "!/sw/lib/deep", "!/sw/lib/*\n/sw/lib/libone.so.1"])
def test_what_the_specification_excludes_stays_out_and_is_told(exclusion: str, opened: Opened) -> None:
    found = closed(opened, f"/sw/bin/tool\n{exclusion}\n")
    assert "excluded" in {kind for kind, _ in left(found)}
    assert "/sw/lib/deep/libtwo.so" not in added(found)
    assert not any("/sw/lib" in path for path in added(found)) or exclusion.endswith("deep")


def selected(opened: Opened, text: bytes) -> set[str]:
    session, wish = opened
    spec = parse(text)
    return {os.fsdecode(entry.path) for entry in Walk(session.catalogs, wish.root, Matcher(spec))}


@pytest.mark.parametrize(
    "text",
    [
        "/sw/bin/tool\n",
        "/tree\n^/links/real\n!/links/real/beside\n",
        "/tree\n/links/real\n",
        "/venv/*\n/scripts/*\n!/py/lib/*\n",
        "/odd/link\n",
        "# a remark\n\n/links/*\n!/links/x86\n!/sw",
    ],
)
def test_what_is_written_selects_all_of_both_and_needs_nothing_more(text: str, opened: Opened) -> None:
    found = closed(opened, text)
    new = closed_text([Text("<spec>", text.encode())], parse(text.encode()), found.added)
    assert selected(opened, new) >= selected(opened, text.encode())
    for path in found.added:
        assert os.fsdecode(path) in selected(opened, new)
    assert added(closed(opened, new.decode())) == {}
    if "beside" in text:
        assert "/links/real/beside" not in selected(opened, new)
    if text.endswith("/links/real\n"):
        assert "/links/real/beside" in selected(opened, new)


# -- hostile files -----------------------------------------------------------------------------------------------------


def test_crafted_elf_files_are_refused_and_never_crash_or_hang() -> None:
    chance = random.Random(8)
    whole = make_elf(interpreter=b"/lib/ld.so", needed=(b"liba.so", b"libb.so"), runpath=b"$ORIGIN")
    sound = 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(4, len(data))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        if chance.random() < 0.2:
            del data[chance.randrange(8, len(data)) :]
        try:
            read_elf(io.BytesIO(bytes(data)))
            sound += 1
        except CorruptObject:
            pass
    assert 0 < sound < 400


def test_a_name_without_an_end_and_a_table_without_one_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = make_elf(needed=(b"liba.so",))[:-1] + b"x" * (8 << 20)
    with pytest.raises(CorruptObject, match="too much"):
        read_elf(io.BytesIO(endless))
    monkeypatch.setattr(elf, "_READS", 20)
    with pytest.raises(CorruptObject, match="too much"):
        read_elf(io.BytesIO(make_elf(needed=(b"liba.so",))))


def test_tokens_of_run_paths_are_replaced_and_relative_ones_left_out() -> None:
    paths = (b"$ORIGIN/../lib", b"${ORIGIN}/$PLATFORM", b"lib", b"/x/$LIB")
    assert folders_of(paths, b"/o", "x86_64") == [
        b"/o/../lib",
        b"/o/x86_64",
        b"/x/lib64",
        b"/x/lib",
        b"/x/lib/x86_64-linux-gnu",
    ]


# -- the command -------------------------------------------------------------------------------------------------------


def command(place: Place, *args: str | Path) -> Result:
    where: list[str | Path] = ["-r", FQRN, "--storage", place.storage, "--key", place.public_key, "--env", "ARCH=x86"]
    return call("spec", "closure", *where, *args)


def test_the_command_writes_each_repositorys_specification(place: Place, tmp_path: Path) -> None:
    spec = tmp_path / "job.spec"
    spec.write_text("/scripts/a\n/links/gone\n")
    result = command(place, "-t", spec).ok()
    assert result.out == (
        "# needed by what is selected below:\n# /scripts/a is run by it\n/scripts/b\n\n/scripts/a\n/links/gone\n"
    )
    assert "unresolved: /links/no/such: " in result.err
    assert f"+ /cvmfs/{OTHER_FQRN}/bin/sh: /scripts/b is run by it" in result.err
    command(place, "-t", spec, "-o", tmp_path / "new.spec").ok()
    assert (tmp_path / "new.spec").read_text() == result.out
    assert (tmp_path / f"new.{OTHER_FQRN}.spec").read_text().endswith("\n/bin/sh\n")
    result = command(place, "-t", spec, "-o", f"{tmp_path}/folder/", "--json", "--strict").ends_with(1)
    assert sorted(os.listdir(tmp_path / "folder")) == [f"{FQRN}.spec", f"{OTHER_FQRN}.spec"]
    *rows, last = [json.loads(line) for line in result.out.splitlines()]
    assert (last["added"], last["others"], last["unresolved"]) == (1, {OTHER_FQRN: 1}, 1)
    assert [row["added"] for row in rows if "added" in row] == ["/scripts/b", "/bin/sh"]
    assert [row["kind"] for row in rows if "unresolved" in row] == ["dangling"]


def test_an_output_that_cannot_be_written_is_an_error(place: Place, tmp_path: Path) -> None:
    spec = tmp_path / "job.spec"
    spec.write_text("/scripts/a\n")
    assert "cannot be written" in command(place, "-t", spec, "-o", tmp_path / "no" / "x").ends_with(8).err


def test_a_content_that_cannot_be_had_ends_it(tmp_path: Path, place: Place) -> None:
    mine = Place(tmp_path, place.keys)
    (tmp_path / "tree").mkdir()
    program = tmp_path / "tree" / "program"
    program.write_bytes(make_elf(needed=(b"libx.so",)))
    program.chmod(0o755)
    mine.publish(tmp_path / "tree")
    config = SourceConfig(FQRN, storage=str(mine.storage))
    with open_session(config, read_keys([str(mine.public_key)])) as session:
        root = session.snapshot(Pin()).root
        found = session.find(root, b"/program")
        assert found is not None
        session.catalogs.release(found[0])
        digest = found[1].hash
        assert digest is not None
        (mine.storage / "data" / digest.hex()[:2] / digest.hex()[2:]).unlink()
        with pytest.raises(MissingObject):
            closed((session, Wish(root, parse(b""), ViewOptions(False, 0, 0), {})), "/program\n")
