"""End states, limits, and what may not happen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from poc_bench.correctness import differences, end_state, most_at_once, violations
from poc_bench.database.rows import RunRow, TaskInstanceRow
from poc_bench.observation import Observation
from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.record import CellRecord
from poc_bench.referee import Referee

START = datetime(2026, 1, 1, tzinfo=UTC)
PLAN = Plan(
    dags=(
        DagSpec("d", (TaskSpec("a", pool="narrow", pool_slots=2), TaskSpec("b")), runs=2, max_active_tasks=1),
    ),
    pools={"narrow": 2},
)


def at(second: float) -> datetime:
    return START + timedelta(seconds=second)


def run_row(run_id: str, begin: float = 0, end: float = 9, state: str = "success") -> RunRow:
    return RunRow("d", run_id, state, at(0), at(0), at(begin), at(end))


def ti_row(run_id: str, task_id: str, begin: float, end: float, state: str = "success") -> TaskInstanceRow:
    pool, slots = ("narrow", 2) if task_id == "a" else ("default_pool", 1)
    return TaskInstanceRow("d", run_id, task_id, -1, state, 1, pool, slots, at(begin), at(begin), at(end))


def observation(
    instances: list[TaskInstanceRow],
    samples: list[list[TaskInstanceRow]] | None = None,
    workers: dict[str, object] | None = None,
) -> Observation:
    return Observation(
        opened=START,
        seconds_to_ready=1,
        scheduler_cpu=1,
        harness_cpu_share=0,
        server_cpu=None,
        foreign_cores=None,
        peak_rss_mib=1,
        connections=1,
        samples=samples or [],
        runs=[run_row("r1"), run_row("r2")],
        task_instances=instances,
        earlier_tries=[],
        counters=[],
        workers={"run_twice": [], "refused": 0, "submitted_twice": 0, **(workers or {})},
        server={},
        other_commits=None,
    )


RIGHT = [ti_row("r1", "a", 0, 1), ti_row("r2", "a", 1, 2), ti_row("r1", "b", 1, 2), ti_row("r2", "b", 2, 3)]


def test_slots_freed_at_a_moment_may_be_taken_at_that_moment() -> None:
    assert most_at_once([(at(0), at(1), 2), (at(1), at(2), 3), (at(1.5), at(1.6), 1)]) == 4


def test_work_done_right_has_no_violations() -> None:
    assert violations(PLAN, observation(RIGHT, samples=[RIGHT[:1]])) == []


def test_a_pool_filled_beyond_its_slots_is_found() -> None:
    instances = [ti_row("r1", "a", 0, 1), ti_row("r2", "a", 0.5, 2)]
    assert violations(PLAN, observation(instances)) == ["pool narrow: 4 at once, the limit is 2"]


def test_max_active_tasks_holds_for_each_run() -> None:
    instances = [ti_row("r1", "a", 0, 2), ti_row("r1", "b", 1, 2)]
    assert violations(PLAN, observation(instances)) == ["max_active_tasks d/r1: 2 at once, the limit is 1"]


def test_samples_are_checked_too() -> None:
    found = violations(PLAN, observation(RIGHT, samples=[RIGHT[:2]]))
    assert found == ["pool narrow: 4 in a sample, the limit is 2"]


def test_max_active_runs() -> None:
    plan = Plan(dags=(DagSpec("d", PLAN.dags[0].tasks, runs=2, max_active_runs=1),), pools=PLAN.pools)
    assert violations(plan, observation(RIGHT)) == ["max_active_runs d: 2 at once, the limit is 1"]


def test_what_the_workers_saw_counts() -> None:
    found = violations(
        PLAN, observation(RIGHT, workers={"run_twice": [["d", "r1", "a", -1, 1]], "refused": 3})
    )
    assert found == [
        "run twice: d/r1/a/-1/1",
        "3 task instances reached a worker without being queued",
    ]


def test_differences_name_both_ends_and_are_cut() -> None:
    reference = end_state([run_row("r1")], [ti_row("r1", "a", 0, 1)])
    other = end_state([run_row("r1", state="failed")], [])
    assert sorted(differences(reference, other)) == [
        "d/r1/a/-1: success, try 1 in the sync arm, absent here",
        "d/r1: success in the sync arm, failed here",
    ]
    many = differences({f"x{n}": "success" for n in range(15)}, {})
    assert many[-1] == "… and 5 more"


def cell(arm: str) -> CellRecord:
    return CellRecord("w", "w:n=1", arm, 0, 1, 1, {})


def test_the_referee_waits_for_the_sync_arm() -> None:
    referee = Referee(["naive", "sync"])
    early, reference, late = cell("naive"), cell("sync"), cell("naive")
    referee.judge(early, {"d/r": "failed"})
    assert early.compared_with is None
    referee.judge(reference, {"d/r": "success"})
    referee.judge(late, {"d/r": "success"})
    assert early.differences == ["d/r: success in the sync arm, failed here"]
    assert (late.correct, late.compared_with) == (True, "sync")


def test_without_a_sync_arm_nothing_is_compared() -> None:
    referee, alone = Referee(["naive"]), cell("naive")
    referee.judge(alone, {})
    assert alone.compared_with is None
