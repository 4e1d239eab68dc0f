"""Makes any secrets backend awaitable."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow._shared.secrets_backend.base import BaseSecretsBackend, call_secrets_backend_method

from async_scheduler.secrets.backend import AsyncSecretsBackend
from async_scheduler.secrets.turns import own_turn

if TYPE_CHECKING:
    from async_scheduler.secrets.threads import DaemonThreads


class AsyncBackendAdapter(AsyncSecretsBackend):
    """Awaits a backend's own ``aget_…`` methods where it has them, and runs the others in *threads*.

    ``team_name`` is passed to methods that accept it and left out for older ones, as Airflow does.
    """

    def __init__(self, backend: Any, threads: DaemonThreads) -> None:
        self.backend = backend
        self._threads = threads
        self._gives_text = _inherited(backend, "get_connection")

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Return what the backend's ``get_connection`` returns, or raise what it raises.

        Most backends only give the connection's text: then no more than that is done in a thread. Making
        connections there would let many threads compete with the event loop for the interpreter.
        """
        if hasattr(self.backend, "aget_connection") or not self._gives_text:
            return await self._ask("get_connection", team_name, conn_id=conn_id)
        value = await self._ask("get_conn_value", team_name, conn_id=conn_id)
        if not value:
            return None
        await own_turn()
        return self.backend.deserialize_connection(conn_id=conn_id, value=value)

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return what the backend's ``get_variable`` returns, or raise what it raises."""
        value: str | None = await self._ask("get_variable", team_name, key=key)
        return value

    async def aget_config(self, key: str) -> str | None:
        """Return what the backend's ``get_config`` returns, or raise what it raises."""
        value: str | None = await self._ask("get_config", None, key=key)
        return value

    async def _ask(self, method: str, team_name: str | None, **key: str) -> Any:
        native = getattr(self.backend, f"a{method}", None)
        if native is not None:
            answer = call_secrets_backend_method(native, team_name=team_name, **key)
            return await answer if inspect.isawaitable(answer) else answer
        blocking = getattr(self.backend, method)
        return await self._threads.run(
            partial(call_secrets_backend_method, blocking, team_name=team_name, **key)
        )

    def get_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Ask the backend, blocking."""
        return call_secrets_backend_method(self.backend.get_connection, team_name=team_name, conn_id=conn_id)

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Ask the backend, blocking."""
        value: str | None = call_secrets_backend_method(
            self.backend.get_variable, team_name=team_name, key=key
        )
        return value

    def get_config(self, key: str) -> str | None:
        """Ask the backend, blocking."""
        value: str | None = self.backend.get_config(key)
        return value


def _inherited(backend: Any, method: str) -> bool:
    """Return whether *method* of *backend* is that of Airflow's base class."""
    return getattr(type(backend), method, None) is getattr(BaseSecretsBackend, method)
