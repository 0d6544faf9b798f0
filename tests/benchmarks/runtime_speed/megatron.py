"""The GPT with tensor parallelism written by hand, as Megatron-LM has it (Shoeybi et al. 2019, section 3)."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.runtime_speed.gpt import GPT


class _F(torch.autograd.Function):
    """Identity forward, all-reduce backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient


class _G(torch.autograd.Function):
    """All-reduce forward, identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        dist.all_reduce(x)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _VocabularyLoss(torch.autograd.Function):
    """Losses a row, of logits of which each rank has its columns; three all-reduces of a number a row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        highest = logits.amax(dim=-1)
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        logits = logits - highest.unsqueeze(-1)
        local = targets - dist.get_rank() * logits.shape[-1]
        outside = (local < 0) | (local >= logits.shape[-1])
        local = local.masked_fill(outside, 0)
        own = logits.gather(-1, local.unsqueeze(-1)).squeeze(-1).masked_fill(outside, 0)
        dist.all_reduce(own)
        exponentials = logits.exp()
        total = exponentials.sum(dim=-1)
        dist.all_reduce(total)
        ctx.save_for_backward(exponentials.div_(total.unsqueeze(-1)), local, outside)
        return total.log() - own

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        softmax, local, outside = ctx.saved_tensors
        rows = torch.arange(softmax.shape[0])
        softmax[rows, local] -= 1.0 - outside.to(softmax.dtype)
        return softmax * gradient.unsqueeze(-1), None


def f(x: Tensor) -> Tensor:
    """Into a column-parallel product."""
    result: Tensor = _F.apply(x)
    return result


def g(x: Tensor) -> Tensor:
    """Out of a row-parallel product."""
    result: Tensor = _G.apply(x)
    return result


def _piece(parameter: nn.Parameter, dim: int) -> nn.Parameter:
    return nn.Parameter(parameter.detach().chunk(dist.get_world_size(), dim)[dist.get_rank()].clone())


class ColumnParallel(nn.Module):
    """Has its rows of a Linear's weight, which give its columns of the result."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = _piece(linear.weight, 0)
        self.bias = _piece(linear.bias, 0) if linear.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class RowParallel(nn.Module):
    """Has its columns of a Linear's weight; what it gives is summed, and the bias added afterwards."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = _piece(linear.weight, 1), nn.Parameter(linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return g(F.linear(x, self.weight)) + self.bias


class VocabularyParallel(nn.Module):
    """Has its rows of an embedding."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = _piece(embedding.weight, 0)

    def forward(self, tokens: Tensor) -> Tensor:
        local = tokens - dist.get_rank() * self.weight.shape[0]
        outside = (local < 0) | (local >= self.weight.shape[0])
        found = F.embedding(local.masked_fill(outside, 0), self.weight)
        return g(found.masked_fill(outside.unsqueeze(-1), 0.0))


class Block(nn.Module):
    """Heads and the middle of the MLP are shared out: two all-reduces forward, and two backward."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.head_size = block.norm1, block.norm2, block.attention.head_size
        self.attention = nn.ModuleDict({name: ColumnParallel(getattr(block.attention, name)) for name in "qkv"})
        self.attention["proj"] = RowParallel(block.attention.proj)
        self.mlp = nn.ModuleDict({"up": ColumnParallel(block.mlp.up), "down": RowParallel(block.mlp.down)})

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, hidden), whole on every rank, and so is the result."""
        y = f(self.norm1(x))
        q, k, v = (self.attention[name](y).unflatten(-1, (-1, self.head_size)).transpose(1, 2) for name in "qkv")
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention["proj"](y.transpose(1, 2).flatten(2))
        return x + self.mlp["down"](F.gelu(self.mlp["up"](f(self.norm2(x)))))


class MegatronGPT(nn.Module):
    """This rank's part of a GPT. Its parameters have the names that they have there."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.embedding = nn.ModuleDict({"wte": VocabularyParallel(model.embedding.wte), "wpe": model.embedding.wpe})
        self.blocks = nn.ModuleList(Block(block) for block in model.blocks)
        self.norm, self.head = model.norm, ColumnParallel(model.head)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens, targets: (batch, positions) -> the mean loss, the same on every rank."""
        x = self.embedding["wte"](tokens) + self.embedding["wpe"](torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(f(self.norm(x)))
        loss: Tensor = _VocabularyLoss.apply(logits.flatten(0, 1), targets.flatten())
        return loss.mean()
