"""The file of a run, ``run.json``: every cell with its figures, and all that is needed to judge them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from poc_bench.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

FILE = "run.json"
SCHEMA = 1


@dataclass(slots=True)
class CellRecord:
    """One cell. ``differences`` and ``violations`` are empty when the work was done right."""

    workload: str
    size: str
    arm: str
    rtt: float
    schedulers: int
    repeat: int
    settings: dict[str, str]
    task_instances: int = 0
    runs: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    distributions: dict[str, list[float]] = field(default_factory=dict)
    failure: str | None = None
    violations: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    compared_with: str | None = None
    """The arm whose end state this one was compared with; None when there was none to compare with."""
    load_before: float = 0.0
    foreign_cores: float | None = None
    """Cores that processes outside the cell kept busy while it was measured."""
    harness_cpu_share: float = 0.0
    seconds_to_ready: float = 0.0
    link: dict[str, float] | None = None
    """What the link did, see :mod:`poc_bench.link.linked`."""
    sqlstates: dict[str, int] = field(default_factory=dict)
    profiled: bool = False
    """Whether py-spy was watching, so that the figures are not to be used."""
    profiles: list[str] = field(default_factory=list)
    """Files in the run's folder."""

    @property
    def correct(self) -> bool:
        """Whether the cell ended, and the work was done right."""
        return self.failure is None and not self.violations and not self.differences

    @property
    def position(self) -> tuple[str, float, int]:
        """Where the cell stands apart from arm and repeat: size, RTT, schedulers."""
        return self.size, self.rtt, self.schedulers


@dataclass(slots=True)
class RunRecord:
    """One run of the bench."""

    created: str
    seed: int
    repeats: int
    executor: str
    database: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    arms: dict[str, dict[str, Any]]
    workloads: dict[str, dict[str, Any]]
    fixed_environment: dict[str, str]
    tuned: list[dict[str, Any]] = field(default_factory=list)
    cells: list[CellRecord] = field(default_factory=list)
    interrupted: bool = False
    schema: int = SCHEMA

    @property
    def quotable(self) -> list[CellRecord]:
        """The cells whose figures may be used: done right, and not profiled."""
        return [cell for cell in self.cells if cell.correct and not cell.profiled]

    def write(self, folder: Path) -> None:
        """Write the run into *folder*, in one step."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{FILE}"
        temporary.write_text(json.dumps(asdict(self), separators=(",", ":")))
        temporary.replace(folder / FILE)


def read(folder: Path) -> RunRecord:
    """Return the run in *folder*.

    :raises UsageError: when there is none, or it was written by another version.
    """
    try:
        content = json.loads((folder / FILE).read_text())
    except OSError as error:
        raise UsageError(f"No run in {folder}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{folder / FILE} is not a run of this bench") from None
    if content.get("schema") != SCHEMA:
        raise UsageError(f"{folder / FILE} has schema {content.get('schema')}, this bench reads {SCHEMA}")
    content["cells"] = [CellRecord(**cell) for cell in content["cells"]]
    return RunRecord(**content)
