"""How long to wait before a failing routine is tried again, and when to give up."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

FIRST_WAIT = 0.05


@dataclass(slots=True)
class Backoff:
    """Exponential waits with full jitter; gives up after *give_up_after* seconds without a success.

    Full jitter – anything between 0 and the bound – keeps two schedulers that deadlocked with each other
    from meeting again.
    """

    longest: float
    give_up_after: float
    random: random.Random = field(default_factory=random.Random)
    failures: int = 0
    _since: float | None = None

    def succeed(self) -> None:
        """Forget past failures."""
        self.failures, self._since = 0, None

    def fail(self, now: float) -> float | None:
        """Count a failure at *now* (seconds); return the seconds to wait, or None to give up."""
        if self._since is None:
            self._since = now
        if self.failures and now - self._since >= self.give_up_after:
            return None
        bound = min(self.longest, FIRST_WAIT * 2 ** min(self.failures, 32))
        self.failures += 1
        return self.random.uniform(0, bound)
