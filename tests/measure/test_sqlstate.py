"""Contention is told by SQLSTATE or error number, through whatever wraps the error."""

from __future__ import annotations

import sqlite3

import pytest

from async_scheduler.measure.sqlstate import code_of, contention


class DriverError(Exception):
    """A driver's error with the attribute its driver uses."""

    def __init__(self, *args: object, **attributes: object) -> None:
        super().__init__(*args)
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (DriverError("x", sqlstate="55P03"), "nowait_fail"),
        (DriverError("x", pgcode="40P01"), "deadlock"),
        (DriverError("x", pgcode=None, sqlstate="40001"), "serialization"),
        (DriverError("x", orig=DriverError("y", sqlstate="40P01")), "deadlock"),
        (DriverError(1213, "Deadlock found"), "deadlock"),
        (DriverError(1205, "Lock wait timeout exceeded"), "lock_timeout"),
        (DriverError("x", sqlite_errorcode=sqlite3.SQLITE_BUSY), "sqlite_busy"),
        (DriverError("x", sqlite_errorcode=517), "sqlite_busy"),  # SQLITE_BUSY_SNAPSHOT
        (DriverError("deadlock detected"), None),
        (DriverError("x", sqlstate="42P01"), None),
        (DriverError(), None),
    ],
)
def test_kind_of_failure(error: Exception, kind: str | None) -> None:
    assert contention(code_of(error)) == kind


def test_cause_is_looked_through_and_cycles_end() -> None:
    inner, outer = DriverError("inner", sqlstate="55P03"), DriverError("outer")
    outer.__cause__ = inner
    inner.__cause__ = outer
    assert code_of(outer) == "55P03"
