"""What each command's ``--help`` ends with."""

from __future__ import annotations

EXAMPLES = {
    "": """\
  poc-bench run                                   stock and async side by side, under three minutes
  poc-bench list                                  which workloads and arms there are
  poc-bench run --arm sync,redesigned --workload layers:dags=5,runs=5,tasks=50 --repeat 5
  poc-bench report bench-results/20261120-101500  its page again
""",
    "run": """\
  poc-bench run                                   the quick matrix
  poc-bench run --arm sync-tuned,redesigned --workload layers:dags=10,runs=10,tasks=200 --repeat 5
  poc-bench run --arm redesigned --workload steady,catch-up --rtt 0,5 --out results/far
  poc-bench run --schedulers 1,2 --db postgresql://postgres@/postgres?host=/run/postgresql
""",
    "report": """\
  poc-bench report results/one                    the page of one run, beside it
  poc-bench report results/one results/two --out results/both
""",
    "compare": """\
  poc-bench compare results/before results/after  what changed beyond chance
""",
    "contention": """\
  poc-bench contention                            the experiment in three modes, and its verdict page
  poc-bench contention --controls                 can the instrument say yes and no? half a minute
  poc-bench contention --family redesigned --mode attribution --rtt 0 --out results/traces
""",
    "list": """\
  poc-bench list
""",
}


def epilog(command: str = "") -> str:
    """Return the examples of *command*, or of the whole program, for a raw-text help formatter."""
    return f"examples:\n{EXAMPLES[command]}"
