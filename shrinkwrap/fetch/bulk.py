"""Bulk objects by libcurl: one thread, many transfers in flight, connections kept.

What a handle is set to is in :mod:`shrinkwrap.fetch.handles`; which host is asked next, in
:mod:`shrinkwrap.fetch.mirrors`.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, Final

import pycurl

from shrinkwrap.errors import CorruptObject, ShrinkwrapError
from shrinkwrap.fetch.handles import Slot, Workshop
from shrinkwrap.fetch.http import Network, describe_status, judge_status
from shrinkwrap.fetch.intake import bad_span, name_of, no_external
from shrinkwrap.fetch.mirrors import Failure, Trip
from shrinkwrap.fetch.types import Outcome, Request

#: Errors of libcurl that say that the host, or the proxy, is at fault, so that trying again is of no use.
_HOST_ERRORS: Final = {
    pycurl.E_COULDNT_RESOLVE_HOST: "its name cannot be resolved",
    pycurl.E_TOO_MANY_REDIRECTS: "more than four redirects",
    pycurl.E_UNSUPPORTED_PROTOCOL: "a redirect to something that is not http or https",
    pycurl.E_URL_MALFORMAT: "a redirect to something that is not a URL",
    pycurl.E_PEER_FAILED_VERIFICATION: "its certificate was not accepted",
}
_PROXY_ERRORS: Final = {
    pycurl.E_COULDNT_RESOLVE_PROXY: "its name cannot be resolved",
    getattr(pycurl, "E_PROXY", 97): "the handshake with the proxy failed",
}
_TRANSFER_ERRORS: Final = {
    pycurl.E_COULDNT_CONNECT: "no connection",
    pycurl.E_OPERATION_TIMEDOUT: "too slow, or no answer in time",
    pycurl.E_PARTIAL_FILE: "the answer was cut short",
    pycurl.E_GOT_NOTHING: "the connection was closed without an answer",
    pycurl.E_RECV_ERROR: "the connection broke while receiving",
    pycurl.E_SEND_ERROR: "the connection broke while sending",
}

#: How an attempt ends whose kept connection was closed by the other side in the meantime.
_STALE: Final = frozenset({pycurl.E_SEND_ERROR, pycurl.E_RECV_ERROR, pycurl.E_GOT_NOTHING})

#: Attempts of one request that may be cut off by pauses of our own without being counted.
_MAX_EXCUSED: Final = 3
#: Objects that are judged before the network is looked after again.
_JUDGED: Final = 8
#: Seconds between decisions on whether more transfers would be of use.
_LOOK: Final = 0.25
#: Longest wait for the network before libcurl's own timers are looked after, in seconds.
_MAX_WAIT: Final = 1.0


class CurlTransfers:
    """The fetcher of one source. Belongs to one thread; fetches may be nested."""

    passes_caches: Final = True

    def __init__(self, network: Network) -> None:
        self._network = network
        self._idle: list[_Crew] = []
        self._busy: set[_Crew] = set()

    def fetch(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """See :meth:`shrinkwrap.fetch.types.Source.fetch`."""
        crew = self._idle.pop() if self._idle else _Crew(self._network)
        self._busy.add(crew)
        try:
            yield from crew.run(requests)
        finally:
            crew.abandon()
            if crew in self._busy:
                self._busy.discard(crew)
                self._idle.append(crew)

    def close(self) -> None:
        """End everything, also fetches that are under way."""
        for crew in (*self._idle, *self._busy):
            crew.close()
        self._idle.clear()
        self._busy.clear()


class _Crew:
    """A multi handle with its easy handles: what one call of ``fetch`` works with."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._workshop = Workshop(network)
        self._multi: Any = pycurl.CurlMulti()
        self._transfers = network.config.transfers
        self._most = max(network.config.most_transfers, self._transfers)
        self._multi.setopt(pycurl.M_MAXCONNECTS, self._most)
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, self._most)
        self._slots: list[Slot] = []
        self._idle: list[Slot] = []
        self._active: set[Slot] = set()
        #: Requests that wait before another attempt: when it is due, a number that settles ties, and the
        #: handle.
        self._waiting: list[tuple[float, int, Slot]] = []
        self._numbers = count()
        #: Requests that are tried again as soon as there is room; what has ended and is not judged, or not told.
        self._again: deque[Slot] = deque()
        self._ended: deque[Slot | Outcome] = deque()
        self._patience = min(network.config.timeout_direct, network.config.timeout_proxy)
        self._closed = False

    def run(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Draw requests as transfers end, and yield what became of them.

        What has arrived is judged only after the next requests are on their way: the network never waits for that.
        """
        iterator = iter(requests)
        exhausted = False
        waiting, again, ended = self._waiting, self._again, self._ended
        transfers = self._transfers
        multi = self._multi
        perform, info_read = multi.perform, multi.info_read
        active = self._active
        awake = looked = time.monotonic()
        waited = 0.0
        paused = excused = False
        while True:
            while again and len(active) < transfers:
                self._start(again.popleft())
            while waiting and waiting[0][0] <= awake and len(active) < transfers:
                slot = heapq.heappop(waiting)[2]
                trip = slot.trip
                if trip is not None and slot.mirrors.resume(trip, awake):
                    self._start(slot)
                else:
                    ended.append(self._lost(slot))
            # Memory is for as many as wait to be judged as are in flight.
            while not exhausted and len(active) + len(waiting) + len(again) < transfers and len(ended) < transfers:
                request = next(iterator, None)
                if request is None:
                    exhausted = True
                    break
                outcome = self._begin(request)
                if outcome is not None:
                    ended.append(outcome)
            new = len(ended)
            if active:
                perform()
                # A pause of our own (a slow disk, a slow consumer) must not count as slowness of the server.
                late = time.monotonic() - awake > self._patience / 2
                more = True
                while more:
                    left, done, failed = info_read()
                    more = left > 0
                    for curl in done:
                        self._rest(curl.slot)
                        ended.append(curl.slot)
                    for curl, code, text in failed:
                        slot = curl.slot
                        self._rest(slot)
                        slot.failure = (code, text, excused or paused or late)
                        ended.append(slot)
            excused = paused
            # What has just ended makes room for others first.
            for _ in range(min(new, _JUDGED)):
                outcome = self._told(ended.popleft())
                if outcome is not None:
                    yield outcome
                    if self._closed:
                        return
            # Nor in the next rounds.
            paused = time.monotonic() - awake > self._patience / 2
            # Who waits for another attempt may have to wait for room besides.
            full = len(active) >= transfers
            idle = full or not again
            if not ended and idle and (exhausted or len(active) + len(waiting) + len(again) >= transfers):
                if not active and not waiting:
                    return
                asleep = time.monotonic()
                self._wait(waiting[0][0] if waiting and not full else None)
                if full:
                    waited += time.monotonic() - asleep
            awake = time.monotonic()
            if transfers < self._most and awake - looked > _LOOK:
                # With all that may be in flight in flight, it was the network that everybody waited for.
                if waited > (awake - looked) / 2:
                    transfers = self._transfers = min(self._most, transfers + transfers // 2 + 1)
                looked, waited = awake, 0.0
            for mirrors in (self._network.mirrors, self._network.external):
                if mirrors is not None and awake >= mirrors.reset_at:
                    mirrors.tick(awake)

    def abandon(self) -> None:
        """Take all handles back, whatever they are at."""
        for slot in tuple(self._active):
            self._rest(slot)
        for slot in self._slots:
            slot.forget()
        self._waiting.clear()
        self._again.clear()
        self._ended.clear()
        self._idle = list(self._slots)

    def close(self) -> None:
        if self._closed:
            return
        self.abandon()
        self._closed = True
        for slot in self._slots:
            slot.curl.close()
            del slot.curl.slot
        self._slots.clear()
        self._idle.clear()
        self._multi.close()

    def _wait(self, due: float | None) -> None:
        """Sleep until the network moves, or until ``due``."""
        seconds = _MAX_WAIT if due is None else min(_MAX_WAIT, max(0.0, due - time.monotonic()))
        if not self._active:
            time.sleep(seconds)
            return
        timer = self._multi.timeout()
        if timer >= 0:
            seconds = min(seconds, timer / 1000)
        try:
            moved = self._multi.select(seconds)
        except pycurl.error:  # interrupted by a signal whose handler lets us go on
            return
        # Without a socket to wait for (a name is being looked up) select returns at once.
        if moved <= 0 and seconds > 0:
            time.sleep(min(seconds, 0.001))

    def _begin(self, request: Request) -> Outcome | None:
        """Start a fresh request, or refuse it at once."""
        mirrors = self._network.mirrors_for(request)
        if mirrors is None:
            return Outcome(request, no_external(request), 0, "")
        error = bad_span(request)
        if error is not None:
            return Outcome(request, error, 0, "")
        slot = self._idle.pop() if self._idle else self._new_slot()
        slot.request = request
        slot.mirrors = mirrors
        slot.trip = None
        try:
            self._start(slot)
        except CorruptObject as exc:
            slot.forget()
            self._idle.append(slot)
            return Outcome(request, exc, 0, "")
        return None

    def _new_slot(self) -> Slot:
        slot = self._workshop.make()
        self._slots.append(slot)
        return slot

    def _start(self, slot: Slot) -> None:
        """One attempt, by the route of the request's trip or by the one in use."""
        trip = slot.trip
        slot.route = slot.mirrors.current if trip is None else trip.route
        self._workshop.set(slot)
        slot.failure = None
        slot.intake.begin(slot.request)
        self._network.stats.requests += 1
        self._multi.add_handle(slot.curl)
        self._active.add(slot)

    def _rest(self, slot: Slot) -> None:
        """The handle is out of work; its connection stays if the transfer was complete."""
        self._active.discard(slot)
        self._multi.remove_handle(slot.curl)

    def _told(self, ended: Slot | Outcome) -> Outcome | None:
        """What became of a request whose transfer has ended. None if there is another attempt."""
        if isinstance(ended, Outcome):
            return ended
        return self._done(ended) if ended.failure is None else self._failed(ended, *ended.failure)

    def _done(self, slot: Slot) -> Outcome | None:
        """libcurl is content. None if there is another attempt."""
        intake = slot.intake
        status = slot.curl.getinfo(pycurl.RESPONSE_CODE)
        if not 200 <= status < 300:
            return self._judge(slot, *self._status_failure(slot, status))
        try:
            intake.finish()
        except CorruptObject as exc:
            return self._judge(slot, Failure.CORRUPT, exc.message)
        return self._won(slot)

    def _failed(self, slot: Slot, code: int, text: str, excused: bool) -> Outcome | None:
        """libcurl is not content. None if there is another attempt."""
        intake = slot.intake
        raised = intake.raised
        if isinstance(raised, CorruptObject):
            return self._judge(slot, Failure.CORRUPT, raised.message)
        if raised is not None:
            raise raised
        if code == pycurl.E_WRITE_ERROR:
            if not intake.satisfied:
                # Only an exception that struck between libcurl and Intake.write gets here, and older versions
                # of pycurl print and drop it: the doing of a signal.
                raise KeyboardInterrupt
            try:
                intake.finish()
            except CorruptObject as exc:
                return self._judge(slot, Failure.CORRUPT, exc.message)
            return self._won(slot)
        if code == pycurl.E_HTTP_RETURNED_ERROR:
            status = slot.curl.getinfo(pycurl.RESPONSE_CODE)
            return self._judge(slot, *self._status_failure(slot, status))
        if code == pycurl.E_OPERATION_TIMEDOUT and excused:
            trip = slot.trip = slot.trip or Trip(slot.route)
            if trip.excused < _MAX_EXCUSED:
                trip.excused += 1
                self._network.stats.retries += 1
                self._again.append(slot)
                return None
        if code in _STALE and not slot.fresh and not intake.received and not slot.curl.getinfo(pycurl.NUM_CONNECTS):
            # Kept connections that the other side has closed since: libcurl tries some of them and gives up.
            self._network.stats.retries += 1
            slot.anew = True
            self._again.append(slot)
            return None
        if code in _HOST_ERRORS:
            return self._judge(slot, Failure.HOST, _HOST_ERRORS[code])
        if code in _PROXY_ERRORS:
            return self._judge(slot, Failure.PROXY, _PROXY_ERRORS[code])
        return self._judge(slot, Failure.TRANSFER, _TRANSFER_ERRORS.get(code, str(text)[:200]))

    def _status_failure(self, slot: Slot, status: int) -> tuple[Failure, str]:
        failure = judge_status(status, proxied=bool(slot.route.proxy), proxy_error=slot.proxy_error)
        return failure or Failure.HOST, describe_status(status)

    def _judge(self, slot: Slot, failure: Failure, reason: str) -> Outcome | None:
        """Ask the mirrors what follows, and do it. None if there is another attempt, now or later."""
        stats = self._network.stats
        stats.received += slot.intake.received
        trip = slot.trip = slot.trip or Trip(slot.route)
        now = time.monotonic()
        wait = slot.mirrors.failed(trip, failure, reason, now)
        if wait is None:
            return self._lost(slot)
        stats.retries += trip.route == slot.route
        if wait == 0.0:
            self._again.append(slot)
        else:
            heapq.heappush(self._waiting, (now + wait, next(self._numbers), slot))
        return None

    def _won(self, slot: Slot) -> Outcome:
        stats = self._network.stats
        received = slot.intake.received
        url = slot.route.url
        stats.received += received
        stats.hosts[url] = stats.hosts.get(url, 0) + 1
        if slot.trip is not None:
            slot.mirrors.succeeded(slot.trip)
        return self._free(slot, None, received)

    def _lost(self, slot: Slot) -> Outcome:
        trip = slot.trip or Trip(slot.route)
        return self._free(slot, slot.mirrors.verdict(trip, name_of(slot.request)), slot.intake.received)

    def _free(self, slot: Slot, error: ShrinkwrapError | None, received: int) -> Outcome:
        outcome = Outcome(slot.request, error, received, slot.route.url)
        # The handle forgets its request with the next one, or at the end of the fetch.
        slot.trip = None
        self._idle.append(slot)
        return outcome
