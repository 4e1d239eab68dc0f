"""Reads lock waits and deadlocks from PostgreSQL's own JSON log (``log_lock_waits`` to ``jsonlog``).

The server writes one record when a wait has lasted ``deadlock_timeout`` (it names the holders) and one when
it ends (with the exact duration). Its timestamps are whole milliseconds, its durations microseconds. A single
blocked statement can make several waits: for the right to be next (``tuple``), then for the holder's
transaction, then again if somebody was quicker.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from async_scheduler.contention.tables import main_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

SETTINGS: Mapping[str, str] = {
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_lock_waits": "on",
    "deadlock_timeout": "1ms",
    "log_connections": "on",
    "log_timezone": "UTC",
    "log_rotation_size": "0",
    "log_filename": "postgresql-%Y-%m-%d_%H%M%S.log",
}
"""What a server of one's own needs for an attribution run. Never for a timing run: each wait that is logged
costs the server about 100 µs, and a deadlock ends after 1 ms instead of a second. Connections are logged
for the names of those who hold but never wait.
"""

_WAIT = re.compile(
    r"^process (?P<pid>\d+) (?P<what>still waiting for|acquired|detected deadlock while waiting for"
    r"|failed to acquire|avoided deadlock for) (?P<mode>\w+) on (?P<object>.+) after (?P<ms>\d+\.\d+) ms$"
)
_HOLDERS = re.compile(r"^Process(?:es)? holding the lock: ([\d, ]*)\.")
_RELATION = re.compile(r'in relation "((?:[^"]|"")+)"')
_CONNECTED = re.compile(r"^connection authorized: .*?application_name=(.+?)(?: SSL enabled.*)?$")
_PARTY = re.compile(r"^Process (\d+): (.*)$", re.MULTILINE)

LockKind = Literal["db_row", "db_relation", "db_advisory"]


@dataclass(frozen=True, slots=True)
class LoggedWait:
    """One wait as the server saw it; times in nanoseconds of the server's wall clock."""

    pid: int
    start: int
    end: int
    kind: LockKind
    mode: str
    object: str
    relation: str | None
    holders: tuple[int, ...]
    statement: str
    application: str
    ending: Literal["acquired", "failed", "deadlock", "unfinished"]


@dataclass(frozen=True, slots=True)
class LoggedDeadlock:
    """A deadlock that the server broke: when, whose statement was the victim, and each party's statement."""

    at: int
    victim: int
    statements: Mapping[int, str]
    application: str


@dataclass
class ServerLog:
    """What a server's log says about locks. ``applications`` names every backend that wrote a line."""

    waits: list[LoggedWait] = field(default_factory=list)
    deadlocks: list[LoggedDeadlock] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    applications: dict[int, str] = field(default_factory=dict)


def log_files(directory: Path) -> list[Path]:
    """Return the JSON logs in *directory*, oldest first."""
    return sorted([*directory.glob("*.json"), *directory.glob("*.json.gz")])


def read_log(paths: Iterable[Path], *, database: str | None = None) -> ServerLog:
    """Return the lock waits and deadlocks in the logs, of one *database* only if one is named."""
    log = ServerLog()
    reader = _Reader(log)
    for path in paths:
        for record in json_records(path, database=database):
            reader.take(record)
    reader.finish()
    log.waits.sort(key=lambda wait: wait.start)
    return log


def json_records(path: Path, *, database: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Yield the records of a log, of one *database* if one is named; a broken last line is left out."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a log that is being written
            if not isinstance(record, dict) or "timestamp" not in record:
                continue
            if database is None or record.get("dbname") in (None, database):
                yield record


class _Reader:
    def __init__(self, log: ServerLog) -> None:
        self._log = log
        self._open: dict[int, tuple[Mapping[str, Any], re.Match[str]]] = {}

    def take(self, record: Mapping[str, Any]) -> None:
        pid = int(record.get("pid", 0))
        if record.get("application_name"):
            self._log.applications[pid] = record["application_name"]
        message = str(record.get("message", ""))
        if connected := _CONNECTED.match(message):
            self._log.applications[pid] = connected[1]
        if found := _WAIT.match(message):
            self._wait(record, found)
        elif code := record.get("state_code"):
            self._failure(record, str(code))

    def finish(self) -> None:
        for record, found in self._open.values():
            self._add(record, record, found, "unfinished")
        self._open.clear()

    def _wait(self, record: Mapping[str, Any], found: re.Match[str]) -> None:
        pid, what = int(found["pid"]), found["what"]
        if what in ("still waiting for", "avoided deadlock for"):
            self._open[pid] = (record, found)
            return
        first, _ = self._open.pop(pid, (record, found))
        if what == "acquired":
            self._add(first, record, found, "acquired")
        else:
            self._add(first, record, found, "deadlock" if what.startswith("detected") else "failed")

    def _add(
        self,
        first: Mapping[str, Any],
        last: Mapping[str, Any],
        found: re.Match[str],
        ending: Literal["acquired", "failed", "deadlock", "unfinished"],
    ) -> None:
        end = wall_ns(last["timestamp"])
        statement = str(last.get("statement") or first.get("statement") or "")
        context = str(last.get("context") or first.get("context") or "")
        named = _RELATION.search(context)
        self._log.waits.append(
            LoggedWait(
                pid=int(found["pid"]),
                start=end - int(float(found["ms"]) * 1e6),
                end=end,
                kind=_kind(found["object"]),
                mode=found["mode"],
                object=found["object"],
                relation=named[1] if named else main_table(statement),
                holders=_holders(first.get("detail") or last.get("detail")),
                statement=statement,
                application=str(last.get("application_name") or ""),
                ending=ending,
            )
        )

    def _failure(self, record: Mapping[str, Any], code: str) -> None:
        if record.get("error_severity") != "ERROR":
            return
        self._log.failures[code] = self._log.failures.get(code, 0) + 1
        if code == "40P01":
            statements = {int(pid): text for pid, text in _PARTY.findall(str(record.get("detail") or ""))}
            self._log.deadlocks.append(
                LoggedDeadlock(
                    wall_ns(record["timestamp"]),
                    int(record["pid"]),
                    statements,
                    str(record.get("application_name") or ""),
                )
            )


def _kind(text: str) -> LockKind:
    if text.startswith("advisory lock") or text.startswith("user lock"):
        return "db_advisory"
    if text.startswith(("relation", "extension of relation", "page", "object")):
        return "db_relation"
    return "db_row"


def _holders(detail: str | None) -> tuple[int, ...]:
    found = _HOLDERS.match(detail or "")
    return tuple(int(pid) for pid in found[1].split(",") if pid.strip()) if found else ()


def wall_ns(timestamp: str) -> int:
    """Return a log's timestamp (``2026-11-20 09:26:50.780 UTC``) in nanoseconds since 1970.

    :raises ValueError: for a time zone other than UTC, GMT or a numeric offset.
    """
    text, _, zone = timestamp.rpartition(" ")
    moment = datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f")
    offset = UTC if zone in ("UTC", "GMT", "Etc/UTC") else datetime.strptime(zone, "%z").tzinfo
    aware = moment.replace(tzinfo=offset)
    return int(aware.timestamp()) * 1_000_000_000 + aware.microsecond * 1_000
