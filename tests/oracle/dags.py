"""Small DAGs described as data, so that Hypothesis can draw and shrink them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

RULES = (
    "all_success",
    "all_failed",
    "all_done",
    "all_done_min_one_success",
    "all_done_setup_success",
    "all_skipped",
    "one_success",
    "one_failed",
    "one_done",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
)
LOGICAL_DATE = datetime(2026, 1, 2, tzinfo=UTC)
START_DATE = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Task:
    """One task: its upstream tasks by number, and where its instance stands when the run is looked at.

    ``kind`` is plain, empty (EmptyOperator), sensor, branch (may skip its downstream) or short.
    ``due`` says whether a waiting retry or reschedule has come due. ``skip`` is the decision that a
    branch left in its XCom: task numbers, or None for no XCom. ``past`` is the state that its instance has in
    the run before, which it may depend on.
    """

    upstream: tuple[int, ...] = ()
    rule: str = "all_success"
    kind: str = "plain"
    role: str = "work"
    fails_run: bool = False
    state: str | None = None
    try_number: int = 0
    due: bool = True
    followed: tuple[int, ...] | None = None
    skipped: tuple[int, ...] | None = None
    depends_on_past: bool = False
    wait_for_downstream: bool = False
    past: str | None = "success"
    group: int = -1
    limited: bool = False
    mapped: tuple[int, ...] = ()
    """What a mapped task is mapped over: results of tasks before it, or a literal: its length less 10."""
    indexes: tuple[str | None, ...] = ()
    """States of the instances of a mapped task, if it is expanded."""
    returned: int | None = None
    """The length of what the task returned, or, mapped, how many of its instances returned something."""


@dataclass(frozen=True, slots=True)
class Dag:
    """Tasks by number. ``names`` gives each its place in the order of task ids."""

    tasks: tuple[Task, ...]
    names: tuple[str, ...] = field(default=())

    def name(self, number: int) -> str:
        """Return the id of task *number*, that of its group included."""
        group = self.tasks[number].group
        prefix = "" if group < 0 else f"g{group}."
        return prefix + self.label(number)

    def label(self, number: int) -> str:
        """Return what task *number* is called within its group."""
        return self.names[number] if self.names else f"t{number:03}"

    def number(self, name: str) -> int:
        """Return the number of the task with this id."""
        return next(n for n in range(len(self.tasks)) if self.name(n) == name)

    def in_state(self, number: int, state: str | None) -> Dag:
        """Return the same DAG with one instance in another state."""
        tasks = list(self.tasks)
        tasks[number] = replace(tasks[number], state=state)
        return replace(self, tasks=tuple(tasks))


def written(dag: Dag, dag_id: str = "oracle") -> Any:
    """Return *dag* as a user writes it with the SDK."""
    from airflow.sdk import DAG, TaskGroup

    with DAG(dag_id, start_date=START_DATE, schedule=None) as new:
        operators: list[Any] = []
        groups = {number: TaskGroup(f"g{number}") for number in {task.group for task in dag.tasks} - {-1}}
        for number, task in enumerate(dag.tasks):
            operators.append(_operator(dag, number, task, operators, groups))
        for number, task in enumerate(dag.tasks):
            for parent in task.upstream:
                operators[parent].set_downstream(operators[number])
    return new


def serialized(dag: Dag) -> Any:
    """Return *dag* as Airflow's scheduler reads it: written with the SDK, serialized, read back."""
    from airflow.serialization.serialized_objects import DagSerialization

    return DagSerialization.from_dict(DagSerialization.to_dict(written(dag)))


def _operator(dag: Dag, number: int, task: Task, operators: list[Any], groups: dict[int, Any]) -> Any:
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import BaseOperator, BaseSensorOperator

    arguments: dict[str, Any] = {
        "task_id": dag.label(number),
        "trigger_rule": task.rule,
        "retries": 3,
        "retry_delay": timedelta(minutes=5),
        "depends_on_past": task.depends_on_past,
        "wait_for_downstream": task.wait_for_downstream,
    }
    if task.group >= 0:
        arguments["task_group"] = groups[task.group]
    if task.limited:
        arguments["max_active_tis_per_dagrun"] = 1
    if task.mapped:
        return Taking.mapped(
            {f"value_{n}": over for n, over in enumerate(_inputs(task, operators))}, arguments
        )
    if task.kind == "sensor":
        operator = BaseSensorOperator(mode="reschedule", **arguments)
    elif task.kind == "empty":
        operator = EmptyOperator(**arguments)
    else:
        operator = (Branching if task.kind == "branch" else BaseOperator)(**arguments)
    if task.role == "setup":
        operator.as_setup()
    elif task.role == "teardown":
        operator.as_teardown(on_failure_fail_dagrun=task.fails_run)
    return operator


def _inputs(task: Task, operators: list[Any]) -> list[Any]:
    return [operators[over].output if over >= 0 else list(range(over + 10)) for over in task.mapped]


class _Taking:
    """An operator class that takes two values, made when first needed."""

    _made: Any = None

    def mapped(self, values: dict[str, Any], arguments: dict[str, Any]) -> Any:
        """Return an operator mapped over *values*."""
        if self._made is None:
            from airflow.sdk import BaseOperator

            def init(this: Any, value_0: Any = None, value_1: Any = None, **given: Any) -> None:
                BaseOperator.__init__(this, **given)

            self._made = type("Taking", (BaseOperator,), {"__init__": init})
        return self._made.partial(**arguments).expand(**values)


Taking = _Taking()


class _Branching:
    """A branch operator class, made when first needed: importing operators costs a second."""

    _made: Any = None

    def __call__(self, **arguments: Any) -> Any:
        if self._made is None:
            from airflow.providers.standard.operators.branch import BaseBranchOperator

            self._made = type("Branching", (BaseBranchOperator,), {"choose_branch": lambda *_: []})
        return self._made(**arguments)


Branching = _Branching()
