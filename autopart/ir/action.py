"""Action: one step of a pipeline schedule. A schedule is data: for every rank, the list of its actions in order."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a rank does for one micro-batch.

    A schedule may split the backward pass in two: BACKWARD is then the gradients of a stage's inputs alone, for which
    the stage before waits, and WEIGHT those of its weights, for which nobody waits. Without WEIGHT, BACKWARD is both.
    """

    FORWARD = "F"
    BACKWARD = "B"
    WEIGHT = "W"


@dataclass(frozen=True, slots=True)
class Action:
    """`kind` for micro-batch `micro_batch` on stage `stage`; prints as `F2` (or `F2.s1` with several stages a rank)."""

    kind: Kind
    stage: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.kind.value}{self.micro_batch}"


Schedule = tuple[tuple[Action, ...], ...]
"""`schedule[rank]` is what that pipeline rank does, in order; which rank has a stage can be read off it."""
