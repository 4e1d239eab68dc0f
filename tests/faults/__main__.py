"""``python -m tests.faults``: runs scenarios and writes what was seen to a folder.

Each scenario prints its seed; ``--seed`` repeats it.
"""

from __future__ import annotations

import argparse
import random
import secrets
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from cryptography.fernet import Fernet

from tests.faults.field import Fields
from tests.faults.report import earlier, write
from tests.faults.scenarios import LARGE, SCENARIOS, Outcome
from tests.faults.server import FaultServer


def main() -> int:
    """Run the scenarios asked for; return 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--algorithm", choices=("redesigned", "upstream", "both"), default="both")
    parser.add_argument("--workload", default=LARGE)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--output", type=Path, help="a folder; what it holds is kept, and counted")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left behind
    algorithms = ("redesigned", "upstream") if arguments.algorithm == "both" else (arguments.algorithm,)
    outcomes = earlier(arguments.output) if arguments.output else []
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o711)
        server = FaultServer()
        keys = {
            "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        }
        fields = Fields(server, Path(folder), keys)
        try:
            for name in arguments.scenarios or SCENARIOS:
                for algorithm in algorithms:
                    outcomes.append(_run(fields, name, algorithm, arguments.seed, arguments.workload))
                    if arguments.output:
                        write(outcomes, arguments.output, arguments.workload)
        finally:
            server.close()
    return int(any(outcome.violations for outcome in outcomes))


def _run(fields: Fields, name: str, algorithm: str, seed: int, workload: str) -> Outcome:
    print(f"{name} ({algorithm}), seed {seed}", flush=True)  # noqa: T201
    try:
        outcome = SCENARIOS[name](fields, algorithm, seed, workload)
    except Exception:
        outcome = Outcome(name, algorithm, seed, violations=[traceback.format_exc()])
    print(  # noqa: T201
        f"  {outcome.seconds:g} s, faults {dict(outcome.faults)}, {outcome.task_instances} TIs, "
        f"{outcome.workloads} workloads, {outcome.resets} resets, {outcome.figures}\n"
        + "".join(f"  VIOLATION {line}\n" for line in outcome.violations),
        flush=True,
    )
    return outcome


if __name__ == "__main__":
    raise SystemExit(main())
