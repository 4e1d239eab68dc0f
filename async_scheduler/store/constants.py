"""Writes what is always the same into a statement's text, so that the server can plan it once for all."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar, cast

from sqlalchemy import BindParameter, Boolean, ColumnElement, Integer, String, literal_column
from sqlalchemy import Enum as StoredByName
from sqlalchemy.sql import visitors
from sqlalchemy.types import NullType

T = TypeVar("T", bound=visitors.ExternallyTraversible)

PLAIN = (String, Integer, Boolean, NullType)
"""Column types whose values are in SQL what they are in Python, but for the one below."""


def inline_constants(statement: T) -> T:
    """Return *statement* with the values that were known when it was built as literals in its text.

    SQLAlchemy makes a parameter of every value, of a state that is compared with too. PostgreSQL keeps the
    plan of a prepared statement only if it is as good without the parameters, and one that does not know the
    state cannot use the partial indexes of ``dag_run``: so it plans the statement each time it is run. The
    values are states, numbers and flags in our own source; what comes from outside is not known when a
    statement is built.
    """
    inlined: Any = visitors.replacement_traverse(statement, {}, _as_literal)
    return cast("T", inlined)


def _as_literal(element: Any, **_: Any) -> ColumnElement[Any] | None:
    # One with a name of its own can be given another value when the statement is run.
    if not isinstance(element, BindParameter) or not element.unique:
        return None
    if not isinstance(element.type, PLAIN) or isinstance(element.type, StoredByName):
        return None
    values = element.value if element.expanding else [element.value]
    as_type = bool if isinstance(element.type, Boolean) else _as_it_is
    texts = [None if value is None else _text(as_type(value)) for value in values or ()]
    if not texts or None in texts:
        return None
    text = f"({', '.join(map(str, texts))})" if element.expanding else str(texts[0])
    return literal_column(text, element.type)


def _as_it_is(value: object) -> object:
    return value


def _text(value: object) -> str | None:
    """Return *value* as a literal, None for what is left a parameter."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    # What a backslash means depends on a setting of the server.
    if isinstance(value, str) and value.isprintable() and "\\" not in value:
        return "'" + value.replace("'", "''") + "'"
    return None
