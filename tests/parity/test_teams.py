"""Teams: with ``[core] multi_team`` the stages are Airflow's own functions, under our driver and sessions."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.executors.executor_utils import ExecutorName
from airflow.models.dagbundle import DagBundleModel
from airflow.models.pool import Pool
from airflow.models.team import Team
from sqlalchemy import select, update

from tests.parity.arms import Redesigned, Scripted
from tests.parity.test_queueing import scheduled
from tests.parity.world import World, both


def of_teams() -> list[Scripted]:
    """Return a default executor and one for each of two teams."""
    made = [Scripted(), Scripted(team_name="a"), Scripted(team_name="b")]
    for one, team in zip(made, (None, "a", "b"), strict=True):
        one.name = ExecutorName("tests.parity.arms.Scripted", "one", team)
    return made


def store(w: World) -> None:
    """Store a dag for each of two teams, and one of no team."""
    for name in ("a", "b", "none"):
        w.dag(name, tasks="t u")
        with w.rows() as session:
            bundle = DagBundleModel(name=f"bundle-{name}")
            session.add(bundle)
            if name != "none":
                bundle.teams.append(Team(name=name))
            session.flush()
        w.of_dag(name, bundle_name=f"bundle-{name}")
        w.run(name)


@both(of_teams, core__multi_team=True)
def test_each_team_has_its_executor(w: World) -> None:
    store(w)
    for name in ("a", "b", "none"):
        scheduled(w, "t", "u", dag=name)
        w.ti("u", dag=name, executor="one")
    w.enqueue()
    assert w.states() == {"queued": 6}
    assert not isinstance(w.arm, Redesigned) or w.arm.assembly.redesigned is None


@both(core__multi_team=True)
def test_pools_of_teams(w: World) -> None:
    store(w)
    w.pool("p", 5)
    w.pool("shared", 5)
    with w.rows() as session:
        session.execute(update(Pool).where(Pool.pool == "p").values(team_name="a"))
    for name in ("a", "b"):
        scheduled(w, "t", "u", dag=name)
        w.ti("t", dag=name, pool="p")
        w.ti("u", dag=name, pool="shared")
    w.enqueue()
    assert w.states()["queued"] == 3


@both(core__multi_team=True)
@pytest.mark.parametrize("state", ["success", None])
def test_runs_of_teams(w: World, state: Any) -> None:
    w.compare_metrics("dagrun.duration", "dagrun.schedule_delay")
    store(w)
    for name in ("a", "b", "none"):
        w.ti("t", state, dag=name)
        w.ti("u", state, dag=name)
    w.schedule()
    with w.rows() as session:
        assert session.scalars(select(Team)).all()
    assert w.runs() == ["success" if state else "running"] * 3
