"""Runs for asset events and partitions: Airflow's own code makes them here too, and gets the same rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.assets.manager import asset_manager
from airflow.models.asset import (
    AssetActive,
    AssetDagRunQueue,
    AssetEvent,
    AssetModel,
    AssetPartitionDagRun,
    PartitionedAssetKeyLog,
)
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import Asset, AssetAlias
from airflow.sdk.definitions.partition_mappers.base import RollupMapper
from airflow.sdk.definitions.partition_mappers.fixed_key import FixedKeyMapper
from airflow.sdk.definitions.partition_mappers.identity import IdentityMapper
from airflow.sdk.definitions.partition_mappers.temporal import StartOfDayMapper
from airflow.sdk.definitions.partition_mappers.wait_policy import MinimumCount, WaitForAll
from airflow.sdk.definitions.partition_mappers.window import SegmentWindow
from airflow.sdk.definitions.timetables.assets import AssetOrTimeSchedule, PartitionedAssetTimetable
from airflow.sdk.definitions.timetables.trigger import CronTriggerTimetable
from sqlalchemy import select, update

from tests.parity.world import World, both
from tests.support.dags import EPOCH

ONE, TWO = (Asset(name=name, uri=f"x://{name}", group="asset") for name in ("one", "two"))


def activate(w: World) -> None:
    """Let all assets be active, as the timer does."""
    with w.rows() as session:
        for asset in session.scalars(select(AssetModel)).all():
            session.merge(AssetActive.for_asset(asset))


def event(w: World, name: str, dag: str | None, hours: float = 0, **columns: Any) -> int:
    """Store an event of an asset so many hours after the epoch, and a place in the queue of *dag*."""
    when = EPOCH + timedelta(hours=hours)
    with w.rows() as session:
        asset = session.scalars(select(AssetModel).where(AssetModel.name == name)).one()
        made = AssetEvent(asset_id=asset.id, extra={}, source_dag_id="producer", timestamp=when, **columns)
        session.add(made)
        if dag is not None:
            session.merge(AssetDagRunQueue(asset_id=asset.id, target_dag_id=dag, created_at=when))
        session.flush()
        return int(made.id)


def listening(w: World, since: datetime = EPOCH - timedelta(days=9)) -> None:
    """Let consumers have listened since then."""
    from airflow.models.asset import DagScheduleAssetReference

    with w.rows() as session:
        session.execute(update(DagScheduleAssetReference).values(created_at=since))


@both()
def test_consumers(w: World) -> None:
    w.compare_metrics("asset.")
    w.dag("single", schedule=[ONE])
    w.dag("double", schedule=[ONE, TWO])
    w.dag("either", schedule=(ONE | TWO))
    activate(w)
    listening(w)
    for hours in (1, 2):
        for dag in ("single", "double", "either"):
            event(w, "one", dag, hours)
    w.create()
    w.check()
    event(w, "two", "double", 3)
    w.create()
    assert len(w.runs()) == 3


@both()
@pytest.mark.parametrize("catchup", [True, False])
def test_events_from_before(w: World, catchup: bool) -> None:
    w.dag(schedule=[ONE], catchup=catchup)
    activate(w)
    listening(w, EPOCH + timedelta(hours=2))
    event(w, "one", None, 1)
    event(w, "one", "dag", 3)
    w.create()
    assert w.runs() == ["queued"]


@both()
def test_the_window_of_a_second_run(w: World) -> None:
    w.dag(schedule=[ONE])
    activate(w)
    listening(w)
    event(w, "one", "dag", 1)
    w.create()
    event(w, "one", None, 2)
    event(w, "one", "dag", 3)
    w.create()
    assert len(w.runs()) == 2


@both()
def test_aliases(w: World) -> None:
    w.dag("producer", tasks={"a": {"outlets": [ONE]}})
    w.dag(schedule=[AssetAlias("alias")])
    w.run("producer")
    activate(w)
    with w.rows() as session:
        asset = session.scalars(select(AssetModel)).one()
        asset_manager.register_asset_change(asset=asset, source_alias_names=["alias"], session=session)
    w.create()
    assert w.count(DagRun, DagRun.dag_id == "dag") == 1


@both()
@pytest.mark.parametrize("column", ["is_paused", "is_stale", "has_import_errors", "exceeds_max_non_backfill"])
def test_consumers_that_may_not(w: World, column: str) -> None:
    w.dag(schedule=[ONE])
    activate(w)
    listening(w)
    event(w, "one", "dag", 1)
    columns: dict[str, Any] = {column: True}
    w.of_dag(**columns)
    w.create()
    assert not w.runs()


@both()
@pytest.mark.parametrize("kind", ["manual", "backfill"])
def test_consumers_at_their_limit(w: World, kind: str) -> None:
    w.dag(schedule=[ONE], max_active_runs=1)
    activate(w)
    listening(w)
    w.run(run_type=kind)
    event(w, "one", "dag", 1)
    w.create()
    assert len(w.runs()) == 1


@both()
@pytest.mark.parametrize("due", [True, False])
def test_assets_or_time(w: World, due: bool) -> None:
    timetable = CronTriggerTimetable("@daily", timezone="UTC")
    w.dag(schedule=AssetOrTimeSchedule(timetable=timetable, assets=[ONE]), catchup=True, max_active_runs=2)
    if not due:
        w.of_dag(next_dagrun_create_after=datetime(2099, 1, 1, tzinfo=UTC))
    activate(w)
    listening(w)
    event(w, "one", "dag", 1)
    w.create()
    assert w.runs()


@both()
@pytest.mark.parametrize("missing", ["serialized", "schedule", "expression"])
def test_odd_queues(w: World, missing: str) -> None:
    w.dag(schedule=[ONE])
    activate(w)
    listening(w)
    event(w, "one", "dag", 1)
    if missing == "serialized":
        with w.rows() as session:
            session.query(SerializedDagModel).delete()
    elif missing == "schedule":
        w.of_dag(allowed_run_types=["manual"])
    else:
        w.of_dag(asset_expression=None)
    w.create()
    assert len(w.runs()) == (missing == "schedule")


# --- partitions -------------------------------------------------------------------------------------------


def partitioned(assets: Any, mapper: Any = None, **options: Any) -> dict[str, Any]:
    """Return the schedule of a dag that listens to partitions."""
    given = {} if mapper is None else {"default_partition_mapper": mapper}
    return {"schedule": PartitionedAssetTimetable(assets=assets, **given), **options}


def emit(w: World, name: str, key: str, date: datetime | None = None) -> None:
    """Register an event of one partition of an asset."""
    with w.rows() as session:
        asset = session.scalars(select(AssetModel).where(AssetModel.name == name)).one()
        asset_manager.register_asset_change(
            asset=asset, partition_key=key, partition_date=date, session=session
        )


@both()
def test_partitions_of_two_assets(w: World) -> None:
    w.dag(**partitioned(ONE & TWO))
    activate(w)
    emit(w, "one", "key-1", EPOCH)
    w.create()
    emit(w, "two", "key-2")
    w.create()
    w.check()
    assert not w.runs()
    emit(w, "two", "key-1", EPOCH)
    w.create()
    assert len(w.runs()) == 1


@both()
@pytest.mark.parametrize(
    "mapper", [IdentityMapper(), FixedKeyMapper("key"), StartOfDayMapper()], ids=["same", "fixed", "day"]
)
@pytest.mark.parametrize("key", ["2026-01-02T03:04:05", "no date"])
def test_keys_and_dates_of_partitions(w: World, mapper: Any, key: str) -> None:
    w.dag(**partitioned(ONE, mapper))
    activate(w)
    emit(w, "one", key, EPOCH)
    w.create()
    assert len(w.runs()) <= 1


@both()
@pytest.mark.parametrize(
    ("policy", "enough"),
    [(WaitForAll(), 3), (MinimumCount(2), 2), (MinimumCount(-2), 1)],
    ids=["all", "two", "but-two"],
)
def test_rolled_up_partitions(w: World, policy: Any, enough: int) -> None:
    window = SegmentWindow(["eu", "us", "as"])
    mapper = RollupMapper(upstream_mapper=FixedKeyMapper("world"), window=window, wait_policy=policy)
    w.dag(**partitioned(ONE, mapper))
    activate(w)
    for number, key in enumerate(("eu", "us", "as"), 1):
        emit(w, "one", key)
        emit(w, "one", key)  # the same again counts once
        w.create()
        w.check()
        assert bool(w.runs()) == (number >= enough)
        if w.runs():
            return


@both()
@pytest.mark.parametrize("change", ["window", "null", "task", "inactive"])
def test_pending_partitions_when_something_changes(w: World, change: str) -> None:
    def rolled(*keys: str) -> dict[str, Any]:
        mapper = RollupMapper(upstream_mapper=FixedKeyMapper("world"), window=SegmentWindow(keys))
        return partitioned(ONE, mapper)

    w.dag(**rolled("eu", "us"))
    activate(w)
    emit(w, "one", "eu")
    w.create()
    if change == "window":
        w.dag(**rolled("eu", "as"))
    elif change == "null":
        with w.rows() as session:
            session.execute(update(AssetPartitionDagRun).values(rollup_fingerprint=None))
    elif change == "task":
        w.dag(tasks="a b", **rolled("eu", "us"))
    else:
        emit(w, "one", "us")
        with w.rows() as session:
            session.query(AssetActive).delete()
    w.create()
    w.note(w.count(PartitionedAssetKeyLog))
    if change == "inactive":
        activate(w)
        w.create()
        assert len(w.runs()) == 1
    else:
        assert not w.runs()


@both()
def test_a_paused_dag_with_partitions(w: World) -> None:
    """Airflow does not look at the pause here, so neither does its code when it runs in ours."""
    w.dag(**partitioned(ONE), max_active_runs=1)
    activate(w)
    emit(w, "one", "key-1")
    emit(w, "one", "key-2")
    w.of_dag(is_paused=True, has_import_errors=True)
    w.create()
    assert len(w.runs()) == 2
