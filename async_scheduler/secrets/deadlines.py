"""The variables that deadlines of due dags will want when their runs are created.

``DeadlineAlert(interval=VariableInterval("key"))`` makes Airflow's ``create_dagrun`` call ``Variable.get``
in the middle of its transaction, which ends the stock scheduler when the variable is in the metastore
(#68917).
:class:`DeadlineVariables` looks such variables up before the transaction begins.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from airflow._shared.timezones import timezone
from sqlalchemy import String, and_, cast, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from async_scheduler.secrets.preload import preloaded

if TYPE_CHECKING:
    from datetime import datetime

    from async_scheduler.secrets.chain import AsyncSecretsChain

NEW_ALERTS_AFTER = 5.0
"""Seconds after which a database without any such deadline is asked again whether it has one."""

CLASSES = frozenset(
    {
        "airflow.sdk.definitions.deadline.VariableInterval",
        "airflow.serialization.definitions.deadline.SerializedVariableInterval",
    }
)

Read = Callable[[], AbstractAsyncContextManager[AsyncSession]]
"""Opens a session for one short read; a session factory, or whatever lends one."""


class DeadlineVariables:
    """Preloads the variables of due dags' deadlines. Where no deadline has one it costs a read in 5 s."""

    def __init__(self, chain: AsyncSecretsChain, read: Read, clock: Callable[[], float] = monotonic) -> None:
        self._chain = chain
        self._read = read
        self._clock = clock
        self._none_until = 0.0

    @asynccontextmanager
    async def loaded(self) -> AsyncIterator[None]:
        """Look up what the dags that are due now will want; wrap the creating transaction in this block.

        A dag that becomes due after the reading finds its variable all the same, inside the transaction.
        """
        async with preloaded(self._chain, variables=await self._keys()):
            yield

    async def _keys(self) -> frozenset[str]:
        if self._clock() < self._none_until:
            return frozenset()
        async with self._read() as session:
            if not await any_variable_interval(session):
                self._none_until = self._clock() + NEW_ALERTS_AFTER
                return frozenset()
            return await variable_keys_of_due_dags(session, timezone.utcnow())


async def any_variable_interval(session: AsyncSession) -> bool:
    """Return whether any deadline's interval is a variable; takes no lock."""
    from airflow.models.deadline_alert import DeadlineAlert

    return bool(await session.scalar(select(exists().where(_is_variable(DeadlineAlert)))))


async def variable_keys_of_due_dags(session: AsyncSession, now: datetime) -> frozenset[str]:
    """Return the variables that deadlines of the dags that may get a run now refer to; takes no lock.

    Due are active dags whose next run's time has come and those that an asset has triggered, a superset of
    what ``DagModel.dags_needing_dagruns`` picks. Of each dag the latest version counts, as for a new run.
    """
    from airflow.models.dag import DagModel
    from airflow.models.deadline_alert import DeadlineAlert
    from airflow.models.serialized_dag import SerializedDagModel

    latest = (
        select(SerializedDagModel.id)
        .where(SerializedDagModel.dag_id == DagModel.dag_id)
        .order_by(SerializedDagModel.created_at.desc())
        .limit(1)
        .correlate(DagModel)
        .scalar_subquery()
    )
    intervals = await session.scalars(
        select(DeadlineAlert.interval)
        .join(DagModel, DeadlineAlert.serialized_dag_id == latest)
        .where(_is_variable(DeadlineAlert), _is_due(DagModel, now))
    )
    return frozenset(filter(None, map(variable_key, intervals)))


def variable_key(interval: Any) -> str | None:
    """Return the variable that a serialized interval names, None if it is a fixed time."""
    if not isinstance(interval, Mapping) or interval.get("__classname__") not in CLASSES:
        return None
    key: str = interval["__data__"]["key"]
    return key


def _is_variable(alert: Any) -> Any:
    return cast(alert.interval, String).like("%VariableInterval%")


def _is_due(dag: Any, now: datetime) -> Any:
    from airflow.models.asset import AssetDagRunQueue, AssetPartitionDagRun

    triggered = exists().where(AssetDagRunQueue.target_dag_id == dag.dag_id)
    partitioned = exists().where(
        AssetPartitionDagRun.target_dag_id == dag.dag_id, AssetPartitionDagRun.created_dag_run_id.is_(None)
    )
    return and_(
        dag.is_stale.is_(False),
        or_(and_(dag.is_paused.is_(False), dag.next_dagrun_create_after <= now), triggered, partitioned),
    )
