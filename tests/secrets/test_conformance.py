"""All backends, ours and others, through the conformance suite, each with a store filled in its own way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models import Connection, Team, Variable
from airflow.providers.hashicorp.secrets.vault import VaultBackend
from airflow.utils.session import create_session

from async_scheduler.secrets.chain import AsyncSecretsChain
from async_scheduler.secrets.conformance import (
    CHECKS,
    CONNECTIONS,
    TEAM,
    TEAM_CHECKS,
    TEAM_VARIABLES,
    VARIABLES,
    Check,
    NotConforming,
    answers_as_its_sync_methods,
    keeps_teams_apart,
    name_of,
)
from async_scheduler.secrets.environment import AsyncEnvironmentVariablesBackend
from async_scheduler.secrets.local_file import AsyncLocalFilesystemBackend
from async_scheduler.secrets.metastore import AsyncMetastoreBackend
from async_scheduler.secrets.vault import AsyncVaultBackend
from tests.secrets.backends import ThirdParty

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    from tests.secrets.vault_server import VaultServer

every_check = pytest.mark.parametrize("check", CHECKS, ids=name_of)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> AsyncEnvironmentVariablesBackend:
    for conn_id, text in CONNECTIONS.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", text)
    for key, text in VARIABLES.items():
        monkeypatch.setenv(f"AIRFLOW_VAR_{key.upper()}", text)
    for key, text in TEAM_VARIABLES.items():
        monkeypatch.setenv(f"AIRFLOW_VAR__{TEAM.upper()}___{key.upper()}", text)
    return AsyncEnvironmentVariablesBackend()


@every_check
async def test_environment(check: Check, environment: AsyncEnvironmentVariablesBackend) -> None:
    await check(environment)


@pytest.mark.usefixtures("multi_team")
async def test_environment_teams(environment: AsyncEnvironmentVariablesBackend) -> None:
    await keeps_teams_apart(environment)


@pytest.fixture
def metastore(sessions: async_sessionmaker[AsyncSession]) -> AsyncMetastoreBackend:
    with create_session() as session:
        session.add(Team(name=TEAM))
        session.flush()
        for conn_id, text in CONNECTIONS.items():
            is_json = text.lstrip().startswith("{")
            session.add(Connection.from_json(text, conn_id) if is_json else Connection(conn_id, uri=text))
        for key, text in VARIABLES.items():
            session.add(Variable(key, text))
        for key, text in TEAM_VARIABLES.items():
            session.add(Variable(key, text, team_name=TEAM))
    return AsyncMetastoreBackend(sessions)


@every_check
async def test_metastore(check: Check, metastore: AsyncMetastoreBackend) -> None:
    await check(metastore)


async def test_metastore_teams(metastore: AsyncMetastoreBackend) -> None:
    await keeps_teams_apart(metastore)


@pytest.fixture(params=["json", "yaml"])  # JSON is YAML as well
async def local_file(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[AsyncLocalFilesystemBackend]:
    connections = tmp_path / f"connections.{request.param}"
    connections.write_text(json.dumps({key: _object(text) for key, text in CONNECTIONS.items()}))
    variables = tmp_path / f"variables.{request.param}"
    variables.write_text(json.dumps(dict(VARIABLES)))
    backend = AsyncLocalFilesystemBackend(str(variables), str(connections))
    yield backend
    await backend.aclose()


def _object(text: str) -> Any:
    """Return what a file holds for a connection: in JSON an object, whose port is a number."""
    if not text.lstrip().startswith("{"):
        return text
    fields = json.loads(text)
    return {**fields, "port": int(fields["port"])} if "port" in fields else fields


@every_check
async def test_local_file(check: Check, local_file: AsyncLocalFilesystemBackend) -> None:
    await check(local_file)


@pytest.fixture
def filled_vault(vault: VaultServer) -> VaultServer:
    for conn_id, text in CONNECTIONS.items():
        is_json = text.lstrip().startswith("{")
        vault.kv2[f"connections/{conn_id}"] = json.loads(text) if is_json else {"conn_uri": text}
    for key, text in VARIABLES.items():
        vault.kv2[f"variables/{key}"] = {"value": text}
    for key, text in TEAM_VARIABLES.items():
        vault.kv2[f"variables/{TEAM}/{key}"] = {"value": text}
    return vault


@pytest.fixture
async def our_vault_backend(filled_vault: VaultServer) -> AsyncIterator[AsyncVaultBackend]:
    backend = AsyncVaultBackend(url=filled_vault.url, token=filled_vault.root_token)
    yield backend
    await backend.aclose()
    backend.close()


@every_check
async def test_vault(check: Check, our_vault_backend: AsyncVaultBackend) -> None:
    await check(our_vault_backend)


@pytest.mark.usefixtures("multi_team")
async def test_vault_teams(our_vault_backend: AsyncVaultBackend) -> None:
    await keeps_teams_apart(our_vault_backend)


@every_check
async def test_the_providers_vault_backend(check: Check, filled_vault: VaultServer) -> None:
    await check(VaultBackend(url=filled_vault.url, token=filled_vault.root_token))


@pytest.mark.usefixtures("multi_team")
async def test_the_providers_vault_backend_teams(filled_vault: VaultServer) -> None:
    await keeps_teams_apart(VaultBackend(url=filled_vault.url, token=filled_vault.root_token))


@every_check
async def test_a_third_partys_sync_backend(check: Check) -> None:
    await check(ThirdParty(CONNECTIONS, VARIABLES))


@pytest.mark.parametrize("check", [c for c in CHECKS if c is not answers_as_its_sync_methods], ids=name_of)
async def test_the_chain_as_a_whole(check: Check, environment: AsyncEnvironmentVariablesBackend) -> None:
    await check(AsyncSecretsChain([environment]))


@pytest.mark.parametrize("check", TEAM_CHECKS, ids=name_of)
async def test_the_suite_catches_a_backend_that_mixes_up_teams(check: Check) -> None:
    with pytest.raises(NotConforming):
        await check(ThirdParty(CONNECTIONS, TEAM_VARIABLES))


async def test_the_suite_catches_wrong_values() -> None:
    wrong = dict.fromkeys(CONNECTIONS, "http://elsewhere")
    caught = []
    for check in CHECKS:
        try:
            await check(ThirdParty(wrong, dict.fromkeys(VARIABLES, "wrong")))
        except NotConforming as error:
            caught.append(str(error))
    assert len(caught) == 5  # both kinds of values, concurrency, cancellation, ownership
