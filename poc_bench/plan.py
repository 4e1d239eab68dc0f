"""The work of one cell in plain data: dags, pools, how runs arrive. Pure, and the same for every arm."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

Outcome = Literal["success", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task. ``duration`` is in seconds.

    ``outcomes`` holds what each try ends with; tries beyond the last entry repeat it. A failed try that has
    retries left becomes ``up_for_retry``, as the execution API does it.
    """

    task_id: str
    upstream: tuple[str, ...] = ()
    duration: float = 0.0
    outcomes: tuple[Outcome, ...] = ("success",)
    trigger_rule: str = "all_success"
    pool: str = "default_pool"
    pool_slots: int = 1
    priority_weight: int = 1
    retries: int = 0
    max_active_tis_per_dag: int | None = None
    max_active_tis_per_dagrun: int | None = None
    depends_on_past: bool = False
    mapped_over: str | None = None
    """The upstream task whose result this task is mapped over."""
    pushes: int | None = None
    """The length of the list this task returns; set for a task that others are mapped over."""


@dataclass(frozen=True, slots=True)
class DagSpec:
    """One dag and its runs.

    ``runs`` are created beforehand in state *queued* (``created="beforehand"``), or the dag has so many
    daily intervals overdue and the scheduler creates the runs itself (``created="by_scheduler"``).
    """

    dag_id: str
    tasks: tuple[TaskSpec, ...]
    runs: int = 1
    created: Literal["beforehand", "by_scheduler"] = "beforehand"
    max_active_runs: int = 16
    max_active_tasks: int = 16

    def edges(self) -> Iterator[tuple[str, str]]:
        """Yield (upstream task, downstream task)."""
        for task in self.tasks:
            for upstream in task.upstream:
                yield upstream, task.task_id

    @property
    def task_instances_per_run(self) -> int:
        """Task instances that a run has in the end, mapped ones expanded."""
        lengths = {task.task_id: task.pushes or 0 for task in self.tasks}
        return sum(lengths[task.mapped_over] if task.mapped_over else 1 for task in self.tasks)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a cell is made of, apart from the arm."""

    dags: tuple[DagSpec, ...]
    pools: dict[str, int] = field(default_factory=dict)
    """Pool name → slots. ``default_pool`` has :data:`DEFAULT_POOL_SLOTS` unless named here."""
    arrival_rate: float | None = None
    """Runs per second that fall due one after another (open loop); None: all are due at once."""
    heartbeat_seconds: float = 0.0
    """How long the executor's heartbeat blocks."""
    idle_seconds: float | None = None
    """Watch an idle scheduler for so long instead of waiting for runs to end."""
    history: int = 0
    """Finished task instances that the database holds beforehand."""

    @property
    def runs(self) -> int:
        """Runs that must have ended when the cell is done."""
        return sum(dag.runs for dag in self.dags)

    @property
    def task_instances(self) -> int:
        """Task instances that must have ended when the cell is done."""
        return sum(dag.runs * dag.task_instances_per_run for dag in self.dags)


DEFAULT_POOL_SLOTS = 100_000
