"""LossScale: keeps gradients in float16 from vanishing, and leaves out steps in which they overflow."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

FIRST = 2.0**16
GROWTH, BACKOFF = 2.0, 0.5
GROWTH_INTERVAL = 2000


@dataclass
class LossScale:
    """What the loss is multiplied by before the backward pass, and the gradients divided by after it.

    It doubles after 2000 steps without overflow and halves with each overflow (Micikevicius et al. 2018, "Mixed
    precision training", section 3.2; the numbers are those of `torch.amp.GradScaler`).
    """

    value: float = FIRST
    steps_without_overflow: int = 0

    @property
    def state(self) -> tuple[float, int]:
        """What a job that goes on from a checkpoint needs."""
        return self.value, self.steps_without_overflow

    @state.setter
    def state(self, value_and_steps: tuple[float, int]) -> None:
        self.value, self.steps_without_overflow = value_and_steps

    @torch.no_grad()
    def unscale(self, parameters: Iterable[nn.Parameter], device: torch.device) -> bool:
        """Divide the gradients by the scale, or drop all of them where one of any rank is not finite.

        Whether they are finite, which all ranks agree on. The scale is then set for the next step.
        """
        gradients = [(parameter, parameter.grad) for parameter in parameters if parameter.grad is not None]
        overflow = torch.zeros((), device=device)
        for _, gradient in gradients:
            gradient.div_(self.value)  # a power of two: exact
            overflow = torch.maximum(overflow, (~gradient.isfinite()).any().to(overflow))
        dist.all_reduce(overflow, op=dist.ReduceOp.MAX)
        finite = not bool(overflow)
        if not finite:
            for parameter, _ in gradients:
                parameter.grad = None
        self._adapt(finite)
        return finite

    def _adapt(self, finite: bool) -> None:
        self.steps_without_overflow = self.steps_without_overflow + 1 if finite else 0
        if not finite:
            self.value *= BACKOFF
        elif self.steps_without_overflow == GROWTH_INTERVAL:
            self.value *= GROWTH
            self.steps_without_overflow = 0
