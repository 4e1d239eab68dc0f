"""CeleryExecutor with a real broker and a real worker, alone and beside LocalExecutor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.executors.field import Field

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.xdist_group("cluster")]

FAULTS = pytest.mark.faults
ALONE = {"AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"}
ALGORITHMS = ["redesigned", pytest.param("upstream", marks=FAULTS)]


def algorithm_of(name: str) -> dict[str, str]:
    """Return the variables that choose an algorithm."""
    return {"AIRFLOW__ASYNC_SCHEDULER__ALGORITHM": name}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_executors_at_once_each_run_the_tasks_that_chose_them(field: Field, algorithm: str) -> None:
    scheduler = field.start(**algorithm_of(algorithm))
    field.trigger("both")
    field.until(field.succeeded)
    scheduler.stop()
    assert field.ran() == {
        **{f"celery_{number}": ["celery"] for number in (1, 2, 3)},
        **{f"local_{number}": ["local"] for number in (1, 2)},
        "default": ["celery"],
    }
    assert {(task.state, task.try_number) for task in field.task_instances()} == {("success", 1)}


@FAULTS
@pytest.mark.parametrize("algorithm", ["redesigned", "upstream"])
def test_a_killed_schedulers_tasks_are_adopted_and_run_once(field: Field, algorithm: str) -> None:
    first = field.start(**ALONE, **algorithm_of(algorithm))
    field.trigger("gated")
    # All are with the broker; two of them, as many as the worker has room for, wait at the gate.
    field.until(lambda: field.redis.messages() == 4 and len(field.ran()) == 2)
    first.kill()
    second = field.start(**ALONE, **algorithm_of(algorithm))
    field.until(lambda: "Adopted the following 4 tasks from a dead executor" in second.text)
    (field.work / "open").touch()
    field.until(field.succeeded)
    second.stop()
    assert field.ran() == {name: ["celery"] for name in (*(f"before_{n}" for n in range(4)), "after")}
    assert {(task.state, task.try_number) for task in field.task_instances()} == {("success", 1)}


@FAULTS
@pytest.mark.parametrize("algorithm", ["redesigned", "upstream"])
def test_schedulers_killed_at_any_moment_lose_and_repeat_nothing(field: Field, algorithm: str) -> None:
    # What was queued and never reached the broker is given out again when it counts as stuck.
    variables = {
        **ALONE,
        **algorithm_of(algorithm),
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
    }
    scheduler = field.start(**variables)
    field.trigger("many", runs=3)
    for done in (4, 14, 24):
        field.until(lambda done=done: sum(map(len, field.ran().values())) >= done)  # type: ignore[misc]
        scheduler.kill()
        scheduler = field.start(**variables)
    field.until(lambda: field.succeeded(3))
    scheduler.stop()
    assert {name: len(where) for name, where in field.ran().items()} == {
        f"lane_{lane}_{step}": 3 for lane in range(4) for step in range(3)
    }
    assert {(task.state, task.try_number) for task in field.task_instances()} == {("success", 1)}
