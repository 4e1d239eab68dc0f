"""What is done to schedulers, scenario by scenario, and what came of it."""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.crashpoints import MOMENTS
from tests.faults.field import ALGORITHMS
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
from tests.faults.invariants import shares, violations
from tests.faults.link import FaultyLink
from tests.faults.schedulers import BEHAVIOUR, CRASH

if TYPE_CHECKING:
    from tests.faults.field import Field, Fields
    from tests.faults.schedulers import Scheduler

RATE = 1.0
"""Runs that fall due each second while faults are injected, so that there is work all the time."""
PATIENCE = 300.0
"""Seconds after which work that has not ended counts as stuck."""
SMALL = "mixed-rules:dags=1,runs=4,duration=0.3"
MEDIUM = "mixed-rules:dags=2,runs=8,duration=0.1"
LARGE = "mixed-rules:dags=3,runs=20,duration=0.1"


FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


@dataclass(slots=True)
class Outcome:
    """What a scenario did, and what must not have happened but did."""

    scenario: str
    algorithm: str
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    task_instances: int = 0
    workloads: int = 0
    resets: int = 0
    schedulers: int = 0
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def judge(self, one: Field) -> None:
        """End the field's processes and enter what was seen."""
        seen = one.close()
        self.task_instances += len(seen.task_instances)
        self.workloads += sum(entry.event == "given" for entry in seen.given)
        self.resets += sum(change.kind == "ti" and change.reset for change in seen.changes)
        self.schedulers += len(one.schedulers.all)
        self.violations += violations(seen)
        names = {scheduler.pid: scheduler.label for scheduler in one.schedulers.all}
        self.figures["shares"] = {
            f"{names.get(pid, '?')} ({pid})": round(share, 3) for pid, share in shares(seen.given).items()
        }
        self.figures["most connections"] = one.watch.most_connections
        self.figures["idle in transaction over 1 s"] = len(one.watch.idle_in_transaction)


Scenario = Callable[["Fields", str, int, str], Outcome]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Callable[[Fields, Outcome, str], None]) -> Scenario:
    """Register *function*, which does something to schedulers on a workload and fills an outcome."""

    def run(fields: Fields, algorithm: str, seed: int, label: str) -> Outcome:
        outcome = Outcome(function.__name__, algorithm, seed)
        began = time.monotonic()
        function(fields, outcome, label)
        outcome.seconds = round(time.monotonic() - began, 1)
        return outcome

    SCENARIOS[function.__name__] = run
    return run


def _starter(one: Field, outcome: Outcome, **more: str) -> Callable[[str], Scheduler]:
    arm = ALGORITHMS[outcome.algorithm]
    return lambda label: one.schedulers.start(label, "--async", **{**arm, **more})


def _finish(one: Field, outcome: Outcome) -> None:
    if not one.wait(PATIENCE):
        outcome.violations.append(f"stuck: {one.left} runs have not ended after {PATIENCE:g} s")
    outcome.judge(one)


@contextmanager
def _injecting(one: Field, outcome: Outcome, *injectors: Injector) -> Iterator[None]:
    """Inject while the work goes on and the block runs."""
    for injector in injectors:
        injector.__enter__()
    try:
        yield
        until = time.monotonic() + PATIENCE
        while one.left and time.monotonic() < until:
            time.sleep(0.2)
    finally:
        for injector in injectors:
            injector.stop()
            outcome.faults += injector.injected


def _under(kind: type[Injector], shortest: float, longest: float, schedulers: int = 2) -> Scenario:
    """Return a scenario that is nothing but one injector."""

    def under_faults(fields: Fields, outcome: Outcome, label: str) -> None:
        with fields.field(label) as one:
            start = _starter(one, outcome)
            for number in range(schedulers):
                start(f"async {number}")
            one.open(schedulers, RATE)
            injector = kind(one, start, outcome.seed, shortest, longest)
            with _injecting(one, outcome, injector):
                pass
            _finish(one, outcome)
            if isinstance(injector, RestartServer):
                outcome.figures["resumed after seconds"] = [round(s, 2) for s in injector.resumed_after]
                outcome.violations += [
                    f"work resumed only {late:.1f} s after a restart of the server"
                    for late in injector.resumed_after
                    if late > 10
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
        start = _starter(one, outcome)
        for number in range(2):
            start(f"async {number}")
        one.open(2, RATE)
        with _injecting(one, outcome, LockRows(one, start, outcome.seed, 0.1, 0.6)):
            pass
        logs = "".join(scheduler.text for scheduler in one.schedulers.all)
        for fault in ("deadlock", "lock not available"):
            outcome.figures[f"passes retried: {fault}"] = logs.count(f": {fault}; trying again")
        _finish(one, outcome)


@scenario
def link_hurt(fields: Fields, outcome: Outcome, label: str) -> None:
    """The schedulers' way to the database stalls, breaks, and breaks in the middle of a message."""
    at = fields.server.address("postgres")
    assert at.socket is not None
    with FaultyLink(at.socket) as link, fields.field(label, link=at.behind(link.port)) as one:
        start = _starter(one, outcome)
        for number in range(2):
            start(f"async {number}")
        one.open(2, RATE)
        injector = HurtLink(one, start, outcome.seed, 0.3, 1.5)
        injector.link = link
        with _injecting(one, outcome, injector):
            pass
        _finish(one, outcome)


@scenario
def all_at_once(fields: Fields, outcome: Outcome, label: str) -> None:
    """Connections ended, the link hurt, rows locked, schedulers killed and the server restarted, together."""
    at = fields.server.address("postgres")
    assert at.socket is not None
    with FaultyLink(at.socket) as link, fields.field(label, link=at.behind(link.port)) as one:
        start = _starter(one, outcome)
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
        with _injecting(one, outcome, hurt, *others):
            pass
        _finish(one, outcome)


@scenario
def disk_full(fields: Fields, outcome: Outcome, label: str) -> None:
    """The database's disk is full now and then."""
    with fields.server.small_disk(120) as disk, fields.field(label, tablespace=disk.tablespace) as one:
        start = _starter(one, outcome)
        for number in range(2):
            start(f"async {number}")
        one.open(2, RATE)
        injector = FillDisk(one, start, outcome.seed, 1.0, 3.0)
        injector.disk = disk
        with _injecting(one, outcome, injector):
            pass
        disk.free()
        _finish(one, outcome)


@scenario
def clock_jumped(fields: Fields, outcome: Outcome, label: str) -> None:
    """The clock of the schedulers' machine jumps by an hour; database and workers keep theirs."""
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
        }
        with fields.field(label, more=faked) as one:
            start = _starter(one, outcome)
            for number in range(2):
                start(f"async {number}")
            one.open(2)
            injector = SetClock(one, start, outcome.seed, 1.0, 3.0)
            injector.clock = clock
            with _injecting(one, outcome, injector):
                pass
            clock.write_text("+0\n")
            if not one.schedulers.running:
                start("last")
            _finish(one, outcome)


def _shared(schedulers: int, stock: int) -> Scenario:
    def sharing(fields: Fields, outcome: Outcome, label: str) -> None:
        with fields.field(label) as one:
            start = _starter(one, outcome)
            for number in range(schedulers):
                start(f"async {number}")
            for number in range(stock):
                one.schedulers.start(f"stock {number}")
            one.open(schedulers + stock)
            began = time.monotonic()
            one.wait(PATIENCE)
            outcome.figures["seconds of work"] = round(time.monotonic() - began, 2)
            _finish(one, outcome)
            parts = outcome.figures["shares"]
            if len(parts) < schedulers + stock:
                outcome.violations.append(f"only {len(parts)} schedulers had work: {parts}")

    sharing.__name__ = f"{schedulers}_async" + (f"_{stock}_stock" if stock else "")
    return scenario(sharing)


one_alone = _shared(1, 0)
two_together = _shared(2, 0)
three_together = _shared(3, 0)
beside_the_stock_scheduler = _shared(1, 1)


@scenario
def rolling_switch(fields: Fields, outcome: Outcome, label: str) -> None:
    """Stock, then async, then stock again, each started before the one before it is ended."""
    with fields.field(label) as one:
        start = _starter(one, outcome)
        current = one.schedulers.start("stock 0")
        one.open(1)
        for number, starting in enumerate((start, one.schedulers.start)):
            time.sleep(1)
            following = starting(f"switch {number}")
            one.await_ready(number + 2)
            time.sleep(1)
            current.signal(signal.SIGTERM)
            outcome.faults["scheduler exchanged"] += 1
            current = following
        _finish(one, outcome)


@scenario
def executor_misbehaves(fields: Fields, outcome: Outcome, label: str) -> None:
    """Executors that hang, and that report what is unknown or stale."""
    with fields.field(label) as one:
        _starter(one, outcome, **{BEHAVIOUR: "hangs"})("hangs")
        _starter(one, outcome, **{BEHAVIOUR: "lies"})("lies")
        one.open(2)
        _finish(one, outcome)
        outcome.faults["executor misbehaved (1 beat in 20)"] += 1


@scenario
def executor_raises(fields: Fields, outcome: Outcome, label: str) -> None:
    """An executor that raises ends its scheduler with a clear message; the next one goes on."""
    with fields.field(label) as one:
        start = _starter(one, outcome, **{BEHAVIOUR: "raises"})
        start("raises 0")
        one.open(1)
        until = time.monotonic() + PATIENCE
        while one.left and time.monotonic() < until:
            if not one.schedulers.running:
                outcome.faults["executor raised"] += 1
                start(f"raises {len(one.schedulers.all)}")
            time.sleep(0.1)
        for scheduler in one.schedulers.all:
            if scheduler.code not in (None, 0) and "planted: the executor's broker" not in scheduler.text:
                outcome.violations.append(f"{scheduler.label} does not say what its executor raised")
        _finish(one, outcome)


ROUTINES = {
    "redesigned": ("sweep",),
    "upstream": (),
}
"""The routines that one algorithm has and the other has not."""
COMMON = (
    *("create", "start", "schedule", "enqueue", "executor:FaultExecutor", "deadlines", "executor_callbacks"),
    *("connection_tests", "heartbeat", "adopt_orphans", "trigger_timeouts", "awaiting_input_timeouts"),
    *("backfills", "lost_heartbeats", "paused_dag_runs", "stuck_in_queued", "asset_orphanage"),
    *("unreferenced_triggers", "connection_test_reaper"),
)


@scenario
def crash_points(fields: Fields, outcome: Outcome, label: str) -> None:
    """``kill -9`` at each moment of a transaction of each routine, while another scheduler works on."""
    points = [(routine, moment) for routine in (*COMMON, *ROUTINES[outcome.algorithm]) for moment in MOMENTS]
    import random

    draw = random.Random(outcome.seed)
    draw.shuffle(points)
    with fields.field(label) as one:
        _starter(one, outcome)("steady")
        one.open(1, RATE)
        missed = []
        for routine, moment in points:
            point = f"{routine}|{moment}|{draw.randint(1, 3)}"
            victim = _starter(one, outcome, **{CRASH: point})(point)
            if _ended(victim, within=8):
                victim.killed = True
                outcome.faults["crash point"] += 1
            else:
                victim.kill()
                missed.append(point)
        outcome.figures["crash points not reached"] = missed
        _finish(one, outcome)


def _ended(scheduler: Scheduler, within: float) -> bool:
    until = time.monotonic() + within
    while time.monotonic() < until:
        if scheduler.code is not None:
            return scheduler.code == -9
        time.sleep(0.02)
    return False
