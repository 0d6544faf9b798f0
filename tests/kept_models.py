"""Models that decide by values what they compute, for the tests of modules that are kept whole."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LENGTH, WIDTH = 6, 16


class LoopOverExperts(nn.Module):
    """Each token goes to its best expert; only the experts that are hit are run. A weight is tied, a buffer scales."""

    def __init__(self, count: int, shared: nn.Parameter) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(count))
        self.shared = shared
        self.register_buffer("scale", torch.tensor([0.5]))

    def forward(
        self, x: torch.Tensor, routing: tuple[torch.Tensor, torch.Tensor], *, power: float = 1.0
    ) -> dict[str, Any]:
        """x: (batch, length, width), routing: two of (batch, length) -> {"out": as x, "share": (batch, length)}."""
        share, best = routing
        result = x * self.shared
        for expert in best.unique().tolist():
            where = best == expert
            result[where] = result[where] + self.layers[expert](x[where])
        return {"out": result * self.scale * power, "extra": None, "share": share.sqrt()}


class Block(nn.Module):
    """A router and experts, with a skip."""

    def __init__(self, count: int, shared: nn.Parameter) -> None:
        super().__init__()
        self.norm, self.router = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, count)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.experts = LoopOverExperts(count, shared)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, length, width) -> the same shape."""
        share, best = self.router(self.norm(x)).softmax(-1).max(-1)
        found = self.experts(self.norm(x), (share, best), power=2.0)
        x = x + found["out"] * found["share"].unsqueeze(-1)
        return x + self.down(F.gelu(self.up(x)))


class Experts(nn.Module):
    """Three blocks between two projections; all blocks share one weight."""

    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH)
        shared = nn.Parameter(torch.randn(WIDTH))
        self.blocks = nn.ModuleList(Block(count, shared) for _ in range(3))
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """x, target: (batch, length, width) -> mean squared error."""
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return F.mse_loss(self.last(x), target)


class Choosing(nn.Linear):
    """Takes options that it ignores."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)

    def forward(self, x: torch.Tensor, options: object = None) -> torch.Tensor:
        """x: (batch, width) -> the same shape."""
        return super().forward(x) if x.sum() > 0 else x


class Straight(torch.autograd.Function):
    """Rounds to multiples of a step, and lets gradients through, twice as large, so that they are told from its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, step: float) -> torch.Tensor:
        """x: any shape -> the same."""
        return (x / step).round() * step

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        """The gradient of x."""
        return 2 * gradient, None


class Rounding(nn.Module):
    """Two layers with rounded numbers between them, and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, length, width) -> the same shape."""
        return x + self.down(Straight.apply(F.gelu(self.up(x)), 0.125))


class Quantized(nn.Sequential):
    """Blocks that round."""

    def __init__(self) -> None:
        super().__init__(*(Rounding() for _ in range(4)))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """x, target: (batch, length, width) -> mean squared error."""
        return F.mse_loss(super().forward(x), target)


class Chooser(nn.Module):
    """Multiplies the tokens that it picks with a matrix that it may share, and hands on what it was given."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight, self.bias = weight, nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x: (batch, length, width) -> that of the picked tokens, x, and how large they are, without a gradient."""
        picked = torch.zeros_like(x)
        where = x.sum(-1) > 0
        picked[where] = F.linear(x[where], self.weight, self.bias)
        return picked, x, x.detach().square().sum(-1, keepdim=True)


class Tied(nn.Module):
    """One matrix in a module kept whole, and before and after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.last.weight = self.first.weight
        self.chooser = Chooser(self.first.weight)

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """x, target: (batch, length, width) -> mean squared error."""
        picked, x, size = self.chooser(self.first(x))
        x += 1.0
        return F.mse_loss(self.last(self.middle(x + picked) * size), target)


class Teaching(Tied):
    """Calls the module kept whole without gradients first, and learns what it gave then."""

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """x, target: (batch, length, width) -> mean squared error."""
        x = self.first(x)
        with torch.no_grad():
            target = target + self.chooser(x)[0]
        picked, x, _ = self.chooser(x)
        return F.mse_loss(self.last(self.middle(x + picked)), target)


MODELS = {"experts": Experts, "quantized": Quantized, "tied": Tied, "teaching": Teaching}
KEEP = {"experts": ["blocks.*.experts"], "quantized": [], "tied": ["chooser"], "teaching": ["chooser"]}


def build(name: str) -> nn.Module:
    """The model of that name, with the same weights at every call."""
    torch.manual_seed(0)
    return MODELS[name]().double()


def experts_batch(samples: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """The same numbers at every call."""
    generator = torch.Generator().manual_seed(1)
    x, target = (torch.randn(samples, LENGTH, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return x, target


def experts() -> nn.Module:
    """The same weights at every call."""
    return build("experts")
