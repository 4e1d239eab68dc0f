"""Airflow's log server, a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Process

from airflow.executors.executor_loader import ExecutorLoader

PATIENCE = 5.0
"""Seconds that the server gets for its end."""


@contextmanager
def log_server(skip: bool) -> Iterator[None]:
    """While the block runs, serve the logs of tasks that run on this machine; not where *skip* says so.

    Mirrors ``_serve_logs`` of the stock command, which imports a web framework into the scheduler for it:
    eight MiB that only the server's process needs.
    """
    process = None if skip or not _is_wanted() else Process(target=_begin)
    if process is not None:
        process.start()
    try:
        yield
    finally:
        if process is not None:
            process.terminate()
            process.join(PATIENCE)
            process.kill()  # it may have been told before it could hear


def _is_wanted() -> bool:
    names = ExecutorLoader.get_executor_names()
    return any(ExecutorLoader.import_executor_cls(name)[0].serve_logs for name in names)


def _begin() -> None:
    # The scheduler's own handler, inherited here, may do anything but end this process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _serve()


def _serve() -> None:
    from airflow.utils.serve_logs import serve_logs

    serve_logs()
