"""Timeline: when each action of a schedule starts and ends."""

from dataclasses import dataclass

from autopart.errors import PlanningError
from autopart.ir.action import Action
from autopart.schedules.in_flight import peak_in_flight


@dataclass(frozen=True, slots=True)
class Span:
    """`action` computes from `start_s` to `end_s`, in seconds since the step began."""

    action: Action
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What every pipeline rank computes when, during one step: `ranks[rank]` is in order and does not overlap."""

    ranks: tuple[tuple[Span, ...], ...]

    @property
    def step_s(self) -> float:
        """Seconds from the start of the step to the end of the last action: the makespan."""
        return max((spans[-1].end_s for spans in self.ranks if spans), default=0.0)

    @property
    def bubble_fraction(self) -> float:
        """The share of device time, ranks x step_s, in which nothing is computed (0 to 1)."""
        total_s = len(self.ranks) * self.step_s
        busy_s = sum(span.end_s - span.start_s for spans in self.ranks for span in spans)
        return max(0.0, 1.0 - busy_s / total_s) if total_s > 0 else 0.0

    def idle_s(self, rank: int) -> float:
        """Seconds between the first and the last action of `rank` in which it computes nothing: its bubble."""
        spans = self.ranks[rank]
        return spans[-1].end_s - spans[0].start_s - sum(span.end_s - span.start_s for span in spans) if spans else 0.0

    def in_flight(self, stage: int) -> int:
        """The most micro-batches that `stage` holds at once: forward begun, last pass not yet done.

        The last pass is that of the weight gradients, where the backward pass is split. Raises PlanningError if no rank
        has the stage.
        """
        for turn in range(len(self.ranks)):
            # Stages mostly go round the ranks: look first where `stage` would then be.
            spans = self.ranks[(stage + turn) % len(self.ranks)]
            own = tuple(span.action for span in spans if span.action.stage == stage)
            if own:
                return int(peak_in_flight((own,))[0])
        raise PlanningError(f"no rank of this timeline has stage {stage}")
