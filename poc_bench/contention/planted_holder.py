"""A process that keeps a row locked for a while, lets it go, and takes it again, until its input ends.

``python -m poc_bench.contention.planted_holder ROW SECONDS`` with the server's DSN as the first line of
input.
"""

from __future__ import annotations

import select
import sys
from typing import Any

import psycopg2

NAME = "planted holder"


def main() -> None:
    """Hold and let go in turn."""
    row, seconds = int(sys.argv[1]), float(sys.argv[2])
    connection = psycopg2.connect(sys.stdin.readline().strip(), application_name=NAME)
    announced = False
    while not _input_has_ended():
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE item SET n = n + 1 WHERE id = %s", (row,))
            if not announced:
                print("holding", flush=True)  # noqa: T201 - tells the parent that the row is taken
                announced = True
            cursor.execute("SELECT pg_sleep(%s)", (seconds,))
    connection.close()


def _input_has_ended() -> bool:
    stdin: Any = sys.stdin
    ready, _, _ = select.select([stdin], [], [], 0)
    return bool(ready)


if __name__ == "__main__":
    main()
