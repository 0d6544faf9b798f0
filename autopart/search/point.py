"""Point: one combination of degrees, micro-batch, policies and layout, before anything of it is priced."""

from typing import NamedTuple


class Point(NamedTuple):
    """One of thousands, and the key of most tables: so a tuple.

    `variant` says which of the layouts at this tp, cp and micro-batch, see `Layouts`.

    `recompute` is as it is pinned, a kind for all layers, or `BY_LAYER`. `order` has the numbers of the groups of a
    mixed cluster as they come along the pipeline.
    """

    tp: int
    pp: int
    dp: int
    cp: int
    micro_batch: int
    micro_batches: int
    variant: str
    recompute: str
    zero: int
    schedule: str
    virtual_stages: int
    order: tuple[int, ...] = ()

    @property
    def degrees(self) -> tuple[int, int, int, int]:
        """Of these, one point is among the runners-up."""
        return self.tp, self.pp, self.dp, self.cp

    @property
    def layout(self) -> tuple[int, int, int, str]:
        """On what the costs of the units depend."""
        return self.cp, self.tp, self.micro_batch, self.variant
