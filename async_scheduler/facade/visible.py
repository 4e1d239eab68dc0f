"""Brings the objects a caller holds up to date with what was written past them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from sqlalchemy import Column, inspect, select
from sqlalchemy.orm.attributes import set_committed_value

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

WRITTEN = (TaskInstance, DagRun, DagModel)
"""What the routines write by Core statements, which the session knows nothing of."""
AT_ONCE = 500
"""Rows read by one statement: SQLite allows no unlimited number of parameters."""


def show_rows(session: Session, given: Iterable[Any] = ()) -> None:
    """Set the loaded columns of the objects in *session* to what the database holds; flush first.

    Those *given* are shown too, though a closed session may have detached them. Refreshed, not expired: an
    expired object cannot be read once it is detached, and ``_do_scheduling`` detaches everything. Relations
    that are loaded stay as they are, as after Airflow's own bulk updates.
    """
    held: dict[Any, list[Any]] = {kind: [] for kind in WRITTEN}
    detached = (one for one in given if getattr(inspect(one, raiseerr=False), "detached", False))
    for instance in (*session.identity_map.values(), *detached):
        if type(instance) in held:
            held[type(instance)].append(instance)
    for kind, instances in held.items():
        for some in _batches(instances):
            _show(session, kind, some)


def _batches(instances: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(instances), AT_ONCE):
        yield instances[start : start + AT_ONCE]


def _show(session: Session, kind: Any, instances: Sequence[Any]) -> None:
    mapper = inspect(kind)
    columns = {
        attribute.key: attribute.columns[0]
        for attribute in mapper.column_attrs
        if isinstance(attribute.columns[0], Column)
    }
    (key,) = mapper.primary_key
    by_key: dict[Any, list[Any]] = {}
    for instance in instances:
        by_key.setdefault(inspect(instance).identity[0], []).append(instance)
    query = select(key.label("identity_of_row"), *columns.values()).where(key.in_(by_key))
    for identity, *values in session.execute(query):
        for instance in by_key[identity]:
            for name, value in zip(columns, values, strict=True):
                if name in instance.__dict__:
                    set_committed_value(instance, name, value)
