"""A cell's link as the harness sees it: started, its delay measured and set right, its figures collected."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

from sqlalchemy import NullPool, create_engine

from poc_bench.errors import CellFailure
from poc_bench.processes import Child, module

if TYPE_CHECKING:
    from pathlib import Path

    from poc_bench.database.address import Address

TOLERANCE = 0.1
"""A link whose added delay is off by more than this share is not measured through."""
PINGS = 60
ROUNDS = 60
STRICT_ROUNDS = 15
"""After so many the machine is taken for a busy one: the tolerance will do, for the quickest statements."""
CLOSE_ENOUGH = 0.04
MEDIAN, QUICKEST = 0.5, 0.05
"""Which of the pings counts: a busy machine delays most of them, and never makes one quicker."""


class LinkedDatabase:
    """A database behind a link of *rtt* milliseconds.

    The relay itself takes time (some tenths of a millisecond). :meth:`verify` measures what is added in all,
    and shortens the relay's delay by that.
    """

    def __init__(self, address: Address, rtt: float, folder: Path, environment: dict[str, str]) -> None:
        self._direct = address
        self._rtt = rtt
        self._request = folder / "link.json"
        self._figures = folder / "link-figures.json"
        self._port_file = folder / "link-port"
        self._write(rtt)
        command = module("poc_bench.link.relay", str(self._request))
        self.process = Child("link", command, environment, folder)
        self.address = address.behind(self._wait_for_port())
        self._added = 0.0
        self._share = MEDIAN
        self.connections = 0
        """How many connections were made to measure the delay: the server counts a commit for each."""

    def _write(self, relay_rtt: float) -> None:
        self._relay_rtt = relay_rtt
        request = {
            "socket": self._direct.socket,
            "host": self._direct.host,
            "port": self._direct.port or self._direct.default_port,
            "rtt": relay_rtt,
            "port_file": str(self._port_file),
            "figures": str(self._figures),
        }
        temporary = self._request.with_suffix(".new")
        temporary.write_text(json.dumps(request))
        temporary.replace(self._request)

    def _wait_for_port(self) -> int:
        for _ in range(4000):
            if self._port_file.exists():
                return int(self._port_file.read_text())
            if self.process.exit_code is not None:
                break
            time.sleep(0.025)
        raise CellFailure(f"the link does not start: {self.process.last_line()}")

    def verify(self) -> None:
        """Measure the added delay and correct it until it is right; a disturbed machine takes more rounds.

        :raises CellFailure: when it stays off by more than :data:`TOLERANCE`.
        """
        for number in range(ROUNDS):
            if number == STRICT_ROUNDS:
                self._delay_by(self._rtt)  # forget what was corrected by noise
                self._share = QUICKEST
            self._added = self.added_delay()
            error = self._added - self._rtt
            if abs(error) <= (CLOSE_ENOUGH if number < STRICT_ROUNDS else TOLERANCE) * self._rtt:
                return
            self._delay_by(max(0.0, self._relay_rtt - error))
        raise CellFailure(f"the link adds {self._added:.2f} ms instead of {self._rtt:g} ms")

    def _delay_by(self, milliseconds: float) -> None:
        self._write(milliseconds)
        os.kill(self.process.pid, signal.SIGHUP)

    def added_delay(self) -> float:
        """Return by how many milliseconds a statement takes longer through the link (medians at first)."""
        self.connections += 2
        return _ping(self.address, self._share) - _ping(self._direct, self._share)

    def figures(self) -> dict[str, float]:
        """Return what was wanted and measured, after the process has ended. Times in milliseconds."""
        relay: dict[str, float] = json.loads(self._figures.read_text())
        return {"wanted": self._rtt, "added": round(self._added, 3), "by_quantile": self._share, **relay}


def _ping(address: Address, share: float) -> float:
    """Return within how many milliseconds that *share* of statements that do nothing come back."""
    engine = create_engine(address.sync_url, poolclass=NullPool, connect_args=address.named("bench-ping"))
    times = []
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        for _ in range(PINGS):
            began = time.perf_counter()
            cursor.execute("SELECT 1")
            cursor.fetchall()
            times.append(time.perf_counter() - began)
    return sorted(times)[int(share * PINGS)] * 1000
