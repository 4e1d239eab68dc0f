"""Several schedulers, an exchange of schedulers, executors that misbehave, and crashes at named points."""

from __future__ import annotations

import random
import signal
import time
from typing import TYPE_CHECKING

from tests.faults.crashpoints import MOMENTS, STATEMENT
from tests.faults.environment import EXECUTOR, TUNED
from tests.faults.running import (
    DECLARED_DEAD,
    PATIENCE,
    RATE,
    Outcome,
    Scenario,
    finish,
    scenario,
    starter,
    wait,
)
from tests.faults.schedulers import BEHAVIOUR, CRASH
from tests.faults.work import LARGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.faults.field import Fields
    from tests.faults.schedulers import Scheduler

FAIR_SHARE = 0.2
"""The share of the work that each of several schedulers does at least."""
RUNS_EACH = 4
"""Runs of each dag for each of several schedulers, at least."""
CRASH_RATE = 0.2
"""Runs that fall due each second while schedulers crash one after another, which takes its time."""
FEW = 12
"""Crash points of routines with work, and of the others, in a short run."""
CRASHES_WITHIN = 120.0
"""Seconds in which a scheduler comes to its crash point, if it ever does."""


def without_kills(label: str) -> str:
    """Leave out the tasks whose workers die: the stock scheduler may lose the event of that (#55004)."""
    return f"{label},kills=0"


def long_tasks(label: str) -> str:
    """Let tasks take a second each, as those of clusters do that are short of slots."""
    return ",".join(part if not part.startswith("duration=") else "duration=1" for part in label.split(","))


def enough_for(schedulers: int, label: str) -> str:
    """Let there be runs to share: a run stays with one scheduler, and few cannot be dealt out evenly."""
    return ",".join(
        f"runs={max(int(part[5:]), RUNS_EACH * schedulers)}" if part.startswith("runs=") else part
        for part in label.split(",")
    )


def _shared(schedulers: int, stock: int, slots: int = 0) -> Scenario:
    """Schedulers side by side; with *slots* each executor has only so many, and they are what is short."""

    def sharing(fields: Fields, outcome: Outcome, label: str) -> None:
        work = enough_for(schedulers + stock, long_tasks(label) if slots else label)
        more = {"AIRFLOW__CORE__PARALLELISM": str(slots)} if slots else {}
        with fields.field(without_kills(work) if stock else work, more=more) as one:
            start = starter(one, outcome)
            for number in range(schedulers):
                start(f"async {number}")
            for number in range(stock):
                one.schedulers.start(f"stock {number}", **TUNED)
            one.open(schedulers + stock, None if slots else 2 * RATE)
            began = time.monotonic()
            wait(one, start)
            outcome.figures["seconds of work"] = round(time.monotonic() - began, 2)
            finish(one, outcome, start)
            _judge_shares(outcome, schedulers + stock)

    kinds = f"{schedulers}_async" + (f"_{stock}_stock" if stock else "")
    sharing.__name__ = kinds + ("_few_slots" if slots else "")
    return scenario(sharing)


def _judge_shares(outcome: Outcome, schedulers: int) -> None:
    """Each does its share, unless one was late with its heartbeats on a machine that is too busy."""
    parts = outcome.figures["shares"]
    if DECLARED_DEAD in outcome.figures:
        return
    least = min(parts.values(), default=0.0) if len(parts) == schedulers else 0.0
    if least < FAIR_SHARE:
        outcome.violations.append(f"a scheduler did {least:.0%} of the work: {parts}")


one_alone = _shared(1, 0)
two_together = _shared(2, 0)
three_together = _shared(3, 0)
beside_the_stock_scheduler = _shared(1, 1)
beside_the_stock_scheduler_full = _shared(1, 1, slots=4)


@scenario
def rolling_switch(fields: Fields, outcome: Outcome, label: str) -> None:
    """Stock, then async, then stock again, each started before the one before it is ended."""
    with fields.field(without_kills(label)) as one:
        start = starter(one, outcome)
        current = one.schedulers.start("stock 0")
        one.open(1, RATE)
        for number, starting in enumerate((start, one.schedulers.start)):
            time.sleep(1)
            following = starting(f"switch {number}")
            one.await_ready(number + 2)
            time.sleep(1)
            current.signal(signal.SIGTERM)
            outcome.faults["scheduler exchanged"] += 1
            current = following
        finish(one, outcome, start)


@scenario
def executor_misbehaves(fields: Fields, outcome: Outcome, label: str) -> None:
    """Executors that hang, and that report what is unknown or stale."""
    with fields.field(label) as one:
        starter(one, outcome, **{BEHAVIOUR: "hangs"})("hangs")
        starter(one, outcome, **{BEHAVIOUR: "lies"})("lies")
        one.open(2, RATE)
        finish(one, outcome, starter(one, outcome))
        told = one.schedulers.counts("executor ")
        outcome.faults += told


@scenario
def executor_raises(fields: Fields, outcome: Outcome, label: str) -> None:
    """An executor that raises ends its scheduler with a clear message; the next one goes on."""
    with fields.field(label) as one:
        start = starter(one, outcome, **{BEHAVIOUR: "raises"})
        start("raises 0")
        one.open(1, RATE)
        until = time.monotonic() + PATIENCE
        while one.left and time.monotonic() < until:
            if not one.schedulers.running:
                outcome.faults["executor raised"] += 1
                start(f"raises {len(one.schedulers.all)}")
            time.sleep(0.1)
        for scheduler in one.schedulers.all:
            if scheduler.code not in (None, 0) and "planted: the executor's broker" not in scheduler.text:
                outcome.violations.append(f"{scheduler.label} does not say what its executor raised")
        finish(one, outcome, start, may_end=True)


LOOKING = {
    "redesigned": ("probe", "sweep"),
    "upstream": (),
}
"""The routines that one algorithm has and the other has not: they only look."""
WITH_WORK = ("create", "start", "schedule", "enqueue", f"executor:{EXECUTOR}")
"""The routines that come to a transaction only while there is work. The executor's looks too, and begins the
session of its looks once in ten seconds only."""
COMMON = (
    *("deadlines", "executor_callbacks", "connection_tests", "heartbeat", "adopt_orphans"),
    *("trigger_timeouts", "awaiting_input_timeouts", "backfills", "lost_heartbeats", "paused_dag_runs"),
    *("stuck_in_queued", "asset_orphanage", "unreferenced_triggers", "connection_test_reaper"),
)


@scenario
def crash_points(fields: Fields, outcome: Outcome, label: str) -> None:
    """``kill -9`` at each moment of a transaction of each routine, while another scheduler works on."""
    draw = random.Random(outcome.seed)
    points: list[tuple[str, str]] = []
    most = 99 if label == LARGE else FEW
    looks = [(routine, STATEMENT) for routine in LOOKING[outcome.algorithm]]
    for some in (_moments(WITH_WORK), _moments(COMMON) + looks):
        points += draw.sample(some, min(len(some), most))
    with fields.field(label) as one:
        start = starter(one, outcome)
        start("steady")
        one.open(1, CRASH_RATE)
        missed = []
        for routine, moment in points:
            point = f"{routine}|{moment}|{draw.randint(1, 2)}"
            if _crashes(starter(one, outcome, **{CRASH: point}), point):
                outcome.faults["crash point"] += 1
            else:
                missed.append(point)
        outcome.figures["crash points not reached"] = missed
        outcome.violations += [f"crash point not reached: {point}" for point in missed]
        finish(one, outcome, start)


def _moments(routines: Sequence[str]) -> list[tuple[str, str]]:
    return [(routine, moment) for routine in routines for moment in _moments_of(routine)]


def _moments_of(routine: str) -> Sequence[str]:
    if routine.startswith("executor:"):
        return STATEMENT, "before_commit", "after_commit"
    # Most visits to runs are statements that commit by themselves.
    return (*MOMENTS, STATEMENT) if routine == "schedule" else tuple(MOMENTS)


def _crashes(start: Callable[[str], Scheduler], point: str) -> bool:
    """Start a scheduler that comes to *point*; another one if it was declared dead before that."""
    until = time.monotonic() + CRASHES_WITHIN
    victim = start(point)
    while time.monotonic() < until:
        if victim.code == -signal.SIGKILL:
            victim.killed = True
            return True
        if victim.code is not None:
            victim = start(point)
        time.sleep(0.02)
    victim.kill()
    return False
