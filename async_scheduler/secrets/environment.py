"""Connections and variables from ``AIRFLOW_CONN_*`` and ``AIRFLOW_VAR_*``."""

from __future__ import annotations

from airflow.secrets.environment_variables import EnvironmentVariablesBackend

from async_scheduler.secrets.backend import AsyncValueBackend


class AsyncEnvironmentVariablesBackend(EnvironmentVariablesBackend, AsyncValueBackend):  # type: ignore[misc]
    """Airflow's environment backend; reading the environment blocks nothing, so it is asked directly."""

    async def aget_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Return the value of ``AIRFLOW_CONN__<TEAM>___<ID>`` or ``AIRFLOW_CONN_<ID>``, or None."""
        value: str | None = self.get_conn_value(conn_id, team_name)
        return value

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the value of ``AIRFLOW_VAR__<TEAM>___<KEY>`` or ``AIRFLOW_VAR_<KEY>``, or None."""
        value: str | None = self.get_variable(key, team_name)
        return value
