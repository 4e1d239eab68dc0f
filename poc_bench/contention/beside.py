"""Other processes of Airflow beside the schedulers of a cell: somebody to meet at the rows."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from poc_bench.bench import Bench
from poc_bench.errors import UsageError
from poc_bench.processes import Child, module

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from poc_bench.database.server import Server
    from poc_bench.site import CellKey, CellSite

T = TypeVar("T")

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "dag-processor": ("airflow", "dag-processor"),
    "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
}
BUSY: Mapping[str, str] = {
    "AIRFLOW__CORE__DAG_DISCOVERY_SAFE_MODE": "False",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "0",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "1",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_FETCH_INTERVAL": "0",
}
"""Makes the DAG processor parse and write all the time, as one with many files does; it finds dags that are
built by code, too.
"""


def beside(names: str) -> tuple[str, ...]:
    """Return the processes of those names, separated by commas.

    :raises UsageError: for a name that is not one.
    """
    wanted = tuple(name for name in names.split(",") if name)
    for name in wanted:
        if name not in COMMANDS:
            raise UsageError(f"There is no process {name!r}. There are: {', '.join(COMMANDS)}")
    return wanted


class AccompaniedBench(Bench):
    """A bench whose cells have such processes beside them. The server knows them by their names."""

    def __init__(self, server: Server, kept: Path, timeout: float, companions: tuple[str, ...]) -> None:
        super().__init__(server, kept, timeout)
        self._companions = companions

    def _on_a_site(self, key: CellKey, action: Callable[[CellSite], T]) -> T:
        def accompanied(site: CellSite) -> T:
            with ExitStack() as stack:
                for name in self._companions:
                    stack.callback(_start(name, site).end)
                return action(site)

        return super()._on_a_site(key, accompanied)


def _start(name: str, site: CellSite) -> Child:
    environment = site.environment({**BUSY, "PGAPPNAME": f"airflow {name}"})
    return Child(name, module(*COMMANDS[name]), environment, site.folder)
