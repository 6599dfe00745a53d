"""The main loop of a worker process (:mod:`shrinkwrap.engine.pool`)."""

from __future__ import annotations

import ctypes
import gc
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from shrinkwrap.engine.pool import STOPS, receive, send
from shrinkwrap.errors import ShrinkwrapError

_PR_SET_PDEATHSIG: Final = 1


def main() -> None:
    """Answer calls until the other side is gone. Arguments: descriptor of the socket, process id of the parent."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(int(sys.argv[2]))
    # Nothing here makes circles of references worth looking for every 700 objects.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with socket.socket(fileno=int(sys.argv[1])) as sock:
        threading.Thread(target=_read, args=(sock, messages), daemon=True).start()
        calls = _Calls(messages)
        while True:
            for answer in calls.answers():
                try:
                    send(sock, answer)
                except ConnectionError:
                    return


def _read(sock: socket.socket, messages: queue.SimpleQueue[bytes]) -> None:
    """Take in calls, also while an answer goes out: else each side could wait for the other to read.

    When the other side is gone nobody wants what is being done here.
    """
    code = 1
    try:
        while True:
            messages.put(receive(sock))
    except (EOFError, ConnectionError):
        code = 0
    except Exception:  # noqa: BLE001 - the process ends with it
        traceback.print_exc()
    finally:
        os._exit(code)


class _Calls:
    """Calls as they come in, and the answers to them in the same order.

    A function that has a method ``stream`` is handed further calls of it, if they are there, while it is at work on the
    one before: it takes an iterator of the arguments of each, and gives an iterator of results.
    """

    def __init__(self, messages: queue.SimpleQueue[bytes]) -> None:
        self._messages = messages
        #: A call that was drawn for a stream which it is none of.
        self._next: tuple[Any, ...] | None = None
        #: Calls that were drawn and not answered.
        self._open = 0

    def answers(self) -> Iterator[bytes]:
        """Waits for a call; answers it, and all that are drawn meanwhile."""
        self._open = 1
        try:
            fn, args, kwargs = self._next or pickle.loads(self._messages.get())  # noqa: S301 - from our own parent
            self._next = None
            stream = None if kwargs else getattr(fn, "stream", None)
            for value in [fn(*args, **kwargs)] if stream is None else stream(self._further(fn, args)):
                packed = pickle.dumps((True, value), pickle.HIGHEST_PROTOCOL)
                self._open -= 1
                yield packed
            if self._open:
                raise RuntimeError(f"{fn!r} left {self._open} calls unanswered")
        except Exception as exc:  # noqa: BLE001 - raised again where the call was made
            refusal = _refusal(exc)
            for _ in range(self._open):
                yield refusal

    def _further(self, fn: object, args: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        yield args
        while self._next is None:
            try:
                message = self._messages.get_nowait()
            except queue.Empty:
                return
            self._open += 1
            call = pickle.loads(message)  # noqa: S301 - from our own parent
            if call[0] is fn and not call[2]:
                yield call[1]
            else:
                self._open -= 1
                self._next = call


def _refusal(exc: Exception) -> bytes:
    if not isinstance(exc, ShrinkwrapError | OSError):
        # Nobody foresaw it: whoever is to mend it needs to see where it came from.
        exc.add_note("In a worker process:\n" + "".join(traceback.format_exception(exc)))
    try:
        packed = pickle.dumps((False, exc), pickle.HIGHEST_PROTOCOL)
        pickle.loads(packed)  # noqa: S301 - many classes of errors can be packed but not unpacked
    except Exception:  # noqa: BLE001 - an error that cannot be sent must not end the process
        packed = pickle.dumps((False, RuntimeError("".join(traceback.format_exception(exc)))), pickle.HIGHEST_PROTOCOL)
    return packed


def die_with_parent(parent: int) -> None:
    """End with the parent, even if that is killed: nobody else would let go of the lock."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
