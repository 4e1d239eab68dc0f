"""Figures from rows and counters."""

from __future__ import annotations

import pytest

from poc_bench.figures import (
    bystander_delays,
    close_delays,
    decision_rate,
    expansion_times,
    percentiles,
    queue_delays,
    sum_buckets,
)
from poc_bench.plan import DagSpec, Plan, TaskSpec
from tests.bench.test_correctness import at, run_row, ti_row

CHAIN = Plan(dags=(DagSpec("d", (TaskSpec("a"), TaskSpec("b", upstream=("a",)))),))


def test_queue_delay_is_from_the_last_upstream_end() -> None:
    rows = [
        ti_row("r1", "a", 0, 1),
        ti_row("r1", "b", 1.25, 2),
        ti_row("r2", "a", 0, 3),
        ti_row("r2", "b", 3, 4),
    ]
    assert queue_delays(CHAIN, rows) == [0.25, 0.0]


def test_tasks_without_upstream_have_no_queue_delay() -> None:
    assert queue_delays(CHAIN, [ti_row("r1", "a", 0, 1)]) == []


def test_bystanders_are_the_dags_without_maps_beside_one_with() -> None:
    mapped = DagSpec("m", (TaskSpec("a", pushes=2), TaskSpec("b", mapped_over="a", upstream=("a",))))
    rows = [ti_row("r1", "a", 0, 1), ti_row("r1", "b", 1.25, 2)]
    beside = Plan(dags=(*CHAIN.dags, mapped))
    assert bystander_delays(beside, rows) == [0.25]
    assert bystander_delays(CHAIN, rows) == []


def test_a_map_is_expanded_when_its_first_instance_is_queued() -> None:
    mapped = DagSpec("d", (TaskSpec("a", pushes=2), TaskSpec("b", mapped_over="a", upstream=("a",))))
    rows = [ti_row("r1", "a", 0, 1), ti_row("r1", "b", 1.75, 2), ti_row("r1", "b", 1.5, 3)]
    assert expansion_times(Plan(dags=(mapped,)), rows) == [0.5]
    assert expansion_times(CHAIN, rows) == []


def test_decisions_are_counted_up_to_the_last_task_that_waits_for_none() -> None:
    rows = [ti_row("r1", "a", 0.5, 1), ti_row("r2", "a", 1, 9), ti_row("r1", "b", 8, 9)]
    runs = [run_row("r1"), run_row("r2", begin=0.25)]
    assert decision_rate(CHAIN, runs, rows) == 2.0
    assert decision_rate(CHAIN, [], rows) is None
    assert decision_rate(CHAIN, runs, []) is None


def test_close_delay_is_from_the_runs_last_task() -> None:
    rows = [ti_row("r1", "a", 0, 1), ti_row("r1", "b", 1, 2)]
    assert close_delays([run_row("r1", end=2.5), run_row("r2")], rows) == [0.5]


def test_percentiles_are_nearest_ranks() -> None:
    points = percentiles([float(n) for n in range(101)])
    assert (points[0], points[50], points[95], points[100]) == (0.0, 50.0, 95.0, 100.0)
    assert percentiles([7.0]) == [7.0] * 101


def test_buckets_outside_the_window_do_not_count() -> None:
    begin = at(0).timestamp()
    counter = {
        "fields": ["statements", "rows"],
        "buckets_per_second": 20,
        "buckets": {str(int((begin + second) * 20)): [1.0, 5.0] for second in (-1, 0, 1, 2, 3)},
    }
    assert sum_buckets([counter, counter], begin, begin + 2) == pytest.approx({"statements": 6, "rows": 30})
