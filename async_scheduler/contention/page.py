"""The page of a report: one HTML file that needs no network and shows every name as text."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from async_scheduler.contention.sections import Body
from async_scheduler.errors import AsyncSchedulerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from async_scheduler.contention.report import Report

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: auto; max-width: 1100px;
  padding: 1rem; }
h1 { margin: 0; } h2 { margin: 2.5rem 0 .3rem; } p { max-width: 78ch; }
.verdict { border: 2px solid #2457a6; border-radius: 8px; padding: .5rem 1rem; background: #f4f7fc; }
table { border-collapse: collapse; font-size: .875rem; } .scroll { overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { background: #f6f6f6; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.right { background: #fbe3e1; } td.wrong { background: #e3f4e1; } td.mixed { background: #fff3cd; }
td.not { color: #666; } small { color: #666; }
code { font-size: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .3rem 0; } summary { cursor: pointer; color: #2457a6; }
"""
SCRIPT = """
for (const slot of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(slot.dataset.figure).textContent);
  Plotly.newPlot(slot, figure.data, figure.layout, {responsive: true, displayModeBar: false});
}
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:"


class ChartsMissing(AsyncSchedulerError):
    """The library that draws the page is not installed."""

    def __init__(self) -> None:
        super().__init__("The page needs plotly: pip install 'airflow-async-scheduler[bench]'")


def write_page(reports: Sequence[Report], path: Path) -> None:
    """Write the page of one report, or of several below each other.

    :raises ChartsMissing: when plotly is not installed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(reports), encoding="utf-8")


def page(reports: Sequence[Report]) -> str:
    """Return the page as text.

    :raises ChartsMissing: when plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise ChartsMissing from None
    title = escape(reports[0].title if len(reports) == 1 else "Contention")
    body = "".join(Body(report, f"r{number}-").html() for number, report in enumerate(reports, start=1))
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style><script>{get_plotlyjs()}</script></head>'
        f"<body>{body}<script>{SCRIPT}</script></body></html>"
    )
