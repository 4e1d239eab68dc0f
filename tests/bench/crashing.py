"""Executors that take their scheduler down: when the first tasks arrive, or when it is to end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from poc_bench.executor.bench import BenchExecutor

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CODE = 3


class CrashingExecutor(BenchExecutor):
    """Ends the process at once, as a segmentation fault would."""

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        os._exit(EXIT_CODE)


class CrashingAtTheEnd(BenchExecutor):
    """Ends the process at once where it should let go of its workers."""

    def end(self) -> None:
        """Exit before anything that was registered for the end has run."""
        os._exit(EXIT_CODE)
