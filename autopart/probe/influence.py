"""Influence: which parts of an op's outputs change when parts of its inputs do.

What can be sharded is narrowed down before it is tried. If the halves of a dim go to the ranks and the halves of the
outputs come back, then no half of the outputs may see the other half of the input. If the outputs are summed instead,
then halves must not act together: changing both adds up to changing each.
"""

from dataclasses import dataclass
from itertools import combinations

import torch

from autopart.probe.traced import apply
from autopart.probe.trial import Trial, redraw

LENIENT = 1e3  # what is narrowed down is proved afterwards


@dataclass(frozen=True)
class Region:
    """A slice of an input, along `dim` from `start` to `stop`; the whole input where `dim` is None."""

    tensor: int
    dim: int | None = None
    start: int = 0
    stop: int = 0


class Influence:
    """The effect of changes to the inputs of one trial."""

    def __init__(self, trial: Trial) -> None:
        draw = trial.draws[-1]
        self.node = trial.node
        self.base = [draw.values[name] for name in self.node.inputs]
        generator = torch.Generator().manual_seed(1)
        self.other = [redraw(x, generator) for x in self.base]
        self.tolerance = LENIENT * trial.tolerance
        self._results: dict[frozenset[Region], list[torch.Tensor] | None] = {}

    def changed(self, *regions: Region) -> list[torch.Tensor] | None:
        """The outputs with other data in these regions, or None where the op does not take it."""
        key = frozenset(regions)
        if key not in self._results:
            inputs = [x.clone() for x in self.base]
            for region in regions:
                own, other = inputs[region.tensor], self.other[region.tensor]
                if region.dim is not None:
                    own = own.narrow(region.dim, region.start, region.stop - region.start)
                    other = other.narrow(region.dim, region.start, region.stop - region.start)
                own.copy_(other)
            try:
                with torch.no_grad():
                    self._results[key] = list(apply(self.node, inputs))
            except Exception:  # what another's op raises may be anything
                self._results[key] = None
        return self._results[key]

    def halves(self, tensor: int, dim: int) -> tuple[Region, Region]:
        """The first piece of a dim and the rest, as two ranks, or of a size that is odd three, would hold them."""
        size = self.base[tensor].shape[dim]
        place = size // 2 if size % 2 == 0 else size // 3
        return Region(tensor, dim, 0, place), Region(tensor, dim, place, size)

    def aligned(self, tensor: int, dim: int, output: int, output_dim: int) -> bool:
        """Whether each half of an input's dim acts on its own half of an output's dim alone."""
        low, high = self.halves(tensor, dim)
        for region, start, stop in ((low, low.stop, high.stop), (high, 0, high.start)):
            before, after = self.changed(), self.changed(region)
            if before is None or after is None or after[output].shape != before[output].shape:
                continue
            elsewhere = (y[output].narrow(output_dim, start, stop - start) for y in (before, after))
            if not self._same(*elsewhere):
                return False
        return True

    def matters(self, *regions: Region) -> bool:
        """Whether a change there changes an output; so it is taken to be where that cannot be told."""
        before, after = self.changed(), self.changed(*regions)
        return before is None or after is None or not all(map(self._same, before, after))

    def apart(self, first: Region, second: Region) -> bool:
        """Whether two changes add up."""
        results = [self.changed(), self.changed(first, second), self.changed(first), self.changed(second)]
        known = [y for y in results if y is not None]
        if len(known) < len(results):
            return True
        return all(
            neither.dtype is not torch.bool and self._same(both + neither, left + right)
            for neither, both, left, right in zip(*known, strict=True)
        )

    def separable(self, tensor: int, dim: int) -> bool:
        """Whether the halves of a dim both matter, and add up."""
        low, high = self.halves(tensor, dim)
        return self.matters(low) and self.matters(high) and self.apart(low, high)

    def additive(self) -> frozenset[int]:
        """The inputs that are only added: a change of one and a change of the others add up."""
        count = len(self.base)
        found = set()
        for tensor in range(count):
            own = Region(tensor)
            others = [Region(other) for other in range(count) if other != tensor]
            if others and self.matters(own) and all(self.apart(own, other) for other in others):
                found.add(tensor)
        return frozenset(found)

    def cliques(self, places: list[tuple[int, int]]) -> dict[tuple[int, int], set[tuple[int, int]]]:
        """For each of `places` (tensor, dim), those of other tensors whose halves do not act on its other half."""
        near: dict[tuple[int, int], set[tuple[int, int]]] = {place: set() for place in places}
        for a, b in combinations(places, 2):
            (low, high), (other_low, other_high) = self.halves(*a), self.halves(*b)
            if a[0] != b[0] and self.apart(low, other_high) and self.apart(high, other_low):
                near[a].add(b)
                near[b].add(a)
        return near

    def _same(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        if a.shape != b.shape or not a.is_floating_point():
            return torch.equal(a, b)
        return torch.allclose(a, b, rtol=self.tolerance, atol=self.tolerance, equal_nan=True)
