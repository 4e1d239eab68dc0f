"""The chain: search order, failing backends, sharing, caching."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from airflow.exceptions import AirflowConfigException
from airflow.models import Connection
from airflow.sdk.exceptions import AirflowSecretsBackendAccessDenied
from airflow.secrets import BaseSecretsBackend

from async_scheduler.secrets.adapter import AsyncBackendAdapter
from async_scheduler.secrets.chain import AsyncSecretsChain, ChainSettings
from async_scheduler.secrets.source import Lookup
from async_scheduler.secrets.threads import DaemonThreads
from tests.secrets.backends import Other, Steered

CACHED = ChainSettings(ttl=100)
IMPATIENT = ChainSettings(timeout=0.001, breaker_failures=2, breaker_pause=1000)


async def test_the_first_backend_that_has_the_key_wins() -> None:
    first, second = Steered({"a": "1"}), Steered({"a": "2", "b": "2", "empty": "x"})
    chain = AsyncSecretsChain([first, second])
    assert await chain.aget_variable("a") == "1"
    assert await chain.aget_variable("b") == "2"
    assert await chain.aget_variable("c") is None
    assert second.asked == {"b": 1, "c": 1}


async def test_an_empty_variable_is_found() -> None:
    chain = AsyncSecretsChain([Steered({"a": ""}), Steered({"a": "2"})])
    assert await chain.aget_variable("a") == ""


async def test_a_failing_backend_is_passed_over_and_logged_once_per_streak(
    caplog: pytest.LogCaptureFixture,
) -> None:
    failing, second = Steered(), Other({"a": "2"})
    failing.error = RuntimeError("a-secret-value")
    chain = AsyncSecretsChain([failing, second])
    with caplog.at_level(logging.INFO):
        assert [await chain.aget_variable("a") for _ in range(3)] == ["2"] * 3
        failing.error = None
        await chain.aget_variable("a")
        failing.error = RuntimeError("again")
        await chain.aget_variable("a")
    # Others may log meanwhile: a thread that an earlier test has left to end.
    ours = [record for record in caplog.records if record.name.startswith("async_scheduler.secrets")]
    texts = [record.getMessage() for record in ours]
    assert [text.startswith("Secrets backend Steered failed") for text in texts] == [True, False, True]
    assert texts[1] == "Secrets backend Steered answers again"
    assert "RuntimeError at backends.py" in texts[0]
    assert "a-secret-value" not in caplog.text


async def test_a_slow_backend_is_passed_over() -> None:
    hung, second = Steered(), Other({"a": "2"})
    hung.gate.clear()
    chain = AsyncSecretsChain([hung, second], IMPATIENT)
    assert await chain.aget_variable("a") == "2"
    assert hung.under_way == 0  # it was cancelled, not left behind
    assert chain.counts["Steered"].timed_out == 1


async def test_a_backend_that_keeps_failing_is_left_alone() -> None:
    failing, second = Steered(), Other({"a": "2"})
    failing.error = RuntimeError()
    chain = AsyncSecretsChain([failing, second], IMPATIENT)
    for _ in range(5):
        assert await chain.aget_variable("a") == "2"
    assert failing.asked == {"a": 2}
    assert chain.counts["Steered"].passed_over == 3


async def test_a_refusal_stops_the_search() -> None:
    refusing, second = Steered(), Steered({"a": "2"})
    refusing.error = AirflowSecretsBackendAccessDenied("no")
    chain = AsyncSecretsChain([refusing, second], IMPATIENT)
    for _ in range(3):
        with pytest.raises(AirflowSecretsBackendAccessDenied):
            await chain.aget_variable("a")
    assert not second.asked
    assert refusing.asked == {"a": 3}  # an answer, not a failure


async def test_lookups_of_one_key_share_a_backend_call_and_connections_are_not_shared() -> None:
    backend = Steered({"a": Connection("a", uri="http://host")})
    backend.gate.clear()
    chain = AsyncSecretsChain([backend])
    lookups = [asyncio.ensure_future(chain.aget_connection("a")) for _ in range(1000)]
    await backend.arrived.wait()
    backend.gate.set()
    found = await asyncio.gather(*lookups)
    assert backend.asked == {"a": 1}
    assert len({id(connection) for connection in found}) == 1000
    assert {connection and connection.host for connection in found} == {"host"}


async def test_different_keys_are_looked_up_at_the_same_time() -> None:
    backend = Steered(dict.fromkeys("abcdef", "x"))
    backend.gate.clear()
    chain = AsyncSecretsChain([backend])
    lookups = [asyncio.ensure_future(chain.aget_variable(key)) for key in "abcdef"]
    await asyncio.wait(lookups, timeout=0)
    backend.gate.set()
    await asyncio.gather(*lookups)
    assert backend.most_under_way == 6


async def test_a_cancelled_lookup_leaves_nothing_behind() -> None:
    backend = Steered({"a": "1"})
    backend.gate.clear()
    chain = AsyncSecretsChain([backend])
    lookup = asyncio.ensure_future(chain.aget_variable("a"))
    await backend.arrived.wait()
    lookup.cancel()
    await asyncio.wait([lookup])
    backend.gate.set()
    assert await chain.aget_variable("a") == "1"
    assert chain.counts["Steered"].failed == 0


async def test_without_a_ttl_every_lookup_asks() -> None:
    backend = Steered({"a": "1"})
    chain = AsyncSecretsChain([backend])
    for _ in range(3):
        await chain.aget_variable("a")
    assert backend.asked == {"a": 3}


async def test_values_and_absence_are_cached_and_invalidated() -> None:
    backend = Steered({"a": "1"})
    chain = AsyncSecretsChain([backend], CACHED)
    for _ in range(3):
        assert await chain.aget_variable("a") == "1"
        assert await chain.aget_variable("b") is None
        assert await chain.aget_connection("b") is None  # not the variable of that name
    assert backend.asked == {"a": 1, "b": 2}
    backend.values = {"a": "new", "b": "new"}
    chain.invalidate("variable", "a")
    assert await chain.aget_variable("a") == "new"
    assert await chain.aget_variable("b") is None
    chain.invalidate()
    assert await chain.aget_variable("b") == "new"


async def test_nothing_is_cached_that_a_failing_backend_might_have_answered_differently() -> None:
    failing, second = Steered({"a": "first"}), Other({"a": "second"})
    failing.error = RuntimeError()
    chain = AsyncSecretsChain([failing, second], CACHED)
    assert await chain.aget_variable("a") == "second"
    assert await chain.aget_variable("b") is None
    failing.error = None
    failing.values["b"] = "first"
    assert await chain.aget_variable("a") == "first"
    assert await chain.aget_variable("b") == "first"


async def test_what_was_looked_up_before_an_invalidation_is_not_cached_after_it() -> None:
    backend = Steered({"a": "old"})
    backend.gate.clear()
    chain = AsyncSecretsChain([backend], CACHED)
    lookup = asyncio.ensure_future(chain.aget_variable("a"))
    await backend.arrived.wait()
    chain.invalidate("variable", "a")
    backend.gate.set()
    assert await lookup == "old"
    backend.values["a"] = "new"
    assert await chain.aget_variable("a") == "new"


async def test_ten_thousand_keys() -> None:
    backend = Steered({f"k{number}": f"v{number}" for number in range(10_000)})
    chain = AsyncSecretsChain([backend], ChainSettings(ttl=100, cache_size=5_000))
    keys = list(backend.values)
    assert await asyncio.gather(*map(chain.aget_variable, keys)) == list(backend.values.values())
    assert len(chain._cache) == 5_000
    await asyncio.gather(*map(chain.aget_variable, keys[5_000:]))
    assert sum(backend.asked.values()) == 10_000


async def test_configuration_is_asked_of_the_custom_backend_alone() -> None:
    custom, other = Steered({"a": "1"}), Steered({"a": "2", "b": "2"})
    chain = AsyncSecretsChain([other, custom], config_backend=custom)
    assert await chain.aget_config("a") == "1"
    assert await chain.aget_config("b") is None
    assert not other.asked
    assert await AsyncSecretsChain([other]).aget_config("a") is None


async def test_configuration_fails_as_in_airflow_without_the_message_of_the_backend() -> None:
    custom = Steered()
    custom.error = RuntimeError("a-secret-value")
    chain = AsyncSecretsChain([custom], config_backend=custom)
    with pytest.raises(AirflowConfigException, match="alternative secrets backend") as caught:
        await chain.aget_config("a")
    assert "a-secret-value" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_a_team_needs_multi_team_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = AsyncSecretsChain([Steered({"a": "1"})])
    with pytest.raises(ValueError, match="Multi-team mode is not configured"):
        await chain.aget_variable("a", "blue")
    with pytest.raises(ValueError, match="Multi-team mode is not configured"):
        await chain.trace(Lookup("variable", "a", "blue"))
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    assert await chain.aget_variable("a", "blue") == "1"


async def test_a_trace_tells_what_each_backend_answered() -> None:
    absent, failing, has, unasked = Steered(), Other(), Steered({"a": "1"}), Steered()
    failing.error = RuntimeError("a-secret-value")
    chain = AsyncSecretsChain([absent, failing, has, unasked], config_backend=has)
    tried = await chain.trace(Lookup("variable", "a"))
    assert [attempt.outcome for attempt in tried] == ["absent", "failed", "found", "not asked"]
    assert "a-secret-value" not in repr(tried)
    failing.error = AirflowSecretsBackendAccessDenied()
    tried = await chain.trace(Lookup("variable", "a"))
    assert [attempt.outcome for attempt in tried] == ["absent", "denied", "not asked", "not asked"]
    assert [attempt.outcome for attempt in await chain.trace(Lookup("config", "a"))] == ["found"]


class Blocking(BaseSecretsBackend):  # type: ignore[misc]
    """A sync backend that hangs until the test lets it go."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.entered = threading.Semaphore(0)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        self.entered.release()
        assert self.release.wait(300)
        return "late"


async def test_a_hung_sync_backend_holds_its_threads_and_nothing_else() -> None:
    hung, second, threads = Blocking(), Other({"a": "2", "b": "2"}), DaemonThreads(2, "hung")
    chain = AsyncSecretsChain([AsyncBackendAdapter(hung, threads), second], IMPATIENT)
    for _ in range(10):
        assert list(await asyncio.gather(*map(chain.aget_variable, "ab"))) == ["2", "2"]
    assert threads.threads <= 2
    assert chain.counts["Blocking"].passed_over > 0
    hung.release.set()
    assert await threads.run(lambda: "free") == "free"
    threads.close()


class Mixed(BaseSecretsBackend):  # type: ignore[misc]
    """A third party's backend with one native method, one of the older kind, and one that is not async."""

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any:
        raise AssertionError("there is an async method")

    async def aget_connection(self, conn_id: str) -> str:
        return f"{conn_id} on {threading.current_thread().name}"

    def aget_variable(self, key: str, team_name: str | None = None) -> str:
        return f"{key} of {team_name}"

    def get_config(self, key: str) -> str:
        return f"{key} on {threading.current_thread().name}"


async def test_native_methods_are_found_one_by_one() -> None:
    adapter = AsyncBackendAdapter(Mixed(), threads := DaemonThreads(1, "adapter"))
    assert await adapter.aget_connection("a", "blue") == f"a on {threading.current_thread().name}"
    assert await adapter.aget_variable("b", "blue") == "b of blue"
    assert await adapter.aget_config("c") == "c on adapter-1"
    threads.close()


async def test_closing_closes_each_backend_once(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    async def aclose(self: Steered) -> None:
        closed.append(self)

    monkeypatch.setattr(Steered, "aclose", aclose)
    one, two = Steered(), Steered()
    await AsyncSecretsChain([one, two], config_backend=one).aclose()
    assert sorted(map(id, closed)) == sorted(map(id, [one, two]))
