"""The Vault backend: logging in, renewing, errors, teams; beside the provider's where both can."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from airflow.providers.hashicorp.secrets.vault import VaultBackend

from async_scheduler.secrets.errors import InvalidVaultOptions, VaultError, VaultLoginError
from async_scheduler.secrets.threads import DaemonThreads
from async_scheduler.secrets.vault import AsyncVaultBackend
from async_scheduler.secrets.vault_http import VaultEndpoint
from async_scheduler.secrets.vault_protocol import RENEW_AFTER, TokenKeeper

if TYPE_CHECKING:
    from tests.secrets.vault_server import VaultServer

Make = Callable[..., AsyncVaultBackend]


@pytest.fixture
async def make(vault: VaultServer) -> AsyncIterator[Make]:
    """Makes backends on the server that wait for nothing between two tries, and closes them."""
    made: list[AsyncVaultBackend] = []

    def make_one(**options: Any) -> AsyncVaultBackend:
        made.append(AsyncVaultBackend(url=vault.url, retry_backoff=0, **options))
        return made[-1]

    vault.kv2["variables/a"] = {"value": "1"}
    yield make_one
    for backend in made:
        await backend.aclose()
        backend.close()


def _approle(vault: VaultServer, **options: Any) -> dict[str, Any]:
    return {"auth_type": "approle", "role_id": vault.role_id, "secret_id": vault.secret_id, **options}


async def blocking(call: Callable[..., Any], *arguments: Any) -> Any:
    threads = DaemonThreads(1, "blocking")
    try:
        return await threads.run(lambda: call(*arguments))
    finally:
        threads.close()


async def test_a_token_from_a_file_is_read_again_when_rejected(
    vault: VaultServer, make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text("stale\n")
    backend = make(token_path=str(path))
    with pytest.raises(VaultError, match="403"):
        await backend.aget_variable("a")
    path.write_text(f"{vault.root_token}\n")
    assert await backend.aget_variable("a") == "1"


async def test_the_token_of_the_environment(
    vault: VaultServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", vault.root_token)
    assert await make().aget_variable("a") == "1"


async def test_approle_logs_in_once_for_many_lookups(vault: VaultServer, make: Make) -> None:
    backend = make(**_approle(vault))
    assert await asyncio.gather(*(backend.aget_variable("a") for _ in range(50))) == ["1"] * 50
    assert await blocking(backend.get_variable, "a") == "1"
    assert vault.asked["POST auth/approle/login"] == 1


async def test_kubernetes_logs_in_with_the_pods_token(vault: VaultServer, make: Make, tmp_path: Path) -> None:
    path = tmp_path / "jwt"
    path.write_text(f"{vault.jwt}\n")
    login = {
        "auth_type": "kubernetes",
        "kubernetes_role": vault.role_id,
        "kubernetes_jwt_path": str(path),
        "auth_mount_point": "kubernetes-eu",
    }
    assert await make(**login).aget_variable("a") == "1"
    assert await blocking(make(**login).get_variable, "a") == "1"
    assert vault.asked["POST auth/kubernetes-eu/login"] == 2


async def test_wrong_credentials_are_an_error_without_them(vault: VaultServer, make: Make) -> None:
    backend = make(**_approle(vault, secret_id="a-wrong-secret"))
    with pytest.raises(VaultLoginError, match="Vault answered 400 for auth/approle/login") as caught:
        await backend.aget_variable("a")
    assert "a-wrong-secret" not in repr(caught.value) + repr(vars(backend))
    with pytest.raises(VaultLoginError):
        await blocking(backend.get_variable, "a")


def _clocked(backend: AsyncVaultBackend, vault: VaultServer) -> AsyncVaultBackend:
    """Make the backend's clock the server's, which the test moves."""
    backend._keeper = TokenKeeper(backend._keeper._login, clock=lambda: vault.now)
    return backend


async def test_a_token_is_renewed_before_it_ends(vault: VaultServer, make: Make) -> None:
    backend = _clocked(make(**_approle(vault)), vault)
    for _ in range(5):
        assert await backend.aget_variable("a") == "1"
        vault.now += vault.lease * RENEW_AFTER + 1
    assert vault.asked["POST auth/approle/login"] == 1
    assert vault.asked["POST auth/token/renew-self"] == 4


async def test_a_renewal_that_fails_becomes_a_login(vault: VaultServer, make: Make) -> None:
    backend = _clocked(make(**_approle(vault)), vault)
    assert await backend.aget_variable("a") == "1"
    vault.tokens.clear()
    vault.now += vault.lease * RENEW_AFTER + 1
    assert await blocking(backend.get_variable, "a") == "1"
    assert vault.asked["POST auth/approle/login"] == 2


async def test_a_token_that_cannot_be_renewed_is_replaced_in_time(vault: VaultServer, make: Make) -> None:
    vault.renewable = False
    backend = _clocked(make(**_approle(vault)), vault)
    assert await backend.aget_variable("a") == "1"
    vault.now += vault.lease * RENEW_AFTER + 1
    assert await backend.aget_variable("a") == "1"
    assert vault.asked["POST auth/token/renew-self"] == 0
    assert vault.asked["POST auth/approle/login"] == 2


async def test_a_revoked_token_costs_one_login_for_all(vault: VaultServer, make: Make) -> None:
    backend = make(**_approle(vault))
    assert await backend.aget_variable("a") == "1"
    vault.tokens.clear()
    assert await asyncio.gather(*(backend.aget_variable("a") for _ in range(20))) == ["1"] * 20
    assert vault.asked["POST auth/approle/login"] == 2


async def test_passing_errors_are_tried_again(vault: VaultServer, make: Make) -> None:
    backend = make(token=vault.root_token)
    vault.failures = [503, 500, 412]
    assert await backend.aget_variable("a") == "1"
    vault.failures = [502]
    assert await blocking(backend.get_variable, "a") == "1"
    vault.failures = [500] * 4
    with pytest.raises(VaultError, match="500 for secret/data/variables/a"):
        await backend.aget_variable("a")


async def test_an_unreachable_vault_is_an_error(make: Make) -> None:
    backend = AsyncVaultBackend(url="http://127.0.0.1:9", token="t", retry_backoff=0)
    with pytest.raises(httpx.ConnectError):
        await backend.aget_variable("a")
    await backend.aclose()


async def test_a_cancelled_login_leaves_the_next_one_free(vault: VaultServer, make: Make) -> None:
    backend = make(**_approle(vault))
    lookup = asyncio.ensure_future(backend.aget_variable("a"))
    await asyncio.wait([lookup], timeout=0)
    lookup.cancel()
    await asyncio.wait([lookup])
    assert await backend.aget_variable("a") == "1"


async def test_namespaces(vault: VaultServer, make: Make) -> None:
    vault.namespace = "team/eu"
    assert await make(token=vault.root_token, namespace="team/eu").aget_variable("a") == "1"
    assert await make(token=vault.root_token).aget_variable("a") is None


def test_one_backend_serves_several_event_loops(vault: VaultServer) -> None:
    vault.kv2["variables/a"] = {"value": "1"}
    backend = AsyncVaultBackend(url=vault.url, token=vault.root_token)

    async def look_up() -> str | None:
        value = await backend.aget_variable("a")
        await backend.aclose()
        return value

    assert [asyncio.run(look_up()) for _ in range(2)] == ["1", "1"]
    assert not backend._loops


SECRETS: dict[str, Any] = {
    "connections/c": {"conn_uri": "http://me@host"},
    "connections/empty": {},
    "shared/d": {"conn_type": "http", "host": "h", "port": 1},
    "variables/v": {"value": "1"},
    "variables/no-value": {"other": "1"},
    "variables/deleted": None,
    "variables/sub/key": {"value": "sub"},
    "variables/blue/key": {"value": "blue"},
    "shared/w": {"value": "from the second path"},
    "config/k": {"value": "configured"},
    "config/no-value": {"other": 1},
}

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "several paths": {
        "connections_path": ["connections/", "shared"],
        "variables_path": ["variables", "shared"],
        "config_path": ["nowhere", "config"],
    },
    "no paths": {"connections_path": None, "variables_path": None, "config_path": None},
    "no base": {"variables_path": "", "mount_point": "secret"},
    "mount in the key": {"mount_point": None},
    "version 1": {"kv_engine_version": 1, "mount_point": "kv1"},
    "no team paths": {"use_team_secrets_path": False},
}


@pytest.mark.parametrize("multi", ["True", "False"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
async def test_options_mean_what_they_mean_to_the_provider(
    vault: VaultServer, make: Make, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], multi: str
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", multi)
    vault.kv2 |= SECRETS
    vault.kv1 |= {path: secret for path, secret in SECRETS.items() if secret is not None}
    ours = make(token=vault.root_token, **options)
    theirs = VaultBackend(url=vault.url, token=vault.root_token, **options)
    keys = [
        "c",
        "d",
        "v",
        "w",
        "k",
        "empty",
        "no-value",
        "deleted",
        "sub/key",
        "absent",
        "secret/v",
        "blue/key",
    ]
    keys += ["variables/v", "key", "secret/sub/key"]
    for key in keys:
        for team in (None, "blue"):
            wanted = await blocking(theirs.get_conn_value, key, team)
            assert await ours.aget_conn_value(key, team) == wanted
            assert await blocking(ours.get_conn_value, key, team) == wanted
            assert await ours.aget_variable(key, team) == await blocking(theirs.get_variable, key, team)
        assert await ours.aget_config(key) == await blocking(theirs.get_config, key)


async def test_the_old_global_path_comes_last(vault: VaultServer, make: Make) -> None:
    vault.kv2 |= {"variables/v": {"value": "own"}, "global/v": {"value": "g"}, "global/w": {"value": "g"}}
    backend = make(token=vault.root_token, global_secrets_path="global/")
    assert [await backend.aget_variable(key) for key in "vw"] == ["own", "g"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auth_type": "ldap"}, "auth_type 'ldap' is not offered here"),
        ({"auth_type": "token"}, "requires 'token' or 'token_path'"),
        ({"auth_type": "approle"}, "requires 'role_id'"),
        ({"auth_type": "kubernetes"}, "requires 'kubernetes_role'"),
        ({"token": "t", "kv_engine_version": 3}, "kv_engine_version 3"),
    ],
)
def test_wrong_options_are_named(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VAULT_TOKEN", raising=False)
    with pytest.raises(InvalidVaultOptions, match=message):
        AsyncVaultBackend(**options)


def test_no_credential_is_in_a_representation() -> None:
    backend = AsyncVaultBackend(token="zz-token", role_id="zz-role", secret_id="zz-secret")
    login = backend._keeper._login
    approle = replace(login, auth_type="approle")
    shown = [backend, login, login.first_call(), approle, approle.first_call(), vars(backend._keeper)]
    assert "zz-" not in repr(shown)


def test_certificates(tmp_path: Path) -> None:
    def options(verify: bool | str, cert: str | None = None) -> dict[str, Any]:
        return VaultEndpoint("https://vault", None, verify, cert, 1, 1, 0)._client_options(connections=1)

    assert options(True)["verify"].verify_mode is ssl.CERT_REQUIRED
    assert options(False)["verify"].verify_mode is ssl.CERT_NONE
    with pytest.raises(FileNotFoundError):
        options("/nowhere/ca.pem")
    broken = tmp_path / "client.pem"
    broken.write_text("not a certificate")
    with pytest.raises(ssl.SSLError):
        options(True, str(broken))
