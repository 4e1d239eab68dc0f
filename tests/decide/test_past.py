"""What the previous run holds back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from async_scheduler.decide.past import PreviousRun, blocked_tasks
from async_scheduler.decide.plan import DagPlan, TaskPlan

DAY_1, DAY_2 = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


def plan(catchup: bool = False, **first: object) -> DagPlan:
    tasks = (
        TaskPlan(0, "a", downstream=(1,), depends_on_past=True, **first),  # type: ignore[arg-type]
        TaskPlan(1, "b", upstream=(0,)),
    )
    return DagPlan("d", tasks, (), ((), ()), (), {"a": 0, "b": 1}, catchup=catchup)


def blocked(
    of: DagPlan, unsuccessful: dict[int, int], *, logical_date: datetime = DAY_1, seen: tuple[int, ...] = ()
) -> bool:
    return bool(blocked_tasks(of, PreviousRun(logical_date, unsuccessful), False, seen))


def test_nothing_waits_without_a_previous_run_or_in_the_first_run_of_a_backfill() -> None:
    assert not blocked_tasks(plan(), None, False, ())
    assert not blocked_tasks(plan(), PreviousRun(DAY_1, {0: 1}), True, ())


@pytest.mark.parametrize(("unsuccessful", "held"), [({0: 0}, False), ({0: 2}, True), ({1: 0}, True)])
def test_only_successful_instances_let_the_task_go_on(unsuccessful: dict[int, int], held: bool) -> None:
    assert blocked(plan(), unsuccessful) is held


def test_a_task_that_ignores_its_first_dependence_goes_on_only_if_it_is_new() -> None:
    new = plan(ignore_first_depends_on_past=True)
    assert not blocked(new, {1: 0})
    assert blocked(new, {1: 0}, seen=(0,))


def test_downstream_of_the_previous_run_is_waited_for_on_request() -> None:
    assert not blocked(plan(), {0: 0, 1: 1})
    assert blocked(plan(wait_for_downstream=True), {0: 0, 1: 1})


def test_with_catchup_a_task_that_started_later_does_not_wait() -> None:
    assert not blocked(plan(catchup=True, start_date=DAY_2), {0: 1})
    assert blocked(plan(catchup=False, start_date=DAY_2), {0: 1})
    assert blocked(plan(catchup=True, start_date=DAY_1), {0: 1})
