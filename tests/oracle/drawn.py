"""What Hypothesis draws of stories: dags with everything, limits, ends, and what users do."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from async_scheduler.decide.rules import PATIENT
from tests.oracle.dags import RULES
from tests.oracle.story import POOLS, Group, Step, Story, Work
from tests.oracle.strategies import TEARDOWN_RULES

LAST_ENDS = ("success",) * 6 + ("failed", "failed", "skipped", "retry", "killed", "lost", "stale")
EARLIER_ENDS = ("retry", "retry", "reschedule", "reschedule", "defer", "defer", "killed", "lost")
"""Ends after which the task may go on: those that must not come for ever."""
ROLES = ("work",) * 8 + ("setup", "teardown")
KINDS = ("plain",) * 4 + ("empty", "empty", "sensor", "branch")
USERS_KINDS = (
    "clear",
    "clear",
    "clear run",
    "clear one",
    "mark success",
    "mark failed",
    "run success",
    "run failed",
    "run queued",
    "pause",
    "unpause",
    "trigger",
)
STEPS = st.builds(
    Step,
    kind=st.sampled_from(("end",) * 12 + ("later",) * 3 + USERS_KINDS + ("version", "version", "backfill")),
    run=st.integers(0, 2),
    task=st.integers(0, 7),
    flag=st.integers(0, 7),
)
SELDOM = st.integers(0, 7).map(lambda number: number == 7)
LIMITS = st.sampled_from((None,) * 6 + (1, 2))


@st.composite
def works(draw: st.DrawFn, number: int, groups: tuple[Group, ...]) -> Work:
    """Draw task *number*; its upstream are tasks before it."""
    upstream = draw(st.sets(st.integers(0, number - 1), min_size=number > 2, max_size=3)) if number else set()
    role = draw(st.sampled_from(ROLES))
    kind = draw(st.sampled_from(KINDS))
    group = draw(st.sampled_from((-1, *(n for n, one in enumerate(groups) if (one.over or 0) < number))))
    in_map = group >= 0 and groups[group].over is not None
    rules = TEARDOWN_RULES if role == "teardown" else RULES[:-1] if in_map else RULES
    return Work(
        upstream=tuple(sorted(upstream)),
        rule=draw(st.sampled_from(("all_success", *rules))),
        kind=kind,
        role=role,
        fails_run=draw(st.booleans()),
        group=group,
        past=draw(SELDOM),
        wait_for_downstream=draw(SELDOM),
        retries=draw(st.integers(0, 2)),
        pool=draw(st.integers(0, POOLS - 1)),
        slots=draw(st.sampled_from((1, 1, 1, 2))),
        per_dag=draw(LIMITS),
        per_run=draw(LIMITS),
        ends=(*draw(st.lists(st.sampled_from(EARLIER_ENDS), max_size=2)), draw(st.sampled_from(LAST_ENDS))),
        returned=draw(st.integers(0, 3)),
        called=draw(SELDOM),
    )


@st.composite
def mapped(draw: st.DrawFn, work: Work, number: int) -> Work:
    """Draw what a task is mapped over, most of the time nothing."""
    if draw(st.integers(0, 3)):
        return work
    literal = st.integers(-10, -7)
    over = tuple(
        draw(st.lists(st.integers(0, number - 1) | literal if number else literal, min_size=1, max_size=2))
    )
    upstream = {*work.upstream, *(parent for parent in over if parent >= 0)}
    return replace(work, kind="plain", role="work", mapped=over, upstream=tuple(sorted(upstream)))


@st.composite
def graphs(draw: st.DrawFn, most: int) -> tuple[tuple[Work, ...], tuple[Group, ...]]:
    """Draw tasks and task groups, plain and mapped ones."""
    size = draw(st.integers(1, most))
    overs = st.sampled_from((None, None, 0, -9, -8))
    groups = tuple(Group(over) for over in draw(st.lists(overs, max_size=2)))
    weights = draw(st.permutations(range(1, size + 1)))
    drawn: list[Work] = []
    for number in range(size):
        work = replace(draw(works(number, groups)), weight=weights[number])
        if work.group < 0 or groups[work.group].over is None:
            work = draw(mapped(work, number))
        drawn.append(work)
    return tuple(_with_skips(draw, drawn)), groups


def _with_skips(draw: st.DrawFn, drawn: list[Work]) -> list[Work]:
    """Let branches skip some of what is downstream of them."""
    decided = []
    for number, work in enumerate(drawn):
        down = [other for other, later in enumerate(drawn) if number in later.upstream]
        skips = draw(st.sets(st.sampled_from(down), max_size=2)) if work.kind == "branch" and down else ()
        decided.append(replace(work, skips=tuple(sorted(skips))))
    return decided


@st.composite
def stories(draw: st.DrawFn, most: int = 4, steps: int = 3) -> Story:
    """Draw a story of up to *most* tasks and *steps* steps."""
    graph, groups = draw(graphs(most))
    return Story(
        graph,
        groups,
        runs=draw(st.sampled_from((1, 1, 2))),
        max_active_runs=draw(st.integers(1, 2)),
        max_active_tasks=draw(st.sampled_from((1, 2, 16, 16, 16))),
        pools=draw(st.tuples(*[st.sampled_from((-1, -1, 4, 2, 1, 0))] * POOLS)),
        include_deferred=draw(st.booleans()),
        callbacks=draw(st.booleans()),
        timeout=draw(SELDOM),
        steps=tuple(draw(st.lists(STEPS, max_size=steps))),
    )


@st.composite
def busy_stories(draw: st.DrawFn, most: int = 3, steps: int = 2) -> Story:
    """Draw a story to be led with everything at once.

    What ends differently when things happen in another order under any scheduler is left out: branches, that
    skip what has not begun, and maps that may be expanded before their inputs are there. Half of the stories
    have users in them.
    """
    graph, groups = draw(graphs(most))
    story = Story(
        tuple(_patient(work, groups) for work in graph),
        groups,
        runs=draw(st.integers(1, 2)),
        max_active_runs=draw(st.integers(1, 2)),
        max_active_tasks=draw(st.sampled_from((1, 2, 16))),
        pools=draw(st.tuples(*[st.sampled_from((-1, 4, 2, 1))] * POOLS)),
        include_deferred=draw(st.booleans()),
        callbacks=draw(st.booleans()),
    )
    kinds = st.sampled_from((*USERS_KINDS, "version"))
    users = st.builds(Step, kind=kinds, run=st.integers(0, 1), task=st.integers(0, 4), flag=st.integers(0, 7))
    return (
        replace(story, steps=tuple(draw(st.lists(users, max_size=steps)))) if draw(st.booleans()) else story
    )


def _patient(work: Work, groups: tuple[Group, ...]) -> Work:
    in_map = work.group >= 0 and groups[work.group].over is not None
    rule = work.rule if work.rule in PATIENT or not (work.mapped or in_map) else "all_success"
    return replace(work, rule=rule, skips=())
