"""What the bench asks of a database server, whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from poc_bench.database.address import Address


class Server(Protocol):
    """A server on which databases can be made as copies of a template."""

    @property
    def kind(self) -> str:
        """What it is, in a word or two."""

    @property
    def pid(self) -> int | None:
        """The process whose children do the work, where it is on this machine and ours."""

    def version(self) -> str:
        """Return the server's version in its own words."""

    def address(self, database: str) -> Address:
        """Return where *database* is."""

    def create(self, database: str, template: str | None = None) -> None:
        """Create *database*, as a copy of *template* when one is named."""

    def drop(self, database: str) -> None:
        """Remove *database* if it exists and disconnect whoever is left in it."""

    def settle(self, database: str) -> None:
        """Leave *database* with fresh planner statistics and nothing to clean up."""

    def load_past(self, database: str, task_instances: int) -> None:
        """Fill *database* with so many finished task instances.

        :raises UsageError: where this is not possible.
        """

    def close(self) -> None:
        """Give everything back."""
