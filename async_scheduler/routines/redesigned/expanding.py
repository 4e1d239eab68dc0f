"""Expands mapped tasks: one instance becomes many, inserted in bulk."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.models.taskinstance import uuid7
from airflow.utils.platform import getuser

from async_scheduler.errors import LostRace
from async_scheduler.routines.redesigned.batch import child_carriers
from async_scheduler.store.creation import TEMPLATE_COLUMNS, NewInstances, insert_instances
from async_scheduler.store.expansion import (
    UnexpandedRow,
    clear_references,
    load_unexpanded,
    mark_first,
    mark_unexpandable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.plans.templates import TaskTemplate
    from async_scheduler.routines.redesigned.visiting import Visited

log = logging.getLogger(__name__)

SLICE = 1000
"""New task instances put together at a stretch, which takes a few milliseconds, and inserted at once."""

unixname = cache(getuser)


async def write_expansions(session: AsyncSession, visited: Sequence[Visited], now: datetime) -> int:
    """Write what unexpanded instances become; return how many instances were added or ended.

    Mirrors ``TaskMap.expand_mapped_task`` for an instance that is the only one of its task and has no state.
    Locks: those instances; the new rows are this transaction's own.

    :raises LostRace: when one of them changed since it was read.
    """
    lengths = {
        instance: (one, length)
        for one in visited
        for position, length in one.outcome.expanded.items()
        if (instance := one.ids[position]) is not None
    }
    if not lengths:
        return 0
    rows = await load_unexpanded(session, list(lengths))
    await clear_references(session, list(lengths))
    growing = [instance for instance, (_, length) in lengths.items() if length]
    _require(await mark_first(session, growing) if growing else 0, growing)
    await _end(session, {instance: length for instance, (_, length) in lengths.items() if not length})
    added = 0
    for new in _slices([(rows[instance], *lengths[instance]) for instance in growing]):
        await insert_instances(session, new, unixname(), now)
        added += len(new.ids)
    return added + len(lengths) - len(growing)


async def _end(session: AsyncSession, lengths: dict[UUID, int | None]) -> None:
    unknown = [instance for instance, length in lengths.items() if length is None]
    empty = [instance for instance, length in lengths.items() if length == 0]
    for ids, state in ((unknown, "upstream_failed"), (empty, "skipped")):
        if ids:
            level = logging.ERROR if ids is unknown else logging.INFO
            log.log(level, "Marking %d mapped task instances without a map as %s", len(ids), state)
            _require(await mark_unexpandable(session, ids, state), ids)


def _require(written: int, wanted: Sequence[UUID]) -> None:
    if written != len(wanted):
        raise LostRace("task_instance", len(wanted) - written)


def _template(one: Visited, task_id: str) -> TaskTemplate:
    return next(template for template in one.compiled.templates or () if template.task_id == task_id)


def _slices(growing: Sequence[tuple[UnexpandedRow, Visited, int | None]]) -> Iterator[NewInstances]:
    """Yield the instances after the first of each, which is the unexpanded one itself.

    :raises LostRace: for one whose dag version was deleted.
    """
    new = NewInstances()
    for row, one, length in growing:
        if row.dag_version_id is None:
            raise LostRace("task_instance", 1)
        template, carriers = _template(one, row.task_id), child_carriers(row.run_carrier or {})
        for first in range(1, length or 0, SLICE):
            _add(new, row, template, carriers, range(first, min(first + SLICE, length or 0)))
            if len(new.ids) >= SLICE:
                yield new
                new = NewInstances()
    yield new


def _add(
    new: NewInstances,
    row: UnexpandedRow,
    template: TaskTemplate,
    carriers: Iterator[dict[str, str]],
    map_indexes: range,
) -> None:
    assert row.dag_version_id is not None
    new.runs.append((row.dag_id, row.run_id, row.dag_version_id))
    new.templates.append(_columns(template))
    new.map_indexes += map_indexes
    for _ in map_indexes:
        new.ids.append(uuid7())
        new.carriers.append(next(carriers))
    new.run_numbers += [len(new.runs)] * len(map_indexes)
    new.template_numbers += [len(new.templates)] * len(map_indexes)


def _columns(template: TaskTemplate) -> tuple[Any, ...]:
    """The columns of an instance made by ``TaskInstance()`` and not by ``insert_mapping``.

    There the display name stays empty, and an operator name that is none is an empty text.
    """
    columns = dict(zip(TEMPLATE_COLUMNS, template.columns(), strict=True))
    name = columns["custom_operator_name"]
    return tuple(
        {
            **columns,
            "task_display_name": None,
            "custom_operator_name": name if isinstance(name, str) else "",
        }.values()
    )
