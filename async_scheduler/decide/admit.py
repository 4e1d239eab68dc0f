"""Who may be queued now: pools, task limits, executor slots (``_executable_task_instances_to_queued``)."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Candidate(NamedTuple):
    """A scheduled task instance, in the order in which it is to be considered.

    ``max_active_tasks`` bounds the running and queued task instances of its run, ``limited`` says whether
    its dag has tasks with limits of their own, ``owner`` is the job of the scheduler that has its run.
    """

    id: Any
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    pool: str
    pool_slots: int
    executor: str | None
    max_active_tasks: int
    limited: bool
    owner: int | None = None


@dataclass(slots=True)
class PoolSlots:
    """A pool's slots; ``total`` is infinite for -1 (``Pool.slots_stats``)."""

    total: float
    open: float


@dataclass(frozen=True, slots=True)
class TaskLimits:
    """``max_active_tis_per_dag`` and ``max_active_tis_per_dagrun`` of a task."""

    per_dag: int | None = None
    per_run: int | None = None


@dataclass(slots=True)
class ActiveTasks:
    """Active task instances (deferred ones count) per task, and per task and run."""

    per_dag: Counter[tuple[str, str]] = field(default_factory=Counter)
    per_run: Counter[tuple[str, str, str]] = field(default_factory=Counter)


@dataclass(slots=True)
class Starved:
    """What has no room left: the next look for candidates leaves it out."""

    pools: set[str] = field(default_factory=set)
    runs: set[tuple[str, str]] = field(default_factory=set)
    tasks: set[tuple[str, str]] = field(default_factory=set)
    run_tasks: set[tuple[str, str, str]] = field(default_factory=set)
    executors: set[str | None] = field(default_factory=set)

    def size(self) -> int:
        """Return how much is starved, to tell whether more is."""
        return sum(len(part) for part in self._parts())

    def copy(self) -> Starved:
        """Return the same, to be changed by itself."""
        return Starved(*(set(part) for part in self._parts()))

    def _parts(self) -> tuple[set[Any], ...]:
        return self.pools, self.runs, self.tasks, self.run_tasks, self.executors


class Note(NamedTuple):
    """Something to log: level, text and its arguments."""

    level: int
    text: str
    arguments: tuple[Any, ...]


class Admission:
    """The counters of one critical section. :meth:`admit` may be called for one batch after another.

    :param run_active: running and queued task instances by (dag, run).
    :param executors: the executor for each name that a task instance carries, None for the default.
    :param executor_slots: free slots by executor.
    """

    def __init__(
        self,
        pools: dict[str, PoolSlots],
        run_active: Counter[tuple[str, str]],
        executors: Mapping[str | None, Any],
        executor_slots: dict[Any, int],
    ) -> None:
        self._pools = pools
        self._executors = executors
        self._executor_slots = executor_slots
        self._active = ActiveTasks()
        self.limits: dict[tuple[str, str], TaskLimits] = {}
        """Limits by (dag, task); the caller enters them, and what is active, before it admits."""
        self._run_active = run_active
        self.starved = Starved({name for name, pool in pools.items() if pool.open <= 0})
        self.starving: Counter[str] = Counter()
        """Task instances that found no room, by pool; pools without any are there with 0."""
        self.notes: list[Note] = []
        self.used_up: set[Any] = set()
        """Pools, and tasks with a limit in their dag, of which what was admitted here has left too little for
        others: names, and (dag, task)."""

    def copy(self) -> Admission:
        """Return one with the same counters, to try what would be admitted."""
        pools = {name: PoolSlots(pool.total, pool.open) for name, pool in self._pools.items()}
        slots = dict(self._executor_slots)
        other = Admission(pools, self._run_active.copy(), self._executors, slots)
        other._active = ActiveTasks(self._active.per_dag.copy(), self._active.per_run.copy())
        other.limits, other.notes = self.limits.copy(), self.notes.copy()
        other.starved, other.starving = self.starved.copy(), self.starving.copy()
        other.used_up = self.used_up.copy()
        return other

    def count_active(self, active: ActiveTasks) -> None:
        """Add the active task instances of dags with limits per task, read once per dag."""
        self._active.per_dag.update(active.per_dag)
        self._active.per_run.update(active.per_run)

    @property
    def open_slots(self) -> float:
        """Open slots of all pools; an overfull one counts as full."""
        return sum(max(0, pool.open) for pool in self._pools.values())

    def admit(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Return those of *candidates* that fit, each one counted before the next is looked at."""
        return [candidate for candidate in candidates if self._fits(candidate)]

    def _fits(self, one: Candidate) -> bool:
        if not (self._pool_fits(one) and self._run_fits(one) and self._task_fits(one)):
            return False
        executor = self._executors.get(one.executor)
        if executor is None or self._executor_slots[executor] <= 0:
            self.starved.executors.add(one.executor)
            return False
        self._executor_slots[executor] -= 1
        self._run_active[one.dag_id, one.run_id] += 1
        self._take_shared(one)
        return True

    def _take_shared(self, one: Candidate) -> None:
        """Count *one* where other runs want something too."""
        task = one.dag_id, one.task_id
        pool, limits = self._pools[one.pool], self.limits.get(task)
        pool.open -= one.pool_slots
        self._active.per_dag[task] += 1
        self._active.per_run[one.dag_id, one.run_id, one.task_id] += 1
        if pool.open <= 0:
            self.used_up.add(one.pool)
        if limits and limits.per_dag is not None and self._active.per_dag[task] >= limits.per_dag:
            self.used_up.add(task)

    def _pool_fits(self, one: Candidate) -> bool:
        pool = self._pools.get(one.pool)
        if pool is None:
            self._note(logging.WARNING, "Tasks using non-existent pool '%s' will not be scheduled", one.pool)
            self.starved.pools.add(one.pool)
            return False
        self.starving.setdefault(one.pool, 0)
        if 0 < pool.open >= one.pool_slots <= pool.total:
            return True
        self.starving[one.pool] += 1
        if pool.open <= 0:
            self.starved.pools.add(one.pool)
            return False
        self.starved.tasks.add((one.dag_id, one.task_id))
        if one.pool_slots <= pool.total:
            self.used_up.add(one.pool)
        else:
            self._note(
                logging.WARNING,
                "Not executing %s. Requested pool slots (%s) are greater than "
                "total pool slots: '%s' for pool: %s.",
                _described(one),
                one.pool_slots,
                pool.total,
                one.pool,
            )
        return False

    def _run_fits(self, one: Candidate) -> bool:
        run = one.dag_id, one.run_id
        if self._run_active[run] >= one.max_active_tasks:
            self.starved.runs.add(run)
            return False
        return True

    def _task_fits(self, one: Candidate) -> bool:
        limits = self.limits.get((one.dag_id, one.task_id))
        if limits is None:
            return True
        if limits.per_dag is not None and self._active.per_dag[one.dag_id, one.task_id] >= limits.per_dag:
            self.starved.tasks.add((one.dag_id, one.task_id))
            return False
        in_run = one.dag_id, one.run_id, one.task_id
        if limits.per_run is not None and self._active.per_run[in_run] >= limits.per_run:
            self.starved.run_tasks.add(in_run)
            return False
        return True

    def _note(self, level: int, text: str, *arguments: Any) -> None:
        self.notes.append(Note(level, text, arguments))


def _described(one: Candidate) -> str:
    """Return how Airflow's log lines name a task instance."""
    index = f"map_index={one.map_index} " if one.map_index != -1 else ""
    return f"<TaskInstance: {one.dag_id}.{one.task_id} {one.run_id} {index}[scheduled] ti_id={one.id}>"
