"""Timeline: when each action of a schedule starts and ends."""

from dataclasses import dataclass

from autopart.errors import PlanningError
from autopart.ir.action import Action, Kind


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

    def in_flight(self, stage: int) -> int:
        """The most micro-batches that `stage` holds at once: forward done, backward not yet done.

        Raises PlanningError if no rank has the stage.
        """
        for turn in range(len(self.ranks)):
            # Stages mostly go round the ranks: look first where `stage` would then be.
            spans = self.ranks[(stage + turn) % len(self.ranks)]
            kinds = [span.action.kind for span in spans if span.action.stage == stage]
            if kinds:
                return _peak(kinds)
        raise PlanningError(f"no rank of this timeline has stage {stage}")


def _peak(kinds: list[Kind]) -> int:
    held = peak = 0
    for kind in kinds:
        held += 1 if kind is Kind.FORWARD else -1
        peak = max(peak, held)
    return peak
