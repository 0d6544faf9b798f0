"""Conversions: seconds and bytes of giving a value another layout."""

from dataclasses import dataclass
from functools import cached_property

from autopart.estimate.sizes import Sizes
from autopart.ir.placement import Layout, Shard, rows
from autopart.sharding.reshard import Conversion, conversion
from cost_models.collective import Group, all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s
from cost_models.compute import memory_bound_s
from cost_models.dtype import dtype_bytes


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a forward and of a backward pass."""

    forward_s: float = 0.0
    backward_s: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward_s + other.forward_s, self.backward_s + other.backward_s)

    @property
    def total_s(self) -> float:
        """Both passes."""
        return self.forward_s + self.backward_s


@dataclass(frozen=True)
class Conversions(Sizes):
    """What conversions cost; the fields are those of `Sizes`."""

    def sent_bytes(self, name: str, source: Layout, target: Layout) -> tuple[tuple[str, float] | None, ...]:
        """The collectives of a conversion, forward and backward, with the bytes that a rank of a ring sends in each."""
        needs_gradient = self.graph.values[name].requires_grad
        found = conversion(source, target, needs_gradient)
        if found is None or source == target:
            return (None, None)
        share = (self.tp - 1) / self.tp * self.bytes_of[name]
        gathered = self._gathered_bytes(name) / self.bytes_of[name]
        factors = {"all_reduce": 2.0, "all_gather": gathered, "reduce_scatter": 1.0, "all_to_all": 1 / self.tp}
        collectives = (found.forward, found.backward if needs_gradient else None)
        return tuple(None if own is None else (own, factors[own] * share) for own in collectives)

    def conversion(self, name: str, source: Layout, target: Layout) -> Cost | None:
        """Seconds to make layout `target` of a value held as `source`; None where that is impossible."""
        if source == target:
            return Cost()
        needs_gradient = self.graph.values[name].requires_grad
        found = conversion(source, target, needs_gradient)
        if found is None:
            return None
        return self.converted(name, found, source.shard or target.shard)

    def converted(self, name: str, found: Conversion, shard: Shard | None) -> Cost:
        """Seconds of a conversion of a value from or to a shard, see `sharding.reshard`."""
        value, size = self.graph.values[name], self.bytes_of[name]
        gathered = self._gathered_bytes(name) if self.precision == "fp8-mixed" else size
        rows_of = rows(shard, self.shapes[name], dtype_bytes(value.dtype)) if shard is not None else 1
        key = found.call, size, gathered, rows_of, value.requires_grad
        known = self._conversions.get(key)
        if known is None:
            known = self._conversions[key] = self._converted(found, *key[1:])
        return known

    @cached_property
    def _conversions(self) -> dict[tuple[str, int, float, int, bool], Cost]:
        return {}

    def _gathered_bytes(self, name: str) -> float:
        """The bytes of a whole value as it is gathered.

        Under float8 what repeated layers gather, for a product or as the gradient of one's output, is cast before
        (Transformer Engine's module/base.py, `grad_output_preprocess`; torchao's float8_tensor_parallel.py).
        """
        size, made = self.bytes_of[name], self.graph.producer.get(name)
        if self.precision != "fp8-mixed" or made is None or self.graph.nodes[made].name not in self.repeated:
            return size
        return size / dtype_bytes(self.dtype(name))

    def _converted(self, found: Conversion, size: int, gathered: float, rows: int, needs_gradient: bool) -> Cost:
        """The seconds of converting a value of `size` bytes, gathered or scattered in `rows` pieces, see `rows`."""
        collectives = (found.forward, found.backward if needs_gradient else None)
        copied_bytes = self._copied_bytes(found, size, rows)
        exposed = 1.0 - self.stack.tensor_overlap
        seconds = [
            (exposed * self._collective_s(collective, size, gathered, rows) if collective else 0.0)
            + (memory_bound_s(copied, self.cluster.device) if copied and (index == 0 or needs_gradient) else 0.0)
            for index, (collective, copied) in enumerate(zip(collectives, copied_bytes, strict=True))
        ]
        return Cost(*seconds)

    def _collective_s(self, collective: str, size: int, gathered: float, rows: int) -> float:
        group = Group(self.tp, 1)
        if collective == "all_reduce":
            return all_reduce_s(size, group, self.cluster)
        if collective == "all_to_all":  # a rank has its shard only, and deals that out
            return all_to_all_s(size / self.tp, group, self.cluster)
        count = rows or 1
        if collective == "all_gather":
            return count * all_gather_s(gathered / count, group, self.cluster)
        return count * reduce_scatter_s(size / count, group, self.cluster)

    def _copied_bytes(self, found: Conversion, size: int, rows: int) -> tuple[float, float]:
        """The bytes that the runtime's `Comm` reads and writes in device memory beside the collective, each way."""
        piece = size / self.tp
        reordered = 0 if rows else 2 * size
        return {
            "copy": (0, 2 * size),  # an all-reduce is done in a copy, since others may hold the tensor
            "all_reduce": (2 * size, 0),
            "all_reduce_both": (2 * size, 2 * size),
            "all_gather": (reordered, reordered),
            "reduce_scatter": (reordered, reordered),
            "gather": (reordered, 2 * piece),
            "split": (2 * piece, reordered),
            "slice": (2 * piece, size + 2 * piece),  # its gradient is zeros, with the piece put in
            "all_to_all": (4 * piece, 4 * piece),
            "once": (size, 0),
            "own_rows": (0, size + 2 * piece),  # the slice is a view
            "all_rows": (size + piece, 0),
        }[found.call]
