"""Tensors and calls to make examples of; the same on every run."""

from collections.abc import Callable
from typing import Any

import torch

from tests.sharding.captured import Example

aten = torch.ops.aten
_generator = torch.Generator().manual_seed(1)


def t(*shape: int) -> torch.Tensor:
    """Normal numbers that require a gradient."""
    return torch.randn(shape, generator=_generator, dtype=torch.float64).requires_grad_()


def u(*shape: int) -> torch.Tensor:
    """Numbers between 0.1 and 0.9 that require a gradient."""
    return (torch.rand(shape, generator=_generator, dtype=torch.float64) * 0.8 + 0.1).requires_grad_()


def n(*shape: int) -> torch.Tensor:
    """Numbers that require none."""
    return u(*shape).detach()


def i(high: int, *shape: int) -> torch.Tensor:
    """Integers below `high`."""
    return torch.randint(high, shape, generator=_generator)


def b(*shape: int) -> torch.Tensor:
    """Booleans."""
    return torch.rand(shape, generator=_generator) < 0.5


def of(call: Callable[..., Any], *tensors: torch.Tensor) -> Example:
    return Example(call, tensors)


def with_last(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """`call` with further arguments."""
    return lambda *tensors: call(*tensors, *args, **kwargs)


def of_aten(name: str, overload: str) -> Callable[..., Any]:
    return getattr(getattr(aten, name), overload)
