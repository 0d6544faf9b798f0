"""Samplewise: find out by running whether a value is computed for each sample of the batch by itself.

Letters cannot always tell: a mask that indexes itself with the numbers of the samples looks as if it mixed them. For a
value that depends on inputs and constants alone, the question is settled by computing it for a whole batch and for its
parts, on random inputs.
"""

from collections.abc import Iterable, Mapping

import torch

from autopart.capture.evaluate import evaluate, needed
from autopart.ir.graph import Graph, Value
from autopart.ir.size import BATCH, Size
from autopart.ir.size import evaluate as size_at

BATCH_SIZE = 4
TRIALS = 3


def samplewise(graph: Graph, names: Iterable[str]) -> frozenset[str]:
    """Those of `names`, values that inputs and constants decide, which are computed sample by sample."""
    return frozenset(name for name in names if name in graph.recomputable and _is_samplewise(graph, name))


def _is_samplewise(graph: Graph, name: str) -> bool:
    dim = _batch_dim(graph.values[name].shape)
    try:
        return dim is not None and all(_holds(graph, name, dim, seed) for seed in range(TRIALS))
    except (RuntimeError, IndexError, ValueError):
        return False  # random inputs are no good for this computation: nothing is proved


def _holds(graph: Graph, name: str, dim: int, seed: int) -> bool:
    generator = torch.Generator().manual_seed(seed)
    used = {value for index in needed(graph, name, _leaves(graph)) for value in graph.nodes[index].inputs} | {name}
    leaves = {item.value.name: item.value for item in graph.inputs if item.value.name in used}
    leaves |= {item.value.name: item.value for item in graph.constants if item.value.name in used}
    given = {leaf: _random(value, generator) for leaf, value in leaves.items()}
    whole = evaluate(graph, name, given, BATCH_SIZE)
    rows = whole.shape[dim] // BATCH_SIZE
    for start, stop in ((0, 1), (1, BATCH_SIZE)):
        part = {leaf: _samples(tensor, leaves[leaf], start, stop) for leaf, tensor in given.items()}
        own = evaluate(graph, name, part, stop - start)
        if not torch.equal(own, whole.narrow(dim, start * rows, (stop - start) * rows)):
            return False
    return True


def _leaves(graph: Graph) -> Mapping[str, torch.Tensor]:
    names = [item.value.name for item in graph.inputs] + [item.value.name for item in graph.constants]
    return dict.fromkeys(names, torch.empty(0))


def _random(value: Value, generator: torch.Generator) -> torch.Tensor:
    """Zeros and ones for integers and booleans, which are indices and masks; anything for the others."""
    shape = tuple(size_at(size, BATCH_SIZE) for size in value.shape)
    dtype = getattr(torch, value.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def _samples(tensor: torch.Tensor, value: Value, start: int, stop: int) -> torch.Tensor:
    dim = _batch_dim(value.shape)
    if dim is None:
        return tensor
    rows = tensor.shape[dim] // BATCH_SIZE
    return tensor.narrow(dim, start * rows, (stop - start) * rows)


def _batch_dim(shape: tuple[Size, ...]) -> int | None:
    """The one dim that the batch is a factor of; None where there is none, or several."""
    dims = [dim for dim, size in enumerate(shape) if not isinstance(size, int) and BATCH in size.free_symbols]
    return dims[0] if len(dims) == 1 else None
