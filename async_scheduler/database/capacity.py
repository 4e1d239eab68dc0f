"""How many database connections one scheduler may have, known and said before it opens the first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from async_scheduler.errors import InvalidSetting

if TYPE_CHECKING:
    from async_scheduler.settings import Mode

CORE_STAGES = 4
"""create, start, schedule and enqueue."""
SECRETS = 1
"""The connection of the secrets chain, opened by the first look-up in the metastore."""


def smallest_pool(mode: Mode, executors: int) -> int:
    """Return how many connections *mode* needs at least to be what it says.

    Concurrent means that none of the core stages and executors has to wait for another's connection.
    """
    return CORE_STAGES + executors if mode == "concurrent" else 1


def require_pool(pool_size: int, mode: Mode, executors: int) -> None:
    """Refuse a pool that is too small for *mode*; 0 stands for one made to measure.

    :raises InvalidSetting: with what is allowed.
    """
    least = smallest_pool(mode, executors)
    if 0 < pool_size < least:
        allowed = (
            f"at least {least} in mode {mode} with {executors} executor(s), or 0 for as many as can be used; "
            "mode = sequential and mode = shared_session need 1"
        )
        raise InvalidSetting("async_scheduler", "pool_size", str(pool_size), allowed)


@dataclass(frozen=True, slots=True)
class Blocking:
    """The limits of Airflow's own blocking engine, which heartbeat, listeners and some timers use.

    ``size`` and ``overflow`` as in ``[database]``: -1 means without limit; not ``pooled`` neither.
    """

    size: int
    overflow: int
    pooled: bool = True

    @classmethod
    def from_airflow(cls) -> Blocking:
        """Read ``[database] sql_alchemy_pool_size`` and so on, as ``settings.prepare_engine_args`` does."""
        from airflow.configuration import conf

        return cls(
            conf.getint("database", "sql_alchemy_pool_size", fallback=5),
            conf.getint("database", "sql_alchemy_max_overflow", fallback=10),
            conf.getboolean("database", "sql_alchemy_pool_enabled"),
        )

    @property
    def most(self) -> int | None:
        """How many connections it opens at most; None without a limit."""
        unlimited = not self.pooled or self.size <= 0 or self.overflow < 0
        return None if unlimited else self.size + self.overflow


def describe(routines: int, blocking: Blocking) -> str:
    """Return the line that tells an operator how many connections this scheduler takes at most."""
    ours = f"{routines} for routines ([async_scheduler] pool_size) + {SECRETS} for secrets"
    if blocking.most is None:
        return (
            f"Database connections: at most {routines + SECRETS} asynchronous ones = {ours}; Airflow's "
            "blocking ones have no limit ([database] sql_alchemy_pool_size, sql_alchemy_max_overflow, "
            "sql_alchemy_pool_enabled)"
        )
    return (
        f"Database connections: at most {routines + SECRETS + blocking.most} = {ours} + {blocking.most} "
        f"blocking ones of Airflow's ([database] sql_alchemy_pool_size {blocking.size} + "
        f"sql_alchemy_max_overflow {blocking.overflow})"
    )
