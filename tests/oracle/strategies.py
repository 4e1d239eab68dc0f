"""What Hypothesis draws: DAGs with every trigger rule, and a state for every task instance."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from tests.oracle.dags import RULES, Dag, Task

FINISHED = ("success", "success", "failed", "skipped", "upstream_failed", "removed")
UNFINISHED = ("up_for_retry", "up_for_reschedule", "scheduled", "queued", "running", "restarting", "deferred")
ROOT_STATES = (*FINISHED, None)
"""Most roots have finished, so that something follows from them."""
INNER_STATES = (None,) * 8 + (
    "success",
    "failed",
    "up_for_retry",
    "up_for_reschedule",
    "running",
    "scheduled",
)
ANY_STATE = (None, *FINISHED, *UNFINISHED)
TEARDOWN_RULES = ("all_done_setup_success", "all_done", "all_success")


@st.composite
def tasks(draw: st.DrawFn, number: int, size: int) -> Task:
    """Draw task *number* of *size*; its upstream are tasks before it."""
    upstream = draw(st.sets(st.integers(0, number - 1), min_size=number > 2, max_size=3)) if number else set()
    role = draw(st.sampled_from(("work", "work", "work", "work", "setup", "teardown")))
    kind = draw(st.sampled_from(("plain", "plain", "empty", "empty", "sensor", "branch")))
    likely = INNER_STATES if upstream else ROOT_STATES
    state = draw(st.sampled_from(ANY_STATE if draw(st.integers(0, 7)) == 0 else likely))
    others = st.sets(st.integers(0, size - 1), max_size=2)
    decides = kind == "branch" and draw(st.booleans())
    return Task(
        upstream=tuple(sorted(upstream)),
        rule=draw(st.sampled_from(TEARDOWN_RULES if role == "teardown" else RULES)),
        kind=kind,
        role=role,
        fails_run=draw(st.booleans()),
        state=state,
        try_number=0 if state is None else 1,
        due=draw(st.booleans()),
        followed=tuple(draw(others)) if decides and draw(st.booleans()) else None,
        skipped=tuple(draw(others)) if decides and draw(st.booleans()) else None,
        depends_on_past=draw(st.integers(0, 9)) == 0,
        wait_for_downstream=draw(st.integers(0, 9)) == 0,
        past=draw(st.sampled_from(("success", "success", "skipped", "failed", None))),
        group=draw(st.sampled_from((-1, -1, 0, 1))),
        limited=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def with_map(draw: st.DrawFn, task: Task, number: int, before: list[Task]) -> Task:
    """Make *task* a mapped one over what tasks *before* it returned, or over literals."""
    literal = st.integers(-10, -7)
    over = st.integers(0, number - 1) | literal if number else literal
    mapped = tuple(draw(st.lists(over, min_size=1, max_size=2)))
    upstream = set(task.upstream) | {parent for parent in mapped if parent >= 0}
    expanded = draw(st.booleans())
    # Instances as many as there should be, most of the time.
    count = draw(st.integers(1, 3))
    states = st.sampled_from((None, None, None, "success", "success", "failed", "skipped", "running"))
    indexes = tuple(draw(st.lists(states, min_size=count, max_size=count))) if expanded else ()
    plain = replace(task, kind="plain", role="work", followed=None, skipped=None)
    if not expanded and plain.state == "up_for_retry":
        # Nothing of it can have run. Airflow would copy the retry, without its end, and raise over it.
        plain = replace(plain, state=None, try_number=0)
    return replace(plain, upstream=tuple(sorted(upstream)), mapped=mapped, indexes=indexes)


@st.composite
def mapped_dags(draw: st.DrawFn, most: int = 6) -> Dag:
    """Draw a DAG some of whose tasks are mapped, and which results are there."""
    size = draw(st.integers(1, most))
    drawn: list[Task] = []
    for number in range(size):
        task = draw(tasks(number, size))
        if draw(st.integers(0, 2)) == 0:
            task = draw(with_map(task, number, drawn))
        elif task.kind == "branch":
            task = replace(task, kind="plain", followed=None, skipped=None)
        drawn.append(replace(task, returned=draw(st.sampled_from((None, 0, 1, 2, 3)))))
    names = draw(st.permutations([f"t{n:02}" for n in range(size)]))
    return Dag(tuple(drawn), tuple(names))


@st.composite
def dags(draw: st.DrawFn, most: int = 9) -> Dag:
    """Draw a DAG with up to *most* tasks whose ids are in no relation to the order of the edges."""
    size = draw(st.integers(1, most))
    drawn: list[Any] = [draw(tasks(number, size)) for number in range(size)]
    names = draw(st.permutations([f"t{n:02}" for n in range(size)]))
    return Dag(tuple(drawn), tuple(names))
