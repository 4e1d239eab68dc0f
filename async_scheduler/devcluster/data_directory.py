"""The files of one dev cluster: where they are, who may read them, and the keys among them."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cryptography.fernet import Fernet
from filelock import FileLock, Timeout

from async_scheduler.devcluster.problem import ClusterProblem

USER = "admin"


@dataclass(frozen=True, slots=True)
class Keys:
    """The secrets of one cluster. None of them appears in its ``repr``."""

    fernet_key: str = field(repr=False)
    jwt_secret: str = field(repr=False)
    api_secret_key: str = field(repr=False)
    admin_password: str = field(repr=False)

    @classmethod
    def generate(cls) -> Keys:
        """Return new keys from the system's random source."""
        return cls(
            fernet_key=Fernet.generate_key().decode(),
            jwt_secret=secrets.token_urlsafe(48),
            api_secret_key=secrets.token_urlsafe(48),
            admin_password=secrets.token_urlsafe(12),
        )


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The paths of a cluster below *root*, which is also its ``AIRFLOW_HOME``."""

    root: Path

    @property
    def postgres(self) -> Path:
        """The data directory of the embedded PostgreSQL."""
        return self.root / "postgres"

    @property
    def logs(self) -> Path:
        """One log file for each process, and the task logs in ``tasks/``."""
        return self.root / "logs"

    @property
    def airflow_config(self) -> Path:
        """The ``airflow.cfg`` of every process, written at each start."""
        return self.root / "airflow.cfg"

    @property
    def passwords_file(self) -> Path:
        """The password file of Airflow's simple auth manager."""
        return self.root / "passwords.json"

    @property
    def _keys_file(self) -> Path:
        return self.root / "keys.json"

    @contextmanager
    def held(self) -> Iterator[None]:
        """Create the directory, readable by its owner only, and keep other clusters out of it.

        :raises ClusterProblem: when another cluster holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with FileLock(self.root / "lock", timeout=0, mode=0o600):
                self.root.chmod(0o700)
                self.logs.mkdir(exist_ok=True, mode=0o700)
                yield
        except Timeout:
            raise ClusterProblem(
                f"Another cluster is running in {self.root}.",
                "Stop it first (Ctrl-C in its terminal), or use another directory: DATA_DIR=...",
            ) from None

    def keys(self) -> Keys:
        """Return the cluster's keys; generate and store them on the first call.

        :raises ClusterProblem: when the stored ones cannot be read.
        """
        try:
            return Keys(**json.loads(self._keys_file.read_text()))
        except FileNotFoundError:
            keys = Keys.generate()
            write_private(self._keys_file, json.dumps(asdict(keys)))
            return keys
        except (TypeError, ValueError):
            raise ClusterProblem(
                f"{self._keys_file} is damaged.",
                "Remove it to get new keys; what the old ones encrypted (connections, variables) is lost.",
            ) from None


def write_private(path: Path, text: str) -> None:
    """Write *text* to *path*, a file that only its owner can read (mode 0600) at any moment."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
