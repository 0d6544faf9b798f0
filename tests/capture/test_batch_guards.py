"""Code that does something else for other batch sizes, or under autocast, is refused with its line."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from autopart import CaptureError, api


class Of(nn.Module):
    """A loss made of a linear layer's output and the batch."""

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer, self.loss = nn.Linear(4, 4), loss

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4)."""
        return self.loss(self.layer(x), x)


def large(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return y.sum() * 2 if x.shape[0] > 3 else y.sum()


def even(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return y.sum() * 2 if x.shape[0] % 2 == 0 else y.sum()


def rooted(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return y.sum() / math.sqrt(x.shape[0] * 1.0)


def checked(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    assert x.shape[0] % 2 == 0
    return y.view(-1, 8).sum() * (x.shape[0] ** 0.5 if x.shape[0] == y.shape[0] else 1)


def in_half(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (y @ y.transpose(0, 1)).sum()


@pytest.mark.parametrize("loss", [large, even, rooted])
def test_one_way_of_several(loss: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(CaptureError, match=r"for other batch sizes \(.*test_batch_guards.py:\d+: .*shape\[0\]"):
        api.prepare(Of(loss), torch.randn(4, 4))


def test_what_holds_for_all_sizes_or_is_merely_checked() -> None:
    assert api.prepare(Of(checked), torch.randn(4, 4)).captured.graph.loss


def test_a_region_of_autocast() -> None:
    with pytest.raises(CaptureError, match=r"test_batch_guards.py:\d+.*\n.*a region of torch.autocast.*\n.*precision="):
        api.prepare(Of(in_half), torch.randn(4, 4))
