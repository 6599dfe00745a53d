"""The state machine of hosts and proxies, by itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkwrap.errors import CorruptObject, MissingObject, NetworkError, UsageError
from shrinkwrap.fetch.mirrors import (
    HOST_RESET_AFTER,
    PROXY_RESET_AFTER,
    Failure,
    Mirrors,
    Trip,
    parse_proxies,
)
from shrinkwrap.fetch.types import FetchStats

A, B, C = "http://a", "http://b", "http://c"
P, Q, R = "http://p:3128", "http://q:3128", "http://r:3128"


class Fixed(random.Random):
    """Starts in each group with the member of the given number."""

    def __init__(self, start: int = 0) -> None:
        super().__init__(1)
        self.start = start

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return self.start % start


def mirrors(*hosts: str, proxies: str = "DIRECT", start: int = 0, retries: int = 0) -> Mirrors:
    return Mirrors(hosts, parse_proxies(proxies), rng=Fixed(start), max_retries=retries)


def go_on(machine: Mirrors, trip: Trip, failure: Failure) -> float | None:
    return machine.failed(trip, failure, f"it was {failure.value}", 0.0)


# -- the text


def test_groups_and_members_are_told_apart() -> None:
    assert parse_proxies(" http://p:3128| q:3128 ;https://r:3128;DIRECT") == (
        (P, Q),
        ("https://r:3128",),
        ("",),
    )


def test_a_proxy_without_a_scheme_is_an_http_proxy() -> None:
    assert parse_proxies("squid.example.org:3128") == (("http://squid.example.org:3128",),)


def test_empty_groups_and_repeated_proxies_do_not_count() -> None:
    assert parse_proxies(";;p:3128||p:3128;;p:3128;") == ((P,),)


@pytest.mark.parametrize("text", ["", " ; | ", "auto", "DIRECT;auto", "socks5://p:1", "http://", "p:99999", "p q"])
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_proxies(text)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_any_text_is_either_proxies_or_a_usage_error(text: str) -> None:
    try:
        groups = parse_proxies(text)
    except UsageError:
        return
    assert all(groups)


def test_a_wrong_proxy_does_not_give_its_password_away() -> None:
    with pytest.raises(UsageError) as caught:
        parse_proxies("socks5://user:secret@p:1")
    assert "secret" not in caught.value.message


# -- hosts


def test_a_host_failure_moves_everybody_once() -> None:
    told: list[str] = []
    stats = FetchStats()
    machine = Mirrors([A, B, C], parse_proxies("DIRECT"), rng=Fixed(), notice=told.append, stats=stats)
    trips = [Trip(machine.current) for _ in range(20)]
    for trip in trips:
        assert go_on(machine, trip, Failure.HOST) == 0.0
        assert trip.route.url == B
    assert machine.current.url == B
    assert stats.failovers == 1
    assert told == [f"host {A}: it was host; going on with {B}"]


def test_each_host_is_asked_once_and_then_it_is_over() -> None:
    machine = mirrors(A, B, C)
    trip = Trip(machine.current)
    asked = [trip.route.url]
    while go_on(machine, trip, Failure.HOST) is not None:
        asked.append(trip.route.url)
    assert asked == [A, B, C]
    error = machine.verdict(trip, "data/x")
    assert isinstance(error, NetworkError)
    assert all(host in error.message for host in asked)


def test_when_all_hosts_have_failed_new_requests_are_not_left_without_one() -> None:
    machine = mirrors(A, B)
    for _ in range(3):
        trip = Trip(machine.current)
        assert go_on(machine, trip, Failure.HOST) == 0.0
        assert go_on(machine, trip, Failure.HOST) is None


def test_a_missing_object_alone_does_not_move_anybody_else() -> None:
    machine = mirrors(A, B)
    trip = Trip(machine.current)
    assert go_on(machine, trip, Failure.MISSING) == 0.0
    assert trip.route.url == B
    assert machine.current.url == A


def test_a_host_that_has_what_the_current_one_lacks_is_preferred_from_then_on() -> None:
    machine = mirrors(A, B)
    trip = Trip(machine.current)
    go_on(machine, trip, Failure.MISSING)
    machine.succeeded(trip)
    assert machine.current.url == B


def test_a_success_after_a_retry_changes_nothing() -> None:
    machine = mirrors(A, B, retries=1)
    trip = Trip(machine.current)
    go_on(machine, trip, Failure.TRANSFER)
    machine.succeeded(trip)
    assert machine.current.url == A


def test_failed_hosts_get_another_chance_after_their_time() -> None:
    machine = mirrors(A, B)
    machine.failed(Trip(machine.current), Failure.HOST, "down", 1000.0)
    machine.tick(1000.0 + HOST_RESET_AFTER - 1)
    assert machine.current.url == B
    assert machine.reset_at == 1000.0 + HOST_RESET_AFTER
    machine.tick(machine.reset_at)
    assert machine.current.url == A
    assert machine.reset_at == float("inf")


def test_distrusted_hosts_are_left_for_good_until_each_was_tried() -> None:
    machine = mirrors(A, B, C)
    assert machine.next_host()
    assert machine.current.url == B
    machine.tick(float("1e9"))
    assert machine.current.url == B
    assert machine.next_host()
    assert machine.current.url == C
    assert not machine.next_host()


def test_a_single_host_that_is_distrusted_is_all_there_is() -> None:
    assert not mirrors(A).next_host()


# -- verdicts


def finish(machine: Mirrors, *failures: Failure) -> Trip:
    trip = Trip(machine.current)
    for failure in failures:
        go_on(machine, trip, failure)
    return trip


def test_missing_everywhere_is_missing() -> None:
    machine = mirrors(A, B)
    assert isinstance(machine.verdict(finish(machine, Failure.MISSING, Failure.MISSING), "x"), MissingObject)


@pytest.mark.parametrize("order", [(Failure.MISSING, Failure.HOST), (Failure.HOST, Failure.MISSING)])
def test_missing_is_not_certain_while_a_host_could_not_be_asked(order: tuple[Failure, Failure]) -> None:
    machine = mirrors(A, B)
    error = machine.verdict(finish(machine, *order), "x")
    assert isinstance(error, NetworkError)
    assert "not every host" in error.message


def test_corrupt_anywhere_and_good_nowhere_is_corrupt() -> None:
    machine = mirrors(A, B)
    trip = finish(machine, Failure.MISSING, Failure.CORRUPT, Failure.CORRUPT)
    assert isinstance(machine.verdict(trip, "x"), CorruptObject)


def test_messages_do_not_give_passwords_away() -> None:
    machine = Mirrors(["http://u:secret@a"], parse_proxies("http://u:secret@p:1"), rng=Fixed(), max_retries=0)
    trip = finish(machine, Failure.TRANSFER)
    assert "secret" not in machine.verdict(trip, "x").message
    assert "secret" not in str(trip.route)


# -- retries


def test_a_transfer_error_is_retried_on_the_same_route_after_growing_waits() -> None:
    machine = Mirrors([A, B], parse_proxies("DIRECT"), rng=Fixed(), max_retries=4, backoff_init=2.0, backoff_max=5.0)
    trip = Trip(machine.current)
    waits = []
    while trip.route.url == A:
        wait = go_on(machine, trip, Failure.TRANSFER)
        assert wait is not None
        waits.append(wait)
    assert 0.0 <= waits[0] <= 2.0
    assert waits[1] == pytest.approx(min(2 * waits[0], 5.0))
    assert waits[2] == pytest.approx(min(2 * waits[1], 5.0))
    assert max(waits) <= 5.0
    assert waits[4:] == [0.0]


def test_who_waits_for_a_route_that_was_given_up_meanwhile_takes_the_new_one() -> None:
    machine = mirrors(A, B, retries=1)
    waiting = Trip(machine.current)
    assert go_on(machine, waiting, Failure.TRANSFER) is not None
    assert waiting.route.url == A
    go_on(machine, Trip(machine.current), Failure.HOST)
    assert machine.resume(waiting, 0.0)
    assert waiting.route.url == B


def test_who_fails_on_a_host_that_others_have_left_does_not_try_it_again() -> None:
    machine = mirrors(A, B, retries=1)
    late = Trip(machine.current)
    go_on(machine, Trip(machine.current), Failure.HOST)
    assert go_on(machine, late, Failure.TRANSFER) == 0.0
    assert late.route.url == B


def test_who_waits_and_finds_nothing_left_is_told_so() -> None:
    machine = mirrors(A, B, retries=1)
    trip = finish(machine, Failure.MISSING, Failure.TRANSFER)
    assert trip.route.url == B
    other = finish(machine, Failure.MISSING)
    assert other.route.url == B
    go_on(machine, other, Failure.HOST)
    assert not machine.resume(trip, 0.0)


def test_corrupt_is_retried_past_caches_once_on_each_host() -> None:
    machine = mirrors(A, B)
    trip = Trip(machine.current)
    seen = [(trip.route.url, trip.no_cache)]
    while go_on(machine, trip, Failure.CORRUPT) is not None:
        seen.append((trip.route.url, trip.no_cache))
    assert seen == [(A, False), (A, True), (B, False), (B, True)]


def test_a_transfer_error_past_caches_is_not_retried() -> None:
    machine = mirrors(A, B, retries=3)
    trip = finish(machine, Failure.CORRUPT)
    assert go_on(machine, trip, Failure.TRANSFER) == 0.0
    assert trip.route.url == B


# -- proxies


def test_the_start_in_a_group_is_random_and_groups_keep_their_order() -> None:
    text = "p:3128|q:3128;r:3128"
    assert mirrors(A, proxies=text, start=0).current.proxy == P
    assert mirrors(A, proxies=text, start=1).current.proxy == Q
    starts = {Mirrors([A], parse_proxies(text), rng=random.Random(seed)).current.proxy for seed in range(50)}
    assert starts == {P, Q}


def test_a_group_is_used_up_before_the_next_one() -> None:
    machine = mirrors(A, B, proxies="p:3128|q:3128;r:3128", start=1)
    trip = Trip(machine.current)
    used = [(trip.route.url, trip.route.proxy)]
    while go_on(machine, trip, Failure.PROXY) is not None:
        used.append((trip.route.url, trip.route.proxy))
    assert used[:3] == [(A, Q), (A, P), (A, R)]
    assert {proxy for _, proxy in used[3:]} == {P, Q, R}
    assert {url for url, _ in used[3:]} == {B}
    assert len(used) == 6


def test_a_proxy_failure_moves_everybody_once() -> None:
    stats = FetchStats()
    machine = Mirrors([A], parse_proxies("p:3128;q:3128"), rng=Fixed(), stats=stats)
    trips = [Trip(machine.current) for _ in range(20)]
    for trip in trips:
        assert go_on(machine, trip, Failure.PROXY) == 0.0
        assert trip.route.proxy == Q
    assert machine.current.proxy == Q
    assert stats.failovers == 1


def test_failed_proxies_get_another_chance_after_their_time() -> None:
    machine = mirrors(A, proxies="p:3128;DIRECT")
    machine.failed(Trip(machine.current), Failure.PROXY, "down", 50.0)
    assert machine.current.proxy == ""
    machine.tick(50.0 + PROXY_RESET_AFTER)
    assert machine.current.proxy == P


def test_a_connection_that_fails_without_proxy_is_tried_through_one() -> None:
    machine = mirrors(A, proxies="DIRECT;p:3128")
    trip = Trip(machine.current)
    assert go_on(machine, trip, Failure.TRANSFER) == 0.0
    assert (trip.route.url, trip.route.proxy) == (A, P)


def test_when_all_proxies_have_failed_the_host_is_to_blame_and_they_are_all_used_again() -> None:
    machine = mirrors(A, B, proxies="p:3128;q:3128")
    trip = Trip(machine.current)
    for _ in range(2):
        go_on(machine, trip, Failure.TRANSFER)
    assert trip.route.url == B
    assert machine.current.url == B
    assert machine.current.proxy == P
    assert go_on(machine, Trip(machine.current), Failure.PROXY) == 0.0
    assert (machine.current.url, machine.current.proxy) == (B, Q)


def test_a_proxy_is_not_blamed_by_those_who_come_late_from_a_host_that_was_left() -> None:
    machine = mirrors(A, B, proxies="p:3128;q:3128")
    late = Trip(machine.current)
    go_on(machine, Trip(machine.current), Failure.HOST)
    go_on(machine, late, Failure.TRANSFER)
    assert (machine.current.url, machine.current.proxy) == (B, P)


@settings(deadline=None, max_examples=60)
@given(
    hosts=st.integers(1, 4),
    proxies=st.sampled_from(["DIRECT", "p:1", "p:1|q:1", "p:1|q:1;r:1", "p:1;DIRECT", "DIRECT;p:1|q:1"]),
    retries=st.integers(0, 2),
    plan=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(Failure)), min_size=1, max_size=150),
)
def test_every_request_comes_to_an_end_whatever_fails(
    hosts: int, proxies: str, retries: int, plan: list[tuple[int, Failure]]
) -> None:
    machine = Mirrors([f"http://h{n}" for n in range(hosts)], parse_proxies(proxies), rng=Fixed(), max_retries=retries)
    members = sum(len(group) for group in parse_proxies(proxies))
    most = hosts * members * (retries + 2)
    trips = [Trip(machine.current) for _ in range(3)]
    attempts = [0, 0, 0]
    for which, failure in plan:
        trip = trips[which]
        attempts[which] += 1
        assert attempts[which] <= most
        wait = go_on(machine, trip, failure)
        if wait is None or (wait and not machine.resume(trip, 0.0)):
            assert len(trip.verdicts) == hosts
            machine.verdict(trip, "x")
            trips[which] = Trip(machine.current)
            attempts[which] = 0
