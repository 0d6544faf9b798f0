"""Context parallelism: each rank of a group has an equal piece of the sequence of every value."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from autopart.errors import PinError
from autopart.ir.graph import Graph
from autopart.ir.size import evaluate
from autopart.sharding.infer_axes import SEQUENCE, Axes


@dataclass(frozen=True)
class Context:
    """`degree` ranks share the sequence; `dim_of` says which dim of each value it lies in."""

    degree: int
    dim_of: Mapping[str, int]

    def divided(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """The shapes of one rank's pieces."""
        if self.degree == 1:
            return shapes
        return {name: self._piece(name, shape) for name, shape in shapes.items()}

    def _piece(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        dim = self.dim_of.get(name)
        if dim is None:
            return shape
        return (*shape[:dim], shape[dim] // self.degree, *shape[dim + 1 :])


WHOLE = Context(1, MappingProxyType({}))


def sequence_lengths(axes: Axes) -> frozenset[int]:
    """The lengths of the sequences, all of which the degree has to divide; none in a model that has no sequence."""
    return frozenset(axis.size for axis in axes.axes if axis.name == SEQUENCE and isinstance(axis.size, int))


def find_context(graph: Graph, axes: Axes, degree: int) -> Context:
    """Where the sequence lies in every value of `graph`: in a dim of its axis, or flattened into one with the batch.

    Raises:
        PinError: the model has no sequence that `degree` divides.
    """
    if degree == 1:
        return WHOLE
    lengths = sequence_lengths(axes)
    if not lengths or any(length % degree for length in lengths):
        why = f"its sequence is {', '.join(map(str, sorted(lengths)))} long" if lengths else "it has no sequence"
        raise PinError(f"cp={degree} does not divide the sequence of {graph.name}: {why}")
    dims: dict[str, int] = {}
    for name, value in graph.values.items():
        if name in graph.parameter_of:
            continue
        for dim, size in enumerate(value.shape):
            axis = axes.axis_of.get((name, dim))
            one, two = evaluate(size, 1), evaluate(size, 2)
            flattened = two == 2 * one and one in lengths
            if (axis is not None and axis.name == SEQUENCE) or flattened:
                dims.setdefault(name, dim)
    return Context(degree, dims)
