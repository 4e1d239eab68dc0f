"""What is said to Vault and how its answers are read; no I/O, so the same for sync and async.

Options and results are those of ``airflow.providers.hashicorp.secrets.vault.VaultBackend`` for the three ways
to log in that are offered here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from async_scheduler.secrets.errors import InvalidVaultOptions, VaultError, VaultLoginError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

AUTH_TYPES = ("token", "approle", "kubernetes")
KUBERNETES_JWT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount/token"
RENEWAL_PATH = "auth/token/renew-self"
RENEW_AFTER = 2 / 3
"""The share of a token's life after which it is renewed, or the login repeated."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request to Vault. What it sends in its body or as token is not in its representation."""

    method: str
    path: str
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """Vault's answer: HTTP status and JSON body (empty if it is none)."""

    status: int
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A token and, on the monotonic clock, when to renew it; None: it does not end."""

    value: str = field(repr=False)
    renew_at: float | None
    renewable: bool


@dataclass(frozen=True, slots=True)
class Login:
    """How to get a token.

    :raises InvalidVaultOptions: when an option that the way of logging in needs is missing.
    """

    auth_type: str = "token"
    mount_point: str | None = None
    token: str | None = field(default=None, repr=False)
    token_path: str | None = None
    role_id: str | None = field(default=None, repr=False)
    secret_id: str | None = field(default=None, repr=False)
    kubernetes_role: str | None = None
    kubernetes_jwt_path: str | None = KUBERNETES_JWT_PATH

    def __post_init__(self) -> None:
        if self.auth_type not in AUTH_TYPES:
            raise InvalidVaultOptions(
                f"auth_type {self.auth_type!r} is not offered here (but {', '.join(AUTH_TYPES)}); "
                "airflow.providers.hashicorp.secrets.vault.VaultBackend offers more and is run in threads"
            )
        if self.auth_type == "token" and not (self.token or self.token_path or os.environ.get("VAULT_TOKEN")):
            raise InvalidVaultOptions("The 'token' authentication type requires 'token' or 'token_path'")
        if self.auth_type == "approle" and not self.role_id:
            raise InvalidVaultOptions("The 'approle' authentication type requires 'role_id'")
        if self.auth_type == "kubernetes" and not (self.kubernetes_role and self.kubernetes_jwt_path):
            raise InvalidVaultOptions(
                "The 'kubernetes' authentication type requires 'kubernetes_role' and 'kubernetes_jwt_path'"
            )

    def first_call(self) -> Call:
        """Return the call that gets a token, or learns how long the given one lives; may read a file."""
        if self.auth_type == "token":
            return Call("GET", "auth/token/lookup-self", token=self._given_token())
        if self.auth_type == "approle":
            body = {"role_id": self.role_id, "secret_id": self.secret_id}
        else:
            jwt = Path(self.kubernetes_jwt_path or "").read_text(encoding="utf-8").strip()
            body = {"role": self.kubernetes_role, "jwt": jwt}
        return Call("POST", f"auth/{self.mount_point or self.auth_type}/login", body)

    def _given_token(self) -> str:
        if self.token_path:
            return Path(self.token_path).read_text(encoding="utf-8").strip()
        return self.token or os.environ.get("VAULT_TOKEN", "")

    def read(self, call: Call, reply: Reply, now: float) -> Token:
        """Return the token that *reply* gives, or that *call* was made with.

        A given token whose policy forbids looking at itself is used without renewal.

        :raises VaultLoginError: when Vault refuses.
        """
        if call.token is not None:
            data = reply.body.get("data", {}) if reply.status == 200 else {}
            return _token(call.token, data.get("ttl", 0), bool(data.get("renewable")), now)
        if reply.status != 200 or not reply.body.get("auth", {}).get("client_token"):
            raise VaultLoginError(reply.status, call.path)
        return _issued(reply, now)


def renewal_call(token: Token) -> Call:
    """Return the call that prolongs *token*."""
    return Call("POST", RENEWAL_PATH, {}, token.value)


def _issued(reply: Reply, now: float) -> Token:
    auth = reply.body["auth"]
    return _token(auth["client_token"], auth.get("lease_duration", 0), bool(auth.get("renewable")), now)


def _token(value: str, seconds: float, renewable: bool, now: float) -> Token:
    return Token(value, now + seconds * RENEW_AFTER if seconds else None, renewable)


@dataclass(frozen=True, slots=True)
class Paths:
    """Where secrets stand: the engine's mount, its version, and the base paths to try in order.

    :raises InvalidVaultOptions: for an unknown version.
    """

    mount_point: str | None
    version: int
    connections: Sequence[str]
    variables: Sequence[str]
    config: Sequence[str]
    by_team: bool

    def __post_init__(self) -> None:
        if self.version not in (1, 2):
            raise InvalidVaultOptions(f"kv_engine_version {self.version} is not supported; it is 1 or 2")

    def candidates(
        self, bases: Sequence[str], key: str, team_name: str | None, multi_team: bool
    ) -> list[str]:
        """Return the API paths to read for *key*, in order.

        Mirrors the provider's ``_get_secret``: in multi-team mode a team's secrets stand under
        ``<base>/<team>/``, and a key with a slash in it is refused to a caller with no team, who could
        reach into a team's namespace with it.
        """
        scoped = multi_team and self.by_team
        mount, rest = self._split(key)
        if rest is None or (scoped and team_name is None and "/" in rest):
            return []
        team = f"{team_name}/" if scoped and team_name is not None else ""
        return [self._api_path(mount, f"{base}/{team}{rest}" if base else f"{team}{rest}") for base in bases]

    def _split(self, key: str) -> tuple[str, str | None]:
        if self.mount_point:
            return self.mount_point, key
        mount, _, rest = key.partition("/")
        return mount, rest or None

    def _api_path(self, mount: str, path: str) -> str:
        engine = f"{mount}/data" if self.version == 2 else mount
        return quote(f"{engine}/{path}")

    def secret(self, path: str, reply: Reply) -> Mapping[str, Any] | None:
        """Return the secret in *reply* to the reading of *path*; None if there is none or it is deleted.

        :raises VaultError: for any other answer.
        """
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise VaultError(reply.status, path)
        data = reply.body.get("data")
        secret: Mapping[str, Any] | None = data.get("data") if self.version == 2 and data else data
        return secret


def base_paths(paths: str | Sequence[str] | None, fallback: str | None = None) -> tuple[str, ...]:
    """Return *paths* as a tuple without trailing slashes, *fallback* behind them."""
    listed = [paths] if isinstance(paths, str) else list(paths or ())
    return tuple(path.rstrip("/") for path in (*listed, *([] if fallback is None else [fallback])))


class TokenKeeper:
    """Decides when to log in and when to renew. The caller sends the calls, one at a time."""

    def __init__(self, login: Login, clock: Callable[[], float] = monotonic) -> None:
        self._login = login
        self._clock = clock
        self._token: Token | None = None

    @property
    def token(self) -> str | None:
        """The token to use, or None while there is none or it is due for renewal."""
        token = self._token
        if token is None or (token.renew_at is not None and self._clock() >= token.renew_at):
            return None
        return token.value

    def reject(self, token: str) -> None:
        """Forget *token*, which Vault did not accept, unless a newer one has taken its place."""
        if self._token is not None and self._token.value == token:
            self._token = None

    def next_call(self) -> Call:
        """Return what to send for a new token: a renewal of the old one, else a login; may read a file."""
        if self._token is not None and self._token.renewable:
            return renewal_call(self._token)
        return self._login.first_call()

    def take(self, call: Call, reply: Reply) -> None:
        """Keep the token that *reply* to *call* gives.

        :raises VaultLoginError: when a login is refused.
        """
        now = self._clock()
        if call.path == RENEWAL_PATH:
            self._token = _issued(reply, now) if reply.status == 200 else None
        else:
            self._token = self._login.read(call, reply, now)
