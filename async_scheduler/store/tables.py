"""Airflow's tables under short names, as Core sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.models.backfill import Backfill, BackfillDagRun
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.taskmap import TaskMap
from airflow.models.taskreschedule import TaskReschedule
from airflow.models.xcom import XComModel

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table

BACKFILL: Table = Backfill.__table__
BACKFILL_RUN: Table = BackfillDagRun.__table__
DAG: Table = DagModel.__table__
VERSION: Table = DagVersion.__table__
RUN: Table = DagRun.__table__
POOL: Table = Pool.__table__
SERIALIZED: Table = SerializedDagModel.__table__
INSTANCE: Table = TaskInstance.__table__
HISTORY: Table = TaskInstanceHistory.__table__
TASK_MAP: Table = TaskMap.__table__
RESCHEDULE: Table = TaskReschedule.__table__
XCOM: Table = XComModel.__table__

SCHEDULABLE = ("up_for_retry", "up_for_reschedule")
"""The states beside NULL from which a task instance may become scheduled."""
FINISHED = ("success", "failed", "skipped", "upstream_failed", "removed")


def of_run(table: Table = INSTANCE) -> ColumnElement[bool]:
    """Return the condition that a row of *table* belongs to a dag run."""
    return (table.c.dag_id == RUN.c.dag_id) & (table.c.run_id == RUN.c.run_id)
