"""What a statement is, from its text: its hash, whether it takes locks, which bound value is its limit."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from async_scheduler.measure.events import StatementText

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 4_096
MAX_TEXT = 4_000

_WRITES = re.compile(
    r"^\s*(?:/\*.*?\*/\s*)?(?:INSERT|UPDATE|DELETE|MERGE|LOCK|REPLACE)\b", re.IGNORECASE | re.DOTALL
)
_LOCKS = re.compile(
    r"\bFOR\s+(?:NO\s+KEY\s+UPDATE|UPDATE|SHARE|KEY\s+SHARE)\b|\bLOCK\s+IN\s+SHARE\s+MODE\b"
    r"|\bpg_(?:try_)?advisory_(?:xact_)?lock|\bGET_LOCK\s*\(|\bBEGIN\s+IMMEDIATE\b"
    r"|^\s*WITH\b.*\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\b",
    re.IGNORECASE | re.DOTALL,
)
_TRY_LOCK = re.compile(r"\bpg_try_advisory_|\bGET_LOCK\s*\(", re.IGNORECASE)
_QUOTED = re.compile(r"'(?:[^']|'')*'")
_BINDS = re.compile(
    r"\(\s*(?:%s|\?|\$\d+|:\w+|%\(\w+\)s)(?:::[\w ]+(?:\[\])?)?"
    r"(?:\s*,\s*(?:%s|\?|\$\d+|:\w+|%\(\w+\)s|NULL|DEFAULT)(?:::[\w ]+(?:\[\])?)?)+\s*\)"
)
_TUPLES = re.compile(r"\(…\)(?:\s*,\s*\(…\))+")


@dataclass(slots=True)
class Statement:
    """A statement as the trace names it."""

    hash: str
    text: str
    locks: bool
    reads: bool
    skips: bool
    tries: bool
    limit: str | None

    def record(self) -> StatementText:
        """Return the line that gives the text once."""
        return StatementText(self.hash, self.text, self.locks)


def masked(text: str) -> str:
    """Return *text* without its quoted literals and lists of bound values.

    No value is in it then, and a statement stays the same statement when its lists grow.
    """
    text = _BINDS.sub("(…)", _QUOTED.sub("'…'", text))
    text = _TUPLES.sub("(…), …", text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def describe(text: str, limit: str | None = None) -> Statement:
    """Return what *text* is; ``limit`` is the name of the bound value of its LIMIT, if any."""
    shown = masked(text)
    writes = _WRITES.match(text) is not None
    upper = shown.upper()
    return Statement(
        hash=hashlib.blake2b(shown.encode(), digest_size=6).hexdigest(),
        text=shown,
        locks=writes or _LOCKS.search(shown) is not None,
        reads=not writes,
        skips="SKIP LOCKED" in upper,
        tries=_TRY_LOCK.search(shown) is not None,
        limit=limit,
    )


class Catalogue:
    """The statements seen so far, by text; ``on_new`` is told of each once. It forgets what grows too big."""

    __slots__ = ("_by_text", "_known", "_on_new")

    def __init__(self, on_new: Callable[[Statement], None]) -> None:
        self._by_text: dict[str, Statement] = {}
        self._known: set[str] = set()
        self._on_new = on_new

    def find(self, text: str, compiled: Any | None) -> Statement:
        """Return the statement for the text sent.

        SQLAlchemy's *compiled* form, where there is one, has the same text for lists of any length.
        """
        key = text if compiled is None else compiled.string
        found = self._by_text.get(key)
        return found if found is not None else self._add(key, compiled)

    def _add(self, key: str, compiled: Any | None) -> Statement:
        if len(self._by_text) >= KEPT:
            self._by_text.clear()
        statement = self._by_text[key] = describe(key, _limit_name(compiled))
        if statement.hash not in self._known:
            self._known.add(statement.hash)
            self._on_new(statement)
        return statement

    def known(self) -> list[Statement]:
        """Return every statement still remembered."""
        return list({s.hash: s for s in self._by_text.values()}.values())


def _limit_name(compiled: Any | None) -> str | None:
    limit = getattr(getattr(compiled, "statement", None), "_limit_clause", None)
    names = getattr(compiled, "bind_names", {})
    return names.get(limit) if limit is not None else None
