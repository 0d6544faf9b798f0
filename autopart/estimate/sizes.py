"""Sizes: shapes, dtypes and bytes of every value of a graph, at one batch size, tp degree and precision."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from autopart.estimate.context import WHOLE, Context
from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph
from autopart.ir.placement import Layout, Shard
from autopart.ir.size import evaluate
from autopart.sharding.rule import Rule
from cost_models.cluster import Cluster
from cost_models.dtype import dtype_bytes
from cost_models.precision import computed_dtype
from cost_models.stack import Stack


@dataclass(frozen=True)
class Sizes:
    """Shapes and bytes of `graph` on `cluster` with `batch` samples a micro-batch and `tp` ranks sharing every node."""

    graph: Graph
    rules: Mapping[str, Rule | None]
    cluster: Cluster
    tp: int
    batch: int
    stack: Stack
    precision: str = "as-built"
    context: Context = WHOLE

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every value, whole but for what context parallelism divides."""
        whole = {name: tuple(evaluate(size, self.batch) for size in v.shape) for name, v in self.graph.values.items()}
        return self.context.divided(whole)

    @cached_property
    def bytes_of(self) -> dict[str, int]:
        """The bytes of every whole value."""
        return {name: prod(shape) * dtype_bytes(self.dtype(name)) for name, shape in self.shapes.items()}

    @cached_property
    def main_dtype(self) -> str:
        """The dtype that most parameters have."""
        dtypes = [parameter.value.dtype for parameter in self.graph.parameters]
        return max(sorted(set(dtypes)), key=dtypes.count) if dtypes else "float32"

    def dtype(self, name: str) -> str:
        """In which dtype a value is computed: a mixed precision computes what the model has in float32 in half."""
        own = self.graph.values[name].dtype
        return computed_dtype(self.precision, own) if own == self.main_dtype else own

    @cached_property
    def repeated(self) -> frozenset[str]:
        """The names of the nodes inside loops."""
        inside, names = 0, []
        for before, node in zip((None, *self.graph.nodes), self.graph.nodes, strict=False):
            if node.op == ENTER:
                inside = 1
            elif before is not None and before.op == LEAVE:
                inside = 0
            if inside:
                names.append(node.name)
        return frozenset(names)

    def local_bytes(self, name: str, layout: Layout) -> float:
        """The bytes of one rank's piece of a value."""
        return self.bytes_of[name] / (self.tp if isinstance(layout.value, Shard) else 1)
