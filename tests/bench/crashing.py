"""An executor that takes its scheduler down when the first tasks arrive."""

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
