"""Matrices with a name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Preset:
    """What a run measures where its arguments do not say. Texts are as on the command line."""

    workloads: str
    arms: str
    rtts: str
    repeats: int
    sizes: Literal["quick", "full"]


QUICK = Preset(
    workloads="layers,many-small,mixed-rules,slow-executor",
    arms="sync,sync-x2,naive,redesigned",
    rtts="0",
    repeats=1,
    sizes="quick",
)
FULL = Preset(
    workloads="layers,many-small,linear,mixed-rules,slow-executor",
    arms="sync,sync-tuned,sync-x2,naive,naive-shared-session,naive-sequential,redesigned",
    rtts="0,2.5",
    repeats=5,
    sizes="full",
)
