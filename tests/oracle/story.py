"""A whole life as data: a dag with everything it may have, how its tries end, and what users do meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from tests.oracle.dags import Branching, Taking
from tests.support.dags import EPOCH

POOLS = 3
RETRY_DELAY = timedelta(minutes=5)
"""Longer than a test takes, shorter than a step of its clock: a retry is due when the story says so."""


@dataclass(frozen=True, slots=True)
class Work:
    """One task: what it waits for, where it runs, and how each of its tries ends.

    ``kind`` is plain, empty, sensor or branch; ``group`` the number of its task group, -1 for none.
    ``mapped`` are the tasks whose results it is mapped over, or literals: their length less 10.
    ``ends`` are the ends of its tries in order, the last one for all further ones (see ``workers``).
    ``called`` gives it callbacks for failures and retries.
    """

    upstream: tuple[int, ...] = ()
    rule: str = "all_success"
    kind: str = "plain"
    role: str = "work"
    fails_run: bool = False
    group: int = -1
    mapped: tuple[int, ...] = ()
    past: bool = False
    wait_for_downstream: bool = False
    retries: int = 0
    pool: int = 0
    slots: int = 1
    weight: int = 1
    per_dag: int | None = None
    per_run: int | None = None
    ends: tuple[str, ...] = ("success",)
    returned: int = 2
    skips: tuple[int, ...] = ()
    called: bool = False

    @property
    def takes_from(self) -> set[int]:
        """The tasks whose results it is mapped over."""
        return {over for over in self.mapped if over >= 0}


@dataclass(frozen=True, slots=True)
class Group:
    """A task group: a plain one, or mapped over a task's result or a literal (as ``Work.mapped``)."""

    over: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens while nothing else does: see ``workers.act`` and ``users.act`` for the kinds.

    ``run`` and ``task`` say what it happens to, ``flag`` how.
    """

    kind: str
    run: int = 0
    task: int = 0
    flag: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """A dag, the limits it lives under, and a history."""

    works: tuple[Work, ...]
    groups: tuple[Group, ...] = ()
    runs: int = 1
    max_active_runs: int = 2
    max_active_tasks: int = 16
    pools: tuple[int, ...] = (-1,) * POOLS
    include_deferred: bool = False
    callbacks: bool = False
    timeout: bool = False
    steps: tuple[Step, ...] = ()

    def task_id(self, number: int) -> str:
        """Return the id of task *number*, that of its group included."""
        group = self.works[number].group
        return f"t{number}" if group < 0 else f"g{group}.t{number}"

    def ancestors(self, number: int) -> set[int]:
        """Return all that is upstream of task *number*, near and far, what it is mapped over included."""
        found: set[int] = set()
        todo = [number]
        while todo:
            work = self.works[todo.pop()]
            over = self.groups[work.group].over if work.group >= 0 else None
            new = {*work.upstream, *([over] if over is not None and over >= 0 else ())} - found
            found |= new
            todo += new
        return found

    def work(self, task_id: str) -> Work:
        """Return the task with this id; one that has left the dag is a plain one."""
        number = int(task_id.rpartition("t")[2])
        return self.works[number] if number < len(self.works) else Work()


def written(story: Story, dag_id: str) -> Any:
    """Return the dag of *story* as a user writes it: one run for each of its days, starting with EPOCH."""
    from airflow.sdk import DAG

    called = _callback if story.callbacks else None
    with DAG(
        dag_id,
        start_date=EPOCH,
        end_date=EPOCH + timedelta(days=story.runs - 1),
        schedule="@daily",
        catchup=True,
        max_active_runs=story.max_active_runs,
        max_active_tasks=story.max_active_tasks,
        dagrun_timeout=timedelta(hours=5) if story.timeout else None,
        on_success_callback=called,
        on_failure_callback=called,
    ) as dag:
        operators: list[Any] = []
        groups: dict[int, Any] = {}
        for number, work in enumerate(story.works):
            operators.append(_operator(story, number, work, operators, groups))
        for number, work in enumerate(story.works):
            for parent in work.upstream:
                operators[parent].set_downstream(operators[number])
        _end_groups(story, groups, operators)
    return dag


def _end_groups(story: Story, groups: dict[int, Any], operators: list[Any]) -> None:
    """What ``MappedTaskGroup.__exit__`` does: all of a mapped group waits for what it is mapped over."""
    for number, group in groups.items():
        over = story.groups[number].over
        if over is not None and over >= 0:
            group.set_upstream(operators[over])


def _operator(story: Story, number: int, work: Work, operators: list[Any], groups: dict[int, Any]) -> Any:
    arguments = _arguments(number, work)
    if work.group >= 0:
        if work.group not in groups:
            groups[work.group] = _group(story, work.group, operators)
        arguments["task_group"] = groups[work.group]
    if work.mapped:
        values = {f"value_{n}": _over(over, operators) for n, over in enumerate(work.mapped)}
        return Taking.mapped(values, arguments)
    operator = _plain(work, arguments)
    if work.role == "setup":
        operator.as_setup()
    elif work.role == "teardown":
        operator.as_teardown(on_failure_fail_dagrun=work.fails_run)
    return operator


def _plain(work: Work, arguments: dict[str, Any]) -> Any:
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import BaseOperator, BaseSensorOperator

    if work.kind == "sensor":
        return BaseSensorOperator(mode="reschedule", **arguments)
    if work.kind == "empty":
        return EmptyOperator(**arguments)
    return (Branching if work.kind == "branch" else BaseOperator)(**arguments)


def _arguments(number: int, work: Work) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "task_id": f"t{number}",
        "trigger_rule": work.rule,
        "retries": work.retries,
        "retry_delay": RETRY_DELAY,
        "depends_on_past": work.past,
        "wait_for_downstream": work.wait_for_downstream,
        "pool": f"pool_{work.pool}",
        "pool_slots": work.slots,
        "priority_weight": work.weight,
        "weight_rule": "absolute",
        "max_active_tis_per_dag": work.per_dag,
        "max_active_tis_per_dagrun": work.per_run,
    }
    if work.called:
        arguments |= {"on_failure_callback": _callback, "on_retry_callback": _callback}
    return arguments


def _group(story: Story, number: int, operators: list[Any]) -> Any:
    from airflow.sdk.definitions._internal.expandinput import DictOfListsExpandInput
    from airflow.sdk.definitions.taskgroup import MappedTaskGroup, TaskGroup

    over = story.groups[number].over
    if over is None:
        return TaskGroup(f"g{number}")
    return MappedTaskGroup(
        f"g{number}", expand_input=DictOfListsExpandInput({"value": _over(over, operators)})
    )


def _over(over: int, operators: list[Any]) -> Any:
    return operators[over].output if over >= 0 else list(range(over + 10))


def _callback(_context: Any) -> None:
    return None


def revised(story: Story, flag: int) -> Story:
    """Return *story* with its dag changed as *flag* says: a rule, a task that leaves, or one that is new."""
    works = list(story.works)
    last = len(works) - 1
    if flag % 3 == 0:
        works[last] = replace(
            works[last], rule="all_done" if works[last].rule != "all_done" else "one_success"
        )
    elif flag % 3 == 1 and last and not _is_needed(story, last):
        works.pop()
    else:
        works.append(Work(upstream=(flag % len(works),), weight=100 + flag))
    return replace(story, works=tuple(works))


def _is_needed(story: Story, number: int) -> bool:
    members = [n for n, work in enumerate(story.works) if work.group == story.works[number].group]
    return story.works[number].group >= 0 and members == [number]
