"""Recomputation: what is kept of a forward pass, and what is computed again in the backward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from autopart.errors import PinError
from autopart.estimate.block import UnitCost
from autopart.ir.plan import RECOMPUTE

NONE, SELECTIVE, FULL = "none", "selective", "full"
KINDS = RECOMPUTE
BY_LAYER = "by layer"  # of a plan: each layer has the kind that its stage's memory asks for


def is_repeated(cost: UnitCost) -> bool:
    """Whether a unit can be computed again: the layers of a loop can."""
    return cost.input_bytes > 0


def recomputed(cost: UnitCost, kind: str) -> UnitCost:
    """A unit's cost when it is recomputed: what it keeps, what it makes again beside that, and the seconds."""
    if kind == NONE or not is_repeated(cost):
        return cost
    kept, working, again_s = recomputation(cost, kind)
    return replace(cost, kept_bytes=kept, working_bytes=working, again_s=again_s)


def recomputation(cost: UnitCost, kind: str) -> tuple[float, float, float]:
    """Of a repeated unit that is recomputed: bytes kept, bytes made again beside that, and the seconds."""
    if kind == FULL:
        return cost.input_bytes, cost.kept_bytes, cost.full_s
    return cost.selective_bytes, cost.kept_bytes - cost.selective_bytes, cost.selective_s


@dataclass(frozen=True, slots=True)
class Recompute:
    """A `kind` of recomputation ("none", "selective" or "full") of a `share` of the repeated layers, evenly dealt."""

    kind: str
    share: Fraction = Fraction(1)

    def kinds(self, costs: Sequence[UnitCost]) -> tuple[str, ...]:
        """The kind of every unit: of two layers each second, of three with a share of 2/3 the second and third."""
        found, number = [], 0
        for cost in costs:
            chosen = is_repeated(cost) and int((number + 1) * self.share) > int(number * self.share)
            number += is_repeated(cost)
            found.append(self.kind if chosen else NONE)
        return tuple(found)


def summary(costs: Sequence[UnitCost], kinds: Sequence[str]) -> str:
    """The kinds of a model's layers in a few words: "none", "full", or "5 of 80 full"."""
    own = [kind for cost, kind in zip(costs, kinds, strict=True) if is_repeated(cost)]
    counts = [(kind, own.count(kind)) for kind in (FULL, SELECTIVE) if kind in own]
    if not counts:
        return NONE
    if counts[0][1] == len(own):
        return counts[0][0]
    return ", ".join(f"{count} of {len(own)} {kind}" for kind, count in counts)


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
    return Recompute(kind, portion)
