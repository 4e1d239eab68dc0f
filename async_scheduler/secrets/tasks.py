"""Connections and variables for async task code: ``@task async def``, ``BaseAsyncOperator``, triggers.

In a worker the look-up goes through the supervisor without blocking the event loop, in the triggerer through
its own channel, in ``dag.test()`` straight to the supervisor in the same process (which blocks the loop: it
has no other way). Many tasks' look-ups may run at once with ``asyncio.gather`` or a task group; those of one
key are shared.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from async_scheduler.secrets.backend import AsyncSecretsBackend

if TYPE_CHECKING:
    from async_scheduler.secrets.chain import AsyncSecretsChain

_MISSING = object()


async def aget_connection(conn_id: str) -> Any:
    """Return the connection, an ``airflow.sdk.Connection`` in tasks and triggers.

    As ``airflow.sdk.Connection.async_get``, which finds nothing under ``dag.test()`` and blocks threads of
    the loop's default executor for sync backends.

    :raises AirflowNotFoundException: if no backend has it.
    :raises AirflowSecretsBackendAccessDenied: if the execution API forbids it.
    """
    from airflow.sdk.exceptions import AirflowNotFoundException
    from airflow.sdk.execution_time.context import _preset_connections

    preset = (_preset_connections.get() or {}).get(conn_id)
    found = preset or await _chain().aget_connection(conn_id)
    if found is None:
        raise AirflowNotFoundException(f"The conn_id `{conn_id}` isn't defined")
    return found


async def aget_variable(key: str, default: Any = _MISSING, *, deserialize_json: bool = False) -> Any:
    """Return the variable's text, or what it is in JSON; *default* if no backend has it.

    The ``airflow.sdk.Variable.get`` that a coroutine can await.

    :raises AirflowRuntimeError: ``VARIABLE_NOT_FOUND``, if there is neither variable nor default.
    :raises AirflowSecretsBackendAccessDenied: if the execution API forbids it.
    :raises json.JSONDecodeError: if it is not JSON.
    """
    text = await _chain().aget_variable(key)
    if text is not None:
        return _from_json(text) if deserialize_json else text
    if default is _MISSING:
        raise _not_found(key)
    await _mask_default(key, default)
    return default


async def _mask_default(key: str, default: Any) -> None:
    """Mirrors ``Variable.get``: a default for a sensitive key is as secret as its value."""
    from airflow.sdk.log import amask_secret

    await amask_secret(default, key)


def _from_json(text: str) -> Any:
    import json

    return json.loads(text)


def _not_found(key: str) -> Exception:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    detail = {"message": f"Variable {key} not found"}
    error: Exception = AirflowRuntimeError(ErrorResponse(error=ErrorType.VARIABLE_NOT_FOUND, detail=detail))
    return error


_chains: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncSecretsChain] = WeakKeyDictionary()


def _chain() -> AsyncSecretsChain:
    """Return the chain of the running event loop."""
    loop = asyncio.get_running_loop()
    chain = _chains.get(loop)
    if chain is None:
        chain = _chains[loop] = _make_chain()
    return chain


def _make_chain() -> AsyncSecretsChain:
    """Return a chain of the backends that the task SDK would ask here.

    Mirrors ``ensure_secrets_backend_loaded``: which ones depends on what kind of process this is.
    """
    from airflow.sdk.execution_time.secrets import ExecutionAPISecretsBackend
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    from async_scheduler.secrets.assembly import chain_settings, make_async
    from async_scheduler.secrets.chain import AsyncSecretsChain
    from async_scheduler.secrets.masking import mask_in_task
    from async_scheduler.secrets.threads import DaemonThreads
    from async_scheduler.settings import Settings

    settings = Settings.from_airflow()
    threads = DaemonThreads(settings.secrets_threads, "secrets")
    backends: list[AsyncSecretsBackend] = []
    for stock in ensure_secrets_backend_loaded():
        if type(stock) is ExecutionAPISecretsBackend:
            backends.append(SupervisorBackend(stock))
        else:
            backend = make_async(stock, threads)
            backend._set_connection_class(stock._get_connection_class())
            backends.append(backend)
    return AsyncSecretsChain(backends, chain_settings(settings), mask=mask_in_task)


class SupervisorBackend(AsyncSecretsBackend):
    """Asks the supervisor, which asks the execution API. The team is the task's own; it cannot be chosen."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Ask the supervisor, blocking."""
        return self._stock.get_connection(conn_id)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Ask the supervisor, blocking."""
        value: str | None = self._stock.get_variable(key)
        return value

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Return the connection or None."""
        return await self._stock.aget_connection(conn_id) if _can_await() else self.get_connection(conn_id)

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the variable or None."""
        value: str | None = await self._stock.aget_variable(key) if _can_await() else self.get_variable(key)
        return value


def _can_await() -> bool:
    """Return whether the supervisor can be spoken to with ``asend``; under ``dag.test()`` it cannot."""
    from airflow.sdk.execution_time import task_runner

    return hasattr(getattr(task_runner, "SUPERVISOR_COMMS", None), "asend")
