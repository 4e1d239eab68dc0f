"""All routines, workers and users at once, in every order of their database awaits: nothing goes wrong."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from airflow.utils.session import create_session
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from tests.oracle.airflow import DEPENDENCY_ORDER
from tests.oracle.clock import story_clock
from tests.oracle.drawn import busy_stories
from tests.oracle.histories import airflows_life, differences
from tests.oracle.interleaving import InterleavedLife
from tests.oracle.lives import Redesigned, Stock
from tests.oracle.pictures import fingerprint, forget
from tests.oracle.workers import HeldExecutor

if TYPE_CHECKING:
    from tests.oracle.histories import Rest
    from tests.oracle.story import Story
    from tests.support.postgres import Database

FAILURES = frozenset({"failed", "upstream_failed"})


def interleaved_end(
    story: Story, database: Database, choices: bytes, kind: type[InterleavedLife] = InterleavedLife
) -> Rest:
    """Lead *story* with everything at once, then to its end; Airflow's scheduler finds nothing left to do."""
    with create_session() as session:
        session.execute(text(f"ALTER DATABASE {database.name} SET deadlock_timeout = '20ms'"))
    executor = HeldExecutor()
    try:
        with story_clock() as clock, asyncio.Runner() as loop:
            scheduler = Redesigned(executor, DEPENDENCY_ORDER, loop)
            try:
                life = kind(story, scheduler, executor, clock, database, choices)
                life.store()
                *_, end = life.rests()
            finally:
                scheduler.close()
            at_rest = fingerprint()
            Stock(HeldExecutor(), DEPENDENCY_ORDER).rest()
            assert fingerprint() == at_rest
    finally:
        forget()
    return end


def is_order_sensitive(story: Story, end: Rest) -> bool:
    """Whether a task saw a skip and a failure: how it ends depends on which it saw first."""
    states: dict[tuple[str, str], set[str | None]] = {}
    for (run, task_id, _), (state, *_) in end.picture.instances.items():
        states.setdefault((run, task_id), set()).add(state)
    for number in range(len(story.works)):
        for run in end.picture.runs:
            seen = set().union(*(states.get((run, story.task_id(n)), set()) for n in story.ancestors(number)))
            if "skipped" in seen and seen & FAILURES:
                return True
    return False


def agree(story: Story, database: Database, choices: bytes) -> None:
    """Assert that the story ends as Airflow's scheduler ends it, where its end does not depend on order."""
    end = interleaved_end(story, database, choices)
    if story.steps:
        return
    expected = airflows_life(story)[-1]
    assume(not is_order_sensitive(story, expected))
    found = differences(end, expected)
    assert not found, "\n".join(found)


@given(story=busy_stories(), choices=st.binary(min_size=121, max_size=121))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_any_interleaving_ends_as_airflow_does(airflow_db: Database, story: Story, choices: bytes) -> None:
    agree(story, airflow_db, choices)


@pytest.mark.deep
@given(story=busy_stories(most=5, steps=4), choices=st.binary(min_size=601, max_size=601))
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(7200)
def test_any_interleaving_ends_as_airflow_does_deeply(
    airflow_db: Database, story: Story, choices: bytes
) -> None:
    agree(story, airflow_db, choices)
