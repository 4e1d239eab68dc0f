"""Look-ups of Airflow's own sync code, led to the chain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from airflow import configuration as core
from airflow.exceptions import AirflowConfigException
from airflow.models import Connection, Variable
from airflow.sdk import configuration as sdk
from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSecretsBackendAccessDenied
from airflow.secrets import BaseSecretsBackend
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.util import greenlet_spawn

from async_scheduler.secrets.chain import AsyncSecretsChain
from async_scheduler.secrets.preload import preloaded
from async_scheduler.secrets.threads import DaemonThreads
from async_scheduler.secrets.upstream import RoutedBackend, lookups_routed
from tests.secrets.backends import Steered

if TYPE_CHECKING:
    from airflow.configuration import AirflowConfigParser

T = TypeVar("T")


@pytest.fixture
def backend() -> Steered:
    connection = Connection("c", uri="http://me:pass-word@host")
    return Steered({"v": "1", "w": "2", "c": connection})


@pytest.fixture
async def routed(backend: Steered) -> AsyncIterator[RoutedBackend]:
    async with lookups_routed(AsyncSecretsChain([backend], config_backend=backend)) as routed:
        yield routed


@pytest.fixture
async def in_thread() -> AsyncIterator[Callable[[Callable[[], T]], Any]]:
    threads = DaemonThreads(2, "executor")
    yield threads.run
    threads.close()


async def test_preloaded_keys_are_answered_from_memory(routed: RoutedBackend, backend: Steered) -> None:
    async with preloaded(routed._chain, variables=["v", "absent"], connections=["c"]):
        backend.gate.clear()  # whoever asks now would hang
        assert Variable.get("v") == "1"
        assert Variable.get("absent", default_var="default") == "default"
        connection = Connection.get_connection_from_secrets("c")
        assert connection.host == "host"
        connection.host = "changed"
        assert Connection.get_connection_from_secrets("c").host == "host"
        async with preloaded(routed._chain):
            assert Variable.get("v") == "1"
    assert routed.counts.from_memory == 5
    backend.gate.set()


async def test_code_of_a_routine_asks_the_chain_without_blocking_the_loop(
    routed: RoutedBackend, backend: Steered
) -> None:
    backend.gate.clear()
    lookup = asyncio.ensure_future(greenlet_spawn(Variable.get, "v"))
    await backend.arrived.wait()  # the loop runs meanwhile
    backend.gate.set()
    assert await lookup == "1"
    assert routed.counts.inside_routine == 1
    with pytest.raises(KeyError):
        await greenlet_spawn(Variable.get, "absent")


async def test_code_of_a_thread_asks_the_chain(
    routed: RoutedBackend, backend: Steered, in_thread: Any
) -> None:
    assert await in_thread(lambda: Variable.get("v")) == "1"
    assert (await in_thread(lambda: Connection.get_connection_from_secrets("c"))).password == "pass-word"
    with pytest.raises(AirflowNotFoundException):
        await in_thread(lambda: Connection.get_connection_from_secrets("absent"))
    assert routed.counts.from_thread == 3
    assert sum(backend.asked.values()) == 3


async def test_hooks_of_executors_ask_the_chain(
    routed: RoutedBackend, in_thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    assert (await in_thread(lambda: BaseHook.get_connection("c"))).host == "host"
    assert routed.counts.from_thread == 1


async def test_other_code_on_the_loop_asks_airflows_backends(
    routed: RoutedBackend, backend: Steered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_FROM_ENV", "stock")
    monkeypatch.setenv("AIRFLOW_CONN_FROM_ENV", "http://stock")
    assert Variable.get("from_env") == "stock"
    assert Connection.get_connection_from_secrets("from_env").host == "stock"
    assert routed.counts.blocking == 2
    assert not backend.asked
    assert core.secrets_backend_list == [routed]


async def test_a_forbidden_lookup_is_forbidden_to_the_code_that_wants_it(
    routed: RoutedBackend, backend: Steered
) -> None:
    backend.error = AirflowSecretsBackendAccessDenied("no")
    async with preloaded(routed._chain, variables=["v"]):
        with pytest.raises(AirflowSecretsBackendAccessDenied):
            await greenlet_spawn(Variable.get, "v")


async def test_tasks_see_only_what_they_preloaded(routed: RoutedBackend) -> None:
    async def one(key: str) -> tuple[Any, Any]:
        async with preloaded(routed._chain, variables=[key]):
            known = routed.counts.from_memory
            found = Variable.get(key)
            return found, routed.counts.from_memory - known

    assert list(await asyncio.gather(*map(one, "vw"))) == [("1", 1), ("2", 1)]


async def test_preloading_reaches_code_run_over_an_async_session(routed: RoutedBackend) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    async with AsyncSession(engine) as session, preloaded(routed._chain, variables=["v"]):
        assert await session.run_sync(lambda _: Variable.get("v")) == "1"
    assert (routed.counts.from_memory, routed.counts.inside_routine) == (1, 0)
    await engine.dispose()


async def test_airflows_backends_are_back_afterwards(backend: Steered) -> None:
    before = list(core.secrets_backend_list)
    async with lookups_routed(AsyncSecretsChain([backend])) as routed:
        assert core.ensure_secrets_loaded() == [routed]
        assert sdk.ensure_secrets_loaded() == [routed]
    assert core.secrets_backend_list == before
    assert routed not in sdk.ensure_secrets_loaded()
    for conf in (core.conf, sdk.conf):
        assert "_get_config_value_from_secret_backend" not in vars(conf)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
async def test_a_forked_child_is_back_at_airflows_backends(routed: RoutedBackend) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if routed not in core.secrets_backend_list else 1)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


class Custom(BaseSecretsBackend):  # type: ignore[misc]
    """What ``[secrets] backend`` names in these tests; made anew by Airflow for every look-up."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1

    def get_config(self, key: str) -> str | None:
        return {"path/to/it": "stock"}.get(key)


@pytest.fixture
def secret_option(monkeypatch: pytest.MonkeyPatch) -> AirflowConfigParser:
    """A sensitive option whose value is in the secrets backend."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", f"{__name__}.Custom")
    monkeypatch.setenv("AIRFLOW__API__SECRET_KEY_SECRET", "path/to/it")
    monkeypatch.delenv("AIRFLOW__API__SECRET_KEY", raising=False)
    return core.conf


async def test_secret_options_are_looked_up_once_and_read_from_memory(
    secret_option: AirflowConfigParser, backend: Steered
) -> None:
    backend.values["path/to/it"] = "from the chain"
    Custom.made = 0
    async with lookups_routed(AsyncSecretsChain([backend], config_backend=backend)) as routed:
        for _ in range(3):
            assert secret_option.get("api", "secret_key") == "from the chain"
        assert (backend.asked["path/to/it"], Custom.made) == (1, 0)
        backend.values["path/to/it"] = "rotated"
        await routed.read_config()
        assert secret_option.get("api", "secret_key") == "rotated"
        backend.error = RuntimeError()
        with pytest.raises(AirflowConfigException):
            await routed.read_config()
        assert secret_option.get("api", "secret_key") == "rotated"
    assert secret_option.get("api", "secret_key") == "stock"


async def test_options_of_the_file_that_name_a_secret_are_found(backend: Steered) -> None:
    backend.values["from/file"] = "value"
    core.conf.set("sentry", "sentry_dsn_secret", "from/file")
    try:
        async with lookups_routed(AsyncSecretsChain([backend], config_backend=backend)):
            assert backend.asked == {"from/file": 1}
            assert core.conf.get("sentry", "sentry_dsn") == "value"
    finally:
        core.conf.remove_option("sentry", "sentry_dsn_secret")


async def test_a_secret_option_that_cannot_be_looked_up_stops_the_start(
    secret_option: AirflowConfigParser, backend: Steered
) -> None:
    backend.error = RuntimeError("a-secret-value")
    before = list(core.secrets_backend_list)
    with pytest.raises(AirflowConfigException) as caught:
        async with lookups_routed(AsyncSecretsChain([backend], config_backend=backend)):
            pass
    assert "a-secret-value" not in str(caught.value)
    assert core.secrets_backend_list == before


async def test_writing_a_variable_warns_of_no_conflict_with_itself(
    routed: RoutedBackend, caplog: pytest.LogCaptureFixture
) -> None:
    Variable.check_for_write_conflict("v")
    assert "takes precedence" not in caplog.text
