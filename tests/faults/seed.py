"""``python -m tests.faults.seed LABEL SEED DAG_FILE``: :mod:`poc_bench.seed` with the tests' workload."""

from __future__ import annotations

import sys
from pathlib import Path

from poc_bench.seed import write_plan
from poc_bench.workloads import sized
from tests.faults.work import dag_of

if __name__ == "__main__":
    write_plan(sized(sys.argv[1]).plan(int(sys.argv[2])), Path(sys.argv[3]), dag_of)
