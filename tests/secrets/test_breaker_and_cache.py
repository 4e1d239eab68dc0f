"""When a failing backend is left alone, and what is remembered for how long."""

from __future__ import annotations

import copy

from airflow.models import Connection
from airflow.sdk import Connection as TaskConnection
from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.secrets.breaker import JITTER as PAUSE_JITTER
from async_scheduler.secrets.breaker import CircuitBreaker
from async_scheduler.secrets.cache import JITTER, MISS, LookupCache, fresh


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_breaker_opens_after_failures_in_a_row() -> None:
    breaker = CircuitBreaker(failures=3, pause=30, clock=Clock())
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert breaker.admits()
    breaker.failed()
    assert breaker.is_open
    assert not breaker.admits()


def test_one_caller_tries_after_the_pause_and_success_closes() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures=1, pause=30, clock=clock)
    breaker.failed()
    clock.now += 30
    assert breaker.admits()
    assert not breaker.admits()
    breaker.succeeded()
    assert breaker.admits()
    assert breaker.admits()


def test_a_failed_try_pauses_again() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures=5, pause=30, clock=clock)
    for _ in range(5):
        breaker.failed()
    clock.now += 30
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    clock.now += 30 * (1 - PAUSE_JITTER) - 0.01
    assert not breaker.admits()


def test_a_cancelled_try_leaves_the_next_caller_a_try() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures=1, pause=30, clock=clock)
    breaker.failed()
    clock.now += 30
    assert breaker.admits()
    breaker.abandoned()
    assert breaker.admits()


def test_a_breaker_without_limit_never_opens() -> None:
    breaker = CircuitBreaker(failures=0, pause=30, clock=Clock())
    for _ in range(100):
        breaker.failed()
    assert breaker.admits()


@given(st.lists(st.sampled_from(["ok", "fail", "cancel", "later"]), max_size=40))
def test_the_breaker_always_comes_back(events: list[str]) -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures=2, pause=10, clock=clock)
    for event in events:
        clock.now += 11 * (event == "later")
        if event != "later" and breaker.admits():
            {"ok": breaker.succeeded, "fail": breaker.failed, "cancel": breaker.abandoned}[event]()
    clock.now += 11
    assert breaker.admits()


def test_entries_live_for_the_ttl_less_some_jitter() -> None:
    clock = Clock()
    cache = LookupCache(ttl=100, size=10_000, clock=clock)
    for key in range(1000):
        cache.put(key, "value")
    clock.now += 100 * (1 - JITTER) - 0.01
    assert all(cache.get(key) == "value" for key in range(1000))
    clock.now += 100 * JITTER / 2
    alive = sum(cache.get(key) is not MISS for key in range(1000))
    assert 300 < alive < 700  # they do not all end at once
    clock.now += 100 * JITTER
    assert all(cache.get(key) is MISS for key in range(1000))


def test_absence_is_remembered() -> None:
    cache = LookupCache(ttl=100, size=10)
    cache.put("key", None)
    assert cache.get("key") is None
    assert cache.get("other") is MISS


def test_the_least_recently_used_goes_first() -> None:
    cache = LookupCache(ttl=100, size=2)
    cache.put("a", "1")
    cache.put("b", "2")
    cache.get("a")
    cache.put("c", "3")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("1", MISS, "3")


def test_without_a_ttl_nothing_is_kept() -> None:
    cache = LookupCache(ttl=0, size=10)
    cache.put("key", "value")
    assert cache.get("key") is MISS
    assert len(cache) == 0


def test_the_cache_shows_no_value() -> None:
    cache = LookupCache(ttl=100, size=10)
    cache.put("key", "a-secret-value")
    assert "a-secret-value" not in repr(cache) + repr(vars(cache))


def test_a_copied_connection_is_whole_and_the_callers_own() -> None:
    connection = Connection("id", uri="postgres://me:pass-word@host:5432/db?a=1")
    twin = fresh(connection)
    assert twin is not connection
    assert twin.get_uri() == connection.get_uri()
    twin.host, twin.password = "elsewhere", "other"
    assert (connection.host, connection.password) == ("host", "pass-word")


def test_a_tasks_connection_is_copied() -> None:
    connection = TaskConnection(conn_id="id", host="host")
    twin = fresh(connection)
    assert twin == connection
    twin.host = "elsewhere"
    assert connection.host == "host"
    assert fresh("text") == copy.copy("text")
