"""HashiCorp Vault (KV version 1 and 2) over httpx, awaitable and blocking."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from async_scheduler.secrets.backend import AsyncValueBackend
from async_scheduler.secrets.errors import VaultError
from async_scheduler.secrets.threads import DaemonThreads
from async_scheduler.secrets.turns import own_turn
from async_scheduler.secrets.vault_http import VaultEndpoint
from async_scheduler.secrets.vault_protocol import (
    KUBERNETES_JWT_PATH,
    Call,
    Login,
    Paths,
    Reply,
    TokenKeeper,
    base_paths,
)

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

Secret = Mapping[str, Any]


class AsyncVaultBackend(AsyncValueBackend):
    """Connections, variables and configuration values from Vault; a drop-in for the provider's
    ``VaultBackend``.

    Options, paths, teams and results are the provider's; ways to log in are ``token``, ``approle`` and
    ``kubernetes``. A token is renewed, or the login repeated, after two thirds of its life and once when
    Vault rejects it; all look-ups of a process share it. Look-ups of one event loop share one HTTP client.

    :param namespace: Vault Enterprise namespace.
    :param verify: whether to check Vault's certificate, or the path of a CA bundle.
    :param cert: client certificate: path, or paths of certificate and key.
    :param timeout: seconds for one HTTP request.
    :param max_connections: to Vault, at once, for each event loop.
    :raises InvalidVaultOptions: for options that cannot work.
    """

    def __init__(
        self,
        connections_path: str | Sequence[str] | None = "connections",
        variables_path: str | Sequence[str] | None = "variables",
        config_path: str | Sequence[str] | None = "config",
        use_team_secrets_path: bool = True,
        global_secrets_path: str | None = None,
        url: str | None = None,
        auth_type: str = "token",
        auth_mount_point: str | None = None,
        mount_point: str | None = "secret",
        kv_engine_version: int = 2,
        token: str | None = None,
        token_path: str | None = None,
        secret_id: str | None = None,
        role_id: str | None = None,
        kubernetes_role: str | None = None,
        kubernetes_jwt_path: str | None = KUBERNETES_JWT_PATH,
        namespace: str | None = None,
        verify: bool | str = True,
        cert: str | tuple[str, str] | None = None,
        timeout: float = 10.0,
        max_connections: int = 20,
        retry_backoff: float = 0.1,
    ) -> None:
        super().__init__()
        self._paths = Paths(
            mount_point=mount_point,
            version=int(kv_engine_version),
            connections=base_paths(connections_path, global_secrets_path),
            variables=base_paths(variables_path, global_secrets_path),
            config=base_paths(config_path, global_secrets_path),
            by_team=use_team_secrets_path,
        )
        login = Login(
            auth_type=auth_type,
            mount_point=auth_mount_point,
            token=token,
            token_path=token_path,
            role_id=role_id,
            secret_id=secret_id,
            kubernetes_role=kubernetes_role,
            kubernetes_jwt_path=kubernetes_jwt_path,
        )
        self._keeper = TokenKeeper(login)
        self._endpoint = VaultEndpoint(
            url or os.environ.get("VAULT_ADDR", "http://localhost:8200"),
            namespace,
            verify,
            cert,
            timeout,
            max_connections,
            retry_backoff,
        )
        self._loops: dict[asyncio.AbstractEventLoop, _LoopClient] = {}
        self._blocking_client: tuple[int, httpx.Client] | None = None
        self._blocking_login = threading.Lock()

    async def aget_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Return the secret's ``conn_uri``, or the whole secret as JSON; None if there is none.

        :raises VaultError: when Vault answers with an error.
        :raises httpx.HTTPError: when it cannot be reached.
        """
        return _connection(await self._afirst(self._candidates(self._paths.connections, conn_id, team_name)))

    async def aget_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Return the ``value`` of the secret, or None; raises as :meth:`aget_conn_value`."""
        return _value(key, await self._afirst(self._candidates(self._paths.variables, key, team_name)))

    async def aget_config(self, key: str) -> str | None:
        """Return the ``value`` of the secret, or None; raises as :meth:`aget_conn_value`."""
        return _value(key, await self._afirst(self._paths.candidates(self._paths.config, key, None, False)))

    def get_conn_value(self, conn_id: str, team_name: str | None = None) -> str | None:
        """Do as :meth:`aget_conn_value`, blocking."""
        return _connection(self._first(self._candidates(self._paths.connections, conn_id, team_name)))

    def get_variable(self, key: str, team_name: str | None = None) -> str | None:
        """Do as :meth:`aget_variable`, blocking."""
        return _value(key, self._first(self._candidates(self._paths.variables, key, team_name)))

    def get_config(self, key: str) -> str | None:
        """Do as :meth:`aget_config`, blocking."""
        return _value(key, self._first(self._paths.candidates(self._paths.config, key, None, False)))

    async def aclose(self) -> None:
        """Close the running loop's connections to Vault."""
        client = self._loops.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()

    def close(self) -> None:
        """Close the connections that the blocking methods use."""
        if self._blocking_client is not None:
            self._blocking_client[1].close()
            self._blocking_client = None

    def _candidates(self, bases: Sequence[str], key: str, team_name: str | None) -> list[str]:
        from airflow.configuration import conf

        multi_team = conf.getboolean("core", "multi_team", fallback=False)
        candidates = self._paths.candidates(bases, key, team_name, multi_team)
        if bases and multi_team and not candidates:
            log.warning("Vault is not asked for %r: with no team it could reach into a team's secrets", key)
        return candidates

    async def _afirst(self, candidates: Sequence[str]) -> Secret | None:
        """Return the first secret that exists at one of the paths *candidates*."""
        client = self._client_of_loop()
        for path in candidates:
            secret = self._paths.secret(path, await client.read(path))
            if secret is not None:
                return secret
        return None

    def _client_of_loop(self) -> _LoopClient:
        loop = asyncio.get_running_loop()
        client = self._loops.get(loop)
        if client is None:
            # A loop that ended without aclose(), as asyncio.run() in a task does, took its sockets with it.
            self._loops = {other: it for other, it in self._loops.items() if not other.is_closed()}
            client = self._loops[loop] = _LoopClient(self._endpoint, self._keeper)
        return client

    def _first(self, candidates: Sequence[str]) -> Secret | None:
        for path in candidates:
            secret = self._paths.secret(path, self._read(path))
            if secret is not None:
                return secret
        return None

    def _read(self, path: str) -> Reply:
        for _ in range(2):
            with self._blocking_login:
                while (token := self._keeper.token) is None:
                    call = self._keeper.next_call()
                    self._keeper.take(call, self._send(call))
            reply = self._send(Call("GET", path, token=token))
            if reply.status != 403:
                return reply
            self._keeper.reject(token)
        raise VaultError(403, path)

    def _send(self, call: Call) -> Reply:
        if self._blocking_client is None or self._blocking_client[0] != os.getpid():
            # A forked child must not speak on its parent's connections.
            self._blocking_client = os.getpid(), self._endpoint.blocking_client()
        return self._endpoint.send(self._blocking_client[1], call)


class _LoopClient:
    """The connections of one event loop to Vault."""

    def __init__(self, endpoint: VaultEndpoint, keeper: TokenKeeper) -> None:
        self._endpoint = endpoint
        self._keeper = keeper
        self._threads = DaemonThreads(1, "secrets-vault")
        self._login = asyncio.Lock()
        self._places = asyncio.Semaphore(endpoint.max_connections)
        self._idle: list[httpx.AsyncClient] = []

    async def read(self, path: str) -> Reply:
        """Return the reply to reading *path*, after one more login if the token is rejected."""
        for _ in range(2):
            token = self._keeper.token
            if token is None:
                token = await self._log_in()
            reply = await self._send(Call("GET", path, token=token))
            if reply.status != 403:
                return reply
            self._keeper.reject(token)
        raise VaultError(403, path)

    async def _log_in(self) -> str:
        async with self._login:
            while (token := self._keeper.token) is None:
                call = await self._threads.run(self._keeper.next_call)  # it may read a token from a file
                self._keeper.take(call, await self._send(call))
        return token

    async def _send(self, call: Call) -> Reply:
        """Send *call* on a connection of its own.

        Each client keeps one connection: with many in one, httpx looks at all of them for each request.
        """
        async with self._places:
            # To make a client blocks for a while; the first one loads the certificates.
            client = self._idle.pop() if self._idle else await self._threads.run(self._endpoint.async_client)
            try:
                await own_turn()  # httpx takes about a millisecond of CPU for a request
                return await self._endpoint.asend(client, call)
            finally:
                self._idle.append(client)

    async def aclose(self) -> None:
        self._threads.close()
        while self._idle:
            await self._idle.pop().aclose()


def _connection(secret: Secret | None) -> str | None:
    if secret is None:
        return None
    uri: str | None = secret.get("conn_uri")
    return uri or json.dumps(secret)


def _value(key: str, secret: Secret | None) -> str | None:
    if not secret:
        return None
    if "value" not in secret:
        log.warning('The Vault secret for %s has no key "value"', key)
        return None
    value: str = secret["value"]
    return value
