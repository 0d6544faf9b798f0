"""Pipeline: what a schedule is made for."""

from dataclasses import dataclass
from math import inf

from autopart.errors import PlanningError


@dataclass(frozen=True, slots=True)
class Pipeline:
    """`ranks` pipeline ranks, each with `virtual_stages` stages, work through `micro_batches` micro-batches in a step.

    `forward_s`, `backward_s` and `weight_s` are the seconds, in any unit, of one stage's forward pass, of the gradients
    of its inputs and of those of its weights: schedules that are searched, not written down, take them into account.

    Raises PlanningError unless all counts are at least 1, and all times above 0 and finite.
    """

    ranks: int
    micro_batches: int
    virtual_stages: int = 1
    forward_s: float = 1.0
    backward_s: float = 1.0
    weight_s: float = 1.0

    def __post_init__(self) -> None:
        if min(self.ranks, self.micro_batches, self.virtual_stages) < 1:
            raise PlanningError(
                "a pipeline needs at least 1 rank, 1 micro-batch and 1 stage a rank, not "
                f"{self.ranks} ranks, {self.micro_batches} micro-batches and {self.virtual_stages} stages a rank"
            )
        times_s = (self.forward_s, self.backward_s, self.weight_s)
        if not all(0 < time_s < inf for time_s in times_s):
            raise PlanningError(f"the times of a forward, backward and weight pass must be above 0, not {times_s}")
