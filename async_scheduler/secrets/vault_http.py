"""Sends calls to Vault over httpx, with the provider's retries."""

from __future__ import annotations

import ssl
from functools import cached_property
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_exponential,
)

from async_scheduler.secrets.vault_protocol import Call, Reply

RETRIED = frozenset({412, 500, 502, 503})
"""Answers worth another try, as in the provider's client."""

ATTEMPTS = 4
KEEP_ALIVE = 30.0
"""Seconds that an idle connection stays open."""


class VaultEndpoint:
    """Where Vault is and how to speak to it."""

    def __init__(
        self,
        url: str,
        namespace: str | None,
        verify: bool | str,
        cert: str | tuple[str, str] | None,
        timeout: float,
        max_connections: int,
        backoff: float,
    ) -> None:
        self._base = f"{url.rstrip('/')}/v1/"
        self._headers = {"X-Vault-Request": "true", **({"X-Vault-Namespace": namespace} if namespace else {})}
        self._verify = verify
        self._cert = cert
        self._timeout = timeout
        self.max_connections = max_connections
        self._retries: dict[str, Any] = {
            "stop": stop_after_attempt(ATTEMPTS),
            "wait": wait_exponential(multiplier=backoff),
            "retry": retry_if_result(lambda reply: reply.status in RETRIED)
            | retry_if_exception_type(httpx.TransportError),
            # The last outcome, be it a reply or an error, is the caller's to judge.
            "retry_error_callback": lambda state: state.outcome.result(),
        }

    def async_client(self) -> httpx.AsyncClient:
        """Return a client of one connection for one event loop; may load certificates, so it blocks."""
        return httpx.AsyncClient(**self._client_options(connections=1))

    def blocking_client(self) -> httpx.Client:
        """Return a client for one process."""
        return httpx.Client(**self._client_options(self.max_connections))

    def _client_options(self, connections: int) -> dict[str, Any]:
        return {
            "base_url": self._base,
            "headers": self._headers,
            "verify": self._tls if self._base.startswith("https") else False,
            "timeout": self._timeout,
            "limits": httpx.Limits(max_connections=connections, keepalive_expiry=KEEP_ALIVE),
            "follow_redirects": True,  # a standby node refers to the active one
        }

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        if self._verify is False:
            context = ssl._create_unverified_context()
        else:
            context = ssl.create_default_context(
                cafile=self._verify if isinstance(self._verify, str) else None
            )
        if self._cert is not None:
            context.load_cert_chain(*((self._cert,) if isinstance(self._cert, str) else self._cert))
        return context

    async def asend(self, client: httpx.AsyncClient, call: Call) -> Reply:
        """Return Vault's answer.

        :raises httpx.TransportError: when there is none after several tries.
        """
        reply: Reply = await AsyncRetrying(**self._retries)(self._asend_once, client, call)
        return reply

    def send(self, client: httpx.Client, call: Call) -> Reply:
        """Do as :meth:`asend`, blocking."""
        reply: Reply = Retrying(**self._retries)(self._send_once, client, call)
        return reply

    async def _asend_once(self, client: httpx.AsyncClient, call: Call) -> Reply:
        return _reply(await client.request(**_request(call)))

    def _send_once(self, client: httpx.Client, call: Call) -> Reply:
        return _reply(client.request(**_request(call)))


def _request(call: Call) -> dict[str, Any]:
    headers = {} if call.token is None else {"X-Vault-Token": call.token}
    return {"method": call.method, "url": call.path, "json": call.body, "headers": headers}


def _reply(response: httpx.Response) -> Reply:
    """Read *response*; an answer that is not JSON (a proxy's page) has no body for us."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    return Reply(response.status_code, body if isinstance(body, dict) else {})
