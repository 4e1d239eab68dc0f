"""A local HTTP server that speaks Vault's protocol as far as the backend uses it.

Not Vault itself, which no package brings. It follows the documentation of Vault's HTTP API, and the client
of the hashicorp provider (hvac) is run against it by the same tests, so that both agree on what it says.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Lease:
    """A token's life: when it ends on the server's clock (None: never) and whether it can be prolonged."""

    ends: float | None
    renewable: bool


@dataclass
class VaultServer:
    """What the server holds, and what it was asked."""

    url: str = ""
    now: float = 0.0
    lease: float = 3600.0
    renewable: bool = True
    namespace: str | None = None
    root_token: str = field(default_factory=lambda: f"root-{uuid.uuid4().hex}")
    role_id: str = "scheduler"
    secret_id: str = field(default_factory=lambda: f"approle-{uuid.uuid4().hex}")
    jwt: str = field(default_factory=lambda: f"jwt-{uuid.uuid4().hex}")
    kv2: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    kv1: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    tokens: dict[str, Lease] = field(default_factory=dict)
    failures: list[int] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)

    def answer(self, method: str, path: str, token: str | None, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body."""
        self.asked[f"{method} {path}"] += 1
        if self.failures:
            return self.failures.pop(0), {"errors": ["injected"]}
        if path.endswith("/login"):
            return self._login(path.removeprefix("auth/").removesuffix("/login"), body)
        if not self._alive(token):
            return 403, {"errors": ["permission denied"]}
        if path == "auth/token/lookup-self":
            return 200, {"data": self._describe(token)}
        if path == "auth/token/renew-self":
            return self._renew(str(token))
        return self._read(path)

    def _login(self, mount: str, body: dict[str, Any]) -> tuple[int, Any]:
        if mount.startswith("approle"):
            accepted = body.get("role_id") == self.role_id and body.get("secret_id") == self.secret_id
        else:
            accepted = body.get("role") == self.role_id and body.get("jwt") == self.jwt
        if not accepted:
            return 400, {"errors": ["invalid role or secret ID"]}
        token = f"issued-{uuid.uuid4().hex}"
        self.tokens[token] = Lease(self.now + self.lease, self.renewable)
        return 200, self._auth(token)

    def _auth(self, token: str) -> dict[str, Any]:
        auth = {"client_token": token, "lease_duration": int(self.lease), "renewable": self.renewable}
        return {"auth": auth}

    def _alive(self, token: str | None) -> bool:
        if token == self.root_token:
            return True
        lease = self.tokens.get(token or "")
        return lease is not None and (lease.ends is None or lease.ends > self.now)

    def _describe(self, token: str | None) -> dict[str, Any]:
        lease = self.tokens.get(token or "", Lease(None, False))
        return {"ttl": 0 if lease.ends is None else int(lease.ends - self.now), "renewable": lease.renewable}

    def _renew(self, token: str) -> tuple[int, Any]:
        if token not in self.tokens or not self.tokens[token].renewable:
            return 400, {"errors": ["token is not renewable"]}
        self.tokens[token].ends = self.now + self.lease
        return 200, self._auth(token)

    def _read(self, path: str) -> tuple[int, Any]:
        if path.startswith("secret/data/"):
            name = path.removeprefix("secret/data/")
            if name not in self.kv2:
                return 404, {"errors": []}
            secret = self.kv2[name]
            if secret is None:  # its latest version is deleted
                return 404, {"data": {"data": None, "metadata": {"deletion_time": "2026-01-01T00:00:00Z"}}}
            return 200, {"data": {"data": secret, "metadata": {"version": 1}}}
        name = path.removeprefix("kv1/")
        return (200, {"data": self.kv1[name]}) if name in self.kv1 else (404, {"errors": []})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # headers and body in one packet: no waiting for delayed acknowledgements
    vault: VaultServer
    lock: threading.Lock

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}") or {}
        path = unquote(self.path.partition("?")[0]).removeprefix("/v1/")
        if self.headers.get("X-Vault-Namespace") != self.vault.namespace:
            status, reply = 404, {"errors": ["no such namespace"]}
        else:
            with self.lock:
                token = self.headers.get("X-Vault-Token")
                status, reply = self.vault.answer(self.command, path, token, body)
        text = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = _serve

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""


@contextmanager
def running() -> Iterator[VaultServer]:
    """Run a server on a free port of the loopback interface while the block runs."""
    vault = VaultServer()
    handler = type("Handler", (_Handler,), {"vault": vault, "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    vault.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="vault-server"
    )
    thread.start()
    try:
        yield vault
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
