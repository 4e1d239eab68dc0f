"""What one dag version means for scheduling: pure data, compiled once, shared by all of its runs.

Tasks carry dense indexes in the order of their ids, which is the order in which Airflow examines task
instances (``DagRun.fetch_task_instances``). Upstream relations are *task sets*: tasks with the same
upstream share one, so its states are counted once however many tasks wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from async_scheduler.decide.lengths import Length

NO_SET = -1
"""Stands for "no task set", that is, for nothing to wait for."""


@dataclass(frozen=True, slots=True)
class TaskSet:
    """Tasks whose states are counted together.

    ``expands`` says whether one of them is mapped or in a mapped group
    (``SerializedBaseOperator.get_needs_expansion``): then the instances expected are the rows that exist,
    otherwise they are the members.
    """

    members: tuple[int, ...]
    expands: bool


@dataclass(frozen=True, slots=True)
class RetryDelay:
    """When a failed try may be repeated (``TaskInstance.next_retry_datetime``).

    ``longest`` bounds a growing delay, ``cap`` (seconds) does so for every task
    (``[core] max_task_retry_delay``).
    """

    delay: timedelta
    multiplier: float = 1.0
    longest: timedelta | None = None
    cap: int = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class SkipParent:
    """A direct upstream task that may have decided to skip this one (``NotPreviouslySkippedDep``)."""

    task: int
    per_index: bool
    """Whether the decision was stored under the map index of the task instance that asks."""


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """One task as the scheduler sees it. Numbers are task indexes, ``*_set`` indexes of task sets."""

    index: int
    task_id: str
    upstream: tuple[int, ...] = ()
    downstream: tuple[int, ...] = ()
    trigger_rule: str = "all_success"
    direct_set: int = NO_SET
    """All direct upstream tasks; NO_SET when there is none or the rule is ``always``."""
    direct_setup_set: int = NO_SET
    """The setups among them, counted for ``all_done_setup_success``."""
    setup_set: int = NO_SET
    """Relevant setups that are not direct upstream (``get_upstreams_only_setups``)."""
    scope_set: int = NO_SET
    """For a teardown: the tasks between its setups and itself."""
    skip_parents: tuple[SkipParent, ...] = ()
    skip_set: int = NO_SET
    """Those parents as a set."""
    length: Length | None = None
    """For a mapped task, how many instances it has."""
    inputs: tuple[int, ...] = ()
    """For a mapped task, the tasks whose results it is mapped over."""
    input_set: int = NO_SET
    """Those tasks as a set."""
    is_teardown: bool = False
    decides_run: bool = False
    """Whether its state counts for the run's (``DagRun._tis_for_dagrun_state``)."""
    is_empty: bool = False
    """Whether it succeeds without being run (``TaskInstance.is_task_schedulable``)."""
    is_sensor: bool = False
    """Whether its mapped instances may wait for a reschedule without a state (``ReadyToRescheduleDep``)."""
    reschedules: bool = False
    """The same of its unmapped instance: it is a sensor in the mode of that name."""
    depends_on_past: bool = False
    wait_for_downstream: bool = False
    ignore_first_depends_on_past: bool = False
    start_date: datetime | None = None
    retry: RetryDelay = field(default_factory=lambda: RetryDelay(timedelta(seconds=300)))
    max_active_per_dag: int | None = None
    max_active_per_run: int | None = None

    @property
    def hides_deadlock(self) -> bool:
        """Whether an unfinished instance of it rules a deadlock out (``should_schedule``)."""
        return (
            self.depends_on_past or self.max_active_per_dag is not None or self.max_active_per_run is not None
        )


@dataclass(frozen=True, slots=True)
class DagPlan:
    """One dag version as the scheduler sees it.

    ``needs_upstream`` names the features that are not decided here; a run of such a dag goes through
    Airflow's own code.
    """

    dag_id: str
    tasks: tuple[TaskPlan, ...]
    sets: tuple[TaskSet, ...]
    sets_with: tuple[tuple[int, ...], ...]
    """For each task, the sets it is a member of."""
    readers: tuple[tuple[int, ...], ...]
    """For each set, the tasks whose decision depends on it."""
    index: dict[str, int]
    catchup: bool = False
    dagrun_timeout: timedelta | None = None
    max_consecutive_failed_runs: int = 0
    closes_upstream: frozenset[str] = frozenset()
    """Features that make Airflow's own code close a run: callbacks and deadlines."""
    needs_upstream: frozenset[str] = frozenset()
    sizes: tuple[int, ...] = ()
    """For each set, how many members it has."""
    expands: bool = False
    """Whether some set has mapped members, so that it may have more instances than members."""
    maps: bool = False
    """Whether some task is mapped."""
    live_readers: frozenset[int] = frozenset()
    """Tasks mapped over results: they look at their inputs as they are, not as the round found them."""
    quick_set: tuple[int, ...] = ()
    """For each task that nothing but its trigger rule and time can hold back, its upstream; else NO_SET."""
    reschedules: bool = False
    """Whether an instance without a state may have to wait for a reschedule."""
    patient: tuple[bool, ...] = ()
    """For each task, whether its rule is patient (``rules.PATIENT``)."""
    # What each visit asks, told by the tasks:
    has_past: bool = field(init=False)
    """Whether some task depends on the previous run."""
    has_maps: bool = field(init=False)
    """Whether some task is mapped over results."""
    has_skips: bool = field(init=False)
    """Whether some task may be skipped by a decision that its upstream left in an XCom."""
    deadlock_hiders: frozenset[int] = field(init=False)
    """The tasks that rule a deadlock out while an instance of theirs is unfinished (``hides_deadlock``)."""

    def __post_init__(self) -> None:
        """Gather what is told by the tasks."""
        tell = partial(object.__setattr__, self)
        tell("has_past", any(task.depends_on_past for task in self.tasks))
        tell("has_maps", any(task.inputs for task in self.tasks))
        tell("has_skips", any(task.skip_parents for task in self.tasks))
        tell("deadlock_hiders", frozenset(n for n, task in enumerate(self.tasks) if task.hides_deadlock))
