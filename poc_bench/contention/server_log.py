"""Takes from a server's JSON log what one run wrote to it, without values and without the rest."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

from async_scheduler.measure.statements import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

NAME = "server.json.gz"
KEPT = ("timestamp", "pid", "dbname", "application_name")
LOCKS = (" still waiting for ", " acquired ", "deadlock", "connection authorized", "failed to acquire")


def positions(logs: Sequence[Path]) -> dict[Path, int]:
    """Return how far each log has got."""
    return {path: path.stat().st_size for path in logs}


def take(logs: Sequence[Path], since: Mapping[Path, int], directory: Path) -> Path:
    """Write what *logs* got after *since* about locks and skipped rows into *directory*; return the file."""
    target = directory / NAME
    with gzip.open(target, "wt", encoding="utf-8", compresslevel=6) as file:
        for path in logs:
            for record in _kept(path, since.get(path, 0)):
                file.write(json.dumps(record) + "\n")
    return target


def _kept(path: Path, start: int) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if line.endswith(b"\n") and (record := _wanted(json.loads(line))) is not None:
                yield record


def _wanted(record: dict[str, Any]) -> dict[str, Any] | None:
    message = str(record.get("message", ""))
    kept: Callable[[str], bool] = message.__contains__
    if any(map(kept, LOCKS)) or record.get("error_severity") == "ERROR":
        return _masked(record)
    if message.startswith("duration:") and "LockRows" in message and "plan:" in message:
        return _plan_only(record, message)
    return None


def _masked(record: dict[str, Any]) -> dict[str, Any]:
    for name in ("statement", "detail"):
        if record.get(name):
            record[name] = masked(str(record[name]))
    return record


def _plan_only(record: dict[str, Any], message: str) -> dict[str, Any]:
    """Return a plan's record with no more of the plan than the counts of its nodes."""
    found = json.loads(message.partition("plan:")[2])
    slim = {"Query Text": masked(str(found.get("Query Text", ""))), "Plan": _counts(found["Plan"])}
    kept: dict[str, Any] = {name: record.get(name) for name in KEPT}
    return {**kept, "message": f"duration: plan:\n{json.dumps(slim)}"}


def _counts(node: Mapping[str, Any]) -> dict[str, Any]:
    names = ("Node Type", "Parent Relationship", "Actual Rows", "Actual Loops")
    slim = {name: node[name] for name in names if name in node}
    if node.get("Plans"):
        slim["Plans"] = [_counts(child) for child in node["Plans"]]
    return slim
