"""What is done to schedulers, scenario by scenario, and what came of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults import together
from tests.faults.injectors import (
    FillDisk,
    HurtLink,
    Injector,
    KillSchedulers,
    LockRows,
    PauseSchedulers,
    RestartServer,
    SetClock,
    TerminateBackends,
)
from tests.faults.link import FaultyLink
from tests.faults.running import RATE, SCENARIOS, Outcome, Scenario, finish, injecting, scenario, starter
from tests.faults.work import LARGE, MEDIUM, SMALL

if TYPE_CHECKING:
    from tests.faults.field import Fields

__all__ = ["LARGE", "MEDIUM", "SCENARIOS", "SMALL", "Outcome", "together"]

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
RESUMES_WITHIN = 10.0
"""Seconds after which work goes on when the server is back."""
FELT = 50
"""Locks of rows after which both a deadlock and a lock time-out must have hit a scheduler."""


def _under(kind: type[Injector], shortest: float, longest: float, schedulers: int = 2) -> Scenario:
    """Return a scenario that is nothing but one injector."""

    def under_faults(fields: Fields, outcome: Outcome, label: str) -> None:
        with fields.field(label) as one:
            start = starter(one, outcome)
            for number in range(schedulers):
                start(f"async {number}")
            one.open(schedulers, RATE)
            injector = kind(one, start, outcome.seed, shortest, longest)
            with injecting(one, outcome, injector, start=start):
                pass
            finish(one, outcome, start)
            if isinstance(injector, RestartServer):
                outcome.figures["resumed after seconds"] = [round(s, 2) for s in injector.resumed_after]
                outcome.violations += [
                    f"work resumed only {late:.1f} s after a restart of the server"
                    for late in injector.resumed_after
                    if late > RESUMES_WITHIN
                ]

    under_faults.__name__ = kind.name.replace(" ", "_")
    return scenario(under_faults)


backend_terminated = _under(TerminateBackends, 0.5, 3.0)
server_restarted = _under(RestartServer, 2.0, 6.0)
scheduler_killed = _under(KillSchedulers, 1.0, 4.0)
scheduler_paused = _under(PauseSchedulers, 0.5, 2.0)


@scenario
def rows_locked(fields: Fields, outcome: Outcome, label: str) -> None:
    """Deadlocks with a second session, and lock time-outs."""
    with fields.field(label) as one:
        name = one.address.database
        fields.server.execute(f"ALTER DATABASE {name} SET lock_timeout = '400ms'")
        start = starter(one, outcome)
        for number in range(2):
            start(f"async {number}")
        one.open(2, RATE)
        with injecting(one, outcome, LockRows(one, start, outcome.seed, 0.1, 0.6), start=start):
            pass
        logs = "".join(scheduler.text for scheduler in one.schedulers.all)
        for fault in ("deadlock", "lock not available"):
            felt = logs.count(f": {fault}; trying again")
            outcome.figures[f"passes retried: {fault}"] = felt
            if not felt and outcome.faults.total() > FELT:
                outcome.violations.append(f"no pass has met this: {fault}")
        finish(one, outcome, start)


@scenario
def link_hurt(fields: Fields, outcome: Outcome, label: str) -> None:
    """The schedulers' way to the database stalls, breaks, and breaks in the middle of a message."""
    at = fields.server.address("postgres")
    assert at.socket is not None
    with FaultyLink(at.socket) as link, fields.field(label, link=at.behind(link.port)) as one:
        start = starter(one, outcome)
        for number in range(2):
            start(f"async {number}")
        one.open(2, RATE)
        injector = HurtLink(one, start, outcome.seed, 0.3, 1.5)
        injector.link = link
        with injecting(one, outcome, injector, start=start):
            pass
        finish(one, outcome, start)


@scenario
def all_at_once(fields: Fields, outcome: Outcome, label: str) -> None:
    """Connections ended, the link hurt, rows locked, schedulers killed and the server restarted, together."""
    at = fields.server.address("postgres")
    assert at.socket is not None
    with FaultyLink(at.socket) as link, fields.field(label, link=at.behind(link.port)) as one:
        start = starter(one, outcome)
        for number in range(3):
            start(f"async {number}")
        one.open(3, RATE)
        hurt = HurtLink(one, start, outcome.seed, 0.3, 1.5)
        hurt.link = link
        others = (
            TerminateBackends(one, start, outcome.seed, 0.5, 3.0),
            LockRows(one, start, outcome.seed, 0.1, 0.6),
            KillSchedulers(one, start, outcome.seed, 3.0, 8.0),
            RestartServer(one, start, outcome.seed, 10.0, 20.0),
        )
        with injecting(one, outcome, hurt, *others, start=start):
            pass
        finish(one, outcome, start)


@scenario
def disk_full(fields: Fields, outcome: Outcome, label: str) -> None:
    """The database's disk is full now and then."""
    with fields.server.small_disk(120) as disk, fields.field(label, tablespace=disk.tablespace) as one:
        start = starter(one, outcome)
        for number in range(2):
            start(f"async {number}")
        one.open(2, RATE)
        injector = FillDisk(one, start, outcome.seed, 1.0, 3.0)
        injector.disk = disk
        with injecting(one, outcome, injector, start=start):
            pass
        disk.free()
        finish(one, outcome, start)


@scenario
def clock_jumped(fields: Fields, outcome: Outcome, label: str) -> None:
    """The clock of the schedulers' machine jumps by an hour; database and workers keep theirs.

    Time-outs by the clock are longer than that: by Airflow's rule a scheduler whose clock is fast fails tasks
    whose heartbeats look old to it, and gives out again what looks long queued.
    """
    if not FAKETIME.exists():
        raise FileNotFoundError(f"{FAKETIME}: install Debian's package faketime")
    with tempfile.TemporaryDirectory() as folder:
        clock = Path(folder, "clock")
        clock.write_text("+0\n")
        faked = {
            "LD_PRELOAD": str(FAKETIME),
            "FAKETIME_TIMESTAMP_FILE": str(clock),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "10800",
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "10800",
        }
        with fields.field(label, more=faked) as one:
            start = starter(one, outcome)
            for number in range(2):
                start(f"async {number}")
            one.open(2, RATE)
            injector = SetClock(one, start, outcome.seed, 1.0, 3.0)
            injector.clock = clock
            with injecting(one, outcome, injector, start=start):
                pass
            clock.write_text("+0\n")
            if not one.schedulers.running:
                start("last")
            finish(one, outcome, start)
