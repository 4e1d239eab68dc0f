"""A Redis and a cluster with a Celery worker, on which a test starts the schedulers it wants."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from async_scheduler.devcluster.cluster import CHECKOUT, ClusterOptions, running_cluster
from async_scheduler.devcluster.screen import Screen
from tests.executors.field import Field
from tests.executors.redis import Redis, redis_server
from tests.support.ports import free_port

if TYPE_CHECKING:
    from async_scheduler.devcluster.data_directory import DataDirectory

PROCFILE = """
api-server: exec airflow api-server
dag-processor: exec airflow dag-processor
worker: exec airflow celery worker --skip-serve-logs --without-mingle --without-gossip --concurrency 2
"""


@pytest.fixture(scope="session")
def redis() -> Iterator[Redis]:
    """One server for all tests of this process."""
    if find_spec("airflow.providers.celery") is None:
        pytest.skip("needs the extra celery: pip install 'airflow-async-scheduler[celery]'")
    with redis_server() as server:
        yield server


def _write_config(config: Path, redis: Redis) -> None:
    shutil.copytree(CHECKOUT / "config" / "dev", config, ignore=shutil.ignore_patterns("dags"))
    shutil.copytree(Path(__file__).parent / "dags", config / "dags")
    (config / "Procfile").write_text(PROCFILE)
    settings = ConfigParser(interpolation=None)
    settings.read(config / "airflow.cfg")
    settings["core"]["executor"] = "CeleryExecutor,LocalExecutor"
    # Two processes to send and ask with are what a machine of three cores has by default.
    settings["celery"] = {
        "broker_url": redis.url(0),
        "result_backend": redis.url(1),
        "sync_parallelism": "2",
    }
    # One that was killed counts as dead after ten seconds, and is looked for every two.
    settings["scheduler"] = {
        "scheduler_health_check_threshold": "10",
        "scheduler_heartbeat_sec": "1",
        "orphaned_tasks_check_interval": "2",
    }
    with (config / "airflow.cfg").open("w") as file:
        settings.write(file)


@pytest.fixture
def field(
    shared_data: DataDirectory, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Field]:
    """API server, DAG processor and Celery worker, without a scheduler."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("WORK_DIRECTORY", str(work))
    redis.ask("FLUSHALL")
    _write_config(tmp_path / "config", redis)
    options = ClusterOptions(
        shared_data,
        database="celery",
        port=free_port(),
        fresh=True,
        config=tmp_path / "config",
        without=frozenset({"scheduler", "triggerer"}),
    )
    with running_cluster(options, Screen(Console(file=io.StringIO()))) as cluster:
        made = Field(cluster, redis, work, tmp_path)
        try:
            yield made
        finally:
            made.end()
