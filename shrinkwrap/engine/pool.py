"""Processes of our own behind the interface of :class:`concurrent.futures.Executor`.

Why not the standard library's pool: a library must not run its caller's main module again in each process, as spawn
and forkserver do; and the processes must inherit the lock of the store and die with their parent, whatever kills it.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, Final

from shrinkwrap.errors import WorkerDied

#: Calls that a process has at a time: while it answers one, the next is there already.
AHEAD: Final = 2
#: Seconds that a process which closed its end has to say why, before it is killed.
_LAST_WORDS: Final = 5.0
_LENGTH: Final = struct.Struct("<Q")
#: ``-P``: nothing is imported from the folder that a run happens to start in.
_BOOT: Final = "import sys;sys.path[:]=sys.argv[3:];from shrinkwrap.engine.child import main;main()"
#: They go to a whole group of processes: the parent decides what becomes of the others. Blocked from the first
#: instant, because a Python that is just starting would answer with a traceback.
STOPS: Final = (signal.SIGINT, signal.SIGTERM)

_Call = tuple["Future[Any]", bytes]


class Processes(Executor):
    """Runs picklable calls in a fixed number of processes, which end with the thread that made them.

    Args:
        number: of processes.
        inherit: descriptors that they keep open as long as they live (a lock).

    Raises:
        OSError: not even one process could be started.
    """

    def __init__(self, number: int, inherit: Sequence[int] = ()) -> None:
        #: Guards all that follows.
        self._changed = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._idle = 0
        self._closed = False
        self._broken: WorkerDied | None = None
        self._children: list[_Child] = []
        try:
            for _ in range(number):
                self._children.append(_Child(self._take, inherit, self._break))
        except OSError:
            if not self._children:
                raise
        except BaseException:
            self.shutdown(cancel_futures=True)
            raise

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call ``fn`` in one of the processes.

        The future raises what ``fn`` raised, and WorkerDied if a process ended before it answered.

        Raises:
            RuntimeError: after :meth:`shutdown`.
        """
        future: Future[Any] = Future()
        packed = pickle.dumps((fn, args, kwargs), pickle.HIGHEST_PROTOCOL)
        with self._changed:
            if self._closed:
                raise RuntimeError("the processes were ended")
            if self._broken is None:
                self._calls.append((future, packed))
                self._changed.notify()
                return future
        future.set_exception(self._broken)
        return future

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [child.process.pid for child in self._children]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes: after what they have to do, or at once (``cancel_futures``). Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if cancel_futures:
            self._break(WorkerDied("the processes were ended"))
            for child in self._children:
                child.kill()
        if wait or cancel_futures:
            for child in self._children:
                child.join()

    def _take(self, busy: bool) -> _Call | None:
        """The next call for a process; None if it is to end, or is ``busy`` and there is none to spare."""
        with self._changed:
            if busy:
                # While another has nothing to do, what comes is for that one.
                return self._calls.popleft() if self._calls and not self._idle else None
            self._idle += 1
            try:
                self._changed.wait_for(lambda: self._calls or self._closed)
            finally:
                self._idle -= 1
            return self._calls.popleft() if self._calls else None

    def _break(self, error: WorkerDied) -> WorkerDied:
        """One process died: what waits is not begun, since the run is going to end. The error that all are told."""
        with self._changed:
            if self._broken is None:
                self._broken = error
            error = self._broken
            waiting = list(self._calls)
            self._calls.clear()
        for future, _ in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(error)
        return error


class _Child:
    """One process, and the thread that speaks with it."""

    def __init__(
        self,
        take: Callable[[bool], _Call | None],
        inherit: Sequence[int],
        died: Callable[[WorkerDied], WorkerDied],
    ) -> None:
        self._take = take
        self._died = died
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = _start(theirs.fileno(), inherit)
            self._thread = threading.Thread(target=self._run, name="shrinkwrap-worker", daemon=True)
            self._thread.start()
        except BaseException:
            self._socket.close()  # at which a process that was started ends
            raise

    def _run(self) -> None:
        flying: deque[Future[Any]] = deque()
        try:
            self._converse(flying)
        except Exception as exc:  # noqa: BLE001 - a thread has nobody above it: its callers wait for an answer
            self._fail(flying, exc)
        finally:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self.process.wait()

    def _converse(self, flying: deque[Future[Any]]) -> None:
        while True:
            while len(flying) < AHEAD:
                call = self._take(bool(flying))
                if call is None:
                    break
                future, packed = call
                if future.set_running_or_notify_cancel():
                    flying.append(future)
                    send(self._socket, packed)
            if not flying:
                return
            message = receive(self._socket)
            try:
                good, value = pickle.loads(message)  # noqa: S301 - from our own process
            except Exception as exc:  # noqa: BLE001 - it belongs to whoever made the call
                good, value = False, exc
            if good:
                flying.popleft().set_result(value)
            else:
                flying.popleft().set_exception(value)

    def _fail(self, flying: deque[Future[Any]], exc: Exception) -> None:
        if isinstance(exc, EOFError | ConnectionError):
            # It may be printing why.
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_LAST_WORDS)
        self.process.kill()
        code = self.process.wait()
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        error = self._died(
            WorkerDied(
                f"a worker process ended {how} ({type(exc).__name__}: {exc})",
                hint="if memory was short, use fewer --workers; what is complete is kept: run the same command again",
            )
        )
        for future in flying:
            future.set_exception(error)

    def kill(self) -> None:
        self.process.kill()
        # If a descendant of it holds the other end, nobody would notice that it is gone.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait for its end; nothing is left of it then."""
        self._thread.join()


def _start(end: int, inherit: Sequence[int]) -> subprocess.Popen[bytes]:
    """A process that answers calls at its end of a socket."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(end), str(os.getpid()), *_paths()],
            stdin=subprocess.DEVNULL,
            pass_fds=(end, *inherit),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _paths() -> list[str]:
    """Where this process imports from, without what depends on the folder that it is in; and where this package is."""
    found: list[Any] = list(sys.path)  # people put all sorts of things there, which imports pass over
    paths = [path for path in found if isinstance(path, str) and os.path.isabs(path)]
    home = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return paths if home in paths else [*paths, home]


def receive(sock: socket.socket) -> bytes:
    """One message. Raises EOFError when the other side is gone."""
    return _exactly(sock, _LENGTH.unpack(_exactly(sock, _LENGTH.size))[0])


def send(sock: socket.socket, data: bytes) -> None:
    """One message. Raises BrokenPipeError when the other side is gone, whatever this process does at SIGPIPE."""
    sock.sendall(_LENGTH.pack(len(data)), socket.MSG_NOSIGNAL)
    sock.sendall(data, socket.MSG_NOSIGNAL)


def _exactly(sock: socket.socket, number: int) -> bytes:
    buffer = bytearray(number)
    view = memoryview(buffer)
    while view:
        got = sock.recv_into(view)
        if not got:
            raise EOFError("the connection was closed")
        view = view[got:]
    return bytes(buffer)
