"""The models that are trained: small enough for a step of 50 to 500 ms on one or two cores."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY = 512
CONTEXT = 128
GLOBAL_BATCH = 16


def gpt() -> nn.Module:
    """The GPT of the examples: fused qkv, tied head."""
    from examples.gpt import GPT, GPTConfig

    return GPT(GPTConfig(vocab_size=VOCABULARY, context=CONTEXT, layers=4, hidden=256, heads=4))


class GatedLayer(nn.Module):
    """A norm, two projections of which one gates the other (SwiGLU, Shazeer 2020), and one back."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.gate = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, positions, width), and so is the result."""
        normed = self.norm(x)
        result: Tensor = self.down(F.silu(self.gate(normed)) * self.up(normed))
        return x + result


class GatedMLP(nn.Module):
    """Gated layers between an embedding and a head: no attention, wider products."""

    def __init__(self, width: int = 320, inner: int = 1024, layers: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(GatedLayer(width, inner) for _ in range(layers))
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """tokens, targets: (batch, positions) -> mean loss."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), targets.flatten())


@dataclass(frozen=True)
class Model:
    """How to build it, and a global batch."""

    build: Callable[[], nn.Module]
    positions: int = CONTEXT

    def made(self) -> nn.Module:
        """The same weights on every rank."""
        torch.manual_seed(0)
        return self.build()

    def batch(self) -> tuple[Tensor, Tensor]:
        """tokens and targets, (GLOBAL_BATCH, positions)."""
        generator = torch.Generator().manual_seed(1)
        size = (GLOBAL_BATCH, self.positions)
        return tuple(torch.randint(0, VOCABULARY, size, generator=generator) for _ in range(2))  # type: ignore[return-value]


MODELS: Mapping[str, Model] = {"GPT": Model(gpt), "gated MLP": Model(GatedMLP)}
