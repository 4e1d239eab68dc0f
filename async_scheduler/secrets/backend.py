"""What an async secrets backend is: Airflow's sync interface with an ``a`` before each name.

A class that inherits from here keeps the sync methods, so one class can be named in ``[secrets] backend``
and ``[workers] secrets_backend`` and be used inside coroutines. Airflow's task SDK calls
``aget_connection`` on any backend that has it.

Imported while ``airflow.configuration`` is itself being imported, so nothing here may import the models.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from airflow.secrets import BaseSecretsBackend

from async_scheduler.secrets.turns import own_turn


class AsyncSecretsBackend(BaseSecretsBackend):  # type: ignore[misc]
    """A backend whose look-ups can be awaited and give what the sync methods of the same name give."""

    @abstractmethod
    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Return the connection of *conn_id* that *team_name* may see, or None."""

    @abstractmethod
    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the variable *key* that *team_name* may see, or None."""

    async def aget_config(self, key: str) -> str | None:
        """Return the value for the ``*_secret`` configuration option that names *key*, or None."""
        return None

    async def aclose(self) -> None:
        """Give back what the backend holds for the running event loop (clients, threads)."""


class AsyncValueBackend(AsyncSecretsBackend):
    """A backend that stores connections as text (URI or JSON): only :meth:`aget_conn_value` is left to do."""

    @abstractmethod
    async def aget_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Return the connection of *conn_id* as URI or JSON, or None."""

    async def aget_connection(self, conn_id: str, team_name: str | None = None) -> Any | None:
        """Return the connection of *conn_id*, read from its URI or JSON.

        Mirrors ``BaseSecretsBackend.get_connection``; raises what reading the text raises.
        """
        value = await self.aget_conn_value(conn_id, team_name)
        if not value:
            return None
        await own_turn()
        return self.deserialize_connection(conn_id, value)
