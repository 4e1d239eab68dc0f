"""Compiled dag versions, as many as Airflow's scheduler keeps, read and compiled off the event loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from cachetools import LRUCache

from async_scheduler.database.transaction import transaction
from async_scheduler.plans.compile import compile_plan
from async_scheduler.plans.templates import TaskTemplate, compile_templates
from async_scheduler.store.versions import load_hashes, load_serialized

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from airflow.models.dagbag import DBDagBag
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.dag import SerializedDAG
    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.database.transaction import Sessions
    from async_scheduler.decide.plan import DagPlan


ABSENT_FOR = 5.0
"""Seconds for which a missing version counts as missing, at least: else its runs would ask without pause."""


@dataclass(frozen=True, slots=True)
class CompiledDag:
    """A dag version ready for use: its plan, and Airflow's object for what only Airflow's code does."""

    version: UUID
    plan: DagPlan
    dag: SerializedDAG
    dag_hash: str
    templates: tuple[TaskTemplate, ...] | None
    """For new task instances; None where Airflow's own code has to make them."""


class Plans:
    """The compiled dag versions that runs in flight refer to.

    A version can be rewritten in place while no task instance refers to it, at most every
    *revalidate_after* seconds (``[core] min_serialized_dag_update_interval``); :meth:`revalidate` finds that.

    :param dag_bag: the scheduler's own; what is read here is put into it, so that a DAG is in memory once.
    """

    def __init__(self, dag_bag: DBDagBag, size: int, revalidate_after: float) -> None:
        self._dag_bag = dag_bag
        self._compiled: LRUCache[UUID, CompiledDag] = LRUCache(size)
        self._absent: dict[UUID, float] = {}
        self._revalidate_after = revalidate_after
        self._validated = monotonic()

    def get(self, version: UUID | None) -> CompiledDag | None:
        """Return the compiled version if it is at hand."""
        return None if version is None else self._compiled.get(version)

    def get_current(self, version: UUID | None, dag_hash: str | None) -> CompiledDag | None:
        """Return the compiled version if it is at hand with this hash; forget it if its hash is another."""
        compiled = self.get(version)
        if compiled is not None and compiled.dag_hash != dag_hash:
            del self._compiled[compiled.version]
            return None
        return compiled

    def is_absent(self, version: UUID | None) -> bool:
        """Whether the version was looked for a moment ago and has no serialized DAG that can be read."""
        if version is None:
            return True
        since = self._absent.get(version)
        return since is not None and monotonic() - since < max(self._revalidate_after, ABSENT_FOR)

    async def fetch(self, sessions: Sessions, versions: Collection[UUID]) -> None:
        """Read and compile those of *versions* that are not at hand; not to be called in a transaction."""
        async with transaction(sessions) as tx:
            rows = await self._load(tx.session, versions)
        await self._compile_all(versions, rows)

    async def _load(self, session: AsyncSession, versions: Collection[UUID]) -> list[SerializedDagModel]:
        """Read the serialized form of the versions that are not at hand, to be compiled."""
        wanted = [version for version in versions if version not in self._compiled]
        return await load_serialized(session, wanted) if wanted else []

    async def _compile_all(self, wanted: Collection[UUID], rows: Collection[SerializedDagModel]) -> None:
        """Deserialize and compile *rows* in a thread.

        Versions in *wanted* that turn out to be missing or unreadable are remembered as absent for a while:
        their runs go through Airflow's own code, which says what is wrong with them.
        """
        for row in rows:
            compiled = await self._tried(row)
            if isinstance(compiled, CompiledDag):
                self._compiled[row.dag_version_id] = compiled
            elif compiled is not None and row.dag_version_id not in self._absent:
                log.error("Failed to deserialize DAG %r", row.dag_id, exc_info=compiled)
        for version in wanted:
            if version in self._compiled:
                self._absent.pop(version, None)
            else:
                self._absent[version] = monotonic()

    async def _tried(self, row: SerializedDagModel) -> CompiledDag | BaseException | None:
        (result,) = await asyncio.gather(asyncio.to_thread(self._compile, row), return_exceptions=True)
        return result

    def _compile(self, row: SerializedDagModel) -> CompiledDag | None:
        dag = self._dag_bag._read_dag(row)
        if dag is None:
            return None
        return CompiledDag(row.dag_version_id, compile_plan(dag), dag, row.dag_hash, compile_templates(dag))

    async def revalidate(self, session: AsyncSession) -> None:
        """Once per interval, forget the versions that were rewritten or deleted."""
        if monotonic() - self._validated < self._revalidate_after or not self._compiled:
            return
        self._validated = monotonic()
        hashes = await load_hashes(session, list(self._compiled))
        for version, compiled in list(self._compiled.items()):
            if hashes.get(version) != compiled.dag_hash:
                del self._compiled[version]
