"""The critical section's rules, one at a time. Numbers in names refer to the scenarios of Airflow's tests."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.decide.admit import ActiveTasks, Admission, Candidate, PoolSlots, TaskLimits

if TYPE_CHECKING:
    from collections.abc import Iterable

ENDLESS = float("inf")


def candidate(number: int, **values: Any) -> Candidate:
    """Return a candidate that fits anywhere unless *values* say otherwise."""
    defaults: dict[str, Any] = {
        "dag_id": "dag",
        "task_id": f"t{number}",
        "run_id": "run",
        "map_index": -1,
        "pool": "pool",
        "pool_slots": 1,
        "executor": None,
        "max_active_tasks": 100,
        "limited": False,
    }
    return Candidate(number, **{**defaults, **values})


def admission(
    pools: dict[str, PoolSlots] | None = None,
    run_active: dict[tuple[str, str], int] | None = None,
    slots: int = 1000,
) -> Admission:
    """Return a section with one pool and one executor."""
    return Admission(
        pools if pools is not None else {"pool": PoolSlots(100, 100)},
        Counter(run_active or {}),
        {None: "default"},
        {"default": slots},
    )


def ids(admitted: Iterable[Candidate]) -> list[int]:
    """Return which were admitted."""
    return [one.id for one in admitted]


def test_a_full_pool_starves_and_is_counted() -> None:
    section = admission({"pool": PoolSlots(2, 1)})
    assert ids(section.admit([candidate(1), candidate(2), candidate(3)])) == [1]
    assert section.starved.pools == {"pool"}
    assert section.starving == {"pool": 2}


def test_pools_full_from_the_start_are_left_out_of_the_first_look() -> None:
    assert admission({"pool": PoolSlots(2, 0), "other": PoolSlots(1, 1)}).starved.pools == {"pool"}


def test_a_pool_without_bound_never_starves() -> None:
    section = admission({"pool": PoolSlots(ENDLESS, ENDLESS)})
    assert len(section.admit([candidate(n, pool_slots=50) for n in range(20)])) == 20


def test_lower_weights_use_what_a_wide_task_cannot() -> None:
    """O06, O10: the slots that are left go to whoever fits."""
    section = admission({"pool": PoolSlots(2, 2)})
    wide = candidate(2, pool_slots=2)
    assert ids(section.admit([candidate(3), wide, candidate(1)])) == [3, 1]
    assert section.starved.tasks == {("dag", "t2")}


def test_a_task_that_can_never_fit_is_reported() -> None:
    """O05."""
    section = admission({"pool": PoolSlots(2, 2)})
    assert ids(section.admit([candidate(1, pool_slots=4), candidate(2)])) == [2]
    assert [note.level for note in section.notes] == [logging.WARNING]


def test_an_unknown_pool_is_reported_and_starved() -> None:
    """O03."""
    section = admission()
    assert section.admit([candidate(1, pool="gone")]) == []
    assert section.starved.pools == {"gone"}
    assert not section.starving


def test_an_overfull_pool_does_not_block_another() -> None:
    """O07."""
    section = admission({"pool": PoolSlots(1, -1), "other": PoolSlots(1, 1)})
    assert section.open_slots == 1
    assert ids(section.admit([candidate(1), candidate(2, pool="other")])) == [2]


@pytest.mark.parametrize(("active", "fitting"), [(0, 2), (1, 1), (2, 0), (3, 0)])
def test_the_limit_of_active_tasks_is_per_run(active: int, fitting: int) -> None:
    """N03: another run of the dag has room of its own."""
    section = admission(run_active={("dag", "run"): active})
    of_run = [candidate(n, max_active_tasks=2) for n in range(3)]
    other = candidate(9, run_id="other", max_active_tasks=2)
    assert ids(section.admit([*of_run, other])) == [*range(fitting), 9]


def test_limits_per_task_count_deferred_ones_and_other_runs() -> None:
    """N04, N05, N07."""
    section = admission()
    section.limits["dag", "t"] = TaskLimits(per_dag=2, per_run=1)
    section.count_active(ActiveTasks(Counter({("dag", "t"): 1}), Counter({("dag", "a", "t"): 1})))
    waiting = [candidate(n, task_id="t", run_id=run) for n, run in enumerate("abc")]
    assert ids(section.admit([*waiting, candidate(9)])) == [1, 9]
    assert section.starved.run_tasks == {("dag", "a", "t")}
    assert section.starved.tasks == {("dag", "t")}


def test_executor_slots_are_counted_down() -> None:
    section = admission(slots=2)
    assert ids(section.admit([candidate(n) for n in range(4)])) == [0, 1]
    assert section.starved.executors == {None}


def test_an_executor_that_does_not_exist_takes_nothing() -> None:
    section = admission()
    assert ids(section.admit([candidate(1, executor="gone"), candidate(2)])) == [2]
    assert section.starved.executors == {"gone"}


def test_what_was_admitted_counts_in_the_next_batch() -> None:
    section = admission({"pool": PoolSlots(3, 3)})
    section.admit([candidate(1), candidate(2)])
    assert ids(section.admit([candidate(3), candidate(4)])) == [3]


candidates = st.builds(
    candidate,
    st.integers(1, 1000),
    task_id=st.sampled_from("ab"),
    run_id=st.sampled_from("xyz"),
    pool=st.sampled_from(["pool", "narrow", "gone"]),
    pool_slots=st.integers(1, 3),
    executor=st.sampled_from([None, "unknown"]),
    max_active_tasks=st.integers(1, 4),
)


def _limited() -> Admission:
    section = admission({"pool": PoolSlots(9, 7), "narrow": PoolSlots(3, 2)}, {("dag", "x"): 1}, slots=6)
    section.limits["dag", "a"] = TaskLimits(per_dag=3, per_run=2)
    return section


@given(first=st.lists(candidates, max_size=8), second=st.lists(candidates, max_size=8))
def test_what_a_copy_admits_leaves_the_section_as_it_was(
    first: list[Candidate], second: list[Candidate]
) -> None:
    section, never_copied = _limited(), _limited()
    section.admit(first)
    copy = section.copy()
    copied = copy.admit(second)
    assert never_copied.admit([*first, *second])[len(section_admitted := _limited().admit(first)) :] == copied
    assert never_copied.starved == copy.starved
    assert never_copied.used_up == copy.used_up
    assert never_copied.notes == copy.notes
    assert section.admit(second) == copied, f"after {len(section_admitted)} the copy had changed it"


def test_what_others_want_too_is_noted_when_it_is_used_up() -> None:
    section = admission({"pool": PoolSlots(3, 3), "other": PoolSlots(9, 9)})
    section.limits["dag", "limited"] = TaskLimits(per_dag=1)
    section.admit([candidate(1, pool_slots=2), candidate(2, pool="other")])
    assert section.used_up == set()
    section.admit([candidate(3, pool_slots=2)])
    assert section.used_up == {"pool"}, "one that wants more than is left may be another scheduler's"
    section.admit([candidate(4, pool="other", task_id="limited")])
    assert section.used_up == {"pool", ("dag", "limited")}
    exactly = admission({"pool": PoolSlots(3, 3)})
    exactly.admit([candidate(1, pool_slots=3)])
    assert exactly.used_up == {"pool"}


def test_a_run_at_its_limit_is_nobody_elses_concern() -> None:
    section = admission()
    section.admit([candidate(n, max_active_tasks=1) for n in range(3)])
    assert section.starved.runs
    assert section.used_up == set()
