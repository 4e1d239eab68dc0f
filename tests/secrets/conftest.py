"""Fixtures for the secrets tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
from airflow._shared.secrets_masker import secrets_masker
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from tests.secrets.vault_server import VaultServer, running

if TYPE_CHECKING:
    from tests.support.postgres import Database


@pytest.fixture(autouse=True)
def own_masker(monkeypatch: pytest.MonkeyPatch) -> secrets_masker.SecretsMasker:
    """A masker of the test's own: masks are for ever, and each makes the next one dearer."""
    masker = secrets_masker.SecretsMasker()
    masker.sensitive_variables_fields = list(secrets_masker.DEFAULT_SENSITIVE_FIELDS)
    monkeypatch.setattr(secrets_masker, "_secrets_masker", lambda: masker)
    return masker


@pytest.fixture
def vault() -> Iterator[VaultServer]:
    """A server that speaks Vault's protocol."""
    with running() as server:
        yield server


@pytest.fixture
def multi_team(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn multi-team mode on."""
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")


@pytest.fixture
async def sessions(airflow_db: Database) -> AsyncIterator[async_sessionmaker[AsyncSession]]:
    """Async sessions on a database of the test's own, on which Airflow's own sessions work as well."""
    engine = create_async_engine(airflow_db.url("asyncpg"))
    yield async_sessionmaker(engine, autoflush=False, expire_on_commit=False)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()
