"""Masks given to `nn.TransformerDecoder` and `nn.Transformer` without a word on whether they are causal."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import transformer

from autopart.capture.evaluate import evaluate
from autopart.capture.torch_export import capture

LENGTH, WIDTH = 6, 8


def made(x: torch.Tensor) -> torch.Tensor:
    return nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=x.dtype)


def near(x: torch.Tensor) -> torch.Tensor:
    """A band: the triangle, without what is far."""
    places = torch.arange(LENGTH)
    far = (places[:, None] - places[None] < 0) | (places[:, None] - places[None] > 2)
    return torch.zeros(LENGTH, LENGTH, dtype=x.dtype).masked_fill(far, float("-inf"))


class Decoder(nn.Module):
    """A decoder, or an encoder and one."""

    def __init__(self, mask: Any, whole: bool) -> None:
        super().__init__()
        settings: dict[str, Any] = {"batch_first": True, "dropout": 0.0, "dtype": torch.float64}
        self.mask, self.whole = mask, whole
        self.inner: nn.Module
        if whole:
            self.inner = nn.Transformer(WIDTH, 2, 1, 1, 16, **settings)
        else:
            self.inner = nn.TransformerDecoder(nn.TransformerDecoderLayer(WIDTH, 2, 16, **settings), 2)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Both: (batch, length, width)."""
        given = (memory, x) if self.whole else (x, memory)
        result: torch.Tensor = self.inner(*given, tgt_mask=self.mask(x)).square().mean()
        return result


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("mask", "causal"), [(made, True), (near, False)])
def test_a_mask_is_seen_for_what_it_is(mask: Any, causal: bool, whole: bool) -> None:
    torch.manual_seed(0)
    model, (x, memory) = Decoder(mask, whole), torch.randn(2, 3, LENGTH, WIDTH, dtype=torch.float64)
    before = transformer._detect_is_causal_mask
    captured = capture(model, (x, memory))
    assert transformer._detect_is_causal_mask is before
    graph, weights = captured.graph, dict(model.named_parameters())
    attention = [node for node in graph.nodes if "dot_product" in node.op]
    assert sum(node.arg(5, "is_causal") is True for node in attention) == (len(attention) // 2 if causal else 0)
    given = {item.value.name: tensor for item, tensor in zip(graph.inputs, (x, memory), strict=True)}
    given |= {item.value.name: weights[item.target] for item in graph.parameters}
    given |= {item.value.name: captured.constants[item.target] for item in graph.constants}
    torch.testing.assert_close(evaluate(graph, graph.outputs[0], given, 3), model(x, memory), rtol=1e-12, atol=0)
