"""Gradients: the sums that a step ends with, over tensor-parallel ranks, tied weights and replicas, in buckets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

BUCKET_BYTES = 25 * 2**20


@dataclass(frozen=True)
class Reduction:
    """Parameters whose gradients are summed over the ranks of `group`."""

    parameters: tuple[torch.nn.Parameter, ...]
    group: dist.ProcessGroup


def reduce_gradients(reductions: Sequence[Reduction]) -> None:
    """Sum the gradients over each group, one after another: a gradient may take part in several.

    A parameter that no micro-batch of this rank used takes part with zeros, so that all ranks of a group agree on what
    they send.
    """
    for reduction in reductions:
        if dist.get_world_size(reduction.group) == 1:
            continue
        for bucket in _buckets(reduction.parameters):
            _all_reduce(bucket, reduction.group)


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.Tensor]]:
    """Gradients of one dtype, in order, about 25 MiB together (the size that DDP found best)."""
    open_buckets: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket = open_buckets.setdefault(parameter.dtype, [])
        bucket.append(parameter.grad)
        if sum(gradient.nbytes for gradient in bucket) >= BUCKET_BYTES:
            yield open_buckets.pop(parameter.dtype)
    yield from open_buckets.values()


def _all_reduce(gradients: list[torch.Tensor], group: dist.ProcessGroup) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat, group=group)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()
