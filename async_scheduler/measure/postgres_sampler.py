"""Watches PostgreSQL's lock waits from a connection of its own, for servers whose log is not ours to read.

The polling loop runs inside the server, in an anonymous block that commits every second, and speaks up (a
NOTICE) only when the set of waiters has changed: the client costs nothing while nobody waits, and no sample
is delayed by a busy client. It creates nothing in the database. A wait's start is the server's own
``waitstart``, its end is known to within one period; waits shorter than the period are caught in proportion
to their length. ``pg_blocking_pids`` takes the lock manager for itself, so it is asked for waiters only.

``pg_locks`` copies the whole lock table, about three times the price of asking every backend whether it
waits for a lock. So that is asked first, and ``pg_locks`` only while somebody does; a role that may not see
the wait events of others (``pg_read_all_stats``) has to read ``pg_locks`` each time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Any

import msgspec

from async_scheduler.measure.events import Clock, Event, LockObject, Party, Wait, WaitKind
from async_scheduler.measure.statements import KEPT, describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import asyncpg

APPLICATION = "async-scheduler sampler"
TURNS = 3_000

_LOOP = """
DO $sampler$
DECLARE
  seen text := '';
  found text;
BEGIN
  FOR turn IN 1..{turns} LOOP
    found := '';
    {cheap}
    IF seen <> '' OR {waiting} THEN
      SELECT coalesce(string_agg(pid || ':' || coalesce(waitstart::text, ''), ',' ORDER BY pid), '')
        INTO found FROM pg_locks WHERE NOT granted;
    END IF;
    IF found <> seen THEN
      seen := found;
      COMMIT;  -- activity is read once per transaction
      RAISE NOTICE '%', ({snapshot});
    ELSIF turn % 100 = 0 THEN
      COMMIT;
    END IF;
    PERFORM pg_sleep({period});
  END LOOP;
END $sampler$
"""

_FORGET = "PERFORM pg_stat_clear_snapshot();"
_WAITING = """EXISTS (SELECT FROM pg_stat_get_backend_idset() AS backend
                          WHERE pg_stat_get_backend_wait_event_type(backend) = 'Lock')"""

_SNAPSHOT = """
WITH locks AS MATERIALIZED (
  SELECT pid, locktype, mode, waitstart, relation, classid, objid, granted FROM pg_locks
), activity AS MATERIALIZED (
  SELECT pid, datid, application_name, state, query, xact_start FROM pg_stat_get_activity(NULL)
), waiters AS MATERIALIZED (
  SELECT l.*, pg_blocking_pids(l.pid) AS blockers
    FROM locks l
    JOIN activity a ON a.pid = l.pid
     AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
   WHERE NOT l.granted
), parties AS (
  SELECT pid FROM waiters UNION SELECT unnest(blockers) FROM waiters
)
SELECT json_build_object(
  'at', extract(epoch FROM clock_timestamp()),
  'waiters', (SELECT json_agg(json_build_object(
      'pid', w.pid, 'type', w.locktype, 'mode', w.mode, 'start', extract(epoch FROM w.waitstart),
      'relation', coalesce(w.relation, (SELECT t.relation FROM locks t
                                         WHERE t.pid = w.pid AND t.locktype = 'tuple' LIMIT
                                         1))::regclass::text,
      'key', CASE w.locktype WHEN 'advisory' THEN w.classid || ',' || w.objid END,
      'blockers', w.blockers)) FROM waiters w),
  'parties', (SELECT json_agg(json_build_object(
      'pid', a.pid, 'application', a.application_name, 'state', a.state, 'query', left(a.query, 1000),
      'since', extract(epoch FROM a.xact_start)))
      FROM activity a WHERE a.pid IN (SELECT pid FROM parties)))::text
"""

_KINDS: Mapping[str, WaitKind] = {
    "relation": "db_relation",
    "extend": "db_relation",
    "page": "db_relation",
    "object": "db_relation",
    "frozenid": "db_relation",
    "advisory": "db_advisory",
    "userlock": "db_advisory",
}


def loop_statement(period: float, turns: int = TURNS, *, sees_all: bool = True) -> str:
    """Return the anonymous block that polls every *period* seconds, *turns* times.

    :param sees_all: the role may see every backend's wait events.
    """
    cheap, waiting = (_FORGET, _WAITING) if sees_all else ("", "true")
    return _LOOP.format(
        turns=int(turns), period=float(period), snapshot=_SNAPSHOT, cheap=cheap, waiting=waiting
    )


@dataclass(frozen=True, slots=True)
class ServerClock:
    """Turns the server's wall clock (seconds) into our monotonic one (nanoseconds)."""

    offset_ns: int

    @classmethod
    def of(cls, server_seconds: float, before: int, after: int) -> tuple[ServerClock, Clock]:
        """Return the clock, and its record, from one question asked between two monotonic times."""
        middle = (before + after) // 2
        wall = time_ns() - (monotonic_ns() - middle)
        server = int(server_seconds * 1e9)
        return cls(middle - server), Clock(middle, server - wall, after - before)

    def monotonic(self, server_seconds: float) -> int:
        """Return *server_seconds* as monotonic nanoseconds."""
        return int(server_seconds * 1e9) + self.offset_ns


_Key = tuple[int, float | None]
"""A waiting backend, and since when (the server's clock) if it has said so yet."""


class Sightings:
    """Turns the snapshots into waits: each from its start to the first snapshot without it.

    ``begun`` is told of each when it is first seen, for those who want to know who waits now.
    """

    def __init__(self, put: Callable[[Event], None], begun: Callable[[Wait], None] | None = None) -> None:
        self._put = put
        self._begun = begun
        self._open: dict[_Key, Wait] = {}
        self._hashes: dict[str, str] = {}

    def see(self, snapshot: Mapping[str, Any], clock: ServerClock) -> None:
        """Take one snapshot: record the waits that have ended since the last one."""
        at = clock.monotonic(float(snapshot["at"]))
        waiters = {int(w["pid"]): w for w in snapshot["waiters"] or []}
        parties = {int(p["pid"]): self._party(p, clock, at) for p in snapshot["parties"] or []}
        keys = {(pid, w["start"]) for pid, w in waiters.items()}
        for key in [k for k in self._open if k not in keys]:
            self._end(key, at, keys)
        for pid, waiter in waiters.items():
            key = (pid, waiter["start"])
            if key not in self._open:
                wait = self._open[key] = self._begin(waiter, waiters, parties, clock, at)
                if self._begun is not None:
                    self._begun(wait)

    def close(self, at: int) -> None:
        """Record the waits still under way as unfinished."""
        for wait in self._open.values():
            self._put(_ended(wait, at, unfinished=True))
        self._open.clear()

    def _end(self, key: _Key, at: int, keys: set[_Key]) -> None:
        wait = self._open.pop(key)
        pid, start = key
        if start is not None or not any(k[0] == pid and k not in self._open for k in keys):
            self._put(_ended(wait, at))
        # else it is the same wait, its start now filled in by the server

    def _begin(
        self,
        waiter: Mapping[str, Any],
        waiters: Mapping[int, Mapping[str, Any]],
        parties: Mapping[int, Party],
        clock: ServerClock,
        at: int,
    ) -> Wait:
        pid, start = int(waiter["pid"]), waiter["start"]
        root = root_blocker(pid, {p: [int(b) for b in w["blockers"]] for p, w in waiters.items()})
        return Wait(
            what=_KINDS.get(waiter["type"], "db_row"),
            t_start=at if start is None else clock.monotonic(float(start)),
            t_end=at,
            exactness="sampled" if start is None else "start-exact",
            waiter=parties.get(pid, Party(pid=pid)),
            source="sampler",
            object=LockObject(relation=waiter["relation"], key=waiter["key"], mode=waiter["mode"]),
            immediate_blockers=[parties.get(int(b), Party(pid=int(b))) for b in waiter["blockers"]],
            root_blocker=None if root is None else parties.get(root, Party(pid=root)),
        )

    def _party(self, seen: Mapping[str, Any], clock: ServerClock, at: int) -> Party:
        since = seen["since"]
        return Party(
            pid=int(seen["pid"]),
            process=seen["application"] or None,
            statement=self._statement(seen["query"] or ""),
            hold_ns=None if since is None else max(0, at - clock.monotonic(float(since))),
            state=seen["state"],
        )

    def _statement(self, query: str) -> str:
        """Return the hash of *query*, whose text is recorded the first time."""
        if (known := self._hashes.get(query)) is not None:
            return known
        if len(self._hashes) >= KEPT:  # texts with values in them are each seen once
            self._hashes.clear()
        statement = describe(query)
        if statement.hash not in self._hashes.values():
            self._put(statement.record())
        self._hashes[query] = statement.hash
        return statement.hash


def _ended(wait: Wait, at: int, *, unfinished: bool = False) -> Wait:
    return msgspec.structs.replace(
        wait, t_end=max(at, wait.t_start), outcome="unfinished" if unfinished else "acquired"
    )


def root_blocker(pid: int, blockers: Mapping[int, list[int]]) -> int | None:
    """Return who is at the head of the queue that *pid* stands in: a blocker that waits for nobody.

    None when nobody blocks it, or when the chain is a cycle.
    """
    seen: set[int] = set()
    current = pid
    while (ahead := [b for b in blockers.get(current, []) if b != current]) and current not in seen:
        seen.add(current)
        free = [b for b in ahead if not blockers.get(b)]
        current = free[0] if free else ahead[0]
    return None if current == pid or current in seen else current


async def sample(
    connection: asyncpg.Connection[Any],
    put: Callable[[Event], None],
    *,
    period: float = 0.01,
    begun: Callable[[Wait], None] | None = None,
) -> None:
    """Record the lock waits of the connection's database until cancelled; see :class:`Sightings`."""
    sightings = Sightings(put, begun)
    clock = ServerClock(0)

    def noticed(_: Any, message: Any) -> None:
        sightings.see(json.loads(message.message), clock)

    await connection.execute("SET client_min_messages = notice")
    sees_all = await connection.fetchval("SELECT pg_has_role('pg_read_all_stats', 'USAGE')")
    connection.add_log_listener(noticed)
    try:
        while True:
            clock, record = await read_clock(connection)
            put(record)
            await connection.execute(loop_statement(period, sees_all=sees_all))
    finally:
        sightings.close(monotonic_ns())


async def read_clock(connection: asyncpg.Connection[Any], *, tries: int = 5) -> tuple[ServerClock, Clock]:
    """Return the server's clock by the quickest of some round trips."""
    readings = []
    for _ in range(tries):
        before = monotonic_ns()
        seconds = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
        readings.append(ServerClock.of(seconds, before, monotonic_ns()))
    return min(readings, key=lambda reading: reading[1].round_trip_ns)


async def edges(connection: asyncpg.Connection[Any], pids: list[int]) -> dict[int, list[int]]:
    """Return who blocks each of the backends *pids* at this moment; those that nobody blocks are left out."""
    rows = await connection.fetch(
        "SELECT pid, pg_blocking_pids(pid) AS blockers FROM pg_stat_activity"
        " WHERE pid = ANY($1) AND wait_event_type = 'Lock'",
        pids,
    )
    return {row["pid"]: list(row["blockers"]) for row in rows if row["blockers"]}
