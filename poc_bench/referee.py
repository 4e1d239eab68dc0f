"""Compares how each cell ended with how the sync arm's ended, whichever comes first."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from poc_bench.correctness import EndState, differences

if TYPE_CHECKING:
    from collections.abc import Iterable

    from poc_bench.record import CellRecord

REFERENCE_ARMS = ("sync", "sync-tuned", "sync-x2")
"""Stock schedulers; the first of these in the matrix says how everything has to end."""


class Referee:
    """Holds the reference end state of each size of workload."""

    def __init__(self, arms: Iterable[str]) -> None:
        present = set(arms)
        self.reference_arm = next((name for name in REFERENCE_ARMS if name in present), None)
        self._references: dict[str, EndState] = {}
        self._waiting: defaultdict[str, list[tuple[CellRecord, EndState]]] = defaultdict(list)

    def judge(self, cell: CellRecord, state: EndState) -> None:
        """Set the cell's differences now, or as soon as the reference is known."""
        if cell.arm == self.reference_arm and cell.size not in self._references:
            self._references[cell.size] = state
        self._waiting[cell.size].append((cell, state))
        reference = self._references.get(cell.size)
        if reference is None:
            return
        for waiting, its_state in self._waiting.pop(cell.size):
            waiting.compared_with = self.reference_arm
            waiting.differences = differences(reference, its_state)
