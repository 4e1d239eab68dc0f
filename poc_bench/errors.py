"""What can go wrong, as one small tree.

::

    BenchError            one clear line for the user, exit code 2
    ├── UsageError        an argument that names nothing or does not parse
    ├── Unreachable       a database server that cannot be reached or prepared
    └── CellFailure       a cell that could not be measured; the run goes on without it
"""

from __future__ import annotations


class BenchError(Exception):
    """A failure that the user is told about in one line."""


class UsageError(BenchError):
    """A command-line argument names nothing that exists or has no valid value."""


class Unreachable(BenchError):
    """A database server cannot be reached, or Airflow's schema cannot be created there."""


class CellFailure(BenchError):
    """The cell ended without figures: a scheduler crashed, or the work did not finish in time."""
