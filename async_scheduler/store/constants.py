"""Writes what is always the same into a statement's text, so that the server can plan it once for all."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar, cast

from sqlalchemy import BindParameter, Boolean, ColumnElement, Integer, String, literal_column
from sqlalchemy.sql import visitors
from sqlalchemy.types import NullType

T = TypeVar("T", bound=visitors.ExternallyTraversible)

PLAIN = (String, Integer, Boolean, NullType)
"""Column types whose values are in SQL what they are in Python."""


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
    if not isinstance(element, BindParameter) or not element.unique or not isinstance(element.type, PLAIN):
        return None
    values = element.value if element.expanding else [element.value]
    texts = [_text(value) for value in values or ()]
    if not texts or None in texts:
        return None
    text = f"({', '.join(map(str, texts))})" if element.expanding else str(texts[0])
    return literal_column(text, element.type)


def _text(value: object) -> str | None:
    """Return *value* as a literal, None for what is left a parameter."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str) and value.isprintable():
        return "'" + value.replace("'", "''") + "'"
    return None
