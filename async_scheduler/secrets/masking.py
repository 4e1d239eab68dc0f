"""Hands what is looked up to Airflow's masker, without the masker's price per secret.

Airflow's masker compiles one regular expression of all its secrets each time one is added: 10 ms for the
1,000th, 30 ms for the 2,000th, which on an event loop are 30 ms in which nothing else runs.
:func:`compile_masks_when_needed` lets it compile when the next text is redacted instead. What is masked
stays Airflow's own decision.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from airflow._shared.secrets_masker import secrets_masker as core
from cryptography.fernet import InvalidToken

from async_scheduler.secrets.turns import own_turn

Mask = Callable[[str, str, Any], Awaitable[None]]
"""Called with the kind, the key and the value of what was found, before anyone gets it."""


async def mask_in_server(kind: str, key: str, value: Any) -> None:
    """Mask in the logs of this process: scheduler, API server, command line."""
    await own_turn()
    for secret, name in secrets_of(kind, key, value):
        core.mask_secret(secret, name)


async def mask_in_task(kind: str, key: str, value: Any) -> None:
    """Mask in the logs of this task or trigger and of its supervisor."""
    from airflow.sdk.log import amask_secret

    for secret, name in secrets_of(kind, key, value):
        await amask_secret(secret, name)


def secrets_of(kind: str, key: str, value: Any) -> list[tuple[Any, str | None]]:
    """Return what is to be masked, each with the name by which Airflow decides, or None for always.

    A variable is masked if its key is sensitive (``Variable.get``), JSON by the names inside. Of a connection
    the password (``Connection.on_db_load``), the whole extra (``_mask_connection_secrets``) and its sensitive
    fields (``extra_dejson``). A value of the configuration always: only sensitive options can name a secret.
    """
    if kind == "connection":
        return _secrets_of_connection(value)
    if kind == "config":
        return [(value, None)]
    return [(value, key), (_json(value), key)]


def _secrets_of_connection(connection: Any) -> list[tuple[Any, str | None]]:
    found: list[tuple[Any, str | None]] = []
    if password := connection.password:
        found += [(password, None), (quote(password), None)]
    try:
        extra = connection.extra
    except (InvalidToken, ValueError):
        return found  # cannot be decrypted; the connection says so to whoever reads the field
    if extra:
        found += [(extra, None), (_json(extra), None)]
    return found


def _json(text: str) -> Any:
    """Return the object, list or string that *text* is in JSON, else None: a number is nothing to mask."""
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


class LazyMasker(core.SecretsMasker):  # type: ignore[misc]
    """Airflow's masker, except that its expression is compiled when it is used, not for each secret."""

    _compiled: re.Pattern[str] | None = None
    _compiled_size = 0

    def add_mask(self, secret: Any, name: str | None = None) -> None:
        """Mask *secret* in all texts redacted from now on, by the rules of Airflow's ``add_mask``."""
        if isinstance(secret, str) and re.escape(secret) in self.patterns:
            return
        # Airflow's own method decides, on a masker that knows nothing yet and so compiles in no time.
        scratch = core.SecretsMasker()
        vars(scratch).update(vars(self), patterns=set())
        scratch.add_mask(secret, name)
        self.patterns |= scratch.patterns

    @property
    def replacer(self) -> re.Pattern[str] | None:
        """The expression that matches every secret known so far, or None if there is none."""
        if len(self.patterns) != self._compiled_size:
            patterns = list(self.patterns)
            self._compiled = re.compile("|".join(patterns)) if patterns else None
            self._compiled_size = len(patterns)
        return self._compiled

    @replacer.setter
    def replacer(self, compiled: re.Pattern[str] | None) -> None:
        self._compiled = compiled
        self._compiled_size = len(self.patterns) if compiled else 0


def compile_masks_when_needed() -> None:
    """Make the masker of this process a :class:`LazyMasker`, with all it has been told so far.

    A masker of another class (a plug-in's) is left as it is.
    """
    masker = core._secrets_masker()
    if type(masker) is core.SecretsMasker:
        compiled = vars(masker).pop("replacer", None)
        masker.__class__ = LazyMasker
        masker.replacer = compiled
