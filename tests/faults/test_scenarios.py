"""Every scenario of faults on both algorithms; a short one of each main kind is part of ``make test``."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.faults.scenarios import MEDIUM, SCENARIOS, SMALL

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.faults.field import Fields
    from tests.faults.running import Outcome

BOTH = ("backend_terminated", "server_restarted", "scheduler_killed", "rows_locked", "2_async")
"""The scenarios that Airflow's routines are put through too."""
SHORT = ("scheduler_paused", "backend_terminated")


@pytest.mark.xdist_group("faults")
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("name", SHORT)
def test_short(fields: Fields, name: str) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    outcome = SCENARIOS[name](fields, "redesigned", seed, SMALL)
    assert outcome.violations == [], outcome
    assert outcome.faults.total() > 0


@pytest.mark.faults
@pytest.mark.timeout(2400)
@pytest.mark.parametrize(
    ("name", "algorithm"),
    [*((name, "redesigned") for name in SCENARIOS), *((name, "upstream") for name in BOTH)],
)
def test_scenario(fields: Fields, record: Callable[[Outcome, str], None], name: str, algorithm: str) -> None:
    seed = random.SystemRandom().randrange(1_000_000)
    outcome = SCENARIOS[name](fields, algorithm, seed, MEDIUM)
    record(outcome, MEDIUM)
    assert outcome.violations == [], outcome
