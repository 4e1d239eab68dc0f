"""Which runs are taken when: marks, times, and runs kept apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.routines.redesigned.dirty import DirtyRuns, Known

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def test_a_run_kept_apart_waits_for_its_time_and_is_taken_alone() -> None:
    dirty = DirtyRuns()
    dirty.keep_apart(1, NOW + SECOND)
    dirty.mark([1, 2, 3])
    assert dirty.due_in(NOW) == 0.0
    assert dirty.take(9, NOW) == [2, 3]
    assert dirty.take(9, NOW) == []
    assert dirty.due_in(NOW) == 1.0
    dirty.mark([4])
    assert dirty.take(9, NOW + SECOND) == [1]
    assert dirty.take(9, NOW + SECOND) == [4]


def test_a_run_due_earlier_than_one_kept_apart_decides() -> None:
    dirty = DirtyRuns()
    dirty.keep_apart(1, NOW + 3 * SECOND)
    dirty.mark([1])
    dirty.mark_at(2, NOW + SECOND)
    assert dirty.due_in(NOW) == 1.0
    assert dirty.take(9, NOW + SECOND) == [2]
    assert dirty.due_in(NOW + SECOND) == 2.0


def test_a_run_that_was_forgotten_is_like_any_other() -> None:
    dirty = DirtyRuns()
    dirty.keep_apart(1, NOW + SECOND)
    dirty.forget(1)
    dirty.mark([1, 2])
    assert dirty.take(9, NOW) == [1, 2]


def test_runs_behind_one_that_is_gone_are_looked_at() -> None:
    dirty = DirtyRuns()
    known = ("a", 0), ("a", 1), ("a", 2), ("a", None), ("b", 2), ("c", 0), ("c", 1), ("a", 3)
    for run, (dag_id, day) in enumerate(known):
        date = None if day is None else NOW + timedelta(days=day)
        dirty.remember(run, Known(dag_id, date, 0, has_past=dag_id != "c"))
    assert dirty.see([0, 2, 3, 4, 6], dirty.before_looking(), whole=False) == 0
    assert dirty.see([0, 2, 3, 4, 6], dirty.before_looking()) == 1  # 1 and 5 ended; 7 is paused
    assert dirty.take(9, NOW) == [2]


@given(st.lists(st.tuples(st.sampled_from("mtra"), st.integers(0, 5)), max_size=60))
def test_no_run_is_in_two_hands_and_none_is_lost(steps: list[tuple[str, int]]) -> None:
    dirty, now = DirtyRuns(), NOW
    taken: list[list[int]] = []
    asked: set[int] = set()
    for step, number in steps:
        if step == "m":
            dirty.mark([number])
            asked.add(number)
        elif step == "a":
            dirty.keep_apart(number, now + number * SECOND)
        elif step == "r" and taken:
            dirty.release(taken.pop(0))
        elif step == "t":
            got = dirty.take(max(1, number), now)
            assert not {run for runs in taken for run in runs} & set(got)
            asked -= set(got)
            taken.append(got)
        now += SECOND / 2
    for runs in taken:
        dirty.release(runs)
    rest: set[int] = set()
    while (due_in := dirty.due_in(now)) is not None:
        now += timedelta(seconds=due_in)
        got = dirty.take(2, now)
        assert got
        dirty.release(got)
        rest |= set(got)
    assert rest == asked


def test_a_clock_that_is_set_back_does_not_hold_up_a_run_kept_apart() -> None:
    dirty = DirtyRuns()
    dirty.keep_apart(1, NOW + SECOND)
    dirty.mark([1])
    before = NOW - 3600 * SECOND
    assert dirty.due_in(before) == 0.0
    assert dirty.take(5, before) == [1]
