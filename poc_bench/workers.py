"""Who runs the tasks of a cell: the worker simulator, or real task processes behind an API server."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Protocol

from poc_bench.errors import CellFailure
from poc_bench.executor import wire
from poc_bench.processes import Child, module

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poc_bench.database.rows import CellDatabase
    from poc_bench.site import CellSite

REAL_PARALLELISM = "8"
"""Task processes that run at once with real workers."""


ISOLATION = {"postgresql": "AUTOCOMMIT", "mysql": "READ COMMITTED"}
"""How the simulator's connection works, by dialect: on PostgreSQL one statement is all there is, mostly."""


class Workers(Protocol):
    """The workers of a cell."""

    process: Child
    environment: Mapping[str, str]
    """What the schedulers' environment needs to reach them."""

    def wait_until_ready(self) -> None:
        """Return when tasks can be taken; raise :class:`CellFailure` when that does not come."""

    def figures(self, database: CellDatabase) -> dict[str, Any]:
        """Return what happened on the workers, once their process has ended."""


class SimulatedWorkers:
    """The worker simulator, see :mod:`poc_bench.executor.simulator`."""

    def __init__(self, site: CellSite) -> None:
        self._figures = site.folder / "simulator-figures.json"
        self._socket = site.folder / "socket"
        request = site.folder / "simulator.json"
        dialect = site.address.dialect
        content = {
            "url": site.address.sync_url,
            "engine_options": {"isolation_level": level} if (level := ISOLATION.get(dialect)) else {},
            "connect_arguments": site.address.named("bench-simulator"),
            "socket": str(self._socket),
            "workload": site.key.workload.label,
            "seed": site.key.seed,
            "figures": str(self._figures),
        }
        request.write_text(json.dumps(content))
        command = module("poc_bench.executor.simulator", str(request))
        self.process = Child("simulator", command, site.environment({}), site.folder)
        self.environment: Mapping[str, str] = {
            "AIRFLOW__CORE__EXECUTOR": "poc_bench.executor.bench.BenchExecutor",
            wire.SOCKET: str(self._socket),
            wire.HEARTBEAT_SECONDS: str(site.plan.heartbeat_seconds),
            wire.HAS_TO_BE_ASKED: "1" if site.key.executor == "asked" else "",
        }

    def wait_until_ready(self) -> None:
        """Wait for the simulator's socket."""
        _wait_for(self._socket.exists, self.process)

    def figures(self, database: CellDatabase) -> dict[str, Any]:
        """Return what the simulator counted."""
        found: dict[str, Any] = json.loads(self._figures.read_text())
        return found


class RealWorkers:
    """LocalExecutor's task processes, which talk to an API server."""

    def __init__(self, site: CellSite) -> None:
        port = _free_port()
        base = f"http://127.0.0.1:{port}"
        self._health = f"{base}/api/v2/version"
        self.environment: Mapping[str, str] = {
            "AIRFLOW__CORE__EXECUTOR": "poc_bench.executor.local.MeasuredLocalExecutor",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base}/execution/",
            "AIRFLOW__CORE__PARALLELISM": REAL_PARALLELISM,
            wire.HEARTBEAT_SECONDS: str(site.plan.heartbeat_seconds),
        }
        environment = site.environment({**self.environment, "PGAPPNAME": "bench-api-server"})
        command = module(
            "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"
        )
        self.process = Child("api server", command, environment, site.folder)

    def wait_until_ready(self) -> None:
        """Wait for the API server's first answer."""
        _wait_for(self._answers, self.process)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._health, timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def figures(self, database: CellDatabase) -> dict[str, Any]:
        """Return the tries that were started more than once, by the API server's log."""
        return {"run_twice": database.started_twice(), "refused": 0, "submitted_twice": 0, "commits": None}


READY_WITHIN = 180.0


def _wait_for(condition: Any, process: Child) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        if process.exit_code is not None or time.monotonic() > deadline:
            raise CellFailure(f"the {process.name} does not start: {process.last_line()}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
