"""Precision: in which dtype passes are computed, beside weights and gradients in float32."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from cost_models.precision import computed_dtype


@dataclass(frozen=True, slots=True)
class Precision:
    """How a plan's `precision` is run.

    Attributes:
        computed: the dtype of products and what else `torch.autocast` computes in half; None for the model's own.
    """

    computed: torch.dtype | None = None

    @property
    def scales(self) -> bool:
        """Whether small gradients would vanish, so that the loss must be scaled: float16 has few exponents."""
        return self.computed is torch.float16

    def computing(self, device: torch.device) -> AbstractContextManager[object]:
        """For all passes of a step: each weight is cast when it is first used in it, and its copy serves them all."""
        return nullcontext() if self.computed is None else torch.autocast(device.type, dtype=self.computed)


def precision_named(name: str) -> Precision:
    """The precision of a plan: "as-built", "bf16-mixed" or "fp16-mixed"."""
    return Precision() if name == "as-built" else Precision(getattr(torch, computed_dtype(name, "float32")))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """For a backward pass inside the step: its ops take the dtypes of the forward pass, whose copies are kept."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def as_computed(x: torch.Tensor) -> torch.Tensor:
    """`x` in the dtype in which a product would take it here: what `torch.autocast` does for products that it knows."""
    kind = x.device.type
    casts = torch.is_autocast_enabled(kind) and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return x.to(torch.get_autocast_dtype(kind)) if casts else x
