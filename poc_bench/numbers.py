"""Numbers as they stand on the command line."""

from __future__ import annotations

from poc_bench.errors import UsageError


def numbers(option: str, text: str, least: float = 0) -> list[float]:
    """Return the numbers in *text*, separated by commas.

    :raises UsageError: for anything else, and for a number below *least*.
    """
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} wants numbers separated by commas, not {text!r}") from None
    require(option, min(found), least)
    return found


def require(option: str, value: float | None, least: float) -> None:
    """Refuse a value that is too small; None stands for the default.

    :raises UsageError: for one below *least*.
    """
    if value is not None and not value >= least:
        raise UsageError(f"{option} wants nothing below {least:g}")
