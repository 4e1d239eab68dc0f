"""Starts a whole dev cluster in order (database, schema, processes, API) and stops it again."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from async_scheduler.devcluster.airflow_config import HOST, cluster_environment, write_airflow_config
from async_scheduler.devcluster.api import AirflowApi, airflow_api
from async_scheduler.devcluster.data_directory import USER, DataDirectory
from async_scheduler.devcluster.embedded_postgres import (
    PostgresServer,
    check_directory,
    remove_leftovers,
    running_postgres,
)
from async_scheduler.devcluster.problem import ClusterProblem
from async_scheduler.devcluster.processes import Processes, running_processes

if TYPE_CHECKING:
    from async_scheduler.devcluster.screen import Screen

Scheduler = Literal["async", "sync"]
SCHEDULER_FLAGS: dict[Scheduler, str] = {"async": "--async", "sync": ""}
START_TIMEOUT = 600.0
POLL_INTERVAL = 1.0
CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What differs between two clusters.

    *port* is the API server's, 0 for any free one. *fresh* replaces the database by an empty one.
    *config* is the directory with the DAGs, the process file and the settings. The processes in *without*
    are not started.
    """

    data: DataDirectory
    database: str
    port: int = 8080
    scheduler: Scheduler = "async"
    fresh: bool = False
    config: Path = CHECKOUT / "config" / "dev"
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is up."""

    api: AirflowApi
    processes: Processes
    data: DataDirectory
    port: int
    environment: Mapping[str, str] = field(repr=False)

    @property
    def url(self) -> str:
        """Where the UI is."""
        return f"http://localhost:{self.port}"


@contextmanager
def running_cluster(options: ClusterOptions, screen: Screen) -> Iterator[Cluster]:
    """Run a cluster for the length of the block; whatever happens, nothing of it is left afterwards.

    :raises ClusterProblem: when it cannot start.
    """
    check_checkout(options.config)
    check_directory(options.data.postgres)
    port = usable_port(options.port)
    data = options.data
    with ExitStack() as stack:
        stack.enter_context(data.held())
        if note := remove_leftovers(data.postgres):
            screen.note(note)
        for old in data.logs.glob("*.log"):
            old.unlink()
        stopping = stack.enter_context(screen.announced_end())
        with screen.step("PostgreSQL 18, embedded, on a unix socket"):
            server = stack.enter_context(running_postgres(data.postgres))
        environment = cluster_environment(data, SCHEDULER_FLAGS[options.scheduler])
        dags = options.config / "dags"
        write_airflow_config(data, options.config / "airflow.cfg", dags, server, options.database, port)
        prepare_database(server, options, environment, screen)
        with screen.step(f"api-server, dag-processor, triggerer, {options.scheduler} scheduler"):
            processes = stack.enter_context(
                running_processes(
                    options.config / "Procfile", environment, data.logs, without=options.without
                )
            )
            api = stack.enter_context(airflow_api(HOST, port))
            stack.callback(stopping)
            wait_until_up(api, processes, options.without)
        api.sign_in(USER, data.keys().admin_password)
        yield Cluster(api, processes, data, port, environment)


def check_checkout(config: Path) -> None:
    """Raise :class:`ClusterProblem` where *config* is not there, as in an installed wheel."""
    if not (config / "Procfile").exists():
        raise ClusterProblem(
            f"The dev cluster needs {config}, which is not there.",
            "Run it from a checkout of the repository.",
        )


def usable_port(port: int) -> int:
    """Return *port*, or a free one for 0.

    :raises ClusterProblem: when another program listens on *port*.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the API server does
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            raise ClusterProblem(
                f"Port {port} cannot be used: {os.strerror(error.errno or 0)}.",
                "Stop the program that has it, or choose another: PORT=8081",
            ) from None
        chosen: int = probe.getsockname()[1]
        return chosen


def prepare_database(
    server: PostgresServer, options: ClusterOptions, environment: dict[str, str], screen: Screen
) -> None:
    """Make the cluster's database ready: a copy of a migrated one, or the kept one brought up to date."""
    template = f"schema_of_airflow_{version('apache-airflow-core')}"
    if not server.has_database(template):
        with screen.step("Airflow's schema"):
            # Built under another name: one whose migration was cut short must not count as ready.
            server.copy_database("template1", "unfinished")
            _migrate(server, "unfinished", options.data.logs, environment)
            server.rename_database("unfinished", template)
    if options.fresh or not server.has_database(options.database):
        server.copy_database(template, options.database)
    else:
        with screen.step("Schema of the kept database"):
            _migrate(server, options.database, options.data.logs, environment)


def _migrate(server: PostgresServer, database: str, logs: Path, environment: dict[str, str]) -> None:
    log = logs / "migrate.log"
    with log.open("w") as file:
        done = subprocess.run(
            ["airflow", "db", "migrate"],
            env={**environment, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": server.url("psycopg2", database)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise ClusterProblem(f"`airflow db migrate` ended with exit code {done.returncode}.", f"See {log}.")


def wait_until_up(
    api: AirflowApi, processes: Processes, without: Collection[str] = (), timeout: float = START_TIMEOUT
) -> None:
    """Return when Airflow's health check finds nothing amiss but the processes in *without*.

    :raises ClusterProblem: when a process ends, or *timeout* seconds have passed.
    """
    give_up = time.monotonic() + timeout
    absent = {name.replace("-", "_") for name in without}
    while missing := api.unhealthy_parts() - absent:
        if time.monotonic() > give_up:
            raise ClusterProblem(
                f"After {timeout:g} s this is still not up: {', '.join(sorted(missing))}.",
                "The log files of the processes tell more; a loaded machine may need another try.",
            )
        processes.wait(POLL_INTERVAL)
