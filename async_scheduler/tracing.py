"""Makes the scheduler traceable: ties the instrument of :mod:`async_scheduler.measure` to Airflow's world."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from async_scheduler.measure.instrument import Instrument
from async_scheduler.measure.service import MeasureService
from async_scheduler.metrics import report_loop_lag

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import URL, Engine

    from async_scheduler.settings import Settings

log = logging.getLogger(__name__)

NO_SOCKET = "none"
LONGEST_PATH = 100
"""A unix socket's path may have 107 bytes on Linux, 103 on macOS."""


class Tracing:
    """The instrument of one scheduler: off, or writing a trace, as asked at start or over the socket."""

    def __init__(self, settings: Settings, engines: Iterable[Engine], url: URL) -> None:
        self._settings = settings
        self._directory = Path(settings.trace_directory).absolute() if settings.trace_directory else None
        labels = {"mode": settings.mode, "backend": url.get_backend_name()}
        self.instrument = Instrument("scheduler", labels=labels)
        self.instrument.attach(engines)
        sampled = url if settings.trace_sampler else None
        self._service = MeasureService(
            self.instrument, url, socket_path(settings.control_socket), sampled=sampled
        )

    async def begin(self) -> None:
        """Begin the trace that the settings ask for, if any.

        :raises TraceDirectoryUnusable: when it cannot be written.
        """
        if self._directory is not None:
            await self._service.on(self._directory, self._settings.trace_level)

    async def run(self) -> None:
        """Serve the control socket and watch for deadlocks until cancelled; the trace is complete then."""
        try:
            await self._service.run()
        # An instrument must not end what it measures, whatever is wrong with it.
        except Exception:
            log.exception("The instrument has failed: no more traces of this scheduler, all else goes on")

    def lag(self, seconds: float) -> None:
        """Report how late the event loop was, to the metrics and to the trace."""
        report_loop_lag(seconds)
        self.instrument.lag(seconds)


def socket_path(setting: str) -> Path | None:
    """Return where this process listens: as set, by default in :func:`socket_directory`; None for nowhere."""
    if setting == NO_SOCKET:
        return None
    return Path(setting).absolute() if setting else socket_directory() / f"{os.getpid()}.sock"


def socket_directory() -> Path:
    """Return the folder of the control sockets: in Airflow's home, unless that makes the path too long."""
    from airflow.configuration import AIRFLOW_HOME

    directory = Path(AIRFLOW_HOME) / "async-scheduler"
    if len(bytes(directory)) + len("/4194304.sock") <= LONGEST_PATH:
        return directory
    short = hashlib.blake2b(bytes(directory), digest_size=6).hexdigest()
    return Path(tempfile.gettempdir()) / f"async-scheduler-{os.getuid()}-{short}"
