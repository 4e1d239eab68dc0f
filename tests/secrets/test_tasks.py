"""The look-ups of task authors: in a worker, in the triggerer, under ``dag.test()``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from airflow.jobs.triggerer_job_runner import TriggerCommsDecoder
from airflow.models import Connection, Variable
from airflow.sdk import DAG, task
from airflow.sdk import Connection as TaskConnection
from airflow.sdk._shared.secrets_masker import secrets_masker as task_masker
from airflow.sdk.exceptions import (
    AirflowNotFoundException,
    AirflowRuntimeError,
    AirflowSecretsBackendAccessDenied,
)
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder
from airflow.sdk.execution_time.context import _preset_connections
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState

from async_scheduler.secrets import aget_connection, aget_variable
from tests.secrets.supervisor import Supervisor, supervised
from tests.support.dags import EPOCH, write_dags

if TYPE_CHECKING:
    from tests.support.postgres import Database

Run = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def supervisor() -> Supervisor:
    return Supervisor(
        connections={"c": {"conn_type": "http", "host": "h", "password": "pass-word", "extra": '{"a": 1}'}},
        variables={"v": "value", "j": '{"a": [1]}', "my_token": "hidden-token"},
    )


@pytest.fixture(autouse=True)
def own_task_masker(monkeypatch: pytest.MonkeyPatch) -> task_masker.SecretsMasker:
    """A task process' masker of the test's own."""
    masker = task_masker.SecretsMasker()
    masker.sensitive_variables_fields = ["token"]
    monkeypatch.setattr("airflow.sdk.log._secrets_masker", lambda: masker)
    return masker


@pytest.fixture(params=["worker", "triggerer"])
def run(
    request: pytest.FixtureRequest, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Run]:
    """Runs a coroutine as a task in a worker or a trigger in the triggerer would."""
    with supervised(supervisor) as channel:

        async def in_worker(body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
            channel.setblocking(False)
            comms = CommsDecoder(socket=channel)
            monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
            return await body()

        async def in_triggerer(body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
            reader, writer = await asyncio.open_connection(sock=channel.dup())
            comms = TriggerCommsDecoder(async_writer=writer, async_reader=reader, socket=None)
            await comms.start_reader()
            monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
            try:
                return await body()
            finally:
                assert comms._reader_task is not None
                comms._reader_task.cancel()
                await asyncio.wait([comms._reader_task])
                writer.close()

        place = in_worker if request.param == "worker" else in_triggerer
        yield lambda body: asyncio.run(place(body))


def test_a_connection_is_the_tasks_own_class_with_everything_in_it(run: Run) -> None:
    found = run(lambda: aget_connection("c"))
    assert type(found) is TaskConnection
    assert (found.conn_id, found.conn_type, found.host, found.password, found.extra_dejson) == (
        "c",
        "http",
        "h",
        "pass-word",
        {"a": 1},
    )


def test_values_are_masked_here_and_at_the_supervisor(
    run: Run, supervisor: Supervisor, own_task_masker: task_masker.SecretsMasker
) -> None:
    async def body() -> None:
        await aget_connection("c")
        await aget_variable("my_token")
        await aget_variable("v")
        await aget_variable("absent_token", "default-token")

    run(body)
    text = "pass-word hidden-token default-token value"
    assert own_task_masker.redact(text) == "*** *** *** value"
    told = [request["value"] for request in supervisor.of("MaskSecret")]
    assert {"pass-word", "hidden-token", "default-token"} <= {
        value for value in told if isinstance(value, str)
    }


def test_variables(run: Run) -> None:
    async def body() -> list[Any]:
        return [
            await aget_variable("v"),
            await aget_variable("j"),
            await aget_variable("j", deserialize_json=True),
            await aget_variable("absent", None),
            await aget_variable("absent", default={"a": 1}),
        ]

    assert run(body) == ["value", '{"a": [1]}', {"a": [1]}, None, {"a": 1}]


def test_what_is_absent_is_an_error_as_in_the_sdk(run: Run) -> None:
    with pytest.raises(AirflowNotFoundException, match="The conn_id `absent` isn't defined"):
        run(lambda: aget_connection("absent"))


def test_an_absent_variable_is_an_error_as_in_the_sdk(run: Run) -> None:
    with pytest.raises(AirflowRuntimeError, match="VARIABLE_NOT_FOUND"):
        run(lambda: aget_variable("absent"))


@pytest.mark.parametrize("look_up", [aget_connection, aget_variable])
def test_what_the_api_forbids_is_not_looked_for_elsewhere(run: Run, look_up: Any) -> None:
    with pytest.raises(AirflowSecretsBackendAccessDenied):
        run(lambda: look_up("forbidden"))


def test_many_lookups_at_once_share_what_is_the_same(run: Run, supervisor: Supervisor) -> None:
    async def body() -> Any:
        return await asyncio.gather(*(aget_variable(key) for key in ["v", "j"] * 50))

    assert run(body) == ["value", '{"a": [1]}'] * 50
    assert len(supervisor.of("GetVariable")) == 2


def test_the_environment_comes_first(
    run: Run, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_V", "of the environment")
    monkeypatch.setenv("AIRFLOW_CONN_C", "http://environment")

    async def body() -> tuple[Any, Any]:
        return await aget_variable("v"), await aget_connection("c")

    value, connection = run(body)
    assert (value, connection.host, type(connection)) == ("of the environment", "environment", TaskConnection)
    assert not supervisor.of("GetVariable")


def test_a_connection_under_test_is_preset(run: Run) -> None:
    async def body() -> Any:
        _preset_connections.set({"under_test": TaskConnection(conn_id="under_test", host="preset")})
        return await aget_connection("under_test")

    assert run(body).host == "preset"


seen: dict[str, Any] = {}


def _dag_that_looks_things_up() -> DAG:
    with DAG("looks_up", start_date=EPOCH, schedule=None) as dag:

        @task
        async def look_up() -> None:
            keys = ["v", "absent"]
            seen["variables"] = await asyncio.gather(*(aget_variable(key, "default") for key in keys))
            seen["connection"] = await aget_connection("c")
            with pytest.raises(AirflowNotFoundException):
                await TaskConnection.async_get("c")

        look_up()
    return dag


@pytest.mark.filterwarnings("ignore")  # what Airflow and its web framework warn of on this road is theirs
def test_dag_test(airflow_db: Database) -> None:
    """Here ``airflow.sdk.Connection.async_get`` finds nothing (3.3.2): the channel has no ``asend``."""
    with create_session() as session:
        session.add(Variable("v", "of the metastore"))
        session.add(Connection("c", uri="http://metastore"))
    dag = _dag_that_looks_things_up()
    write_dags(dag)
    run = dag.test()
    assert run.state == DagRunState.SUCCESS
    assert seen["variables"] == ["of the metastore", "default"]
    assert seen["connection"].host == "metastore"
