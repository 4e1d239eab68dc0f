"""The few calls to Airflow's public REST API that the dev cluster makes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import httpx

from async_scheduler.devcluster.expectations import RunRecord, TaskRecord

PAGE = 100
TIMEOUT = 120.0


class AirflowApi:
    """A client of one API server. Every call raises :class:`httpx.HTTPError` when it fails."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def unhealthy_parts(self) -> set[str]:
        """Return the parts of Airflow that are not up, all of them while the server does not answer."""
        try:
            parts = self._client.get("/api/v2/monitor/health").raise_for_status().json()
        except httpx.HTTPError:
            return {"api-server"}
        return {name for name, part in parts.items() if part["status"] != "healthy"}

    def sign_in(self, user: str, password: str) -> None:
        """Make all further calls as *user*."""
        answer = self._client.post("/auth/token", json={"username": user, "password": password})
        token = answer.raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def dag_ids(self) -> set[str]:
        """Return the ids of all parsed DAGs."""
        return {dag["dag_id"] for dag in self._pages("/api/v2/dags", "dags")}

    def import_errors(self) -> list[str]:
        """Return the files that could not be imported, each with the last line of its error."""
        return [
            f"{error['filename']}: {error['stack_trace'].strip().splitlines()[-1]}"
            for error in self._pages("/api/v2/importErrors", "import_errors")
        ]

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler create and start runs of *dag_id*."""
        self._client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()

    def trigger(self, dag_id: str) -> str:
        """Create a manual run of *dag_id* and return its run id."""
        answer = self._client.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None})
        return str(answer.raise_for_status().json()["dag_run_id"])

    def runs(self) -> list[RunRecord]:
        """Return the runs of all DAGs."""
        return [
            RunRecord(
                run["dag_id"],
                run["dag_run_id"],
                run["state"],
                _time(run["queued_at"]),
                _time(run["end_date"]),
            )
            for run in self._pages("/api/v2/dags/~/dagRuns", "dag_runs")
        ]

    def task_instances(self) -> list[TaskRecord]:
        """Return the task instances of all runs; the state of one without a state is ``none``."""
        return [
            TaskRecord(ti["dag_id"], ti["dag_run_id"], ti["task_id"], ti["state"] or "none", ti["try_number"])
            for ti in self._pages("/api/v2/dags/~/dagRuns/~/taskInstances", "task_instances")
        ]

    def _pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            query = {"limit": PAGE, "offset": offset}
            page = self._client.get(path, params=query).raise_for_status().json()
            yield from page[key]
            offset += len(page[key])
            if not page[key] or offset >= page["total_entries"]:
                return


@contextmanager
def airflow_api(host: str, port: int) -> Iterator[AirflowApi]:
    """Open a client of the API server on *port*; proxies of the environment are not used."""
    with httpx.Client(base_url=f"http://{host}:{port}", timeout=TIMEOUT, trust_env=False) as client:
        yield AirflowApi(client)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
