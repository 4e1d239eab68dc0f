"""The errors of the secrets package. No message ever holds a value, only names of things.

::

    AsyncSchedulerError
    └── SecretsError
        ├── BackendTimeout        a backend did not answer in time
        ├── BackendUnavailable    a backend keeps failing and is not asked for a while
        ├── VaultError            Vault answered with an error
        │   └── VaultLoginError   Vault does not accept the credentials
        └── InvalidVaultOptions   the backend_kwargs of the Vault backend are wrong
"""

from __future__ import annotations

from pathlib import PurePath

from async_scheduler.errors import AsyncSchedulerError


class SecretsError(AsyncSchedulerError):
    """Base of the errors raised by this package; its messages are safe to log."""


class BackendTimeout(SecretsError):
    """A backend did not answer in time."""

    def __init__(self, backend: str, seconds: float) -> None:
        self.backend, self.seconds = backend, seconds
        super().__init__(f"{backend} did not answer within {seconds:g} s")


class BackendUnavailable(SecretsError):
    """A backend has failed so often in a row that it is not asked until its pause is over."""

    def __init__(self, backend: str) -> None:
        self.backend = backend
        super().__init__(f"{backend} keeps failing and is not asked at the moment")


class VaultError(SecretsError):
    """Vault answered with an error; the message names the HTTP status and the path, never a body."""

    def __init__(self, status: int, path: str) -> None:
        self.status, self.path = status, path
        super().__init__(f"Vault answered {status} for {path}")


class VaultLoginError(VaultError):
    """Vault does not accept the configured credentials."""


class InvalidVaultOptions(SecretsError):
    """The ``backend_kwargs`` of the Vault backend are wrong; the message names the option."""


def describe(error: BaseException) -> str:
    """Return what may be logged of *error*: its message if it is one of ours, else type and place.

    A foreign message can hold a value (``Invalid connection string: <the whole URI>`` is one of
    Airflow's own), and the masker does not know a value that could not be parsed.
    """
    if isinstance(error, SecretsError):
        return str(error)
    trace = error.__traceback__
    if trace is None:
        return type(error).__name__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{type(error).__name__} at {PurePath(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
