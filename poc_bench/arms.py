"""The schedulers that are compared. An arm is a scheduler command and its environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poc_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SYNC = ("airflow", "scheduler")
ASYNC = ("airflow", "scheduler", "--async")
MODE = "AIRFLOW__ASYNC_SCHEDULER__MODE"
ALGORITHM = "AIRFLOW__ASYNC_SCHEDULER__ALGORITHM"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to schedule. ``processes`` schedulers run at once; ``tuned`` searches a settings grid first."""

    name: str
    description: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    tuned: bool = False


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("sync", "The stock scheduler with its default settings.", SYNC),
        Arm("sync-tuned", "The stock scheduler at the best of a small grid of settings.", SYNC, tuned=True),
        Arm("sync-x2", "Two stock schedulers: the fair rival at equal CPU.", SYNC, processes=2),
        Arm(
            "naive",
            "Upstream's routines as concurrent coroutines.",
            ASYNC,
            {MODE: "concurrent", ALGORITHM: "upstream"},
        ),
        Arm(
            "naive-tuned",
            "The same at the best of the grid.",
            ASYNC,
            {MODE: "concurrent", ALGORITHM: "upstream"},
            tuned=True,
        ),
        Arm(
            "naive-shared-session",
            "Upstream's routines as coroutines that share one session behind a lock.",
            ASYNC,
            {MODE: "shared_session", ALGORITHM: "upstream"},
        ),
        Arm(
            "naive-sequential",
            "Upstream's routines as coroutines, one after another.",
            ASYNC,
            {MODE: "sequential", ALGORITHM: "upstream"},
        ),
        Arm(
            "redesigned",
            "The redesigned stages as concurrent coroutines.",
            ASYNC,
            {MODE: "concurrent", ALGORITHM: "redesigned"},
        ),
        Arm(
            "redesigned-sequential",
            "The redesigned stages as coroutines, one after another.",
            ASYNC,
            {MODE: "sequential", ALGORITHM: "redesigned"},
        ),
    )
}

FLOOR = Arm(
    "floor", "No scheduler: the same row transitions in batches, with no decisions.", ("poc_bench.floor",)
)
"""Not an arm to choose: it is measured beside the others wherever it can be."""


def arm(name: str) -> Arm:
    """Return the arm of that name.

    :raises UsageError: when there is none.
    """
    if name not in ARMS:
        raise UsageError(f"There is no arm {name!r}. There are: {', '.join(ARMS)}")
    return ARMS[name]
