"""Which table a statement is about."""

from __future__ import annotations

import re

_TARGET = re.compile(
    r"^\s*(?:WITH\b.*?[)(]\s*)?(?:UPDATE(?:\s+ONLY)?|INSERT\s+INTO|DELETE\s+FROM|LOCK\s+TABLE|MERGE\s+INTO)"
    r"\s+[`\"]?([\w.]+)",
    re.IGNORECASE | re.DOTALL,
)
"""What is written: by the statement itself, or by one in its WITH."""
_LOCKED = re.compile(
    r"\bFOR\s+(?:NO\s+KEY\s+UPDATE|UPDATE|SHARE|KEY\s+SHARE)\s+OF\s+[`\"]?([\w.]+)", re.IGNORECASE
)
_FROM = re.compile(r"\bFROM\s+[`\"]?([\w.]+)", re.IGNORECASE)


def main_table(statement: str) -> str | None:
    """Return the table that *statement* writes or locks, else the first it reads; None when it names none."""
    for pattern in (_TARGET, _LOCKED, _FROM):
        if found := pattern.search(statement):
            return found[1].rsplit(".", 1)[-1]
    return None
