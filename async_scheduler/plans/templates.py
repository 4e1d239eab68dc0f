"""What the task instances of a new run have in common with those of every other run of the dag version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.exceptions import NotMapped
from airflow.models.expandinput import NotFullyPopulated
from airflow.task.priority_strategy import (
    _AbsolutePriorityWeightStrategy,
    _DownstreamPriorityWeightStrategy,
    _UpstreamPriorityWeightStrategy,
    validate_and_load_priority_weight_strategy,
)

from async_scheduler.plans.weights import downstream_weights, upstream_weights

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.definitions.mappedoperator import Operator

Weights = Callable[["SerializedDAG"], Mapping[str, int]]

STATELESS_WEIGHTS: dict[type, Weights] = {
    _AbsolutePriorityWeightStrategy: lambda dag: {
        task_id: op.priority_weight for task_id, op in dag.task_dict.items()
    },
    _DownstreamPriorityWeightStrategy: downstream_weights,
    _UpstreamPriorityWeightStrategy: upstream_weights,
}
"""The weights by task id under each rule that looks at the dag only; one of the user's may look at more."""


@dataclass(frozen=True, slots=True)
class TaskTemplate:
    """The columns of a task's new instances (``TaskInstance.insert_mapping``), and which instances there are.

    ``map_indexes`` are those that are known before the run: of a map over literals, else -1 alone.
    """

    task_id: str
    map_indexes: tuple[int, ...]
    queue: str
    pool: str
    pool_slots: int
    priority_weight: int
    max_tries: int
    executor: str | None
    executor_config: Any
    operator: str
    custom_operator_name: str | None
    display_name: str
    start_date: datetime | None
    end_date: datetime | None

    def columns(self) -> tuple[Any, ...]:
        """Return the values of ``store.creation.TEMPLATE_COLUMNS``."""
        return (
            self.task_id,
            self.queue,
            self.pool,
            self.pool_slots,
            self.priority_weight,
            self.max_tries,
            self.executor,
            self.executor_config,
            self.operator,
            self.custom_operator_name,
            self.display_name,
        )

    def exists_at(self, logical_date: datetime | None) -> bool:
        """Return whether a run with this logical date has the task (``DagRun.verify_integrity``)."""
        if logical_date is None:
            return True
        starts = self.start_date is None or self.start_date <= logical_date
        return starts and (self.end_date is None or logical_date <= self.end_date)


def compile_templates(dag: SerializedDAG) -> tuple[TaskTemplate, ...] | None:
    """Return the templates of *dag*'s tasks, None where a task's weight depends on the task instance."""
    rules = {task_id: type(_strategy(op)) for task_id, op in dag.task_dict.items()}
    if not STATELESS_WEIGHTS.keys() >= set(rules.values()):
        return None
    weights = {rule: STATELESS_WEIGHTS[rule](dag) for rule in set(rules.values())}
    return tuple(_template(op, weights[rules[task_id]][task_id]) for task_id, op in dag.task_dict.items())


def _strategy(op: Operator) -> Any:
    rule = op.weight_rule
    return rule if hasattr(rule, "get_weight") else validate_and_load_priority_weight_strategy(rule)


def _template(op: Operator, weight: int) -> TaskTemplate:
    return TaskTemplate(
        task_id=op.task_id,
        map_indexes=_map_indexes(op),
        queue=op.queue,
        pool=op.pool,
        pool_slots=op.pool_slots,
        priority_weight=weight,
        max_tries=op.retries,
        executor=op.executor,
        executor_config=op.executor_config,
        operator=op.task_type,
        custom_operator_name=getattr(op, "operator_name", None),
        display_name=op.task_display_name,
        start_date=op.start_date,
        end_date=op.end_date,
    )


def _map_indexes(op: Operator) -> tuple[int, ...]:
    """The map indexes of ``DagRun._create_tasks``.

    In a new run nothing has been pushed yet, so only literal inputs have a length.
    """
    try:
        count = op.get_parse_time_mapped_ti_count()
    except (NotMapped, NotFullyPopulated):
        return (-1,)
    return tuple(range(count)) or (-1,)
