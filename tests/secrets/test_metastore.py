"""The metastore over async sessions, beside Airflow's sync backend on the same database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from airflow._shared.secrets_masker import secrets_masker
from airflow.models import Connection, Variable, crypto
from airflow.secrets.metastore import MetastoreBackend
from airflow.utils.session import create_session
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy import event
from sqlalchemy.dialects import mysql

from async_scheduler.secrets import metastore
from async_scheduler.secrets.chain import AsyncSecretsChain
from async_scheduler.secrets.metastore import BATCH_SIZE, AsyncMetastoreBackend

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    Sessions = async_sessionmaker[AsyncSession]


@pytest.fixture
def fernet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets Airflow's keys, the first of which encrypts."""

    def use(*keys: bytes) -> None:
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", ",".join(key.decode() for key in keys))
        crypto.get_fernet.cache_clear()

    yield use
    crypto.get_fernet.cache_clear()


def _store(count: int = 1) -> None:
    with create_session() as session:
        for number in range(count):
            session.add(
                Connection(f"c{number}", uri=f"http://me:pass-word-{number}@host{number}/?a={number}")
            )
            session.add(Variable(f"v{number}", f"value-{number}"))


async def test_keys_rotate(sessions: Sessions, fernet: Any) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    fernet(old)
    _store()
    fernet(new, old)
    backend = AsyncMetastoreBackend(sessions)
    connection = await backend.aget_connection("c0")
    assert connection is not None
    assert (connection.password, connection.extra_dejson) == ("pass-word-0", {"a": 0})
    assert await backend.aget_variable("v0") == "value-0"


async def test_a_wrong_key_is_what_it_is_for_the_sync_backend(
    sessions: Sessions, fernet: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fernet(Fernet.generate_key())
    _store()
    fernet(Fernet.generate_key())
    with pytest.raises(InvalidToken):
        MetastoreBackend().get_connection("c0")
    backend = AsyncMetastoreBackend(sessions)
    with pytest.raises(InvalidToken):
        await backend.aget_connection("c0")
    assert MetastoreBackend().get_variable("v0") is None
    assert await backend.aget_variable("v0") is None
    chain = AsyncSecretsChain([backend])
    assert await chain.aget_connection("c0") is None
    assert "InvalidToken" in caplog.text


async def test_one_row_that_cannot_be_decrypted_fails_alone(sessions: Sessions, fernet: Any) -> None:
    lost, current = Fernet.generate_key(), Fernet.generate_key()
    fernet(lost)
    _store()
    fernet(current)
    with create_session() as session:
        session.add(Connection("good", uri="http://me:pass-word@host"))
    backend = AsyncMetastoreBackend(sessions)
    outcomes = await asyncio.gather(
        backend.aget_connection("c0"), backend.aget_connection("good"), return_exceptions=True
    )
    assert isinstance(outcomes[0], InvalidToken)
    assert isinstance(outcomes[1], Connection)


async def test_values_without_encryption(sessions: Sessions, fernet: Any) -> None:
    fernet(b"")
    _store()
    backend = AsyncMetastoreBackend(sessions)
    connection = await backend.aget_connection("c0")
    assert connection is not None
    assert (connection.is_encrypted, connection.password) == (False, "pass-word-0")
    assert await backend.aget_variable("v0") == "value-0"


@pytest.mark.usefixtures("airflow_db")
async def test_many_lookups_take_few_statements_on_one_connection(sessions: Sessions) -> None:
    count = BATCH_SIZE + 50
    _store(count)
    statements: list[str] = []
    engine = sessions.kw["bind"].sync_engine
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    checked_out: list[int] = []
    event.listen(engine.pool, "checkout", lambda *_: checked_out.append(engine.pool.checkedout()))
    backend = AsyncMetastoreBackend(sessions)
    found = await asyncio.gather(*(backend.aget_connection(f"c{number}") for number in range(count)))
    assert [c and c.password for c in found] == [f"pass-word-{number}" for number in range(count)]
    assert [text.lstrip()[:6] for text in statements] == ["SELECT", "SELECT"]
    assert max(checked_out) == 1
    values = await asyncio.gather(*(backend.aget_variable(f"v{number}") for number in range(count)))
    assert values == [f"value-{number}" for number in range(count)]
    assert len(statements) == 4


async def test_a_connection_is_like_the_orms(sessions: Sessions) -> None:
    _store()
    ours = await AsyncMetastoreBackend(sessions).aget_connection("c0")
    theirs = MetastoreBackend().get_connection("c0")
    assert ours is not None
    columns = [attribute.key for attribute in Connection.__mapper__.column_attrs]
    assert [getattr(ours, name) for name in columns] == [getattr(theirs, name) for name in columns]
    assert (ours.get_uri(), ours.as_json(), repr(ours)) == (theirs.get_uri(), theirs.as_json(), repr(theirs))
    secrets_masker._secrets_masker().reset_masker()
    await AsyncMetastoreBackend(sessions).aget_connection("c0")
    assert secrets_masker.redact("pass-word-0") == "***"


async def test_a_database_that_is_away_fails_the_lookup(sessions: Sessions) -> None:
    def away() -> AsyncSession:
        raise ConnectionRefusedError

    backend = AsyncMetastoreBackend(away)
    with pytest.raises(ConnectionRefusedError):
        await backend.aget_connection("c0")
    assert await AsyncSecretsChain([backend, AsyncMetastoreBackend(sessions)]).aget_variable("no") is None


class _Result:
    def __init__(self, row: Any) -> None:
        self._row = row

    def first(self) -> Any:
        return self._row


class _MysqlSession:
    """Records statements as MySQL would get them; finds a row for every key but one."""

    def __init__(self) -> None:
        self.statements: list[str] = []

    async def execute(self, statement: Any) -> _Result:
        compiled = statement.compile(dialect=mysql.dialect(), compile_kwargs={"literal_binds": True})
        self.statements.append(str(compiled))
        return _Result(None if "absent" in str(compiled) else ("row",))


async def test_mysql_compares_each_key_itself() -> None:
    session = _MysqlSession()
    found = await metastore._rows_one_by_one(session, Variable, Variable.key, ["Key", "absent"])  # type: ignore[arg-type]
    assert found == {"Key": ("row",)}
    assert len(session.statements) == 2
    assert "variable.`key` = 'Key'" in session.statements[0]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 200])
def test_key_lists_are_padded_to_a_power_of_two(count: int) -> None:
    keys = [f"k{number}" for number in range(count)]
    padded = metastore._padded(keys)
    assert padded[:count] == keys
    assert set(padded) == set(keys)
    assert len(padded).bit_count() == 1
