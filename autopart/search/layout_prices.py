"""LayoutPrices: the distinct conversions of a graph and sums of its gradients, each priced once for all its tables.

Values of one shape and dtype share the prices of their conversions: a block has a dozen shapes and many more values.
Which conversions there are depends on the layouts alone, so that one set of tables serves any number of prices.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.node import Prices
from autopart.ir.folded import Folded
from autopart.ir.placement import Layout, Shard
from autopart.sharding.reshard import Conversion, conversion

FREE, IMPOSSIBLE = 0, 1

Seconds = NDArray[np.float64]


@dataclass
class LayoutPrices:
    """Numbers for conversions and sums, under which `of` then gives their seconds."""

    folded: Folded
    _conversions: list[tuple[str, Conversion, Shard | None]] = field(default_factory=list)
    _sums: list[tuple[str, Layout]] = field(default_factory=list)
    _known: dict[Hashable, int] = field(default_factory=dict)

    def conversion(self, name: str, have: Layout, want: Layout) -> int:
        """The number of the conversion of a value; `FREE` and `IMPOSSIBLE` are such numbers too."""
        if have == want:
            return FREE
        graph = self.folded.graph
        value = graph.values[name]
        if name in graph.trained and isinstance(have.value, Shard):
            # Gathering weights would share their memory but not the work: that is what dp and ZeRO do.
            return IMPOSSIBLE
        found = conversion(have, want, value.requires_grad)
        if found is None:
            return IMPOSSIBLE
        # What a price depends on; of the shard, how many rows it leaves. Under float8 repeated layers send less.
        repeated = graph.producer.get(name) in self.folded.loop_of
        key = ("conversion", value.shape, value.dtype, value.requires_grad, repeated, found, have.shard or want.shard)
        if key not in self._known:
            self._known[key] = len(self._conversions) + 2
            self._conversions.append((name, found, have.shard or want.shard))
        return self._known[key]

    def sum(self, name: str, layout: Layout) -> int:
        """The number of the sum of two gradients of an activation; `FREE` for a parameter's, which is stored."""
        graph = self.folded.graph
        if name in graph.parameter_of:
            return FREE
        value = graph.values[name]
        key = ("sum", value.shape, value.dtype, value.requires_grad, layout.shard is not None)
        if key not in self._known:
            self._known[key] = len(self._sums) + 1
            self._sums.append((name, layout))
        return self._known[key]

    @property
    def count_of_sums(self) -> int:
        """How many numbers of sums there are."""
        return len(self._sums) + 1

    def of(self, prices: Prices) -> tuple[Seconds, Seconds]:
        """The seconds of all conversions, and of all sums, by their numbers."""
        conversions = [0.0, float("inf"), *(prices.converted(*own).total_s for own in self._conversions)]
        sums = [0.0, *(prices.gradient_sum_s(name, layout) for name, layout in self._sums)]
        return np.array(conversions), np.array(sums)
