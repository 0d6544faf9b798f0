"""Batches: what a graph takes of a caller's batch, and how replicas share it."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch

from autopart.errors import BatchError
from autopart.ir.graph import Graph


class Batches:
    """Reads batches of a plan's model.

    Args:
        graph: says which tensors there are, and which of them have samples.
        dp: how many replicas share a global batch.
        global_batch: the most samples that it has.
        plain: what is no tensor in the batch that the model was captured with, by name; None where that is not known.
    """

    def __init__(self, graph: Graph, dp: int, global_batch: int, plain: Mapping[str, object] | None = None) -> None:
        self._graph, self._dp, self._global_batch, self._plain = graph, dp, global_batch, plain

    def named(self, batch: Any) -> dict[str, torch.Tensor]:
        """The tensors that the graph takes, by their paths.

        Raises:
            BatchError: one is missing, or of another shape or dtype than planned; or there is something in the batch
                that the model was not captured with, and that it would not look at.
        """
        if isinstance(batch, torch.Tensor):
            batch = (batch,)
        if isinstance(batch, Mapping):
            items = {str(name): item for name, item in batch.items()}
        elif isinstance(batch, tuple | list):
            items = {str(position): item for position, item in enumerate(batch)}
        else:
            raise BatchError(f"a batch is a mapping, a tuple or a tensor, not a {type(batch).__name__}")
        named = {}
        for item in self._graph.inputs:
            tensor = items.get(item.path)
            if not isinstance(tensor, torch.Tensor):
                raise BatchError(
                    f"the batch has no tensor {item.path!r}: the plan was made with "
                    f"{[known.path for known in self._graph.inputs]}"
                )
            expected = tuple(item.value.shape)
            fits = tensor.ndim == len(expected) and all(
                not isinstance(size, int) or size == own for size, own in zip(expected, tensor.shape, strict=True)
            )
            if not fits or str(tensor.dtype) != f"torch.{item.value.dtype}":
                raise BatchError(
                    f"batch item {item.path!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, the plan was made for "
                    f"torch.{item.value.dtype} of shape ({', '.join(map(str, expected))}): pass such a batch, or plan "
                    "again with inputs="
                )
            named[item.path] = tensor
        self._check_others({path: item for path, item in items.items() if path not in named})
        return named

    def _check_others(self, others: Mapping[str, object]) -> None:
        for name, item in others.items():
            plain = self._plain if self._plain is not None else {name: item}
            if isinstance(item, torch.Tensor) or (item is not None and name not in plain):
                known = [taken.path for taken in self._graph.inputs] + list(plain if self._plain is not None else ())
                raise BatchError(
                    f"the batch has an item {name!r}, which the plan was not made with (but with {known}), so that it "
                    "would be ignored: plan again with inputs= such a batch, or leave the item out"
                )
            if name in plain and (type(plain[name]), plain[name]) != (type(item), item):
                raise BatchError(
                    f"batch item {name!r} is {item!r}, the plan was made for {plain[name]!r}: plan again with inputs= "
                    "such a batch"
                )

    def samples(self, named: Mapping[str, torch.Tensor]) -> int:
        """How many there are; BatchError where items disagree."""
        rows = self._graph.batched_inputs
        for path, count in rows.items():
            if named[path].shape[0] % count:
                raise BatchError(
                    f"batch item {path!r} has {named[path].shape[0]} rows, of which each sample has {count}"
                )
        sizes = {path: named[path].shape[0] // count for path, count in rows.items()}
        if len(set(sizes.values())) != 1:
            raise BatchError(f"the items of the batch have different numbers of samples: {sizes}")
        return next(iter(sizes.values()))

    def share(self, named: Mapping[str, torch.Tensor]) -> int:
        """The samples of a replica's share, at least one and no more than the plan was made for; else BatchError."""
        size, share = self.samples(named), self._global_batch // self._dp
        if not 1 <= size <= share:
            raise BatchError(
                f"the batch has {size} samples, the plan gives each of dp={self._dp} replicas {share} "
                f"of global_batch={self._global_batch}: pass this replica's share (par.shard_batch(batch)), or "
                f"plan again with global_batch={max(1, size) * self._dp}"
            )
        return size

    def cut(self, batch: Any, replica: int) -> Any:
        """The share of a global batch that `replica` has, in the same form.

        Raises:
            BatchError: it has more samples than planned, or fewer than there are replicas.
        """
        dp, size = self._dp, self.samples(self.named(batch))
        if not dp <= size <= self._global_batch:
            raise BatchError(
                f"the batch has {size} samples, the plan was made for global_batch={self._global_batch} on dp={dp} "
                f"replicas: pass {dp} to {self._global_batch} samples, or plan again with global_batch={size}"
            )
        start, stop = (replica * size // dp, (replica + 1) * size // dp)

        def own(path: str, item: Any) -> Any:
            rows = self._graph.batched_inputs.get(path)
            return item if rows is None else item[start * rows : stop * rows]

        if isinstance(batch, Mapping):
            return {name: own(str(name), item) for name, item in batch.items()}
        if isinstance(batch, tuple | list):
            items = [own(str(position), item) for position, item in enumerate(batch)]
            return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
        return own("0", batch)


def split_batch(
    batch: Mapping[str, torch.Tensor], batched: Mapping[str, int], sizes: Sequence[int]
) -> list[dict[str, torch.Tensor]]:
    """Micro-batches of these sizes, of a replica's share; items that are not `batched` go to each of them whole."""

    def piece(path: str, item: torch.Tensor, start: int, size: int) -> torch.Tensor:
        rows = batched.get(path)
        return item if rows is None else item[start * rows : (start + size) * rows]

    starts = accumulate(sizes, initial=0)
    return [
        {path: piece(path, item, start, size) for path, item in batch.items()}
        for start, size in zip(starts, sizes, strict=False)
    ]
