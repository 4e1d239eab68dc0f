"""Names made to break SQL, logs, terminals and pages pass through scheduler, trace and report as names."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from sqlalchemy import select, text

from tests.support.dags import EPOCH, create_run, write_dags
from tests.support.process import Schedulers, schedulers_on
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.postgres import Database

HOSTILE = (
    "'; DROP TABLE task_instance; --",
    'quoted "twice" and `thrice`',
    "first line\nERROR second line\r\nthird",
    "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "right-to-left \u202e gnissim si gnihton \u2066",
    "%s %(name)s {0} {name} $1 :name ? \\",
    "../../../../etc/passwd",
    "\x1b[31mred\x1b[0m \x07",
    "ы" * 250,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
)


@pytest.fixture
def schedulers(airflow_db: Database, tmp_path: Path) -> Iterator[Schedulers]:
    with schedulers_on(airflow_db, tmp_path) as starter:
        yield starter


def _write_hostile_work() -> None:
    """One run for each name; pools, queues, owners and descriptions have them too."""
    long_id = "d" * 250
    with create_session() as session:
        for name in HOSTILE:
            Pool.create_or_update_pool(
                name[:250], slots=5, description=name, include_deferred=False, session=session
            )
    with DAG(long_id, start_date=EPOCH, schedule=None, description=HOSTILE[3], max_active_runs=20) as dag:
        for number, name in enumerate(HOSTILE):
            EmptyOperator(
                task_id=f"{'t' * 240}_{number}",
                task_display_name=name,
                pool=name[:250],
                queue=name,
                owner=name,
                on_execute_callback=print,
            )
    write_dags(dag)
    for number, _ in enumerate(HOSTILE):
        create_run(long_id, number)
    with create_session() as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))  # both sides of the keys
        for number, name in enumerate(HOSTILE):
            for table in ("task_instance", "dag_run"):
                session.execute(
                    text(f"UPDATE {table} SET run_id = :name WHERE run_id = :old"),
                    {"name": name[:250], "old": f"run_{number}"},
                )


def _all_ended() -> bool:
    with create_session() as session:
        return set(session.scalars(select(DagRun.state))) == {"success"}


@pytest.mark.parametrize("algorithm", ["upstream", "redesigned"])
def test_hostile_names_are_names(schedulers: Schedulers, tmp_path: Path, algorithm: str) -> None:
    _write_hostile_work()
    trace, pages = tmp_path / "trace", tmp_path / "pages"
    process = schedulers.start(
        *("--async", "--trace", str(trace)), AIRFLOW__ASYNC_SCHEDULER__ALGORITHM=algorithm
    )
    wait_until(_all_ended)
    _assert_private(process.pid, trace)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0, process.text
    with create_session() as session:
        found = session.scalars(select(TaskInstance.state)).all()
    assert len(found) == len(HOSTILE) ** 2
    assert set(found) == {"success"}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "airflow", "async-scheduler", "contention", str(trace)),
            *("--html", str(pages / "page.html"), "--perfetto", str(pages / "perfetto.json")),
        ],
        env=schedulers.environment(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    page = (pages / "page.html").read_text()
    assert "alert(1)" not in page
    assert not re.search("[\x1b\x07\u202e\u2066]", page)
    assert "\x07" not in done.stdout.decode()


def _assert_private(pid: int, trace: Path) -> None:
    """Nothing of the scheduler listens on a port; what it writes is its owner's alone."""
    process = psutil.Process(pid)
    assert [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN] == []
    for socket in [Path(one.laddr) for one in process.net_connections("unix") if one.laddr]:
        if socket.suffix == ".sock":
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(trace.stat().st_mode) == 0o700
    files = list(trace.iterdir())
    assert files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
