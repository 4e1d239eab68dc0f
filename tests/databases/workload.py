"""A whole small workload on the database that Airflow is configured for, and how it ended.

``python -m tests.databases.workload ALGORITHM MODE`` runs it in a process of its own, where Airflow's models
are those of that database, and prints the outcome as JSON.
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from async_scheduler.settings import Settings
from tests.support.dags import EPOCH, create_run, layered_dag, scheduled_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import run_stock_until_idle, run_until_idle

if TYPE_CHECKING:
    from airflow.executors.base_executor import BaseExecutor
    from airflow.models.taskinstancekey import TaskInstanceKey

RUNS = 3
IDLE_ROUNDS = 8


def script(key: TaskInstanceKey) -> TaskInstanceState:
    """What fails: one task of every second run, and the first try of what may be tried again."""
    failing = key.task_id == "l0_t1" and int(key.run_id.rpartition("_")[2]) % 2
    first_try = key.task_id == "again" and key.try_number == 1
    return TaskInstanceState.FAILED if failing or first_try else TaskInstanceState.SUCCESS


class Scripted(InstantExecutor):
    """Runs tasks by :func:`script`."""

    script = staticmethod(script)


def varied_dag(dag_id: str) -> DAG:
    """Return a dag with a mapped task, a retry, a join that waits for failures too, and a small pool."""
    with DAG(dag_id, start_date=EPOCH, schedule=None) as dag:
        options = {"on_execute_callback": _noop}
        first = EmptyOperator(task_id="first", **options)
        mapped = EmptyOperator.partial(task_id="mapped", pool="small", **options).expand(doc=["a", "b", "c"])
        again = EmptyOperator(task_id="again", retries=1, retry_delay=timedelta(0), **options)
        failing = EmptyOperator(task_id="l0_t1", **options)
        join = EmptyOperator(task_id="join", trigger_rule="all_done", **options)
        only_good = EmptyOperator(task_id="only_good", **options)
        first >> [mapped, again, failing] >> join
        [mapped, failing] >> only_good
        EmptyOperator(task_id="empty") >> join
    return dag


def _noop(_context: Any) -> None:
    return None


def write_workload(dags: int = 2, runs: int = RUNS) -> None:
    """Store dags and queued runs."""
    with create_session() as session:
        session.add(Pool(pool="small", slots=2, description="", include_deferred=False))
    write_dags(
        *(layered_dag(f"layers_{number}", [3, 2, 3]) for number in range(dags)),
        *(varied_dag(f"varied_{number}") for number in range(dags)),
        scheduled_dag("due"),
    )
    for run in range(runs):
        for dag in range(dags):
            create_run(f"layers_{dag}", run)
            create_run(f"varied_{dag}", run)


def end_states() -> list[list[Any]]:
    """Return how each run and each task instance ended, in a fixed order; the due run under one name."""
    ti = TaskInstance
    with create_session() as session:
        runs = session.execute(select(DagRun.dag_id, DagRun.run_id, DagRun.state)).all()
        columns = (ti.dag_id, ti.run_id, ti.task_id, ti.map_index, ti.state, ti.try_number)
        tis = session.execute(select(*columns)).all()
    rows = [["run", row[0], row[1], str(row[2])] for row in runs]
    rows += [[*row[:4], str(row[4]), row[5]] for row in tis]
    return sorted([["due" if "scheduled__" in str(cell) else cell for cell in row] for row in rows], key=str)


def run_ours(settings: Settings, executors: list[BaseExecutor] | None = None) -> None:
    """Run our scheduler on what is stored until nothing happens any more; check what was handed over."""
    executor = Scripted()
    run_until_idle(executors or [executor], settings, idle_rounds=IDLE_ROUNDS)
    assert set(executor.runs.values()) <= {1}, "a try was handed over twice"
    assert executor.unqueued == [], "a task was handed over before it was queued"


def stock_end_states() -> list[list[Any]]:
    """Run the workload under the stock scheduler and return how it ends."""
    write_workload()
    run_stock_until_idle([Scripted()], idle_rounds=IDLE_ROUNDS)
    return end_states()


def main() -> None:
    """Run the workload as the arguments say and print how it ended."""
    algorithm, mode = sys.argv[1:]
    write_workload()
    values = {"algorithm": algorithm, "mode": mode, "executor_poll_interval": "0.02"}
    run_ours(Settings.from_values(values))
    print(json.dumps(end_states()))  # noqa: T201


if __name__ == "__main__":
    main()
