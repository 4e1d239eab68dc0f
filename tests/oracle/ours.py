"""The same run decided by this project's pure functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from async_scheduler.decide.board import Board
from async_scheduler.decide.evaluate import evaluate
from async_scheduler.decide.facts import RunFacts
from async_scheduler.decide.past import PreviousRun, blocked_tasks
from async_scheduler.decide.states import CODES, NAMES
from async_scheduler.plans.compile import compile_plan
from tests.oracle.airflow import Instance, Rest, instances_of
from tests.oracle.dags import START_DATE

if TYPE_CHECKING:
    from async_scheduler.decide.evaluate import Outcome
    from async_scheduler.decide.plan import DagPlan
    from tests.oracle.dags import Dag

Instances = dict[tuple[int, int], Instance]


def rest(dag: Dag, serialized: Any) -> Rest | None:
    """Visit the run of *dag* until nothing is left to decide; None if it is left to Airflow's code."""
    plan = compile_plan(serialized)
    instances: Instances = {
        (number, index): Instance(state, task.try_number if state else 0, False, state == "up_for_retry")
        for number, task in enumerate(dag.tasks)
        for index, state in instances_of(task)
    }
    while True:
        order = sorted(instances, key=lambda key: (plan.index[dag.name(key[0])], key[1]))
        board = Board(
            plan,
            [plan.index[dag.name(number)] for number, _ in order],
            [index for _, index in order],
            [CODES[instances[key].state] for key in order],
        )
        outcome = evaluate(board, _facts(dag, plan, order, instances))
        if outcome.strange:
            return None
        _apply(outcome, order, instances)
        if not outcome.unsettled:
            break
    return Rest(outcome.verdict.run_state if outcome.verdict else "running", instances)


def _apply(outcome: Outcome, order: list[tuple[int, int]], instances: Instances) -> None:
    for position in outcome.scheduled:
        instances[order[position]] = _scheduled(instances[order[position]])
    for position in outcome.emptied:
        tries = instances[order[position]].try_number
        instances[order[position]] = Instance("success", tries + 1, True, True)
    for position, state in outcome.flagged.items():
        tries = instances[order[position]].try_number
        instances[order[position]] = Instance(NAMES[state], tries, True, True)
    for position, length in outcome.expanded.items():
        number, _ = order[position]
        if not length:
            ended = "upstream_failed" if length is None else "skipped"
            instances[order[position]] = Instance(ended, 0, False, False)
            continue
        del instances[order[position]]
        instances.update({(number, index): Instance(None, 0, False, False) for index in range(length)})


def _scheduled(instance: Instance) -> Instance:
    tries = instance.try_number + (instance.state != "up_for_reschedule")
    return Instance("scheduled", tries, instance.started, instance.ended)


def _facts(dag: Dag, plan: DagPlan, order: list[tuple[int, int]], instances: Instances) -> RunFacts:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    returned = {plan.index[dag.name(number)]: (task.returned, task) for number, task in enumerate(dag.tasks)}
    return RunFacts(
        waiting={
            position: tomorrow
            for position, key in enumerate(order)
            if instances[key].state in ("up_for_retry", "up_for_reschedule") and not dag.tasks[key[0]].due
        },
        blocked_by_past=_blocked(dag, plan),
        skips={
            (plan.index[dag.name(number)], -1): decision
            for number in range(len(dag.tasks))
            if (decision := _decision(dag, number))
        },
        lengths={index: n for index, (n, task) in returned.items() if n is not None and not task.mapped},
        returned={
            index: min(n, len(task.indexes))
            for index, (n, task) in returned.items()
            if n is not None and task.mapped
        },
    )


def _blocked(dag: Dag, plan: DagPlan) -> frozenset[int]:
    past = {
        plan.index[dag.name(number)]: int(task.past not in ("success", "skipped"))
        for number, task in enumerate(dag.tasks)
    }
    return blocked_tasks(plan, PreviousRun(START_DATE, past), False, set())


def _decision(dag: Dag, number: int) -> dict[str, list[str]]:
    task = dag.tasks[number]
    return {
        key: [dag.name(other) for other in numbers]
        for key, numbers in (("followed", task.followed), ("skipped", task.skipped))
        if numbers is not None
    }
