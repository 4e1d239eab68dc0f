"""The verdict as a Markdown table, for a README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.report.drawing import number
from poc_bench.report.names import names
from poc_bench.report.verdict import Entry, entries, remarks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poc_bench.record import RunRecord

FILE = "summary.md"
EXPLANATION = (
    "Median of the workload's figure, how many times as good as `sync` it is, and the lowest and highest of "
    "these ratios, repeat by repeat.\n"
)


def summary_table(run: RunRecord) -> str:
    """Return the median of each arm's primary figure, and how many times as good as sync it is."""
    found = entries(run)
    arms = list(dict.fromkeys(entry.arm for entry in found))
    name = names(entry.position for entry in found)
    rows: dict[object, dict[str, Entry]] = {}
    for entry in found:
        rows.setdefault(entry.position, {})[entry.arm] = entry
    lines = [f"| work | {' | '.join(arms)} |", f"|---|{'---:|' * len(arms)}"]
    for of_arm in rows.values():
        first = next(iter(of_arm.values()))
        cells = " | ".join(_cell(of_arm.get(arm)) for arm in arms)
        lines.append(f"| {name[first.position]} | {cells} |")
    notes = [f"- {remark}" for remark in remarks(run)]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def sizes_table(run: RunRecord) -> str:
    """Return what each workload consisted of."""
    lines = ["| workload | runs | task instances | figure |", "|---|---:|---:|---|"]
    lines += [
        f"| `{size}` | {number(found['runs'])} | {number(found['task_instances'])} | {found['primary']} |"
        for size, found in run.workloads.items()
    ]
    return "\n".join(lines) + "\n"


def summary_file(runs: Sequence[tuple[str, RunRecord]]) -> str:
    """Return the text of ``summary.md``."""
    parts = []
    for label, run in runs:
        versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
        parts += [f"# {label}\n", _conditions(run), EXPLANATION, summary_table(run), sizes_table(run)]
        parts += [f"Versions: {versions}\n"]
    return "\n".join(parts)


def _conditions(run: RunRecord) -> str:
    machine, database = run.machine, run.database
    return (
        f"{run.created} · {machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB · "
        f"{database['kind']} {database['version']} · {run.repeats} repeat(s), seed {run.seed}\n"
    )


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return ""
    if entry.troubles:
        return "failed"
    if entry.value is None:
        return ""
    text = number(entry.value.median)
    if comparison := entry.against("sync"):
        ratio = comparison.ratio
        reach = f", {ratio.low:.2f}–{ratio.high:.2f}" if ratio.count > 1 else ""
        text += f" ({ratio.median:.2f}×{reach})"
    return text
