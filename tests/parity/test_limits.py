"""Limits and pools: both schedulers queue the same task instances within the same room."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance

from tests.parity.test_queueing import scheduled, small
from tests.parity.world import World, both


@both()
@pytest.mark.parametrize("active", ["running", "queued", "deferred", "awaiting_input", "restarting"])
def test_max_active_tasks_is_per_run(w: World, active: str) -> None:
    w.dag(tasks="a b c d", max_active_tasks=2)
    for number in range(3):
        w.run(number=number)
        scheduled(w, *"abcd", run=number)
        for task in "abcd"[: 2 - number]:
            w.ti(task, active, run=number)
    w.enqueue()
    w.check()
    w.enqueue()
    assert w.states()["queued"] >= 2


@both(small(70))
def test_big_dags_do_not_crowd_out_small_ones(w: World) -> None:
    for number in range(4):
        names = [f"t{task}" for task in range(5 + 10 * number)]
        w.dag(f"dag{number}", tasks=" ".join(names), max_active_tasks=4)
        w.run(f"dag{number}")
        scheduled(w, *names, dag=f"dag{number}")
    w.enqueue()
    assert w.states()["queued"] == 16


ACTIVE = ("running", "queued", "deferred", "awaiting_input", "restarting", "success")


@both()
@pytest.mark.parametrize("option", ["max_active_tis_per_dag", "max_active_tis_per_dagrun"])
@pytest.mark.parametrize("limit", [1, 2])
def test_limits_per_task(w: World, option: str, limit: int) -> None:
    """Each state that may count, in this run or in another; a sibling without a limit beside it."""
    for number, state in enumerate(ACTIVE):
        dag = f"dag{number}"
        w.dag(dag, tasks={"a": {option: limit}, "b": {}})
        for run in range(3):
            w.run(dag, run)
            scheduled(w, "a", "b", dag=dag, run=run)
        w.ti("a", state, dag=dag)
    w.enqueue()
    w.check()
    with w.rows() as session:
        ended = TaskInstance.__table__.update().where(TaskInstance.state.in_(ACTIVE[:5]))
        session.execute(ended.values(state="success"))
    w.enqueue()
    assert w.states()["success"] >= 6


@both()
def test_limits_of_mapped_tasks(w: World) -> None:
    from tests.parity.test_mapping import mapped_dag

    mapped_dag([1, 2, 3], max_active_tis_per_dagrun=1)
    w.run()
    w.run(number=1)
    w.ti("m", "scheduled", try_number=1)
    w.ti("m", "scheduled", run=1, try_number=1)
    w.ti("m", "deferred", index=0)
    w.enqueue()
    assert w.states() == {"queued": 1, "scheduled": 4, "deferred": 1}


@both(small(1))
@pytest.mark.parametrize("block", ["run", "task", "run-task", "other-run"])
def test_what_is_blocked_makes_way(w: World, block: str) -> None:
    limits = {"task": {"max_active_tis_per_dag": 1}, "run": {}}.get(block, {"max_active_tis_per_dagrun": 1})
    w.dag(
        tasks={"a": {**limits, "priority_weight": 9}, "b": {}, "c": {}},
        max_active_tasks=1 if block == "run" else 9,
    )
    w.dag("other")
    for number in range(2):
        w.run(number=number)
    w.run("other")
    scheduled(w, "a", priority_weight=9)
    if block == "run":
        w.ti("b", "running")
    elif block == "run-task":
        scheduled(w, "b")
        w.ti("a", "running")
    else:
        w.ti("a", "running", run=1)
    scheduled(w, "a", dag="other")
    w.enqueue()
    assert w.states()["queued"] == 1


@both()
def test_a_parked_task_blocks_only_itself(w: World) -> None:
    w.dag(tasks={"a": {"max_active_tis_per_dag": 1}, "b": {"max_active_tis_per_dag": 1}}, max_active_tasks=2)
    w.run()
    w.run(number=1)
    scheduled(w, "a", "b")
    scheduled(w, "a", "b", run=1)
    w.ti("a", "deferred")
    w.enqueue()
    assert w.states() == {"deferred": 1, "queued": 1, "scheduled": 2}


# --- pools ------------------------------------------------------------------------------------------------


@both()
@pytest.mark.parametrize("slots", [-1, 0, 2, 3, 5, 7])
@pytest.mark.parametrize("deferred", [False, True])
def test_slots_of_a_pool(w: World, slots: int, deferred: bool) -> None:
    """Tasks of one to four slots by falling weight, beside active ones in every state."""
    w.compare_metrics("pool.starving", "scheduler.tasks", "task.scheduled_duration")
    w.pool("p", slots, include_deferred=deferred)
    sizes = {"a": 1, "b": 2, "c": 4, "d": 1, "e": 2}
    active = {"x": "running", "y": "deferred", "z": "awaiting_input"}
    tasks: dict[str, Any] = {task: {"pool": "p", "pool_slots": size} for task, size in sizes.items()}
    w.dag(tasks={**tasks, **{task: {"pool": "p"} for task in active}, "other": {}})
    w.run()
    for number, task in enumerate(sizes):
        scheduled(w, task, priority_weight=9 - number)
    scheduled(w, "other")
    for task, state in active.items():
        w.ti(task, state)
    w.enqueue()
    assert w.state("other") == "queued"


@both()
@pytest.mark.parametrize("running", [0, 1])
def test_the_default_pool(w: World, running: int) -> None:
    w.pool("default_pool", 1)
    w.dag(tasks="a b")
    w.run()
    scheduled(w, "a", priority_weight=2)
    scheduled(w, "b")
    if running:
        w.ti("a", "running")
    w.enqueue()
    assert w.states()["scheduled"] == 1


@both()
def test_an_unknown_pool(w: World) -> None:
    w.compare_metrics("pool.starving", "scheduler.tasks")
    w.dag(tasks={"a": {"pool": "gone"}, "b": {}})
    w.run()
    scheduled(w, "a", "b")
    w.enqueue()
    assert w.states() == {"scheduled": 1, "queued": 1}


@both()
@pytest.mark.parametrize("room", [1, 2])
def test_a_task_too_big_for_now(w: World, room: int) -> None:
    w.pool("p", room)
    w.dag(tasks={"a": {"pool": "p", "pool_slots": 2}, "b": {"pool": "p"}, "c": {"pool": "p"}})
    w.run()
    scheduled(w, "a", priority_weight=2)
    scheduled(w, "b", priority_weight=3)
    scheduled(w, "c", priority_weight=1)
    w.enqueue()
    assert w.state("a") == "scheduled"


@both()
def test_a_shrunken_pool_blocks_no_other(w: World) -> None:
    w.pool("p", 1)
    w.pool("q", 1)
    w.dag(tasks={"a": {"pool": "p", "pool_slots": 2}, "b": {"pool": "q"}, "c": {"pool": "p"}})
    w.run()
    scheduled(w, "b", "c")
    w.ti("a", "running")
    w.enqueue()
    assert w.states() == {"running": 1, "queued": 1, "scheduled": 1}


@both()
def test_no_pool_has_room(w: World) -> None:
    w.pool("default_pool", 0)
    w.dag()
    w.run()
    scheduled(w, "a")
    w.enqueue()
    assert w.states() == {"scheduled": 1}


@both()
def test_a_full_pool_at_the_head(w: World) -> None:
    w.pool("p", 1)
    w.pool("q", 10)
    for number in range(2):
        names = [f"t{task}" for task in range(20)]
        pool = "pq"[number]
        w.dag(f"dag{number}", tasks={name: {"pool": pool} for name in names}, max_active_tasks=20)
        w.run(f"dag{number}")
        for weight, name in enumerate(names):
            scheduled(w, name, dag=f"dag{number}", priority_weight=100 * (1 - number) + weight)
    w.enqueue()
    assert w.states() == {"queued": 11, "scheduled": 29}


@both()
def test_starved_pools_do_not_use_up_the_limit_of_a_run(w: World) -> None:
    w.pool("p", 0)
    w.pool("q", 64)
    names = [f"t{task}" for task in range(10)]
    tasks: dict[str, Any] = {name: {"pool": "p" if number < 2 else "q"} for number, name in enumerate(names)}
    w.dag(tasks=tasks, max_active_tasks=4)
    w.run()
    for weight, name in enumerate(reversed(names)):
        scheduled(w, name, priority_weight=weight)
    w.enqueue()
    assert w.states() == {"queued": 4, "scheduled": 6}
