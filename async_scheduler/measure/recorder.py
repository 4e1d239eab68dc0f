"""Takes the records of the measured code and gives them on: to the writer's ring, to a live view."""

from __future__ import annotations

from collections.abc import Callable

from async_scheduler.measure.events import Event, StatementText

Sink = Callable[[Event], None]


class Recorder:
    """Hands every record to each sink. Sinks must be quick: they run inside the measured code."""

    __slots__ = ("_sinks", "statements")

    def __init__(self) -> None:
        self._sinks: tuple[Sink, ...] = ()
        self.statements: dict[str, StatementText] = {}

    def put(self, record: Event) -> None:
        """Give *record* to every sink."""
        for sink in self._sinks:
            sink(record)

    def statement(self, text: StatementText) -> None:
        """Make a statement's text known: remembered for sinks and files that come later."""
        self.statements[text.hash] = text
        self.put(text)

    def add(self, sink: Sink) -> None:
        """Let *sink* have every record from now on, after the texts of the statements known so far."""
        for text in self.statements.values():
            sink(text)
        self._sinks = (*self._sinks, sink)

    def remove(self, sink: Sink) -> None:
        """Stop giving records to *sink*."""
        self._sinks = tuple(s for s in self._sinks if s is not sink and s != sink)
