"""Several visiting transactions at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.utils.state import DagRunState

from async_scheduler.routines.redesigned import schedule
from async_scheduler.store import running
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED, states
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database

FOUR_LANES = replace(REDESIGNED, runs_per_visit=1, visits_at_once=4)


async def know_the_dag(assembly: Assembly, run: int) -> None:
    """Let the first pass read the dag."""
    stages(assembly).dirty.mark([run])
    await stages(assembly).schedule.run_once()


async def test_each_lane_visits_a_batch_of_its_own(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(6)]
    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, runs[0])
        new = stages(assembly)
        new.dirty.mark(runs)
        counts = [(await new.schedule.run_once()).counts["examined"] for _ in range(2)]
    assert counts == [4, 2]
    assert states() == {"scheduled": 12}


async def test_what_fails_in_one_lane_is_raised_after_the_others_have_ended(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [2]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(3)]
    real = running.claim_runs

    async def claim(session: Any, ids: Any) -> Any:
        if runs[1] in ids:
            raise RuntimeError("planted")
        return await real(session, ids)

    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, runs[0])
        new = stages(assembly)
        new.dirty.mark(runs)
        with monkeypatch.context() as patch:
            patch.setattr(schedule, "claim_runs", claim)
            with pytest.raises(RuntimeError, match="planted"):
                await new.schedule.run_once()
        assert states() == {"scheduled": 4, "None": 2}
        assert runs[1] in new.dirty
        await new.schedule.run_once()
    assert states() == {"scheduled": 6}


@pytest.mark.parametrize("mode", ["sequential", "shared_session"])
def test_there_is_one_lane_unless_routines_run_at_once(mode: Any) -> None:
    assert replace(FOUR_LANES, mode=mode).lanes == 1
