"""Workloads and sizes as they are written on the command line."""

from __future__ import annotations

import pytest

from poc_bench.arms import ARMS, FLOOR
from poc_bench.errors import UsageError
from poc_bench.matrix import Matrix
from poc_bench.presets import FULL, QUICK
from poc_bench.tuning import GRID, Trial, best
from poc_bench.workloads import WORKLOADS, sized, sized_list
from poc_bench.workloads.mixed_rules import RULES


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("preset", ["defaults", "quick", "full"])
def test_a_plan_is_the_same_every_time_and_its_label_names_it(name: str, preset: str) -> None:
    work = sized(name, preset)  # type: ignore[arg-type]
    assert work.plan(7) == work.plan(7)
    assert sized(work.label).plan(7) == work.plan(7)


@pytest.mark.parametrize("name", WORKLOADS)
def test_upstream_tasks_exist_and_come_first(name: str) -> None:
    for dag in sized(name, "quick").plan(1).dags:
        seen: set[str] = set()
        for task in dag.tasks:
            assert set(task.upstream) <= seen
            seen.add(task.task_id)


def test_the_seed_changes_what_is_drawn() -> None:
    assert sized("many-small").plan(1) != sized("many-small").plan(2)


def test_counts() -> None:
    assert sized("layers:dags=2,runs=3,tasks=40").plan(1).task_instances == 240
    assert sized("mapped:width=100,dags=0").plan(1).task_instances == 101
    assert sized("catch-up:dags=3,intervals=7,tasks=2").plan(1).runs == 21
    assert sized("history:history=3000000").plan(1).history == 3_000_000


def test_mixed_rules_covers_every_rule_a_plain_task_can_have() -> None:
    from airflow.sdk import TriggerRule

    only_for_teardowns = {"all_done_setup_success"}
    assert set(RULES) == {rule.value for rule in TriggerRule} - only_for_teardowns


def test_lists_of_sizes() -> None:
    works = sized_list("layers:dags=1,runs=2,star,linear:length=3", overrides="duration=0.5")
    assert [work.workload.name for work in works] == ["layers", "star", "linear"]
    assert works[0].parameters["runs"] == 2
    assert all(work.parameters["duration"] == 0.5 for work in works)


@pytest.mark.parametrize("text", ["nothing", "layers:colour=1", "layers:dags=many"])
def test_what_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(UsageError):
        sized(text)


def test_arms_change_fastest_and_the_floor_comes_first() -> None:
    matrix = Matrix([sized("star", "quick")], [ARMS["sync"], ARMS["naive"]], rtts=(0, 2.5), repeats=2)
    names = [(key.repeat, key.rtt, key.arm.name) for key in matrix.cells()]
    assert names[:3] == [(1, 0, "floor"), (1, 0, "sync"), (1, 0, "naive")]
    assert names[3:] == [
        (repeat, rtt, arm)
        for repeat, rtt in ((1, 2.5), (2, 0), (2, 2.5))
        for arm in ("floor", "sync", "naive")
    ]
    assert len(matrix) == 12


def test_profiles_are_cells_of_their_own_without_a_floor() -> None:
    matrix = Matrix([sized("star", "quick")], [ARMS["sync"]], profile=True)
    assert [(key.arm is FLOOR, key.profile) for key in matrix.cells()] == [
        (True, None),
        (False, None),
        (False, "speedscope"),
        (False, "flamegraph"),
    ]


def test_work_that_the_scheduler_creates_has_no_floor() -> None:
    for name in ("catch-up", "mapped", "steady", "idle"):
        assert FLOOR not in [key.arm for key in Matrix([sized(name, "quick")], [ARMS["sync"]]).cells()]


def test_the_best_trial_is_taken() -> None:
    trials = [Trial(GRID[0], 5.0), Trial(GRID[1], None), Trial(GRID[2], 9.0)]
    assert best(trials, higher_is_better=True) == GRID[2]
    assert best(trials, higher_is_better=False) == GRID[0]


def test_presets_name_what_exists() -> None:
    for chosen in (QUICK, FULL):
        assert sized_list(chosen.workloads, preset=chosen.sizes)
        assert set(chosen.arms.split(",")) <= set(ARMS)
