"""Recomputation: what is kept of a forward pass, and what is computed again in the backward pass."""

from dataclasses import dataclass
from fractions import Fraction

from autopart.errors import PinError
from autopart.estimate.block import UnitCost

KINDS = ("none", "selective", "full")


@dataclass(frozen=True, slots=True)
class Recompute:
    """`kind` of recomputation ("none", "selective" or "full") of a `share` of the repeated layers, evenly dealt."""

    kind: str
    share: float = 1.0

    def kept_bytes(self, cost: UnitCost) -> float:
        """What a unit keeps of a micro-batch from its forward pass to its backward pass."""
        if self.kind == "full" and cost.input_bytes:
            again = cost.input_bytes
        else:
            again = cost.selective_bytes if self.kind == "selective" else cost.kept_bytes
        return self.share * again + (1 - self.share) * cost.kept_bytes

    def working_bytes(self, cost: UnitCost) -> float:
        """What a unit makes again in its backward pass, beside what it kept."""
        if self.kind == "none" or not cost.input_bytes:
            return 0.0
        return cost.kept_bytes if self.kind == "full" else cost.kept_bytes - cost.selective_bytes

    def again_s(self, cost: UnitCost) -> float:
        """Seconds of what a unit computes again in its backward pass."""
        if self.kind == "full":
            return self.share * cost.forward_s if cost.input_bytes else 0.0
        return self.share * cost.selective_s if self.kind == "selective" else 0.0


def parse_recompute(text: str) -> Recompute:
    """Recomputation as a caller writes it: a kind, or "full:1/2" for every second layer.

    Raises:
        PinError: no such kind, or a share that is not above 0 and at most 1.
    """
    kind, separator, share = text.partition(":")
    try:
        portion = Fraction(share) if separator else Fraction(1)
    except (ValueError, ZeroDivisionError):
        portion = Fraction(0)
    if kind not in KINDS or not 0 < portion <= 1:
        raise PinError(
            f"recompute={text!r}: known are {', '.join(map(repr, KINDS))}, and a share of the layers as in 'full:1/2'"
        )
    return Recompute(kind, float(portion))
