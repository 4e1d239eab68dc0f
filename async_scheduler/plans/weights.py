"""Priority weights that count all tasks before or after one, for the whole dag at once.

Airflow's strategies walk the dag again for each task and each of its relatives
(``get_flat_relative_ids``): 80 ms for a dag of 500 tasks in layers of ten. Here each task's relatives are
one integer with a bit for each task, put together from those of its direct relatives.
"""

from __future__ import annotations

from collections import defaultdict
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from airflow.serialization.definitions.dag import SerializedDAG


def downstream_weights(dag: SerializedDAG) -> dict[str, int]:
    """Return by task id what ``_DownstreamPriorityWeightStrategy.get_weight`` returns for it."""
    return _weights(dag, {task_id: op.downstream_task_ids for task_id, op in dag.task_dict.items()})


def upstream_weights(dag: SerializedDAG) -> dict[str, int]:
    """Return by task id what ``_UpstreamPriorityWeightStrategy.get_weight`` returns for it."""
    return _weights(dag, {task_id: op.upstream_task_ids for task_id, op in dag.task_dict.items()})


def _weights(dag: SerializedDAG, relatives: Mapping[str, Collection[str]]) -> dict[str, int]:
    """Return each task's own weight plus those of all its direct and indirect *relatives*.

    :raises graphlib.CycleError: if there is a cycle, which no dag is serialized with.
    """
    own = {task_id: op.priority_weight for task_id, op in dag.task_dict.items()}
    bit = {task_id: 1 << number for number, task_id in enumerate(own)}
    with_weight: defaultdict[int, int] = defaultdict(int)
    for task_id, weight in own.items():
        with_weight[weight] |= bit[task_id]
    reached: dict[str, int] = {}
    for task_id in TopologicalSorter(relatives).static_order():
        found = 0
        for relative in relatives[task_id]:
            found |= reached[relative] | bit[relative]
        reached[task_id] = found
    return {
        task_id: weight + sum(w * (tasks & reached[task_id]).bit_count() for w, tasks in with_weight.items())
        for task_id, weight in own.items()
    }
