"""A bench run's resources: one database server, one Airflow home, a database and a folder per cell."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from poc_bench.cell import Cell, measure_floor
from poc_bench.environment import AirflowHome
from poc_bench.errors import CellFailure
from poc_bench.site import CellKey, CellSite

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from poc_bench.database.server import Server
    from poc_bench.observation import Observation
    from poc_bench.workloads.model import Sized

T = TypeVar("T")

DATABASES = "bench_"
DAG_FILE = '''"""The dags of one workload, for processes that parse files."""

from poc_bench.dagfile import build_dag
from poc_bench.workloads import sized

for spec in sized({label!r}).plan({seed}).dags:
    globals()[spec.dag_id] = build_dag(spec)
'''


class Bench:
    """Owns the server and the folders of a run. Use as a context manager.

    *kept* is where logs of failed cells and profiles go.
    """

    def __init__(self, server: Server, kept: Path, timeout: float) -> None:
        self._server = server
        self._kept = kept
        self._timeout = timeout
        # A server of the user's may serve several runs at a time, or hold what a killed one left.
        self._prefix = f"{DATABASES}{secrets.token_hex(4)}"
        self._base: str | None = None
        self._templates: dict[tuple[str, int], str] = {}
        self._count = 0

    def __enter__(self) -> Bench:
        self._folder = tempfile.TemporaryDirectory(prefix="poc-bench-")
        self._home = AirflowHome(Path(self._folder.name, "home"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for database in (*self._templates.values(), *((self._base,) if self._base else ())):
                self._server.drop(database)
        finally:
            self._folder.cleanup()

    def database_description(self) -> dict[str, str]:
        """Return kind and version of the server."""
        return {"kind": self._server.kind, "version": self._server.version()}

    def template(self, workload: Sized, seed: int) -> str:
        """Return the database that holds *workload*'s rows, made on first use."""
        wanted = (workload.label, seed)
        if wanted not in self._templates:
            base = self._base or self._migrate()
            name = f"{self._prefix}_template_{len(self._templates)}"
            self._templates[wanted] = name
            self._seed(name, base, workload, seed)
        return self._templates[wanted]

    def _migrate(self) -> str:
        self._base = f"{self._prefix}_base"
        self._server.create(self._base)
        self._home.run(["-m", "airflow", "db", "migrate"], self._server.address(self._base))
        return self._base

    def _seed(self, name: str, base: str, workload: Sized, seed: int) -> None:
        dag_file = self._home.dags / f"{name}.py"
        dag_file.write_text(DAG_FILE.format(label=workload.label, seed=seed))
        self._server.create(name, base)
        arguments = ["-m", "poc_bench.seed", workload.label, str(seed), str(dag_file)]
        self._home.run(arguments, self._server.address(name))
        if history := workload.plan(seed).history:
            self._server.load_past(name, history)
        self._server.settle(name)

    def measure(self, key: CellKey, settings: Mapping[str, str]) -> Observation:
        """Run one cell on a database of its own; keep its logs when it fails, and its profiles.

        :raises CellFailure: see :meth:`poc_bench.cell.Cell.measure`.
        """

        def run(site: CellSite) -> Observation:
            seen = Cell(site).measure(settings)
            for profile in seen.profiles:
                self._keep(Path(profile), "profiles")
            return seen

        return self._on_a_site(key, run)

    def floor(self, key: CellKey) -> dict[str, float]:
        """Measure the floor of *key*'s workload and link, see :func:`poc_bench.cell.measure_floor`."""
        return self._on_a_site(key, measure_floor)

    def _on_a_site(self, key: CellKey, action: Callable[[CellSite], T]) -> T:
        template = self.template(key.workload, key.seed)
        self._count += 1
        database = f"{self._prefix}_cell_{self._count}"
        folder = Path(self._folder.name, f"cell-{self._count}")
        folder.mkdir()
        try:
            self._server.create(database, template)
            return action(self._site(key, database, folder))
        except CellFailure:
            for log in folder.glob("*.log"):
                self._keep(log, f"logs/{key.name}")
            raise
        finally:
            self._server.drop(database)
            shutil.rmtree(folder)

    def _site(self, key: CellKey, database: str, folder: Path) -> CellSite:
        return CellSite(
            key=key,
            plan=key.workload.plan(key.seed),
            home=self._home,
            address=self._server.address(database),
            folder=folder,
            timeout=self._timeout,
            server_pid=self._server.pid,
        )

    def _keep(self, file: Path, where: str) -> None:
        target = self._kept / where
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
