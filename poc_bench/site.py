"""Where a cell happens: its key and plan, its database, its folder, the Airflow home it shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from poc_bench.arms import Arm
    from poc_bench.database.address import Address
    from poc_bench.environment import AirflowHome
    from poc_bench.plan import Plan
    from poc_bench.workloads.model import Sized

Executor = Literal["bench", "asked", "local"]
"""``bench`` tells when it has news, as the LocalExecutor does; ``asked`` is the same and has to be asked, as
CeleryExecutor has; ``local`` runs real task processes."""
Profile = Literal["speedscope", "flamegraph"]


@dataclass(frozen=True, slots=True)
class CellKey:
    """Which cell of the matrix this is. ``rtt`` is in milliseconds."""

    workload: Sized
    arm: Arm
    rtt: float
    schedulers: int
    repeat: int
    seed: int
    executor: Executor = "bench"
    profile: Profile | None = None
    """The form of a py-spy profile to record; such a cell's figures are not used."""

    @property
    def processes(self) -> int:
        """How many scheduler processes run at once."""
        return self.arm.processes * self.schedulers

    @property
    def name(self) -> str:
        """A name that fits a file."""
        size = "".join(c if c.isalnum() or c in ".-" else "_" for c in self.workload.label)
        return f"{size}__{self.arm.name}__rtt{self.rtt:g}__n{self.schedulers}__r{self.repeat}"


@dataclass(frozen=True, slots=True)
class CellSite:
    """What the parts of a cell work on."""

    key: CellKey
    plan: Plan
    home: AirflowHome
    address: Address
    folder: Path
    timeout: float
    server_pid: int | None

    def environment(self, extra: Mapping[str, str], address: Address | None = None) -> dict[str, str]:
        """Return the environment of one of the cell's Airflow processes."""
        return self.home.environment(address or self.address, extra)
