"""What the terminal shows while cells are measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console

    from poc_bench.record import CellRecord
    from poc_bench.site import CellKey


class Progress:
    """A bar with the time left, and one line for each cell that ended. Use as a context manager."""

    def __init__(self, console: Console, cells: int) -> None:
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            refresh_per_second=1,
            speed_estimate_period=3600,
        )
        self._task = self._bar.add_task("starting", total=cells)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begins(self, key: CellKey) -> None:
        """Show what is being measured."""
        workload = key.workload.workload.name
        self._bar.update(self._task, description=f"{workload} {key.arm.name} RTT {key.rtt:g}")

    def tries(self, key: CellKey, number: int, count: int) -> None:
        """Show which point of the settings grid is being tried."""
        workload = key.workload.workload.name
        self._bar.update(self._task, description=f"{workload} {key.arm.name}: settings {number}/{count}")

    def ended(self, cell: CellRecord) -> None:
        """Print the cell's outcome and move on."""
        self._bar.console.print(_line(cell), highlight=False)
        self._bar.advance(self._task)


def _line(cell: CellRecord) -> str:
    where = f"#{cell.repeat} {cell.workload:<13} {cell.arm:<20} {cell.rtt:3g} ms"
    figures = cell.figures
    if cell.failure is not None:
        return f"{where}  [red]failed:[/red] {cell.failure}"
    if not cell.correct:
        return f"{where}  [red]wrong:[/red] {(cell.violations + cell.differences)[0]}"
    if cell.profiled:
        return f"{where}  profiled"
    if "idle_cpu" in figures:
        return f"{where}  {figures['idle_cpu']:6.2f} % of a core"
    cpu = f"{figures['scheduler_cpu']:6.2f} CPU s/1,000" if "scheduler_cpu" in figures else ""
    return f"{where}  {figures['throughput']:7.1f} TI/s  {cpu}"
