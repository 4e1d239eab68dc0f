"""Tracing switched in a running process over its socket, and the live view."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from async_scheduler.measure import attribution, control
from async_scheduler.measure.control import ControlServer, NoScheduler, Request, Tracer, ask, snapshots
from async_scheduler.measure.locks import NamedLock
from tests.measure.turns import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from async_scheduler.measure.instrument import Instrument


@pytest.fixture
async def socket_path(
    instrument: Instrument, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Path]:
    """The socket of a server for *instrument*."""
    path = tmp_path_factory.mktemp("s") / "run" / "s.sock"
    server = asyncio.create_task(ControlServer(path, Tracer(instrument)).run())
    await until(lambda: path.exists() and control.alive([path]))
    yield path
    server.cancel()
    await asyncio.wait([server])
    assert not path.exists()


async def test_trace_on_status_off(socket_path: Path, tmp_path: Path, instrument: Instrument) -> None:
    assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(socket_path.parent).st_mode) == 0o700
    assert not (await ask(socket_path, Request("status"))).tracing
    on = await ask(socket_path, Request("on", str(tmp_path / "t"), "steps"))
    assert (on.tracing, on.directory, on.level, on.error) == (True, str(tmp_path / "t"), "steps", None)
    again = await ask(socket_path, Request("on", str(tmp_path / "u")))
    assert again.error is not None
    assert again.tracing
    assert not (await ask(socket_path, Request("off"))).tracing
    assert len(list((tmp_path / "t").iterdir())) == 1
    assert not instrument.installed


@pytest.mark.parametrize(
    "line", [b"nonsense\n", b'{"do":"explode"}\n', b'{"do":"on"}\n', b"x" * 100_000 + b"\n"]
)
async def test_bad_requests_are_refused_and_the_server_lives(socket_path: Path, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(socket_path))
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    assert b'"error":"' in answer or answer == b""
    assert not (await ask(socket_path, Request("status"))).tracing


async def test_relative_directory_is_refused(socket_path: Path) -> None:
    assert "absolute" in str((await ask(socket_path, Request("on", "here"))).error)


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NoScheduler, match="No running async scheduler"):
        await ask(tmp_path / "none.sock", Request("status"))
    with pytest.raises(NoScheduler):
        await anext(snapshots(tmp_path / "none.sock"))


async def test_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path, socket_path: Path) -> None:
    dead = tmp_path / "dead.sock"
    control.listen(dead).close()
    assert dead.exists()
    control.listen(dead).close()
    with pytest.raises(OSError, match="Somebody listens"):
        control.listen(socket_path)


def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="no socket"):
        control.listen(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


async def test_live_view_shows_routines_waits_and_stops_measuring_when_left(
    socket_path: Path, engine: AsyncEngine, instrument: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TOP_PERIOD", 0.02)
    instrument.attach([engine.sync_engine])
    lock = NamedLock("turn")
    stream = snapshots(socket_path)
    await anext(stream)
    assert instrument.installed
    with attribution.routine("schedule", iteration=1):
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE item SET n = 1 WHERE id = 1"))
    with pytest.raises(ZeroDivisionError), attribution.routine("create"):
        raise ZeroDivisionError
    async with lock:
        blocked = asyncio.create_task(lock.acquire())
        await until(lambda: instrument.waits.waiting)
        seen = await anext(stream)
        while len(seen.routines) < 2 or not seen.waiting:
            seen = await anext(stream)
    await blocked
    views = {view.name: view for view in seen.routines}
    assert (views["schedule"].passes, views["schedule"].transactions) == (1, 1)
    assert views["create"].last_error == "ZeroDivisionError"
    assert seen.waiting[0].object.key == "turn"
    assert seen.pool.size == 4
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: not instrument.installed)
