"""The GPT that all sides train, in plain PyTorch: head and embedding untied, as torch's pipelines need it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """Of a model, and of the batch that it is trained on."""

    name: str
    hidden: int
    layers: int
    heads: int
    context: int
    vocabulary: int
    batch: int
    micro_batch: int


# Micro-batches of tens of milliseconds on a core, where products take the time, and of a few, where calls do.
SIZES = (
    Size("large", hidden=256, layers=8, heads=4, context=64, vocabulary=512, batch=16, micro_batch=2),
    Size("small", hidden=64, layers=8, heads=4, context=32, vocabulary=256, batch=32, micro_batch=4),
)


class Attention(nn.Module):
    """Causal self-attention, with a projection each for queries, keys and values, as DTensor's column style needs."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.head_size = hidden // heads
        self.q, self.k, self.v, self.proj = (nn.Linear(hidden, hidden) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, hidden), and so is the result."""
        q, k, v = (t.unflatten(-1, (-1, self.head_size)).transpose(1, 2) for t in (self.q(x), self.k(x), self.v(x)))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Four times wider in the middle, with GELU."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., hidden), and so is the result."""
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside a residual."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(hidden), Attention(hidden, heads)
        self.norm2, self.mlp = nn.LayerNorm(hidden), MLP(hidden)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, hidden), and so is the result."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Embedding(nn.Module):
    """Tokens and their positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(size.vocabulary, size.hidden), nn.Embedding(size.context, size.hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (batch, positions) -> (batch, positions, hidden)"""
        return self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))


class GPT(nn.Module):
    """Returns its mean loss."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = Embedding(size)
        self.blocks = nn.ModuleList(Block(size.hidden, size.heads) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.hidden)
        self.head = nn.Linear(size.hidden, size.vocabulary, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens, targets: (batch, positions) -> ()"""
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return mean_loss(self.head(self.norm(x)), targets)


class Stage(nn.Module):
    """Some blocks of a GPT, with what comes before the first and after the last: a split made by hand.

    Its parameters have the names that they have in the GPT.
    """

    def __init__(self, model: GPT, blocks: range) -> None:
        super().__init__()
        self.embedding = model.embedding if blocks.start == 0 else None
        self.blocks = nn.ModuleDict({str(index): model.blocks[index] for index in blocks})
        self.norm, self.head = (model.norm, model.head) if blocks.stop == len(model.blocks) else (None, None)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens or what the stage before gave -> what the next one takes, or logits."""
        if self.embedding is not None:
            x = self.embedding(x)
        for block in self.blocks.values():
            x = block(x)
        return self.head(self.norm(x)) if self.head is not None and self.norm is not None else x


def mean_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """logits: (batch, positions, vocabulary), targets: (batch, positions) -> ()"""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def build(size: Size) -> GPT:
    """The same weights on every rank, for every side."""
    torch.manual_seed(0)
    return GPT(size)


def batch(size: Size) -> tuple[Tensor, Tensor]:
    """tokens and targets, (batch, positions)."""
    generator = torch.Generator().manual_seed(1)
    shape = (size.batch, size.context)
    tokens, targets = (torch.randint(0, size.vocabulary, shape, generator=generator) for _ in range(2))
    return tokens, targets


def shares(size: Size, stages: int) -> Sequence[range]:
    """Equal shares of the blocks."""
    each = size.layers // stages
    return [range(stage * each, (stage + 1) * each) for stage in range(stages)]
