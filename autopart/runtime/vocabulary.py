"""Cross-entropy with the classes sharded: three small reductions in place of gathering the logits."""

from typing import Any, Protocol

import torch
import torch.distributed as dist

from autopart.runtime.flat_collectives import summed


class Group(Protocol):
    """What is needed of a `Comm`."""

    group: dist.ProcessGroup | None
    rank: int


class ShardedCrossEntropy(torch.autograd.Function):
    """Losses a row: log of the sum of exponentials, less the target's logit; both summed over the ranks.

    The gradient is softmax less one-hot, which every rank has for its own classes (Shoeybi et al. 2019, section 3).
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor, comm: Group, ignore_index: int) -> torch.Tensor:
        """logits: (rows, classes / ranks), targets: (rows,) -> (rows,), zero where the target is `ignore_index`."""
        highest = summed(logits.amax(dim=-1), comm.group, largest=True)
        shifted = logits - highest.unsqueeze(-1)
        exponentials = shifted.exp()
        first = comm.rank * logits.shape[-1]
        outside = (targets < first) | (targets >= first + logits.shape[-1])
        local = (targets - first).masked_fill(outside, 0)
        own_logit = shifted.gather(-1, local.unsqueeze(-1)).squeeze(-1).masked_fill(outside, 0)
        sums = summed(torch.stack([exponentials.sum(dim=-1), own_logit]), comm.group)
        ignored = targets == ignore_index
        ctx.save_for_backward(exponentials.div_(sums[0].unsqueeze(-1)), local, outside, ignored)
        return (sums[0].log() - sums[1]).masked_fill(ignored, 0)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """gradient: (rows,) -> (rows, classes / ranks)."""
        softmax, local, outside, ignored = ctx.saved_tensors
        result = softmax.clone()
        result.scatter_add_(-1, local.unsqueeze(-1), -(~outside).to(result.dtype).unsqueeze(-1))
        return result * gradient.masked_fill(ignored, 0).unsqueeze(-1), None, None, None
