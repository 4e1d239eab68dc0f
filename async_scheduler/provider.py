"""What Airflow's providers manager is told about this distribution."""

from __future__ import annotations

from typing import Any

from async_scheduler.settings import OPTIONS, SECTION
from async_scheduler.version import __version__

SECRETS_BACKENDS = (
    "async_scheduler.secrets.vault.AsyncVaultBackend",
    "async_scheduler.secrets.local_file.AsyncLocalFilesystemBackend",
)


def get_provider_info() -> dict[str, Any]:
    """Return the provider info: command line and the documented ``[async_scheduler]`` section.

    Source of the form: ``airflow/provider_info.schema.json``.
    """
    return {
        "package-name": "airflow-async-scheduler",
        "name": "Async scheduler",
        "description": "An async-native scheduler: ``airflow scheduler --async``.",
        "versions": [__version__],
        "cli": ["async_scheduler.cli.commands.get_cli_commands"],
        "secrets-backends": list(SECRETS_BACKENDS),
        "config": {
            SECTION: {
                "description": "The scheduler started with ``airflow scheduler --async``.",
                "options": {option.name: option.documented() for option in OPTIONS},
            }
        },
    }
