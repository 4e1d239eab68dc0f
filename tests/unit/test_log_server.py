"""The log server runs as long as the scheduler, where its executors want one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from multiprocessing import active_children, parent_process
from time import sleep

import pytest
from airflow.executors.base_executor import BaseExecutor
from airflow.executors.executor_loader import ExecutorLoader

from async_scheduler.cli import log_server as module
from async_scheduler.cli.log_server import log_server


def serve_for_ever() -> None:
    assert parent_process() is not None
    while True:
        sleep(60)


@pytest.fixture(autouse=True)
def _deaf() -> Iterator[None]:
    """SIGTERM is caught, as in a scheduler, by something that does not end the process."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("skip", [True, False])
def test_it_serves_where_an_executor_wants_it_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, skip: bool
) -> None:
    executor = type("Executor", (BaseExecutor,), {"serve_logs": wanted})
    monkeypatch.setattr(ExecutorLoader, "get_executor_names", lambda: ["executor"])
    monkeypatch.setattr(ExecutorLoader, "import_executor_cls", lambda _: (executor, None))
    monkeypatch.setattr(module, "_serve", serve_for_ever)
    before = set(active_children())
    with log_server(skip):
        started = set(active_children()) - before
        assert len(started) == (wanted and not skip)
    for process in started:
        process.join(60)
        assert not process.is_alive()
