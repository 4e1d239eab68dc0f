"""Keeps the flag right that holds dags at their limit of active runs out of run creation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.store.limits import Corrected, correct_exceeding, find_exceeding

if TYPE_CHECKING:
    from collections.abc import Iterable

LOOK_AGAIN = 0.1
"""Seconds after which a flag is tried again whose row somebody held, as a DAG processor for a parse."""


@dataclass(slots=True)
class LimitFlags:
    """The dags whose flag may be wrong since a run of theirs ended, shared by all lanes.

    What is forgotten when the scheduler dies is found by
    :func:`~async_scheduler.store.limits.lift_stale`.
    """

    sessions: Sessions
    _doubtful: frozenset[str] = frozenset()

    def doubt(self, dag_ids: Iterable[str]) -> None:
        """Note that a run of each of these dags has ended."""
        self._doubtful |= frozenset(dag_ids)

    @property
    def due_in(self) -> float | None:
        """Seconds until flags that could not be written should be tried again; None when there are none."""
        return LOOK_AGAIN if self._doubtful else None

    async def correct(self, looks: Sessions | None = None) -> int:
        """Correct what is wrong, in a transaction of its own; return how many flags changed.

        Rows that somebody holds are passed over and stay in doubt, as all do when it fails.

        :param looks: sessions to see with whether any is wrong, where there are cheaper ones.
        """
        taken, self._doubtful = self._doubtful, frozenset()
        if not taken:
            return 0
        held = taken
        try:
            async with transaction(looks or self.sessions) as tx:
                wrong = await find_exceeding(tx.session, taken)
            corrected = await self._correct(wrong) if wrong else Corrected()
            held = corrected.held
        finally:
            self.doubt(held)
        return corrected.changed

    async def _correct(self, dag_ids: frozenset[str]) -> Corrected:
        async with transaction(self.sessions) as tx:
            return await correct_exceeding(tx.session, dag_ids)
