"""What async secrets are worth: ``python -m poc_bench.secrets_workload [--json OUT]``.

Looks connections up with Airflow's sync code and with the async chain: in a backend that takes 20 ms to
answer, in Vault's protocol over HTTP with the same delay, and in the metastore behind a link of 2.5 ms round
trip. Every arm finds all connections, each with a password of its own, on a masker that knows nothing yet.
The sync arms are measured with Airflow's masker and with the lazy one, which the async chain uses: Airflow's
alone costs 10 ms per look-up on average here. All in one process but the link, the server and the database.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from poc_bench import machine
from poc_bench.secrets_servers import CONNECTIONS, LATENCY, RTT, VALUES, conn_id_of, servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

NAME = "secrets"
DESCRIPTION = (
    "look-ups of connections, sync and async; measures no scheduler and takes --repeat and --out only"
)

CONCURRENCY = 64
HITS = 20_000
LAG_INTERVAL = 0.002

Measurement = dict[str, float]


def measure(repeats: int = 3, report: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Run every arm *repeats* times, interleaved, and return all figures, their medians and the targets.

    Rates are look-ups per second, ``cpu_ms`` is CPU time per look-up, ``lag_ms_p99`` the event loop's lag.
    """
    with tempfile.TemporaryDirectory(prefix="poc-bench-secrets-") as folder, servers(Path(folder)) as url:
        runs = []
        for number in range(repeats):
            report(f"repeat {number + 1} of {repeats}")
            runs.append({name: arm() for name, arm in _arms(url).items()})
    medians = {
        arm: {key: statistics.median(run[arm][key] for run in runs) for key in runs[0][arm]}
        for arm in runs[0]
    }
    return {
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.description(),
        "versions": machine.versions(),
        "parameters": {
            "connections": CONNECTIONS,
            "latency_ms": LATENCY * 1000,
            "rtt_ms": RTT,
            "concurrency": CONCURRENCY,
            "repeats": repeats,
        },
        "medians": medians,
        "targets": _targets(medians),
        "runs": runs,
    }


def _targets(arms: Mapping[str, Measurement]) -> list[dict[str, Any]]:
    def ratio(ours: str, theirs: str) -> float:
        return round(arms[ours]["rate"] / arms[theirs]["rate"], 1)

    figures = [
        (
            "native backend of 20 ms, times the sync chain's rate",
            ratio("native async", "backend sync"),
            ">=",
            20,
        ),
        (
            "the same, sync chain with the lazy masker",
            ratio("native async", "backend sync, lazy masker"),
            ">=",
            20,
        ),
        (
            "sync backend in 64 threads, times the sync chain's rate",
            ratio("adapter", "backend sync"),
            ">=",
            20,
        ),
        ("loop lag p99 meanwhile, native, ms", arms["native async"]["lag_ms_p99"], "<=", 10),
        ("loop lag p99 meanwhile, 64 threads, ms", arms["adapter"]["lag_ms_p99"], "<=", 10),
        ("backend calls for 1,000 look-ups of one key", arms["one key"]["backend_calls"], "<=", 1),
        ("metastore at 2.5 ms, times the sync rate", ratio("metastore async", "metastore sync"), ">=", 3),
        (
            "the same, sync backend with the lazy masker",
            ratio("metastore async", "metastore sync, lazy masker"),
            ">=",
            3,
        ),
        ("cached variable, µs", arms["cached"]["variable_us"], "<=", 20),
        ("cached connection, µs", arms["cached"]["connection_us"], "<=", 20),
    ]
    return [
        {
            "figure": name,
            "measured": round(value, 3),
            "wanted": f"{sign} {limit}",
            "met": _met(value, sign, limit),
        }
        for name, value, sign, limit in figures
    ]


def _met(value: float, sign: str, limit: float) -> bool:
    return value >= limit if sign == ">=" else value <= limit


def _arms(vault_url: str) -> dict[str, Callable[[], Measurement]]:
    """Return the arms in the order in which they are run; each checks what it finds."""
    return {
        "backend sync": lambda: _sync(_sleeping_backend(), lazy=False),
        "backend sync, lazy masker": lambda: _sync(_sleeping_backend(), lazy=True),
        "native async": lambda: _async(_native_backend),
        "adapter": lambda: _async(_adapter),
        "vault sync, lazy masker": lambda: _sync(_vault_backend(vault_url), lazy=True),
        "vault async": lambda: _async(lambda: _vault_backend(vault_url)),
        "metastore sync": lambda: _sync(_stock_metastore(), lazy=False),
        "metastore sync, lazy masker": lambda: _sync(_stock_metastore(), lazy=True),
        "metastore async, one at a time": lambda: _async(_metastore, concurrency=1),
        "metastore async": lambda: _async(_metastore),
        "idle event loop": _idle,
        "one key": _one_key,
        "cached": _cached,
    }


# --- arms ---


def _sync(backend: Any, *, lazy: bool) -> Measurement:
    """Airflow's own look-up, one after the other: it has no other way on an event loop."""
    from airflow import configuration
    from airflow.models import Connection

    _new_masker(lazy=lazy)
    backend._set_connection_class(Connection)
    original = list(configuration.secrets_backend_list)
    configuration.secrets_backend_list[:] = [backend]
    try:
        stopwatch = _Stopwatch()
        for conn_id in VALUES:
            _check(conn_id, Connection.get_connection_from_secrets(conn_id))
        return stopwatch.figures()
    finally:
        configuration.secrets_backend_list[:] = original


def _async(make: Callable[[], Any], concurrency: int = CONCURRENCY) -> Measurement:
    """The chain, with so many look-ups at once, on the event loop that the scheduler would take."""
    from airflow.models import Connection

    from async_scheduler.secrets.chain import AsyncSecretsChain

    async def run() -> Measurement:
        backend = make()
        backend._set_connection_class(Connection)
        chain = AsyncSecretsChain([backend])
        numbers = iter(VALUES)

        async def look_up() -> None:
            for conn_id in numbers:
                _check(conn_id, await chain.aget_connection(conn_id))

        try:
            async with _lag_watched() as lags:
                stopwatch = _Stopwatch()
                async with asyncio.TaskGroup() as group:
                    for number in range(concurrency):
                        group.create_task(look_up(), name=f"look-up-{number}")
                figures = stopwatch.figures()
        finally:
            await chain.aclose()
            await _close_engine()
        return {**figures, "lag_ms_p99": _p99_ms(lags)}

    _new_masker(lazy=True)
    return _run(run)


def _idle() -> Measurement:
    """A loop on which nothing runs: what the machine's other work does to the lag."""

    async def run() -> Measurement:
        async with _lag_watched() as lags:
            await asyncio.sleep(1)
        return {"lag_ms_p99": _p99_ms(lags)}

    return _run(run)


class _Stopwatch:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def figures(self) -> Measurement:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"rate": CONNECTIONS / wall, "cpu_ms": cpu * 1000 / CONNECTIONS}


def _one_key() -> Measurement:
    from async_scheduler.secrets.chain import AsyncSecretsChain

    async def run() -> Measurement:
        backend = _native_backend()
        chain = AsyncSecretsChain([backend])
        began = time.perf_counter()
        await asyncio.gather(*(chain.aget_variable("key") for _ in range(1000)))
        return {"backend_calls": backend.calls, "milliseconds": (time.perf_counter() - began) * 1000}

    return _run(run)


def _cached() -> Measurement:
    from airflow.models import Connection

    from async_scheduler.secrets.chain import AsyncSecretsChain, ChainSettings

    async def run() -> Measurement:
        backend = _native_backend()
        backend._set_connection_class(Connection)
        chain = AsyncSecretsChain([backend], ChainSettings(ttl=3600))
        conn_id = conn_id_of(0)
        return {
            "variable_us": await _microseconds(lambda: chain.aget_variable("key")),
            "connection_us": await _microseconds(lambda: chain.aget_connection(conn_id)),
        }

    return _run(run)


async def _microseconds(look_up: Callable[[], Awaitable[Any]]) -> float:
    await look_up()
    began = time.perf_counter()
    for _ in range(HITS):
        await look_up()
    return (time.perf_counter() - began) / HITS * 1e6


def _check(conn_id: str, found: Any) -> None:
    if found is None or found.conn_id != conn_id or found.port != 5432:
        raise AssertionError(f"{conn_id} was not found")


# --- backends ---


def _sleeping_backend() -> Any:
    from airflow.secrets import BaseSecretsBackend

    class Sleeping(BaseSecretsBackend):  # type: ignore[misc]
        """A sync backend that takes its time."""

        def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
            time.sleep(LATENCY)
            return VALUES.get(conn_id)

    return Sleeping()


def _native_backend() -> Any:
    from async_scheduler.secrets import AsyncValueBackend

    class Native(AsyncValueBackend):
        """An async backend that takes its time."""

        calls = 0

        async def aget_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
            self.calls += 1
            await asyncio.sleep(LATENCY)
            return VALUES.get(conn_id)

        async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
            self.calls += 1
            await asyncio.sleep(LATENCY)
            return "value"

    return Native()


def _adapter() -> Any:
    from airflow.models import Connection

    from async_scheduler.secrets.adapter import AsyncBackendAdapter
    from async_scheduler.secrets.threads import DaemonThreads

    backend = _sleeping_backend()
    backend._set_connection_class(Connection)
    return AsyncBackendAdapter(backend, DaemonThreads(CONCURRENCY, "bench-secrets"))


def _vault_backend(url: str) -> Any:
    from async_scheduler.secrets.vault import AsyncVaultBackend

    return AsyncVaultBackend(url=url, token="bench")


def _stock_metastore() -> Any:
    from airflow.secrets.metastore import MetastoreBackend

    return MetastoreBackend()


def _metastore() -> Any:
    from async_scheduler.secrets.metastore import AsyncMetastoreBackend

    return AsyncMetastoreBackend()


# --- surroundings ---


def _run(body: Callable[[], Awaitable[Measurement]]) -> Measurement:
    from async_scheduler.driver.event_loop import loop_factory

    with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
        return runner.run(body())  # type: ignore[arg-type]


@asynccontextmanager
async def _lag_watched() -> AsyncIterator[list[float]]:
    """Collect the loop's lag in seconds, also for the probes that a blocked loop could not make."""
    from async_scheduler.measure import loop_lag

    lags: list[float] = []

    def note(lag: float) -> None:
        while lag >= 0:
            lags.append(lag)
            lag -= LAG_INTERVAL

    watcher = asyncio.ensure_future(loop_lag.watch(note, interval=LAG_INTERVAL))
    try:
        yield lags
    finally:
        watcher.cancel()


def _p99_ms(lags: list[float]) -> float:
    return sorted(lags)[int(len(lags) * 0.99)] * 1000 if lags else 0.0


def _new_masker(*, lazy: bool) -> None:
    """Give the process a masker that knows no secrets."""
    from airflow._shared.secrets_masker import secrets_masker

    from async_scheduler.secrets.masking import compile_masks_when_needed

    secrets_masker._secrets_masker.cache_clear()
    if lazy:
        compile_masks_when_needed()


async def _close_engine() -> None:
    """Close Airflow's async engine, whose connections belong to the event loop that ends."""
    from airflow import settings

    if settings.async_engine is not None:
        await settings.async_engine.dispose()


def _print(result: Mapping[str, Any], console: Console) -> None:
    columns = {"rate": "Look-ups/s", "cpu_ms": "CPU ms each", "lag_ms_p99": "Loop lag p99, ms"}
    arms = Table("Arm", *columns.values(), "Other", title="Medians")
    for arm, figures in result["medians"].items():
        shown = [f"{figures[key]:,.2f}" if key in figures else "" for key in columns]
        other = ", ".join(f"{key} {value:,.2f}" for key, value in figures.items() if key not in columns)
        arms.add_row(arm, *shown, other)
    console.print(arms)
    targets = Table("Figure", "Measured", "Wanted", "Met", title="Targets")
    for target in result["targets"]:
        met = "yes" if target["met"] else "NO"
        targets.add_row(target["figure"], str(target["measured"]), target["wanted"], met)
    console.print(targets)


def run(repeats: int, file: Path | None, console: Console) -> int:
    """Measure, write all figures to *file*, print them; return 0 if every target is met, else 1."""
    result = measure(repeats, lambda text: console.print(text, highlight=False))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n")
    _print(result, console)
    return 0 if all(target["met"] for target in result["targets"]) else 1


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m poc_bench.secrets_workload", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures there")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="run every arm so often")
    options = parser.parse_args()
    return run(options.repeat, options.json, Console())


if __name__ == "__main__":
    raise SystemExit(main())
