"""Both schedulers lead the same lives: every rest of a story, and its end, looks the same."""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.oracle.airflow import DEPENDENCY_ORDER
from tests.oracle.drawn import stories
from tests.oracle.histories import airflows_life, differences, our_life

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.oracle.histories import Rest
    from tests.oracle.story import Story
    from tests.support.postgres import Database

UNORDERED = ("NotPreviouslySkippedDep", "TriggerRuleDep", "MappedTaskUpstreamDep")
"""Dependency classes that set states: which comes first decides between them."""


def orders() -> Iterator[Sequence[str]]:
    """The orders in which Airflow may evaluate its dependency classes, as far as that matters; ours first."""
    others = [name for name in DEPENDENCY_ORDER if name not in UNORDERED]
    for order in permutations(UNORDERED):
        yield (*others, *order)


def agree(story: Story) -> None:
    """Assert that ours leads *story* as Airflow's scheduler does, or may do in another process.

    Its dependency classes are evaluated in the order of a set of classes, which is another one in each
    process. Where the order that we document leads to another life, any of the others will do: then the whole
    life, every rest of it, must be the same as one of Airflow's.
    """
    ours = list(our_life(story))
    first: list[str] = []
    for order in orders():
        found = unlike(ours, airflows_life(story, order))
        if not found:
            return
        first = first or found
    pytest.fail("\n".join(first))


def unlike(ours: Sequence[Rest], airflows: Sequence[Rest]) -> list[str]:
    """Return how the first rest that differs differs."""
    for seen, wanted in zip(ours, airflows, strict=False):
        if seen != wanted:
            return [f"after {seen.after}, {wanted.after}", *differences(seen, wanted)]
    return [] if len(ours) == len(airflows) else [f"{len(ours)} rests, Airflow has {len(airflows)}"]


@given(story=stories())
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(1800)
def test_both_lead_the_same_life(airflow_db: Database, story: Story) -> None:
    agree(story)


@pytest.mark.deep
@given(story=stories(most=8, steps=9))
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(7200)
def test_both_lead_the_same_life_deeply(airflow_db: Database, story: Story) -> None:
    agree(story)
