"""Compiles a serialized DAG into a :class:`~async_scheduler.decide.plan.DagPlan`."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from async_scheduler.decide.lengths import Concat, Length, Literal, Product, ResultOf, Zip
from async_scheduler.decide.plan import NO_SET, DagPlan, RetryDelay, SkipParent, TaskPlan, TaskSet
from async_scheduler.decide.rules import PATIENT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.definitions.mappedoperator import Operator

KNOWN_DEPENDENCIES = frozenset(
    {
        "NotInRetryPeriodDep",
        "PrevDagrunDep",
        "TriggerRuleDep",
        "NotPreviouslySkippedDep",
        "MappedTaskUpstreamDep",
        "ReadyToRescheduleDep",
    }
)


def compile_plan(dag: SerializedDAG) -> DagPlan:
    """Return the plan of *dag*. The cost grows with tasks and edges, with their square where setups are."""
    return _Compiler(dag).compile()


class _Sets:
    """Task sets as they are met, equal ones once."""

    def __init__(self, needs_expansion: list[bool]) -> None:
        self._needs_expansion = needs_expansion
        self._numbers: dict[tuple[int, ...], int] = {}

    def number(self, members: Collection[int]) -> int:
        """Return the number of the set with these members, NO_SET for none."""
        if not members:
            return NO_SET
        return self._numbers.setdefault(tuple(sorted(members)), len(self._numbers))

    def all(self) -> tuple[TaskSet, ...]:
        """Return the sets by number."""
        expands = self._needs_expansion
        return tuple(TaskSet(members, any(expands[m] for m in members)) for members in self._numbers)


class _Compiler:
    def __init__(self, dag: SerializedDAG) -> None:
        self._dag = dag
        self._ids = sorted(dag.task_dict)
        self._index = {task_id: number for number, task_id in enumerate(self._ids)}
        self._operators: list[Operator] = [dag.task_dict[task_id] for task_id in self._ids]
        self._sets = _Sets([bool(op.get_needs_expansion()) for op in self._operators])
        self._has_setups = any(op.is_setup or op.is_teardown for op in self._operators)

    def compile(self) -> DagPlan:
        deciding = self._deciding()
        tasks = tuple(self._task(number, number in deciding) for number in range(len(self._ids)))
        sets = self._sets.all()
        return DagPlan(
            dag_id=self._dag.dag_id,
            tasks=tasks,
            sets=sets,
            sets_with=_members_to_sets(len(tasks), sets),
            readers=_sets_to_readers(tasks, len(sets)),
            index=self._index,
            catchup=bool(self._dag.catchup),
            dagrun_timeout=self._dag.dagrun_timeout,
            max_consecutive_failed_runs=self._dag.max_consecutive_failed_dag_runs or 0,
            closes_upstream=frozenset(self._closing_features()),
            needs_upstream=frozenset(self._uncovered_features()),
            sizes=tuple(len(task_set.members) for task_set in sets),
            expands=any(task_set.expands for task_set in sets),
            maps=any(op.is_mapped for op in self._operators),
            reschedules=any(task.reschedules or (task.is_sensor and task.length) for task in tasks),
            live_readers=frozenset(task.index for task in tasks if task.inputs),
            quick_set=tuple(task.direct_set if _is_quick(task) else NO_SET for task in tasks),
            patient=tuple(task.trigger_rule in PATIENT for task in tasks),
        )

    def _numbers(self, task_ids: Iterable[str]) -> tuple[int, ...]:
        return tuple(sorted(self._index[task_id] for task_id in task_ids))

    def _task(self, number: int, decides_run: bool) -> TaskPlan:
        op = self._operators[number]
        upstream = self._numbers(op.upstream_task_ids)
        rule = str(getattr(op.trigger_rule, "value", op.trigger_rule))
        waits = bool(upstream) and rule != "always"
        skip_parents = tuple(self._skip_parents(upstream))
        inputs = (
            self._numbers(parent.task_id for parent in op.iter_mapped_dependencies()) if op.is_mapped else ()
        )
        return TaskPlan(
            index=number,
            task_id=op.task_id,
            upstream=upstream,
            downstream=self._numbers(op.downstream_task_ids),
            trigger_rule=rule,
            direct_set=self._sets.number(upstream) if waits else NO_SET,
            direct_setup_set=self._sets.number(self._setups_among(upstream)) if waits else NO_SET,
            setup_set=self._sets.number(self._indirect_setups(op)) if waits else NO_SET,
            scope_set=self._sets.number(self._scope(op)) if waits else NO_SET,
            skip_parents=skip_parents,
            skip_set=self._sets.number({parent.task for parent in skip_parents}),
            length=self._length(op) if op.is_mapped else None,
            inputs=inputs,
            input_set=self._sets.number(inputs),
            is_teardown=bool(op.is_teardown),
            decides_run=decides_run,
            is_empty=_is_empty(op),
            is_sensor=_has_dependency(op, "ReadyToRescheduleDep"),
            reschedules=bool(getattr(op, "reschedule", False)),
            depends_on_past=bool(op.depends_on_past),
            wait_for_downstream=bool(op.wait_for_downstream),
            ignore_first_depends_on_past=bool(op.ignore_first_depends_on_past),
            start_date=op.start_date,
            retry=_retry_delay(op),
            max_active_per_dag=op.max_active_tis_per_dag,
            max_active_per_run=op.max_active_tis_per_dagrun,
        )

    def _length(self, op: Operator) -> Length | None:
        """Return how many instances a mapped task has, None where only Airflow's code can tell.

        Mirrors ``SchedulerDictOfListsExpandInput`` and ``SchedulerListOfDictsExpandInput``.
        """
        value = op._get_specified_expand_input().value
        if isinstance(value, Mapping):
            parts = [self._argument_length(argument) for argument in value.values()]
            if not parts:
                return Literal(0)
            return None if None in parts else Product(tuple(part for part in parts if part is not None))
        return self._argument_length(value)

    def _argument_length(self, argument: Any) -> Length | None:
        kind = type(argument).__name__
        if kind == "SchedulerPlainXComArg":
            operator = argument.operator
            return ResultOf(self._index[operator.task_id], bool(operator.is_mapped))
        if kind == "SchedulerMapXComArg":
            return self._argument_length(argument.arg)
        if kind in ("SchedulerZipXComArg", "SchedulerConcatXComArg"):
            parts = tuple(self._argument_length(part) for part in argument.args)
            known = tuple(part for part in parts if part is not None)
            if len(known) < len(parts):
                return None
            return Concat(known) if kind == "SchedulerConcatXComArg" else Zip(known, _is_filled(argument))
        return Literal(len(argument)) if isinstance(argument, Sized) else None

    def _setups_among(self, tasks: tuple[int, ...]) -> list[int]:
        return [number for number in tasks if self._operators[number].is_setup]

    def _skip_parents(self, upstream: tuple[int, ...]) -> Iterator[SkipParent]:
        for number in upstream:
            parent = self._operators[number]
            if parent.inherits_from_skipmixin:
                yield SkipParent(number, bool(parent.is_mapped))

    def _indirect_setups(self, op: Operator) -> set[int]:
        """The setups of ``TriggerRuleDep._evaluate_setup_constraint``."""
        if not self._has_setups or op.is_teardown:
            return set()
        return {
            self._index[setup.task_id]
            for setup in op.get_upstreams_only_setups()
            if setup.task_id not in op.upstream_task_ids
        }

    def _scope(self, op: Operator) -> set[int]:
        """The tasks of ``TriggerRuleDep._evaluate_teardown_scope``."""
        if not op.is_teardown:
            return set()
        indirect = op.get_flat_relative_ids(upstream=True) - op.upstream_task_ids
        scope: set[str] = set()
        for upstream in op.upstream_list:
            if upstream.is_setup:
                scope |= indirect & upstream.get_flat_relative_ids(upstream=False)
        return {self._index[task_id] for task_id in scope}

    def _deciding(self) -> set[int]:
        """The tasks of ``DagRun._tis_for_dagrun_state``."""

        def counts(op: Operator) -> bool:
            return not op.is_teardown or bool(op.on_failure_fail_dagrun)

        deciding = {
            number
            for number, op in enumerate(self._operators)
            if counts(op) and not any(counts(down) for down in op.downstream_list)
        }
        return deciding or {n for n, op in enumerate(self._operators) if not op.downstream_task_ids}

    def _closing_features(self) -> Iterator[str]:
        if self._dag.has_on_success_callback:
            yield "on_success_callback"
        if self._dag.has_on_failure_callback:
            yield "on_failure_callback"
        if self._dag.deadline:
            yield "deadline"

    def _uncovered_features(self) -> Iterator[str]:
        for op in self._operators:
            if op.is_mapped and self._length(op) is None:
                yield "mapped task"
            if op.get_closest_mapped_task_group() is not None:
                yield "mapped task group"
            if op.start_from_trigger:
                yield "start from trigger"
            if not {type(dep).__name__ for dep in op.deps} <= KNOWN_DEPENDENCIES:
                yield "custom dependency"


def _is_quick(task: TaskPlan) -> bool:
    """Whether a look at its direct upstream may be enough to see that the task has to wait."""
    special = task.skip_parents or task.setup_set != NO_SET or task.is_teardown or task.depends_on_past
    return not (special or task.inputs)


def _members_to_sets(tasks: int, sets: tuple[TaskSet, ...]) -> tuple[tuple[int, ...], ...]:
    memberships: list[list[int]] = [[] for _ in range(tasks)]
    for number, task_set in enumerate(sets):
        for member in task_set.members:
            memberships[member].append(number)
    return tuple(tuple(numbers) for numbers in memberships)


def _sets_to_readers(tasks: tuple[TaskPlan, ...], sets: int) -> tuple[tuple[int, ...], ...]:
    readers: list[list[int]] = [[] for _ in range(sets)]
    for task in tasks:
        direct = {task.direct_set, task.direct_setup_set, task.setup_set, task.scope_set}
        for number in (direct | {task.skip_set, task.input_set}) - {NO_SET}:
            readers[number].append(task.index)
    return tuple(tuple(numbers) for numbers in readers)


def _is_filled(argument: Any) -> bool:
    from airflow.serialization.definitions.notset import is_arg_set

    return bool(is_arg_set(argument.fillvalue))


def _has_dependency(op: Operator, name: str) -> bool:
    return any(type(dep).__name__ == name for dep in op.deps)


def _is_empty(op: Operator) -> bool:
    """``TaskInstance.is_task_schedulable``, negated."""
    return bool(
        op.inherits_from_empty_operator
        and not (op.has_on_execute_callback or op.has_on_success_callback or op.outlets or op.inlets)
    )


def _retry_delay(op: Operator) -> RetryDelay:
    longest = op.max_retry_delay
    if longest is not None and not isinstance(longest, timedelta):
        longest = timedelta(seconds=longest)
    multiplier = op.retry_exponential_backoff
    return RetryDelay(
        op.retry_delay, float(multiplier) if multiplier != 0 else 1.0, longest or None, _retry_cap()
    )


@cache
def _retry_cap() -> int:
    from airflow.sdk.definitions._internal.abstractoperator import MAX_RETRY_DELAY

    return int(MAX_RETRY_DELAY)
