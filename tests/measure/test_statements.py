"""What a statement's text says, and that no value is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import column, insert, make_url, select, table, update

from async_scheduler.measure.events import StatementText
from async_scheduler.measure.statements import Catalogue, Statement, describe, masked

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

ITEM = table("item", column("id"), column("name"))
POSTGRES = "postgresql+asyncpg://"


def dialect(url: str) -> Dialect:
    """Return the dialect of *url*."""
    return make_url(url).get_dialect()()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT id FROM t FOR UPDATE",
        "SELECT id FROM t FOR NO KEY UPDATE OF t SKIP LOCKED",
        "SELECT id FROM t FOR KEY SHARE",
        "SELECT id FROM t LOCK IN SHARE MODE",
        "  update t set a = 1",
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t",
        "LOCK TABLE t",
        "SELECT pg_try_advisory_xact_lock(1)",
        "SELECT pg_advisory_xact_lock(1)",
        "WITH a AS (SELECT 1) UPDATE t SET b = 1",
        "BEGIN IMMEDIATE",
    ],
)
def test_statements_that_take_locks(text: str) -> None:
    assert describe(text).locks


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SELECT updated_at FROM t ORDER BY update_count",
        "SELECT 'x FOR UPDATE'",
        "BEGIN",
        "SHOW x",
    ],
)
def test_statements_that_take_none(text: str) -> None:
    assert not describe(text).locks


@given(st.text(alphabet=st.characters(blacklist_characters="'…", codec="utf-8"), min_size=1, max_size=30))
def test_quoted_values_never_show(secret: str) -> None:
    shown = masked(f"UPDATE t SET a = '{secret}', b = 'it''s {secret}' WHERE c = 'x'")
    assert shown == "UPDATE t SET a = '…', b = '…' WHERE c = '…'"


@pytest.mark.parametrize("url", [POSTGRES, "mysql+aiomysql://", "sqlite+aiosqlite://"])
def test_longer_lists_are_the_same_statement(url: str) -> None:
    def sent(ids: list[int]) -> str:
        statement = update(ITEM).where(ITEM.c.id.in_(ids)).values(name="x")
        return str(statement.compile(dialect=dialect(url), compile_kwargs={"render_postcompile": True}))

    assert sent([1, 2]) != sent([1, 2, 3, 4])
    assert describe(sent([1, 2])).hash == describe(sent([1, 2, 3, 4])).hash


def test_multi_row_inserts_are_the_same_statement() -> None:
    def sent(rows: int) -> str:
        values = [{"id": n, "name": "x"} for n in range(rows)]
        return str(insert(ITEM).values(values).compile(dialect=dialect(POSTGRES)))

    assert describe(sent(2)).hash == describe(sent(7)).hash


def test_limit_is_known_by_its_bound_value() -> None:
    compiled = select(ITEM.c.id).limit(5).compile(dialect=dialect(POSTGRES))
    seen: list[Statement] = []
    catalogue = Catalogue(seen.append)
    statement = catalogue.find("anything", compiled)
    assert statement.limit in compiled.params
    assert catalogue.find("anything else", compiled) is statement
    assert seen == [statement]
    assert catalogue.known() == [statement]
    assert statement.record() == StatementText(statement.hash, statement.text, False)


def test_endless_statements_are_cut() -> None:
    assert len(masked("SELECT " + "a, " * 10_000)) < 5_000
