"""Dims that views merge and take apart again stay apart, so that heads can be shared out; the numbers are the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopart import api
from autopart.capture.evaluate import evaluate
from autopart.capture.torch_export import capture
from autopart.ir.size import BATCH as BATCH_SIZE

BATCH, LENGTH, WIDTH, HEADS = 3, 6, 16, 4
TRIANGLE = torch.full((LENGTH, LENGTH), float("-inf"), dtype=torch.float64).triu(1)
PADDED = torch.arange(LENGTH)[None] >= torch.tensor([[6], [4], [5]])


class Attending(nn.Module):
    """Torch's own attention, called with these further arguments."""

    def __init__(self, pads: bool = False, **further: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.pads, self.further = pads, further

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (batch, length, width), padded: (batch, length)."""
        padding = {"key_padding_mask": padded} if self.pads else {}
        y, weights = self.attention(x, x, x, **self.further, **padding)
        return y.square().mean() + (0 if weights is None else weights.square().mean())


class Added(nn.Module):
    """Scores as BLOOM has them: a number a head and position is added to a product of merged dims."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.project, self.slopes = nn.Linear(WIDTH, 3 * WIDTH), nn.Parameter(torch.randn(HEADS))
        self.beta = beta

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        """x: (batch, length, width), padded: (batch, length)."""
        batch, length, width = x.shape
        q, k, v = self.project(x).view(batch, length, HEADS, -1).transpose(1, 2).chunk(3, -1)
        q, k, v = (part.reshape(batch * HEADS, length, -1) for part in (q, k, v))
        added = ((~padded)[:, None, :] * self.slopes[:, None]).reshape(batch * HEADS, 1, length)
        added = added + self.slopes[:, None, None].repeat(batch, 1, 1)
        scores = added.baddbmm(q, k.transpose(1, 2), beta=self.beta, alpha=0.5).view(batch, HEADS, length, length)
        weights = F.softmax(scores, -1).view(batch * HEADS, length, length)
        y = torch.bmm(weights, v).view(batch, HEADS, length, -1).transpose(1, 2).reshape(batch, length, width)
        return y.square().mean()


def layers() -> nn.Module:
    """An encoder and a decoder, in one module that takes the same two arguments."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Transformer(WIDTH, HEADS, 1, 1, 32, dropout=0.0, batch_first=True)

        def forward(self, x: Tensor, padded: Tensor) -> Tensor:
            causal = {"tgt_mask": TRIANGLE, "tgt_is_causal": True}
            found: Tensor = self.both(x, x.flip(1), src_key_padding_mask=padded, **causal)
            return found.square().mean()

    return Both()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "with_weights": Attending,
    "masked_with_weights": lambda: Attending(attn_mask=TRIANGLE),
    "padded_with_weights": lambda: Attending(pads=True),
    "without_weights": lambda: Attending(need_weights=False),
    "padded_and_masked": lambda: Attending(need_weights=False, pads=True, attn_mask=TRIANGLE),
    "added": Added,
    "layers": layers,
}


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64, generator=generator), PADDED


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().double()


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_computes_the_same_with_heads_apart(name: str) -> None:
    model = made(MODELS[name])
    captured = capture(model, inputs())
    graph = captured.graph
    values = {item.value.name: tensor for item, tensor in zip(graph.inputs, inputs(), strict=False)}
    values |= {item.value.name: model.get_parameter(item.target).detach() for item in graph.parameters}
    values |= {item.value.name: captured.constants[item.target] for item in graph.constants}
    assert graph.loss is not None
    found = evaluate(graph, graph.loss, values, BATCH)
    torch.testing.assert_close(found, made(MODELS[name])(*inputs()).detach(), rtol=1e-12, atol=0)
    products = [node for node in graph.nodes if "attention" in node.op or "matmul" in node.op]
    assert products and all(node.output.shape[1] == HEADS for node in products)
    merged = HEADS * BATCH_SIZE
    assert not any(node.output.requires_grad and merged in node.output.shape for node in graph.nodes)


@pytest.mark.parametrize("name", ["with_weights", "layers", "added"])
def test_tensor_parallel_ranks_share_the_heads(name: str) -> None:
    ready = api.prepare(made(MODELS[name]), inputs())
    plan = api.plan(ready, 2, cluster="dgx-h100", global_batch=8, tp=2)
    products = [node.name for node in ready.folded.graph.nodes if "attention" in node.op or "matmul" in node.op]
    chosen = {choice.node: choice for choice in plan.nodes}
    assert products and all(chosen[name].outputs[0].shard is not None for name in products)


def through(call: Callable[[Tensor], Tensor]) -> list[str]:
    """The ops that are captured of `call` on (batch * 4, 6, 4), made of (batch, 4, 6, 4)."""

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x.view(-1, 6, 4)).square().mean()

    graph = capture(Model(), (torch.randn(BATCH, 4, 6, 4),)).graph
    return [node.op for node in graph.nodes if 4 * BATCH_SIZE in node.output.shape]


def test_what_looks_across_the_merged_dim_is_left_as_it_was() -> None:
    def back(x: Tensor) -> Tensor:
        return x.view(-1, 4, 6, 4)

    assert not through(lambda x: back(x.softmax(-1)))
    assert not through(lambda x: back(x.transpose(1, 2).mul(2).transpose(1, 2)))
    assert through(lambda x: back(x.softmax(0)))
    assert through(lambda x: back(x.cumsum(0)))
    assert through(lambda x: x.sin())  # and is not taken apart again
    assert through(lambda x: back(x.sin()) + back(x.cumsum(0)))
    assert through(lambda x: back(x + torch.ones(6, 1)[None].expand(1, 6, 4))) == []
