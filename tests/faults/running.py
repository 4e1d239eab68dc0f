"""How a scenario runs: work, schedulers, injectors, and the verdict in the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.faults.field import ALGORITHMS
from tests.faults.invariants import shares, violations

if TYPE_CHECKING:
    from tests.faults.field import Field, Fields
    from tests.faults.injectors import Injector
    from tests.faults.schedulers import Scheduler

RATE = 1.0
"""Runs that fall due each second while faults are injected, so that there is work all the time."""
DECLARED_DEAD = "declared dead"
"""The figure that counts schedulers of which others thought that they were dead."""
PATIENCE = 900.0
"""Seconds after which work that has not ended counts as stuck, also on a busy machine."""


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

    def judge(self, one: Field, *, may_end: bool = False) -> None:
        """End the field's processes and enter what was seen.

        :param may_end: whether schedulers may end by themselves, for other reasons than being declared dead.
        """
        ended = one.schedulers.endings()
        seen = one.close()
        self.task_instances += len(seen.task_instances)
        self.workloads += sum(entry.event == "given" for entry in seen.given)
        self.resets += sum(change.kind == "ti" and change.reset for change in seen.changes)
        self.schedulers += len(one.schedulers.all)
        self.violations += violations(seen)
        if not may_end:
            self.violations += [f"a scheduler ended by itself: {line}" for line in ended]
        self._describe(one)
        dead = sum(change.kind == "job" and change.became == "failed" for change in seen.changes)
        if dead:
            self.figures[DECLARED_DEAD] = dead
        left = seen.consequences
        self.figures["callbacks"] = len(left.callbacks)
        self.figures["asset events"] = len({event.id for event in left.events})
        self.figures["workers that died"] = sum(entry.event == "killed" for entry in seen.given)
        self.figures["shares"] = self._shares(one, shares(seen.given))

    def _describe(self, one: Field) -> None:
        watch = one.watch
        self.figures["most connections"] = watch.most_connections
        self.figures["idle in transaction over 1 s"] = len(watch.idle_in_transaction)
        self.figures["lock waits"] = f"{watch.lock_waits} seen in {len(watch.samples)} looks"
        self.figures["found taken"] = dict(one.schedulers.counts().most_common())

    @staticmethod
    def _shares(one: Field, shares: dict[int, float]) -> dict[str, float]:
        names = {scheduler.pid: scheduler.label for scheduler in one.schedulers.all}
        found: Counter[str] = Counter()
        for pid, share in shares.items():
            found[names.get(pid, "?")] += share  # type: ignore[assignment]
        return {name: round(share, 3) for name, share in found.items()}


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


def starter(one: Field, outcome: Outcome, **more: str) -> Callable[[str], Scheduler]:
    """Return what starts an async scheduler of the outcome's algorithm, given its label."""
    arm = ALGORITHMS[outcome.algorithm]
    return lambda label: one.schedulers.start(label, "--async", **{**arm, **more})


def wait(one: Field, start: Callable[[str], object] | None = None) -> bool:
    """Return whether all work ends in time.

    On a busy machine all schedulers may be late with their heartbeats and step down: *start* starts another.
    """
    until = time.monotonic() + PATIENCE
    while one.left:
        if time.monotonic() > until:
            return False
        if start and not one.schedulers.running:
            start("replacement")
        time.sleep(0.2)
    return True


def finish(one: Field, outcome: Outcome, start: Callable[[str], object] | None, **judged: bool) -> None:
    """Wait for the end of the work and judge."""
    if not wait(one, start):
        outcome.violations.append(f"stuck: {one.left} runs have not ended after {PATIENCE:g} s")
    outcome.judge(one, **judged)


@contextmanager
def injecting(
    one: Field, outcome: Outcome, *injectors: Injector, start: Callable[[str], object] | None = None
) -> Iterator[None]:
    """Inject while the block runs and the work goes on."""
    for injector in injectors:
        injector.__enter__()
    try:
        yield
        wait(one, start)
    finally:
        for injector in injectors:
            injector.stop()
            outcome.faults += injector.injected
