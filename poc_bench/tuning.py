"""Finds the best of a small grid of settings for an arm on a workload."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_TIS = "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY"
MAX_RUNS = "AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE"
PARALLELISM = "AIRFLOW__CORE__PARALLELISM"

GRID: tuple[Mapping[str, str], ...] = tuple(
    {MAX_TIS: str(tis), MAX_RUNS: str(runs), PARALLELISM: str(parallelism)}
    for tis, runs, parallelism in (
        (64, 20, 1024),
        (256, 10, 1024),
        (256, 20, 1024),
        (256, 10, 256),
        (512, 50, 1024),
        (1024, 10, 2048),
    )
)
"""What is tried, each once."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of the grid; ``value`` is None when the cell failed or went wrong."""

    settings: Mapping[str, str]
    value: float | None


@dataclass(frozen=True, slots=True)
class Tuned:
    """The settings found for an arm on a workload behind a link of *rtt* milliseconds."""

    size: str
    arm: str
    rtt: float
    figure: str
    trials: Sequence[Trial]
    best: Mapping[str, str]

    def recorded(self) -> dict[str, object]:
        """Return this as the run's file keeps it."""
        return asdict(self)


def best(trials: Sequence[Trial], higher_is_better: bool) -> Mapping[str, str]:
    """Return the settings of the best trial; those of the first when none succeeded."""
    succeeded = [(trial.value, trial) for trial in trials if trial.value is not None]
    if not succeeded:
        return trials[0].settings
    choose = max if higher_is_better else min
    return choose(succeeded, key=lambda pair: pair[0])[1].settings
