"""Which failures mean contention, by SQLSTATE or the driver's error number, never by the message."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from async_scheduler.measure.events import WaitKind

_STATES: dict[str, WaitKind] = {
    "55P03": "nowait_fail",
    "40P01": "deadlock",
    "40001": "serialization",
    "1205": "lock_timeout",
    "1213": "deadlock",
    "3572": "nowait_fail",
    "SQLITE_5": "sqlite_busy",
    "SQLITE_6": "sqlite_busy",
}


def code_of(error: BaseException) -> str | None:
    """Return the SQLSTATE (PostgreSQL), error number (MySQL) or result code (SQLite) of a driver's error.

    Looks through the errors it wraps: asyncpg's come inside SQLAlchemy's adapter, both carry the state.
    """
    for candidate in _chain(error):
        for name in ("sqlstate", "pgcode"):
            state = getattr(candidate, name, None)
            if isinstance(state, str) and state:
                return state
        lite = getattr(candidate, "sqlite_errorcode", None)
        if isinstance(lite, int):
            return f"SQLITE_{lite & 0xFF}"
        if candidate.args and type(candidate.args[0]) is int:
            return str(candidate.args[0])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        original = getattr(current, "orig", None)
        current = original if isinstance(original, BaseException) else current.__cause__


def contention(code: str | None) -> WaitKind | None:
    """Return the kind of contention that *code* stands for, None for any other failure."""
    return _STATES.get(code) if code is not None else None
