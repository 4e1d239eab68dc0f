"""Was the work done right? End states against the sync arm's, nothing run twice, no limit exceeded. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import TYPE_CHECKING

from poc_bench.plan import DEFAULT_POOL_SLOTS, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from poc_bench.database.rows import RunRow, TaskInstanceRow, TryRow
    from poc_bench.observation import Observation

SHOWN = 10
"""Differences of one kind that are listed in full."""

EndState = dict[str, str]
"""``dag/run`` or ``dag/run/task/map index`` → state, with the number of tries for a task instance."""

Hold = tuple[datetime, datetime, int]
"""From, until, slots."""


def end_state(runs: Iterable[RunRow], rows: Iterable[TaskInstanceRow]) -> EndState:
    """Return how everything ended, in a form that is equal for equal outcomes."""
    states = {f"{run.dag_id}/{run.run_id}": run.state for run in runs}
    for row in rows:
        name = f"{row.dag_id}/{row.run_id}/{row.task_id}/{row.map_index}"
        states[name] = f"{row.state}, try {row.try_number}"
    return states


def differences(reference: EndState, state: EndState) -> list[str]:
    """Return what ended otherwise than in *reference*, one line each, long lists cut."""
    lines = [
        f"{name}: {reference.get(name, 'absent')} in the sync arm, {state.get(name, 'absent')} here"
        for name in sorted(reference.keys() | state.keys())
        if reference.get(name) != state.get(name)
    ]
    return _cut(lines)


def violations(plan: Plan, seen: Observation) -> list[str]:
    """Return what happened that no scheduler may let happen, one line each."""
    lines = [f"run twice: {'/'.join(map(str, key))}" for key in seen.workers["run_twice"]]
    if seen.workers["refused"]:
        lines.append(f"{seen.workers['refused']} task instances reached a worker without being queued")
    if seen.workers["submitted_twice"]:
        lines.append(f"{seen.workers['submitted_twice']} task instances were handed over twice")
    return _cut(lines) + _cut(_exceeded_over_time(plan, seen)) + _cut(_exceeded_in_samples(plan, seen))


def _cut(lines: list[str]) -> list[str]:
    rest = len(lines) - SHOWN
    return [*lines[:SHOWN], f"… and {rest} more"] if rest > 0 else lines


def limits(plan: Plan) -> dict[tuple[str, ...], int]:
    """Return every limit the plan sets on queued and running task instances: what it is on → how many."""
    found: dict[tuple[str, ...], int] = {("pool", "default_pool"): DEFAULT_POOL_SLOTS}
    found |= {("pool", name): slots for name, slots in plan.pools.items()}
    for dag in plan.dags:
        found["max_active_tasks", dag.dag_id] = dag.max_active_tasks
        for task in dag.tasks:
            if task.max_active_tis_per_dag is not None:
                found["max_active_tis_per_dag", dag.dag_id, task.task_id] = task.max_active_tis_per_dag
            if task.max_active_tis_per_dagrun is not None:
                found["max_active_tis_per_dagrun", dag.dag_id, task.task_id] = task.max_active_tis_per_dagrun
    return found


def _scopes(
    limit_of: Mapping[tuple[str, ...], int], pool: str, dag_id: str, run_id: str, task_id: str
) -> Iterable[tuple[tuple[str, ...], tuple[str, ...], bool]]:
    """Yield (limit, what is counted against it, whether pool slots count) for one task instance.

    As in the stock scheduler, ``max_active_tasks`` holds for each run of the dag.
    """
    candidates = (
        (("pool", pool), (pool,), True),
        (("max_active_tasks", dag_id), (dag_id, run_id), False),
        (("max_active_tis_per_dag", dag_id, task_id), (dag_id, task_id), False),
        (("max_active_tis_per_dagrun", dag_id, task_id), (dag_id, run_id, task_id), False),
    )
    return (candidate for candidate in candidates if candidate[0] in limit_of)


def _exceeded_over_time(plan: Plan, seen: Observation) -> list[str]:
    """Check each limit at every moment, from when each try was queued and when it ended."""
    limit_of = limits(plan)
    holds: defaultdict[tuple[tuple[str, ...], tuple[str, ...]], list[Hold]] = defaultdict(list)
    tries: list[TaskInstanceRow | TryRow] = [*seen.task_instances, *seen.earlier_tries]
    for row in tries:
        if row.queued_dttm is None or row.end_date is None:
            continue
        for limit, scope, in_slots in _scopes(limit_of, row.pool, row.dag_id, row.run_id, row.task_id):
            slots = row.pool_slots if in_slots else 1
            holds[limit, scope].append((row.queued_dttm, row.end_date, slots))
    lines = []
    for (limit, scope), held in holds.items():
        if (peak := most_at_once(held)) > limit_of[limit]:
            lines.append(f"{limit[0]} {'/'.join(scope)}: {peak} at once, the limit is {limit_of[limit]}")
    return lines + _runs_exceeded(plan, seen.runs)


def _runs_exceeded(plan: Plan, runs: Iterable[RunRow]) -> list[str]:
    held: defaultdict[str, list[Hold]] = defaultdict(list)
    for run in runs:
        if run.start_date and run.end_date:
            held[run.dag_id].append((run.start_date, run.end_date, 1))
    return [
        f"max_active_runs {dag.dag_id}: {peak} at once, the limit is {dag.max_active_runs}"
        for dag in plan.dags
        if (peak := most_at_once(held[dag.dag_id])) > dag.max_active_runs
    ]


def most_at_once(holds: Iterable[Hold]) -> int:
    """Return the most slots held at one moment; a slot freed at a moment may be taken at that moment."""
    changes = []
    for begin, end, slots in holds:
        changes += [(begin, 1, slots), (max(begin, end), 0, -slots)]
    now = peak = 0
    for _, _, slots in sorted(changes):
        now += slots
        peak = max(peak, now)
    return peak


def _exceeded_in_samples(plan: Plan, seen: Observation) -> list[str]:
    limit_of = limits(plan)
    lines = []
    for sample in seen.samples:
        used: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter()
        for row in sample:
            for limit, scope, in_slots in _scopes(limit_of, row.pool, row.dag_id, row.run_id, row.task_id):
                used[limit, scope] += row.pool_slots if in_slots else 1
        lines += [
            f"{limit[0]} {'/'.join(scope)}: {count} in a sample, the limit is {limit_of[limit]}"
            for (limit, scope), count in used.items()
            if count > limit_of[limit]
        ]
    return lines
