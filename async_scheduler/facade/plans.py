"""Compiled dags for a caller who may change a dag, or replace the dag bag, between two calls."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from airflow.jobs.scheduler_job_runner import SCHEDULER_DAG_CACHE_SIZE
from airflow.models.dagbag import DBDagBag
from airflow.serialization.definitions.dag import SerializedDAG
from sqlalchemy.orm import object_session

from async_scheduler.database.transaction import transaction
from async_scheduler.plans.cache import CompiledDag, Plans
from async_scheduler.plans.compile import compile_plan
from async_scheduler.plans.templates import compile_templates

if TYPE_CHECKING:
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.models.serialized_dag import SerializedDagModel

    from async_scheduler.database.transaction import Sessions

_GET_DAG_FOR_RUN = DBDagBag.get_dag_for_run


class PlansInPlace(Plans):
    """Plans that are compiled where they are asked for, not in a thread, and looked up anew in each call.

    A stand-in for the dag bag, or for its ``get_dag_for_run``, is asked for the dag as Airflow's methods do.
    """

    def __init__(self, scheduler: SchedulerJobRunner) -> None:
        super().__init__(scheduler.scheduler_dag_bag, SCHEDULER_DAG_CACHE_SIZE, revalidate_after=0.0)
        self._scheduler = scheduler

    async def refresh(self, sessions: Sessions) -> None:
        """Forget what changed since the last call."""
        self._absent.clear()
        if self._dag_bag is not self._scheduler.scheduler_dag_bag or self._is_stand_in:
            self._dag_bag = self._scheduler.scheduler_dag_bag
            self._compiled.clear()
        if self._compiled:
            async with transaction(sessions) as tx:
                await self.revalidate(tx.session)

    @property
    def _is_stand_in(self) -> bool:
        bag = self._scheduler.scheduler_dag_bag
        own = getattr(bag.get_dag_for_run, "__func__", None) is _GET_DAG_FOR_RUN
        return not (isinstance(bag, DBDagBag) and own)

    def is_absent(self, version: UUID | None) -> bool:
        """Whether the version was looked for in this call and has no DAG that can be read."""
        return version is None or version in self._absent

    async def _tried(self, row: SerializedDagModel) -> CompiledDag | BaseException | None:
        try:
            return self._asked_for(row) if self._is_stand_in else self._compile(row)
        except Exception as error:  # as Plans does: the dag is remembered as absent
            return error

    def _asked_for(self, row: SerializedDagModel) -> CompiledDag | None:
        """Compile what the stand-in has for a run that is pinned to the version of *row*."""
        version = row.dag_version_id
        run = SimpleNamespace(dag_id=row.dag_id, bundle_version="pinned", created_dag_version_id=version)
        dag = self._dag_bag.get_dag_for_run(dag_run=run, session=object_session(row))
        if not isinstance(dag, SerializedDAG):
            return None
        return CompiledDag(version, compile_plan(dag), dag, row.dag_hash, compile_templates(dag))
