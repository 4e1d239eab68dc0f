"""MariaDB and SQLite: what each can tell, labelled for what it is."""

from __future__ import annotations

import asyncio
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import bindparam, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from async_scheduler.contention.building import build, load
from async_scheduler.measure import attribution
from async_scheduler.measure.events import Event, LockObject, Wait
from async_scheduler.measure.instrument import Instrument
from async_scheduler.measure.mysql_sampler import Sightings
from async_scheduler.measure.sampler import Sampler

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

UPDATE = text("UPDATE item SET n = n + 1 WHERE id = 1")
PAUSE = text("DO sleep(0.02)")


def poll(*rows: tuple[int, int]) -> list[dict[str, Any]]:
    """Return what InnoDB says: (waiter, blocker) pairs."""
    return [
        {
            "waiter": waiter,
            "blocker": blocker,
            "relation": "`airflow`.`dag_run`",
            "mode": "X",
            "waiter_query": "UPDATE dag_run SET state = 'secret'",
            "blocker_query": None,
            "state": "RUNNING",
        }
        for waiter, blocker in rows
    ]


def test_wait_lasts_as_long_as_polls_show_it() -> None:
    records: list[Event] = []
    sightings = Sightings(records.append)
    for at, rows in ((10, poll((1, 2))), (20, poll((1, 2), (3, 1))), (30, poll()), (40, poll((1, 2)))):
        sightings.see(rows, at)
    sightings.close(50)
    waits = [record for record in records if isinstance(record, Wait)]
    assert [(w.t_start, w.t_end, w.outcome) for w in waits] == [
        (10, 30, "acquired"),
        (20, 30, "acquired"),
        (40, 50, "unfinished"),
    ]
    assert waits[1].root_blocker is not None
    assert waits[1].root_blocker.pid == 2
    assert waits[0].object == LockObject(relation="dag_run", mode="X")
    assert {w.exactness for w in waits} == {"sampled"}
    assert "secret" not in repr(records)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[str]:
    """The URL of a MariaDB database."""
    if shutil.which("mariadbd") is None or find_spec("aiomysql") is None or find_spec("MySQLdb") is None:
        pytest.skip("needs mariadb-server, mysqlclient and aiomysql")
    from poc_bench.database.mysql import EmbeddedMariaDB

    server = EmbeddedMariaDB()
    server.create("control")
    yield server.address("control").async_url
    server.close()


POLLS = 4
"""For how many looks of the sampler somebody waits: the server renews what it shows once in 100 ms."""


async def _blocked_for_some_polls(engine: AsyncEngine) -> tuple[int, int]:
    """Let one connection wait for another's row for some looks of the sampler; return (holder, waiter)."""
    async with engine.connect() as holder, engine.connect() as waiter, engine.connect() as observer:
        ours = [int(await c.scalar(text("SELECT connection_id()")) or 0) for c in (holder, waiter, observer)]
        await holder.execute(UPDATE)
        blocked = asyncio.create_task(waiter.execute(UPDATE))
        waiting, looks = text("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"), set[int]()
        others = text("SELECT query_id FROM information_schema.processlist WHERE command <> 'Daemon'"
                      " AND id NOT IN :ours").bindparams(bindparam("ours", ours, expanding=True))  # fmt: skip
        async with asyncio.timeout(300):
            while int((await observer.execute(waiting)).one()[1]) == 0:
                await observer.execute(PAUSE)
            while len(looks) < POLLS:
                looks.update(await observer.scalars(others))
                await observer.execute(PAUSE)
        ids = ours[:2]
        await holder.commit()
        await blocked
        await waiter.commit()
    return ids[0], ids[1]


async def test_mariadbs_waits_are_sampled_and_its_own_total_kept(mariadb: str, tmp_path: Path) -> None:
    engine = create_async_engine(mariadb)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL) ENGINE=InnoDB"))
        await connection.execute(text("INSERT INTO item VALUES (1, 0)"))
    instrument = Instrument("scheduler")
    instrument.attach([engine.sync_engine])
    instrument.start(tmp_path)
    sampler = await Sampler.start(make_url(mariadb), tmp_path)
    with attribution.routine("schedule"):
        holder, waiter = await _blocked_for_some_polls(engine)
    instrument.stop()
    await sampler.stop()
    await engine.dispose()
    joined = load(tmp_path)
    (wait,) = joined.sampled
    assert (wait.waiter.pid, wait.root_blocker and wait.root_blocker.pid) == (waiter, holder)
    assert wait.object.relation == "item"
    assert wait.waiter.routine == "schedule"
    (total,) = [w for w in joined.trace.waits if w.source == "server-total"]
    assert total.exactness == "bound"
    assert total.t_end > total.t_start


async def test_sqlites_waits_are_limits_with_the_writer_that_was_ahead(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/lite.db", connect_args={"timeout": 30})
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id int PRIMARY KEY, n int)"))
        await connection.execute(text("INSERT INTO item VALUES (1, 0)"))
    instrument = Instrument("scheduler", labels={"backend": "sqlite"})
    instrument.attach([engine.sync_engine])
    instrument.start(tmp_path / "trace")
    writing, tried = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        with attribution.routine("schedule"):
            async with engine.begin() as connection:
                await connection.execute(UPDATE)
                writing.set()
                await tried.wait()

    async def second() -> None:
        await writing.wait()
        with attribution.routine("start"):
            async with engine.begin() as connection:
                tried.set()
                await connection.execute(UPDATE)

    async with asyncio.TaskGroup() as group:
        group.create_task(first())
        group.create_task(second())
    instrument.stop()
    await engine.dispose()
    report = build(load(tmp_path / "trace"))
    assert [(p.waiter, p.holder) for p in report.pairs] == [("start", "schedule")]
