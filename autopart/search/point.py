"""Point: one combination of degrees, micro-batch, recomputation and layout, before anything of it is priced."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """`variant` says which of the layouts at this tp and micro-batch, see `Layouts`."""

    tp: int
    pp: int
    dp: int
    micro_batch: int
    micro_batches: int
    recompute: str
    variant: str

    @property
    def degrees(self) -> tuple[int, int, int]:
        """Of these, one point is among the runners-up."""
        return self.tp, self.pp, self.dp
