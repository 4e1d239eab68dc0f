"""Runs and lives on which the two once disagreed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.oracle import test_histories as histories
from tests.oracle.dags import Dag, Task
from tests.oracle.story import Step, Story, Work
from tests.oracle.test_visit import agree, oracle

if TYPE_CHECKING:
    from tests.oracle.airflow import Oracle
    from tests.support.postgres import Database

__all__ = ["oracle"]


def test_what_is_stuck_is_found_after_a_round_that_only_scheduled(oracle: Oracle) -> None:
    """A scheduled task whose upstream failed meanwhile is flagged by the pass after the last scheduling."""
    agree(oracle, Dag((Task(), Task(state="failed", try_number=1), Task((1,), state="scheduled"))))


def test_a_map_sees_its_input_flagged_in_the_same_look_at_what_is_stuck(oracle: Oracle) -> None:
    """The inputs of a map are read as they are, also while the stuck ones are being flagged."""
    failed, stuck = Task(state="failed", try_number=1), Task((0,), state="scheduled", try_number=1)
    agree(oracle, Dag((failed, stuck, Task((1,), mapped=(1,)))))


def test_a_task_that_is_new_in_the_dag_runs_in_the_run_under_way(airflow_db: Database) -> None:
    """A new dag version is a change that a run is looked at for, though no task instance has changed."""
    histories.agree(Story((Work(),), steps=(Step("version", flag=2),)))
