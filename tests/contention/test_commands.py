"""``airflow async-scheduler contention``, ``trace`` and ``top`` as a user meets them."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
from argparse import Namespace
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from airflow.cli import cli_parser
from rich.console import Console
from sqlalchemy import make_url

from async_scheduler import tracing
from async_scheduler.cli import contention_command, top_command, trace_command
from async_scheduler.cli.contention_command import WrongTime, since_ns
from async_scheduler.contention.topview import LiveState, render
from async_scheduler.measure import attribution, control
from async_scheduler.measure.control import ControlServer, Tracer
from async_scheduler.measure.events import Deadlock, LockObject, Party, Wait
from async_scheduler.measure.instrument import Instrument
from async_scheduler.measure.live import LiveView
from async_scheduler.settings import Settings
from tests.contention.traces import SECOND, iteration, row_wait, two_routines, write_trace
from tests.measure.turns import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SQLITE = make_url("sqlite+aiosqlite://")


def parsed(*arguments: str) -> Namespace:
    """Return the arguments as Airflow's own parser reads them."""
    read: Namespace = cli_parser.get_parser().parse_args(["async-scheduler", *arguments])
    return read


def test_report_is_printed_and_every_file_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = write_trace(tmp_path / "trace", *two_routines())
    outputs = {name: tmp_path / "out" / name for name in ("page.html", "report.json")}
    perfetto = tmp_path / "perfetto.json.gz"
    contention_command.contention(
        parsed(
            "contention",
            str(trace),
            *("--html", str(outputs["page.html"]), "--json", str(outputs["report.json"])),
            *("--perfetto", str(perfetto), "--since", "1h"),
        )
    )
    shown = capsys.readouterr().out
    assert "Who waited for whom" in shown
    assert "schedule" in shown
    assert perfetto.stat().st_size > 0
    assert outputs["page.html"].read_text().startswith("<!DOCTYPE html>")
    (report,) = json.loads(outputs["report.json"].read_text())
    assert report["schema"] == "async-scheduler-contention"


def test_nothing_to_read_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        contention_command.contention(parsed("contention", str(tmp_path)))
    assert ended.value.code == 2
    assert "holds no trace" in capsys.readouterr().err


GARBLED = {
    "no gzip": b"garbled",
    "half a record": gzip.compress(b'{"half": '),
    "no record": gzip.compress(b"[]\n"),
    "empty": b"",
}


@pytest.mark.parametrize("content", GARBLED.values(), ids=GARBLED)
def test_a_garbled_trace_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "scheduler.jsonl.gz").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        contention_command.contention(parsed("contention", str(tmp_path)))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert str(tmp_path) in said
    assert said.count("\n") == 1


def test_a_server_log_that_is_not_there_is_one_line_and_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_trace(tmp_path, *two_routines())
    with pytest.raises(SystemExit) as ended:
        contention_command.contention(parsed("contention", str(tmp_path), "--server-log", "/nowhere.json"))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "/nowhere.json" in said
    assert said.count("\n") == 1


def test_since() -> None:
    minute = 60 * 10**9
    assert since_ns("90s", 10 * minute, 0) == 10 * minute - 90 * 10**9
    assert since_ns("2h", 0, 0) == -120 * minute
    assert since_ns("1970-01-01T00:01:00", 0, 5) == minute - 5
    with pytest.raises(WrongTime, match="yesterday"):
        since_ns("yesterday", 0, 0)


@pytest.fixture
async def scheduler_socket(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """The socket of something that can be traced."""
    path = tmp_path_factory.mktemp("s") / "1.sock"
    instrument = Instrument("scheduler", labels={"mode": "concurrent"})
    server = asyncio.create_task(ControlServer(path, Tracer(instrument)).run())
    await until(lambda: path.exists() and control.alive([path]))
    yield path
    server.cancel()
    await asyncio.wait([server])
    instrument.stop()


async def test_trace_on_status_off(
    scheduler_socket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--socket", str(scheduler_socket))
    for command, arguments in (
        (trace_command.on, ("trace", "on", str(tmp_path / "t"), "--level", "steps", *where)),
        (trace_command.status, ("trace", "status", *where)),
        (trace_command.off, ("trace", "off", *where)),
    ):
        await asyncio.to_thread(command, parsed(*arguments))
    lines = capsys.readouterr().out.splitlines()
    assert [("writing a trace (steps)" in line) for line in lines] == [True, True, False]


async def test_refusal_is_code_1(
    scheduler_socket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = parsed("trace", "on", str(tmp_path / "file" / "t"), "--socket", str(scheduler_socket))
    with pytest.raises(SystemExit) as ended:
        await asyncio.to_thread(trace_command.on, arguments)
    assert ended.value.code == 1
    assert "refused" in capsys.readouterr().out


def test_no_scheduler_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trace_command, "socket_directory", lambda: tmp_path)
    for command, name in ((trace_command.status, ("trace", "status")), (top_command.top, ("top",))):
        with pytest.raises(SystemExit) as ended:
            command(parsed(*name))
        assert ended.value.code == 2
    assert capsys.readouterr().err.count("No running async scheduler") == 2


async def test_several_schedulers_must_be_told_apart(
    scheduler_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = scheduler_socket.with_name("2.sock")
    listening = control.listen(other)
    listening.listen()
    monkeypatch.setattr(trace_command, "socket_directory", lambda: scheduler_socket.parent)
    try:
        with pytest.raises(trace_command.WhichScheduler, match="--pid"):
            trace_command.sockets(parsed("trace", "off"))
        assert trace_command.sockets(parsed("trace", "off", "--pid", "1")) == [scheduler_socket]
        assert len(trace_command.sockets(parsed("trace", "status"), several=True)) == 2
    finally:
        listening.close()


def test_socket_goes_to_airflows_home_unless_that_is_too_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.configuration.AIRFLOW_HOME", "/srv/airflow")
    assert tracing.socket_path("") == Path(f"/srv/airflow/async-scheduler/{os.getpid()}.sock")
    monkeypatch.setattr("airflow.configuration.AIRFLOW_HOME", "/srv/" + "deep/" * 30)
    path = tracing.socket_path("")
    assert path is not None
    assert len(bytes(path)) <= 107
    assert tracing.socket_path("none") is None
    assert tracing.socket_path("/run/x.sock") == Path("/run/x.sock")


def test_trace_settings_are_read() -> None:
    settings = Settings.from_values(
        {"trace_directory": " /t ", "trace_level": "steps", "trace_sampler": "false"}
    )
    assert (settings.trace_directory, settings.trace_level, settings.trace_sampler) == ("/t", "steps", False)


def view(width: int) -> str:
    """Return the live view of a made-up state at that width."""
    live = LiveView(Instrument("scheduler"))
    for record in two_routines("start [red]hostile[/red]"):
        live.take(record)
    state = LiveState()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("async_scheduler.measure.live.monotonic_ns", lambda: SECOND)
        snapshot = live.snapshot()
    state.see(snapshot)
    snapshot.waiting.append(
        Wait(
            what="asyncio_lock",
            t_start=0,
            t_end=10**9,
            exactness="bound",
            waiter=Party(routine="enqueue"),
            source="client",
            object=LockObject(key="shared session"),
            root_blocker=Party(routine="schedule"),
        )
    )
    return _rendered(state, width)


@pytest.mark.parametrize("width", [50, 80, 100, 160])
def test_view_fits_any_terminal(width: int) -> None:
    shown = view(width)
    assert all(len(line) <= width for line in shown.splitlines())
    assert "Blocked now" in shown
    assert "enqueue on shared session for 1.00 s" in shown
    if width >= 160:
        assert "start [red]hostile[/red]" in shown


def test_database_waits_under_way_hang_under_the_one_at_the_root() -> None:
    live = LiveView(Instrument("scheduler"))
    for record in two_routines():
        live.take(record)
    live.take(
        Deadlock(
            at=0,
            parties=[Party(routine="a"), Party(routine="b")],
            objects=[],
            stacks=[],
            victim=None,
            age_ns=1,
        )
    )
    state = LiveState()
    snapshot = live.snapshot()
    snapshot.parties[7] = Party(pid=7, routine="schedule")
    state.see(snapshot)
    wait = row_wait(Party(pid=9, process="api server"), Party(pid=7), 0, 1)
    state.begun(wait)
    shown = _rendered(state, 120)
    assert "schedule\n" in shown.split("Blocked now")[1].replace("├── ", "").replace("└── ", "")
    assert "api server on dag_run" in shown
    assert "a ⇄ b" in shown
    state.take(wait)
    assert "Blocked now" not in _rendered(state, 120)


def test_critical_section_and_errors_are_told() -> None:
    live = LiveView(Instrument("scheduler"))
    live.take(msgspec.structs.replace(iteration("enqueue", 0, 10), error="OperationalError"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("async_scheduler.measure.live.monotonic_ns", lambda: SECOND)
        snapshot = live.snapshot()
    state = LiveState()
    state.see(snapshot)
    for width in (60, 160):
        shown = _rendered(state, width)
        assert "critical section: " in shown
        assert "OperationalError" in shown


def _rendered(state: LiveState, width: int) -> str:
    output = StringIO()
    Console(file=output, width=width).print(render(state, width))
    return output.getvalue()


def test_view_before_anything_is_known() -> None:
    assert "waiting for the scheduler" in str(render(LiveState(), 80))


async def test_one_view_shows_the_running_routine(
    scheduler_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "TOP_PERIOD", 0.02)
    output = StringIO()
    with attribution.routine("schedule"):
        await top_command.watch(scheduler_socket, SQLITE, Console(file=output, width=120), once=True)
    assert "mode concurrent" in output.getvalue()


WATCH = """
import asyncio, sys
from pathlib import Path
from rich.console import Console
from sqlalchemy import make_url
from async_scheduler.cli.top_command import watch
asyncio.run(watch(Path(sys.argv[1]), make_url("sqlite+aiosqlite://"), Console(width=80)))
"""


def started_in_a_terminal(socket: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the view of *socket* in a terminal of its own; return the process and our end of the terminal."""
    primary, secondary = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WATCH, str(socket)],
        stdin=secondary,
        stdout=secondary,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(secondary)
    return process, primary


def rest_of(terminal: int) -> bytes:
    """Return what is written to *terminal* until nobody has it open any more."""
    parts = []
    with suppress(OSError):  # how Linux says so
        while part := os.read(terminal, 65536):
            parts.append(part)
    return b"".join(parts)


async def test_live_view_in_a_terminal_quits_cleanly(scheduler_socket: Path) -> None:
    process, primary = started_in_a_terminal(scheduler_socket)
    shown = b""
    while b"mode concurrent" not in shown:
        shown += await asyncio.to_thread(os.read, primary, 65536)
    process.send_signal(signal.SIGINT)
    # Read on to the end: a terminal that nobody reads holds few bytes, and the view would wait for room.
    shown += await asyncio.to_thread(rest_of, primary)
    _, errors = await asyncio.to_thread(process.communicate)
    os.close(primary)
    assert process.returncode == 0
    assert errors == b""
    assert b"\x1b[?1049l" in shown, "the terminal's own screen is back"
    assert b"\x1b[?25h" in shown, "the cursor is back"


def test_trace_without_async_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    from async_scheduler.cli.commands import run_scheduler

    with pytest.raises(SystemExit) as ended:
        run_scheduler(Namespace(use_async=False, trace="/t"))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "airflow scheduler: --trace needs --async\n"
