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
from tests.oracle.histories import airflows_life
from tests.oracle.interleaving import InterleavedLife
from tests.oracle.lives import Redesigned, Stock
from tests.oracle.pictures import differences, fingerprint, forget
from tests.oracle.workers import HeldExecutor

if TYPE_CHECKING:
    from tests.oracle.histories import Rest
    from tests.oracle.interleaving import Choose
    from tests.oracle.story import Story
    from tests.support.postgres import Database

FAILURES = frozenset({"failed", "upstream_failed"})


def interleaved_end(story: Story, database: Database, choose: Choose, turns: int) -> Rest:
    """Lead *story* with everything at once, then to its end; Airflow's scheduler finds nothing left to do."""
    with create_session() as session:
        session.execute(text(f"ALTER DATABASE {database.name} SET deadlock_timeout = '20ms'"))
    executor = HeldExecutor()
    with story_clock() as clock, asyncio.Runner() as loop:
        scheduler = Redesigned(executor, DEPENDENCY_ORDER, loop)
        try:
            life = InterleavedLife(story, scheduler, executor, clock, database, choose, turns)
            life.store()
            *_, end = life.rests()
        except BaseException:
            forget()
            raise
        finally:
            scheduler.close()
        at_rest = fingerprint()
        Stock(HeldExecutor(), DEPENDENCY_ORDER).rest()
        assert fingerprint() == at_rest
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


def agree(story: Story, database: Database, choose: Choose, turns: int) -> None:
    """Assert that the story ends as Airflow's scheduler ends it, where its end does not depend on order."""
    end = interleaved_end(story, database, choose, turns)
    if story.steps:
        return
    expected = airflows_life(story)[-1]
    assume(not is_order_sensitive(story, expected))
    found = differences(end.picture, expected.picture)
    assert not found, "\n".join(found)
    assert end.given == expected.given


@given(story=busy_stories(), data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(600)
def test_any_interleaving_ends_as_airflow_does(
    airflow_db: Database, story: Story, data: st.DataObject
) -> None:
    agree(story, airflow_db, lambda count: data.draw(st.integers(0, count - 1)), turns=80)


@pytest.mark.deep
@given(story=busy_stories(most=6, steps=4), data=st.data())
@settings(max_examples=800, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(6000)
def test_any_interleaving_ends_as_airflow_does_deeply(
    airflow_db: Database, story: Story, data: st.DataObject
) -> None:
    agree(story, airflow_db, lambda count: data.draw(st.integers(0, count - 1)), turns=300)
