"""Writes what visits decided: one statement for each kind of change, whatever the number of runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from async_scheduler.decide.states import NAMES
from async_scheduler.errors import LostRace
from async_scheduler.store.instances import mark_flagged, mark_scheduled, mark_succeeded
from async_scheduler.store.running import close_runs, touch_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession

    from async_scheduler.routines.redesigned.peers import Peers
    from async_scheduler.routines.redesigned.visiting import Visited


@dataclass(frozen=True, slots=True)
class Written:
    """How many task instances became scheduled, and how many got a finished state.

    ``complete`` is false when some were no longer as they were read: look at the runs again.
    """

    scheduled: int
    finished: int
    complete: bool


async def write(
    session: AsyncSession, visited: Sequence[Visited], job: int | None, now: datetime, peers: Peers
) -> Written:
    """Write the decisions of *visited*; the caller holds the locks of the runs.

    Locks: ``task_instance`` in the order of ids within each statement.

    :raises LostRace: when a state that later rounds of a visit built on could not be written.
    """
    ready = _ids(visited, [one.outcome.scheduled for one in visited])
    scheduled = await mark_scheduled(session, ready, now)
    finished = await _write_finished(session, visited, now)
    kept = [one.run.id for one in visited if stays(one, peers)]
    await touch_runs(session, sorted(one.run.id for one in visited), job, now, sorted(kept))
    return Written(scheduled, finished, scheduled == len(ready))


def stays(one: Visited, peers: Peers) -> bool:
    """Whether a run of another live scheduler stays with it: unless something of it was changed here."""
    return peers.has(one.run.examined_by) and not one.outcome.changed


def _ids(visited: Sequence[Visited], positions: Sequence[Sequence[int]]) -> list[UUID]:
    return [
        instance for one, chosen in zip(visited, positions, strict=True) for instance in one.ids_at(chosen)
    ]


async def _write_finished(session: AsyncSession, visited: Sequence[Visited], now: datetime) -> int:
    emptied = _ids(visited, [one.outcome.emptied for one in visited])
    _require(await mark_succeeded(session, emptied, now), emptied)
    changes: dict[tuple[int, int], list[UUID]] = defaultdict(list)
    for one in visited:
        for position, state in one.outcome.flagged.items():
            changes[one.states_before[position], state] += one.ids_at([position])
    for (old, new), ids in changes.items():
        name = NAMES[new]
        assert name is not None
        _require(await mark_flagged(session, ids, NAMES[old], name, now), ids)
    return len(emptied) + sum(len(ids) for ids in changes.values())


def _require(written: int, wanted: Sequence[UUID]) -> None:
    if written != len(wanted):
        raise LostRace("task_instance", len(wanted) - written)


async def write_ends(session: AsyncSession, visited: Sequence[Visited], now: datetime) -> None:
    """End the runs of *visited*, all of which have a verdict.

    :raises LostRace: when one is no longer running in spite of the caller's lock.
    """
    by_state: dict[str, list[int]] = defaultdict(list)
    for one in visited:
        assert one.outcome.verdict is not None
        by_state[one.outcome.verdict.run_state].append(one.run.id)
    for state, ids in by_state.items():
        if (closed := await close_runs(session, sorted(ids), state, now)) != len(ids):
            raise LostRace("dag_run", len(ids) - closed)
