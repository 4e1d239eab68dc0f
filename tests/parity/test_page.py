"""docs/parity.md: every number of both lists has its line, and every test it names exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "parity.md").read_text()

BEHAVIOURS = "C1-21 C21a C21b C21c C21d C21e C22-43 S1-11 T1-53 TR1-12 Q1-24 E1-20 M1-24 X1-14"
SCENARIOS = (
    "C01-25 S01-10 D01-22 D30-38 D40-46 D50-53 R01-25 R30-37 Q01-23 O01-11 N01-09 E01-15 X01-24 I01-12 "
    "A01-10 T01-20 K01-20 P01-27 B01-12 L01-07 M01-19 W01-10 Z01-13"
)
STATES = {"same", "inherited", "different", "not in 3.3.2", "not shown"}
PLACES = set(re.findall(r"^\| \*(\w+)\* \|", PAGE, re.M))


class Line(NamedTuple):
    """A line of the page's tables."""

    number: str
    name: str
    state: str
    text: str

    @property
    def tests(self) -> list[str]:
        """The tests it names."""
        return named(self.text)


def named(text: str) -> list[str]:
    """Return the tests named in *text*."""
    return re.findall(r"`((?:\w+/)?\w+::\w+)`", text)


def numbers(spans: str) -> list[str]:
    """Return the numbers of spans such as ``C1-3 C3a``."""
    found = []
    for span in spans.split():
        letters, first, last = re.fullmatch(r"([A-Z]+)(\d+)(?:-(\d+))?[a-z]?", span).groups()  # type: ignore[union-attr]
        if last is None:
            found.append(span)
        else:
            width = len(first) if first.startswith("0") else 1
            found += [f"{letters}{number:0{width}}" for number in range(int(first), int(last) + 1)]
    return found


def lines(heading: str) -> list[Line]:
    """Return the lines of the tables below *heading*."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        Line(*row) for row in re.findall(r"^\| ([A-Z]+\d+\w?) \| (.*?) \| (.*?) \| (.*?) ?\|$", section, re.M)
    ]


ALL = [("Behaviours", line) for line in lines("Behaviours")] + [
    ("Scenarios", line) for line in lines("Scenarios")
]


@cache
def names_in(file: str) -> set[str]:
    """Return the names of the tests in ``[folder/]file``, without what all names begin with."""
    folder, _, name = file.rpartition("/")
    tree = ast.parse((TESTS / (folder or "parity") / f"test_{name}.py").read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {node.name.removeprefix("test_") for node in functions if node.name.startswith("test_")}


@pytest.mark.parametrize(("heading", "spans"), [("Behaviours", BEHAVIOURS), ("Scenarios", SCENARIOS)])
def test_every_number_has_one_line(heading: str, spans: str) -> None:
    wanted = numbers(spans)
    assert len(wanted) == {"Behaviours": 206, "Scenarios": 342}[heading]
    assert [line.number for line in lines(heading)] == sorted(
        wanted, key=[line.number for line in lines(heading)].index
    )
    assert Counter(line.number for line in lines(heading)) == Counter(wanted)


def test_every_test_that_is_named_exists() -> None:
    missing = [one for one in named(PAGE) if one.partition("::")[2] not in names_in(one.partition("::")[0])]
    assert missing == []


def test_every_line_has_a_state_and_what_it_asks_for() -> None:
    for heading, line in ALL:
        assert line.state in STATES, (heading, line)
        assert line.name, (heading, line)
        assert line.tests or line.state != "same", (heading, line)
        assert line.text or line.state == "not in 3.3.2", (heading, line)


def test_places_are_those_of_the_table() -> None:
    for heading, line in ALL:
        places = set(re.findall(r"\*(\w+)\*", line.text))
        assert places <= PLACES, (heading, line)


def test_every_story_is_told_for_a_line() -> None:
    files = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")} - {"page"}
    stories = {f"{file}::{name}" for file in files for name in names_in(file)}
    assert stories - set(named(PAGE)) == set()


def test_the_sums_are_right() -> None:
    for heading in ("Behaviours", "Scenarios"):
        counted = Counter(line.state for line in lines(heading))
        order = ("same", "inherited", "different", "not in 3.3.2", "not shown")
        cells = " | ".join(str(counted[state]) for state in order)
        assert f"| {heading.lower()} | {cells} | {counted.total()} |" in PAGE
    bare = sum(line.state == "inherited" and not line.tests for _, line in ALL)
    assert f"Of the inherited ones {bare} name no test." in PAGE
