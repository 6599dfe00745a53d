"""Processes that answer calls: what they answer, and that none of them outlives what it is for."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import pytest
from engine import calls
from support.golden import CHECKOUT
from support.processes import dying_with_parent, living, wait_until_gone

from shrinkwrap import errors
from shrinkwrap.engine import pool as module
from shrinkwrap.engine.pool import Processes
from shrinkwrap.errors import ShrinkwrapError, WorkerDied

#: Longest time that anything here may take, in seconds: what takes longer hangs.
PATIENCE = 30
TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shared() -> Iterator[Processes]:
    """Two processes for tests that leave them as they are."""
    with Processes(2) as made:
        yield made


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.005)


def gone(*pids: int) -> bool:
    """No process of these is left, not even as a zombie."""
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def error_of(future: Future[Any]) -> BaseException:
    error = future.exception(PATIENCE)
    assert error is not None
    return error


# -- answers -------------------------------------------------------------------------------------------------------


def test_calls_are_answered_in_other_processes(shared: Processes) -> None:
    futures = [shared.submit(calls.pid) for _ in range(20)]
    found = {future.result(PATIENCE) for future in futures}
    assert found <= set(shared.pids)
    assert os.getpid() not in found
    assert shared.submit(calls.parent).result(PATIENCE) == os.getpid()
    assert list(shared.map(calls.echo, range(10))) == list(range(10))
    assert shared.submit(calls.echo, value=b"\0\xff").result(PATIENCE) == b"\0\xff"


def test_two_calls_are_at_work_at_the_same_time(shared: Processes, tmp_path: Path) -> None:
    for turn in range(5):
        gate = tmp_path / str(turn)
        gate.mkdir()
        one = shared.submit(calls.meet, str(gate), "one", "two")
        two = shared.submit(calls.meet, str(gate), "two", "one")
        assert (one.result(PATIENCE), two.result(PATIENCE)) == (True, True)


def test_a_process_with_nothing_to_do_takes_what_another_has_no_time_for(shared: Processes, tmp_path: Path) -> None:
    started = str(tmp_path / "started")
    stuck = shared.submit(calls.meet, str(tmp_path), "started", "go on")
    until(lambda: os.path.exists(started))
    assert len({shared.submit(calls.pid).result(PATIENCE) for _ in range(6)}) == 1
    assert not stuck.done()
    (tmp_path / "go on").touch()
    assert stuck.result(PATIENCE)


@pytest.mark.parametrize("turn", range(5))
def test_calls_that_come_together_are_spread_over_all_processes(turn: int, tmp_path: Path) -> None:
    with Processes(3) as pool:
        stuck = [pool.submit(calls.hang, str(tmp_path / str(number))) for number in range(3)]
        more = [pool.submit(calls.echo, number) for number in range(3)]
        until(lambda: len(list(tmp_path.iterdir())) == 3)
        assert not any(future.done() for future in (*stuck, *more))
        pool.shutdown(cancel_futures=True)


def test_answers_come_as_they_are_ready(shared: Processes, tmp_path: Path) -> None:
    slow = shared.submit(calls.meet, str(tmp_path), "a", "b")
    quick = [shared.submit(calls.echo, number) for number in range(5)]
    # One of them may have been handed to the busy process already: it is answered after the slow one.
    until(lambda: sum(future.done() for future in quick) >= 4)
    assert not slow.done()
    (tmp_path / "b").touch()
    assert [future.result(PATIENCE) for future in quick] == list(range(5))


def test_a_function_that_streams_draws_the_call_that_waits_for_it(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with Processes(1) as pool:
        two = [pool.submit(calls.streamed, gate, number) for number in range(2)]
        until(two[1].running)
        Path(gate).touch()
        assert [future.result(PATIENCE) for future in two] == [(2, 0), (2, 1)]
        assert pool.submit(calls.streamed, gate, 5).result(PATIENCE) == (1, 5)


def test_a_call_of_another_kind_is_none_of_a_streams(tmp_path: Path) -> None:
    gate = str(tmp_path / "gate")
    with Processes(1) as pool:
        one, other = pool.submit(calls.streamed, gate, 1), pool.submit(calls.echo, "other")
        until(other.running)
        Path(gate).touch()
        assert one.result(PATIENCE) == (1, 1)
        assert other.result(PATIENCE) == "other"


@pytest.mark.parametrize(("what", "error"), [("raise", ValueError), ("silence", RuntimeError)])
def test_a_stream_that_fails_is_the_error_of_every_call_that_it_drew(
    what: str, error: type[Exception], tmp_path: Path
) -> None:
    gate = str(tmp_path / "gate")
    with Processes(1) as pool:
        two = [pool.submit(calls.streamed, gate, what), pool.submit(calls.streamed, gate, 1)]
        until(two[1].running)
        Path(gate).touch()
        assert [type(error_of(future)) for future in two] == [error, error]
        assert pool.submit(calls.echo, 3).result(PATIENCE) == 3


def test_thousands_of_small_calls_are_all_answered(shared: Processes) -> None:
    futures = [shared.submit(calls.echo, number) for number in range(5000)]
    assert [future.result(PATIENCE) for future in futures] == list(range(5000))


def test_calls_from_many_threads_are_all_answered(shared: Processes) -> None:
    found: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

    def ask(base: int) -> None:
        for number in range(base, base + 100):
            found.put((number, shared.submit(calls.echo, number).result(PATIENCE)))

    threads = [threading.Thread(target=ask, args=(base,)) for base in range(0, 800, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    pairs = [found.get_nowait() for _ in range(800)]
    assert all(one == two for one, two in pairs)


def test_large_messages_go_both_ways_at_once(shared: Processes) -> None:
    """Nobody waits for the other side to read while that waits for him."""
    size = 50 << 20
    assert shared.submit(calls.length, bytes(size)).result(PATIENCE) == size
    assert shared.submit(calls.echo, bytes(size)).result(PATIENCE) == bytes(size)
    large = 8 << 20
    futures = [shared.submit(calls.both, bytes(large), large) for _ in range(12)]
    for future in futures:
        assert future.result(PATIENCE) == (large, bytes(large))


def test_a_call_that_was_cancelled_is_not_made_and_the_others_are(shared: Processes, tmp_path: Path) -> None:
    gates = [tmp_path / name for name in "ab"]
    for gate in gates:
        gate.mkdir()
    stuck = [shared.submit(calls.meet, str(gate), "started", "go on") for gate in gates]
    until(lambda: all((gate / "started").exists() for gate in gates))
    # Each process has a next one already; these two are not to be stopped any more.
    ahead = [shared.submit(calls.echo, number) for number in range(2)]
    waiting = [shared.submit(calls.hang) for _ in range(5)]
    cancelled = [future for future in waiting if future.cancel()]
    assert len(cancelled) >= 3
    for future in set(waiting) - set(cancelled):
        assert future.running()
    for gate in gates:
        (gate / "go on").touch()
    assert all(future.result(PATIENCE) for future in stuck)
    if cancelled == waiting:
        assert [future.result(PATIENCE) for future in ahead] == [0, 1]
        assert shared.submit(calls.echo, 7).result(PATIENCE) == 7


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_of_ours_arrives_with_its_class_message_and_hint(name: str, shared: Processes) -> None:
    error = error_of(shared.submit(calls.fail, name, "what is wrong", "what to do"))
    kind = getattr(errors, name)
    assert type(error) is kind
    assert isinstance(error, ShrinkwrapError)
    assert (str(error), error.message, error.hint) == ("what is wrong", "what is wrong", "what to do")
    assert (error.exit_code, error.reason) == (kind.exit_code, kind.reason)
    assert type(pickle.loads(pickle.dumps(error))) is kind


def test_an_error_of_the_system_keeps_its_number_and_its_files(shared: Processes, tmp_path: Path) -> None:
    error = error_of(shared.submit(calls.open_file, str(tmp_path / "nothing")))
    assert type(error) is FileNotFoundError
    assert (error.errno, error.filename) == (errno.ENOENT, str(tmp_path / "nothing"))
    error = error_of(shared.submit(calls.link, str(tmp_path / "one"), str(tmp_path / "two")))
    assert isinstance(error, OSError)
    assert (error.filename, error.filename2) == (str(tmp_path / "one"), str(tmp_path / "two"))
    error = error_of(shared.submit(calls.fail_with, OSError, errno.ENOSPC, "No space left on device", b"\xff"))
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, b"\xff")


def test_an_error_that_nobody_foresaw_tells_where_it_came_from(shared: Processes) -> None:
    error = error_of(shared.submit(calls.fail_with, KeyError, "lost"))
    assert type(error) is KeyError
    assert "in fail_with" in "".join(error.__notes__)


@pytest.mark.parametrize("call", [calls.unpicklable, calls.fail_to_unpack, calls.fail_oddly, calls.surprise])
def test_what_cannot_be_sent_is_an_error_of_its_call_alone(call: Callable[[], Any], shared: Processes) -> None:
    pids = shared.pids
    error = error_of(shared.submit(call))
    assert not isinstance(error, WorkerDied)
    assert isinstance(error, Exception)
    assert {shared.submit(calls.pid).result(PATIENCE) for _ in range(4)} <= set(pids)


def test_the_text_of_an_error_that_cannot_be_sent_comes_all_the_same(shared: Processes) -> None:
    error = error_of(shared.submit(calls.fail_to_unpack))
    assert "Unpackable: one two" in str(error)


def test_what_the_other_process_cannot_import_is_an_error_of_its_call_alone(
    shared: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = type(sys)("only_here")
    here.function = calls.pid  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", here)
    monkeypatch.setattr(calls.pid, "__module__", "only_here")
    monkeypatch.setattr(calls.pid, "__qualname__", "function")
    future = shared.submit(calls.pid)
    monkeypatch.undo()
    assert isinstance(error_of(future), ModuleNotFoundError)
    assert shared.submit(calls.echo, 1).result(PATIENCE) == 1


def test_what_cannot_be_packed_is_refused_at_once(shared: Processes) -> None:
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        shared.submit(lambda: None)
    with pytest.raises(TypeError):
        shared.submit(calls.echo, threading.Lock())
    assert shared.submit(calls.echo, 1).result(PATIENCE) == 1


# -- death ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 4])
def test_a_killed_process_is_an_error_of_all_that_waits_and_nothing_hangs(number: int, tmp_path: Path) -> None:
    with Processes(number) as pool:
        # Whichever gets what: all processes have something to do that does not end.
        futures = [pool.submit(calls.hang, str(tmp_path / str(one))) for one in range(number)]
        until(lambda: len(list(tmp_path.iterdir())) == number)
        futures += [pool.submit(calls.echo, one) for one in range(50)]
        os.kill(pool.pids[0], signal.SIGKILL)
        # What the others have begun goes on.
        until(lambda: sum(future.done() for future in futures) >= 50 - module.AHEAD * number + 1)
        done, rest = wait(futures, 0)
        for future in done:
            error = error_of(future)
            assert type(error) is WorkerDied
            assert "signal 9" in error.message
            assert "--workers" in error.hint
            assert error.exit_code == 10
        late = pool.submit(calls.echo, 1)
        assert isinstance(error_of(late), WorkerDied)
        for pid in pool.pids[1:]:
            os.kill(pid, signal.SIGKILL)
        for future in rest:
            assert isinstance(error_of(future), WorkerDied)
        pids = pool.pids
    assert gone(*pids)


@pytest.mark.parametrize("seed", range(6))
def test_calls_that_come_while_the_last_process_dies_are_all_answered(seed: int) -> None:
    with Processes(1) as pool:
        assert pool.submit(calls.echo, 1).result(PATIENCE) == 1
        threading.Timer(seed * 0.004, os.kill, (pool.pids[0], signal.SIGKILL)).start()
        futures = []
        while not pool.submit(calls.echo, b"x" * 10_000).exception(PATIENCE):
            futures.extend(pool.submit(calls.echo, bytes(100_000)) for _ in range(20))
        for future in futures:
            assert future.exception(PATIENCE) is None or isinstance(future.exception(), WorkerDied)


def test_a_process_that_dies_while_a_large_call_is_sent_to_it(tmp_path: Path) -> None:
    with Processes(1) as pool:
        futures = [pool.submit(calls.hang, str(tmp_path / "started"))]
        until((tmp_path / "started").exists)
        os.kill(pool.pids[0], signal.SIGSTOP)
        futures += [pool.submit(calls.length, bytes(20 << 20)) for _ in range(3)]
        os.kill(pool.pids[0], signal.SIGKILL)
        assert {type(error_of(future)) for future in futures} == {WorkerDied}


@pytest.mark.parametrize(
    ("call", "args", "how"),
    [
        (calls.leave, (3,), "with code 3"),
        (calls.leave, (0,), "with code 0"),
        (calls.exit_in_the_ordinary_way, (5,), "with code 5"),
    ],
)
def test_a_process_that_ends_by_itself_is_told_by_its_code(call: Any, args: tuple[int, ...], how: str) -> None:
    with Processes(1) as pool:
        error = error_of(pool.submit(call, *args))
        assert isinstance(error, WorkerDied)
        assert how in error.message


def test_a_process_that_cannot_begin_says_why(capfd: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_BOOT", "import no_such_module")
    with Processes(2) as pool:
        error = error_of(pool.submit(calls.echo, 1))
    assert isinstance(error, WorkerDied)
    assert "with code 1" in error.message
    assert "no_such_module" in capfd.readouterr().err


def test_without_any_process_there_is_an_error_and_with_fewer_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = module._start
    made: list[int] = []

    def limited(*args: Any) -> Any:
        if len(made) >= most:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        made.append(1)
        return start(*args)

    monkeypatch.setattr(module, "_start", limited)
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    with pytest.raises(OSError, match="temporarily"):
        Processes(2)
    most = 1
    with Processes(3) as pool:
        assert len(pool.pids) == 1
        assert pool.submit(calls.echo, 1).result(PATIENCE) == 1
    assert len(os.listdir("/proc/self/fd")) == before


def test_being_interrupted_while_processes_are_started_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    start = module._start
    made: list[int] = []

    def limited(*args: Any) -> Any:
        if made:
            raise KeyboardInterrupt
        process = start(*args)
        made.append(process.pid)
        return process

    monkeypatch.setattr(module, "_start", limited)
    with pytest.raises(KeyboardInterrupt):
        Processes(2)
    assert gone(*made)


# -- the end -------------------------------------------------------------------------------------------------------


def test_an_ordinary_end_waits_for_what_was_asked_and_leaves_nothing() -> None:
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    pool = Processes(2)
    pids = pool.pids
    futures = [pool.submit(calls.nap, 0.01, number) for number in range(20)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == list(range(20))
    assert gone(*pids)
    pool.shutdown()
    pool.shutdown(cancel_futures=True)
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == (files, threads)
    with pytest.raises(RuntimeError):
        pool.submit(calls.echo, 1)


def test_an_end_that_is_not_waited_for_comes_all_the_same() -> None:
    threads = threading.active_count()
    pool = Processes(2)
    pids = pool.pids
    futures = [pool.submit(calls.nap, 0.05, number) for number in range(6)]
    pool.shutdown(wait=False)
    assert [future.result(PATIENCE) for future in futures] == list(range(6))
    until(lambda: gone(*pids) and threading.active_count() == threads)


@pytest.mark.parametrize("call", [calls.hang, calls.hang_with_a_descendant])
def test_a_process_that_hangs_is_ended_at_once_if_that_is_wanted(call: Any, tmp_path: Path) -> None:
    pool = Processes(2)
    pids = pool.pids
    futures = [pool.submit(call, str(tmp_path / name)) for name in "ab"]
    until(lambda: all((tmp_path / name).exists() for name in "ab"))
    futures += [pool.submit(calls.echo, number) for number in range(10)]
    if call is calls.hang_with_a_descendant:
        until(lambda: all((tmp_path / name).read_text() for name in "ab"))
    pool.shutdown(cancel_futures=True)
    assert gone(*pids)
    assert {type(error_of(future)) for future in futures} == {WorkerDied}
    pool.shutdown(cancel_futures=True)
    pool.shutdown()
    for name in "ab" if call is calls.hang_with_a_descendant else "":
        os.kill(int((tmp_path / name).read_text()), signal.SIGKILL)


def test_a_process_that_is_stopped_is_ended_too(tmp_path: Path) -> None:
    pool = Processes(1)
    os.kill(pool.pids[0], signal.SIGSTOP)
    futures = [pool.submit(calls.length, bytes(5 << 20)) for _ in range(4)]
    pool.shutdown(cancel_futures=True)
    assert {type(error_of(future)) for future in futures} == {WorkerDied}


# -- what a process is made of -------------------------------------------------------------------------------------


def test_processes_keep_what_they_are_to_inherit_and_nothing_else(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("w") as kept, (tmp_path / "other").open("w"), Processes(2, (kept.fileno(),)) as pool:
        for _ in range(6):
            found = pool.submit(calls.files).result(PATIENCE)
            assert str(tmp_path / "kept") in found
            assert str(tmp_path / "other") not in found
            # Its own and no end of another process's: that would not notice when we are gone.
            assert sum(name.startswith("socket:") for name in found) == 1


def test_a_changed_search_path_is_theirs_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "\udcff é").mkdir()
    (tmp_path / "\udcff é" / "lately_added.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "\udcff é"))
    sys.path.append(tmp_path)  # type: ignore[arg-type] - imports pass over it, and so do we
    with Processes(1) as pool:
        found = pool.submit(calls.modules, "lately_added").result(PATIENCE)
        assert found == {"lately_added": str(tmp_path / "\udcff é" / "lately_added.py")}
        assert tmp_path not in pool.submit(calls.paths).result(PATIENCE)


SCRIPT_START = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"


def script(
    text: str, folder: Path, *words: str, start: list[str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """A Python program of its own, which makes processes."""
    file = folder / "program.py"
    file.write_text(SCRIPT_START + textwrap.dedent(text))
    return subprocess.Popen(
        [*(dying_with_parent() if start is None else start), sys.executable, str(file), *words],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_the_callers_main_module_is_not_run_again(tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        from engine import calls
        from shrinkwrap.engine.pool import Processes
        with open(sys.argv[1], "a") as file:
            print("once", file=file)
        with Processes(2) as pool:
            print([future.result() for future in [pool.submit(calls.echo, number) for number in range(4)]])
    """
    process = script(program, tmp_path, str(tmp_path / "runs"))
    out, err = process.communicate(timeout=PATIENCE)
    assert (out, err, process.returncode) == ("[0, 1, 2, 3]\n", "", 0)
    assert (tmp_path / "runs").read_text() == "once\n"


@pytest.mark.parametrize("how", ["console", "as a script's text"])
def test_nothing_is_imported_from_the_folder_that_one_is_in(how: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json", "pickle", "struct", "socket", "ctypes", "typing"):
        (here / f"{name}.py").write_text("raise SystemExit('taken from the current folder')\n")
    (here / "shrinkwrap").mkdir()
    (here / "shrinkwrap" / "__init__.py").write_text("raise SystemExit('taken from the current folder')\n")
    program = f"""
        from engine import calls
        from shrinkwrap.engine.pool import Processes
        import json, os
        os.chdir({str(here)!r})
        with Processes(1) as pool:
            print(json.dumps(pool.submit(calls.modules, "json", "shrinkwrap", "ctypes").result()))
    """
    if how == "console":
        process = script(program, tmp_path)
    else:
        # With -c the first place to import from is the current folder, whichever that is at the time.
        process = subprocess.Popen(
            [*dying_with_parent(), sys.executable, "-c", SCRIPT_START + textwrap.dedent(program)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    out, err = process.communicate(timeout=PATIENCE)
    assert (err, process.returncode) == ("", 0)
    assert not any(path.startswith(str(here)) for path in json.loads(out).values())


HANGING = """
    import os, time
    from engine import calls
    from shrinkwrap.engine.pool import Processes
    lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    import fcntl
    fcntl.flock(lock, fcntl.LOCK_EX)
    pool = Processes(2, (lock,))
    for name in "ab":
        pool.submit(calls.hang, sys.argv[2] + name)
    while not all(os.path.exists(sys.argv[2] + name) for name in "ab"):
        time.sleep(0.005)
    print(*pool.pids, flush=True)
"""


def is_free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("busy", [True, False], ids=["in a call", "idle"])
def test_processes_end_with_a_parent_that_is_killed_and_let_go_of_the_lock(busy: bool, tmp_path: Path) -> None:
    program = HANGING + "    time.sleep(1000)\n"
    if not busy:
        program = program.replace("calls.hang, ", "os.utime if False else calls.meet, '/', '../' + ").replace(
            "+ name)\n    while", "+ name, '..')\n    while"
        )
    process = script(program, tmp_path, str(tmp_path / "lock"), str(tmp_path / "started-"))
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 2
    assert not is_free(tmp_path / "lock")
    process.kill()
    # They have the pipes open too: those are at their end when all are gone.
    _, err = process.communicate(timeout=PATIENCE)
    assert err == ""
    assert wait_until_gone(lambda one: one.pid in pids) == []
    assert is_free(tmp_path / "lock")


def test_an_interpreter_that_ends_with_processes_open_ends_them(tmp_path: Path) -> None:
    process = script(HANGING, tmp_path, str(tmp_path / "lock"), str(tmp_path / "started-"))
    out, err = process.communicate(timeout=PATIENCE)
    pids = [int(word) for word in out.split()]
    assert (len(pids), err, process.returncode) == (2, "", 0)
    assert wait_until_gone(lambda one: one.pid in pids) == []
    assert is_free(tmp_path / "lock")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_stops_the_whole_group_is_the_parents_business(number: signal.Signals, tmp_path: Path) -> None:
    program = """
        import os, signal
        from engine import calls
        from shrinkwrap.engine.pool import Processes
        told = []
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda *_: told.append(1))
        print("go", flush=True)
        while not told:
            # Some of them are just beginning when the signal comes.
            with Processes(2) as pool:
                assert [pool.submit(calls.echo, number).result() for number in range(2)] == [0, 1]
        print("told", flush=True)
        os._exit(0)  # what comes once more, after Python has put its handlers away, is of no interest
    """
    process = script(program, tmp_path, start=[], start_new_session=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
        for _ in range(10):
            time.sleep(0.03)
            if process.poll() is None and living(lambda one: one.group == process.pid):
                os.killpg(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
    assert (err, out) == ("", "told\n")
    assert process.returncode == 0


def test_the_callers_own_mask_of_signals_stays_what_it_was() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with Processes(1):
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_a_process_that_the_caller_forked_does_not_hold_them_up(tmp_path: Path) -> None:
    with Processes(1) as pool:
        (pid,) = pool.pids
        assert pool.submit(calls.echo, 1).result(PATIENCE) == 1
        child = subprocess.Popen(
            [*dying_with_parent(), sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False
        )
        reader, writer = os.pipe()
        forked = os.fork()
        if forked == 0:
            os.close(writer)
            os.read(reader, 1)  # until the other side is closed
            os._exit(0)
        os.close(reader)
    try:
        assert gone(pid)
    finally:
        os.close(writer)
        os.waitpid(forked, 0)
        child.kill()
        child.wait()
