"""The weights of a whole dag at once are those that Airflow's strategies give task by task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization
from airflow.task.priority_strategy import (
    PriorityWeightStrategy,
    _AbsolutePriorityWeightStrategy,
    _DownstreamPriorityWeightStrategy,
    _UpstreamPriorityWeightStrategy,
)
from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.plans.templates import compile_templates

if TYPE_CHECKING:
    import pytest

STRATEGIES: dict[str, PriorityWeightStrategy] = {
    "absolute": _AbsolutePriorityWeightStrategy(),
    "downstream": _DownstreamPriorityWeightStrategy(),
    "upstream": _UpstreamPriorityWeightStrategy(),
}


@dataclass
class Weighed:
    """As much of a task instance as the strategies look at."""

    task: Any


@st.composite
def weighted_dags(draw: st.DrawFn) -> DAG:
    """Draw a dag whose tasks have weights, rules and edges from earlier to later ones."""
    count = draw(st.integers(1, 12))
    with DAG("dag", schedule=None) as dag:
        tasks = [
            EmptyOperator(
                task_id=f"t{number}",
                priority_weight=draw(st.integers(-3, 5)),
                weight_rule=draw(st.sampled_from(sorted(STRATEGIES))),
            )
            for number in range(count)
        ]
        edges = [(a, b) for b in range(count) for a in range(b)]
        for a, b in draw(st.lists(st.sampled_from(edges), unique=True)) if edges else ():
            tasks[a] >> tasks[b]
    return dag


@given(weighted_dags())
def test_weights_are_those_of_airflows_strategies(dag: DAG) -> None:
    serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    templates = compile_templates(serialized)
    assert templates is not None
    wanted = {
        task_id: STRATEGIES[dag.get_task(task_id).weight_rule].get_weight(Weighed(op))
        for task_id, op in serialized.task_dict.items()
    }
    assert {template.task_id: template.priority_weight for template in templates} == wanted


class ByTry(PriorityWeightStrategy):  # type: ignore[misc]
    """A rule of a user's that looks at the task instance."""

    def get_weight(self, ti: Any) -> int:
        """Return what no dag can tell."""
        return int(ti.try_number)


def test_a_rule_of_the_users_leaves_the_instances_to_airflow(monkeypatch: pytest.MonkeyPatch) -> None:
    with DAG("dag", schedule=None) as dag:
        EmptyOperator(task_id="task")
    serialized = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    monkeypatch.setattr("async_scheduler.plans.templates._strategy", lambda op: ByTry())
    assert compile_templates(serialized) is None
