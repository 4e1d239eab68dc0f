"""The environment of every Airflow process that the bench starts."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING

from cryptography.fernet import Fernet

from poc_bench.errors import Unreachable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from poc_bench.database.address import Address

LOCAL_SETTINGS = '''"""Loads the bench's driver counters into this process."""

from poc_bench.probes import driver

driver.install()

__all__: list[str] = []
'''

FIXED = {
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__PARALLELISM": "1024",
    "AIRFLOW__SCHEDULER__ENABLE_HEALTH_CHECK": "False",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONFAULTHANDLER": "1",  # a process that is aborted tells where each of its threads was
    "PYTHONWARNINGS": "ignore",
}
"""What all arms share. The executor takes up to 1,024 tasks at once, so that it is not what is measured."""


class AirflowHome:
    """A home folder with configuration and keys of its own, shared by all processes of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dags = folder / "dags"
        self.dags.mkdir(parents=True)
        (folder / "config").mkdir()
        (folder / "config" / "airflow_local_settings.py").write_text(LOCAL_SETTINGS)
        self._keys = {
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        }

    def environment(self, address: Address, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the variables of an Airflow process that works on *address*.

        Settings of the caller's own Airflow are left out, so that they change nothing.
        """
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW_")}
        return {
            **inherited,
            **FIXED,
            **self._keys,
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address.sync_url,
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": address.async_url,
            **(extra or {}),
        }

    def run(self, arguments: list[str], address: Address) -> None:
        """Run ``python ARGUMENTS`` on *address* and wait for it.

        :raises Unreachable: with the last line it printed when it fails.
        """
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(address),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise Unreachable(f"`python {' '.join(arguments)}` failed: {last}")
