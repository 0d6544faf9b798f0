"""Hooks that change gradients are refused, wherever they are; a module kept whole has its own."""

import pytest
import torch
from torch import nn

from autopart import api
from autopart.errors import CaptureError

X = torch.randn(4, 8)


class Doubled(nn.Linear):
    """Doubles the gradient of what it gives."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> (batch, 8)."""
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient * 2)
        return y


def mean(output: torch.Tensor, batch: object) -> torch.Tensor:
    return output.square().mean()


def test_of_a_tensor() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Doubled(8, 8))
    line = r'test_gradient_hooks.py:\d+: "y.register_hook.*keep_whole=\["1"\]'
    with pytest.raises(CaptureError, match=line) as caught:
        api.prepare(model, (X,), mean)
    assert caught.value.places[0].modules == ("1",)


def test_of_a_tensor_that_fx_traces() -> None:
    class Always(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            y.register_hook(lambda gradient: gradient * 2)
            return y

    with pytest.raises(CaptureError, match="hook"):
        api.prepare(Always(8, 8), (X,), mean, front_end="fx_trace")


def test_of_a_module_and_of_a_parameter() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[0].register_full_backward_hook(lambda module, ins, outs: None)
    model[1].weight.register_hook(lambda gradient: gradient * 3)
    with pytest.raises(
        CaptureError, match=r"a backward hook of module 0, a gradient hook of parameter 1\.weight: "
    ) as caught:
        api.prepare(model, (X,), mean)
    assert len(caught.value.places) == 2


def test_a_module_kept_whole_has_its_own() -> None:
    model = nn.Sequential(nn.Linear(8, 8), Doubled(8, 8), nn.Linear(8, 8))
    model[2].register_full_backward_hook(lambda module, ins, outs: None)
    graph = api.prepare(model, (X,), mean, keep_whole=["1", "2"]).captured.graph
    assert [node.scope for node in graph.nodes if "kept" in node.op] == ["1", "2"]
