"""What capture drops from a graph because it computes nothing, and constant masks seen for what they are."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.ir.graph import Node
from tests.capture.models import graph_of, ops, tiny_gpt, tiny_gpt2, tiny_llama, token_batch

BATCHED = torch.empty(4, 8)


def attentions(graph: Any) -> list[Node]:
    return [node for node in graph.nodes if "attention" in node.op]


class Attention(nn.Module):
    """Attention with a constant mask."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.project(x).view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.mask).sum()


class TestMasks:
    @pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
    def test_the_triangle_of_transformers_becomes_is_causal(self, build: Any) -> None:
        graph = graph_of(build())
        found = attentions(graph)
        assert len(found) == 2
        for node in found:
            assert node.arg(5, "is_causal") is True
            assert node.arg(3, "attn_mask") is None
            assert len(node.inputs) == 3
        assert not any(value.shape[-3:] == (1, 16, 16) for value in graph.values.values()), "the mask is still built"
        assert not any(value.dtype == "bool" for value in graph.values.values())

    @pytest.mark.parametrize("form", ["bool", "float"])
    def test_a_constant_triangle_becomes_is_causal(self, form: str) -> None:
        triangle = torch.ones(6, 6, dtype=torch.bool).tril()
        mask = triangle if form == "bool" else torch.zeros(6, 6).masked_fill(~triangle, float("-inf"))
        graph = graph_of(Attention(mask), torch.empty(4, 6, 8))
        (node,) = attentions(graph)
        assert node.arg(5, "is_causal") is True
        assert graph.constants == ()

    @pytest.mark.parametrize(
        "mask",
        [
            torch.ones(6, 6, dtype=torch.bool),
            torch.ones(6, 6, dtype=torch.bool).triu(),
            torch.ones(6, 6, dtype=torch.bool).tril() & torch.ones(6, 6, dtype=torch.bool).triu(-2),
            torch.zeros(6, 6).masked_fill(~torch.ones(6, 6, dtype=torch.bool).tril(), -1.0),
            torch.ones(6, 6).tril(),
        ],
        ids=["all", "upper", "window", "soft", "bias"],
    )
    def test_another_constant_mask_stays(self, mask: torch.Tensor) -> None:
        graph = graph_of(Attention(mask), torch.empty(4, 6, 8))
        (node,) = attentions(graph)
        assert node.arg(5, "is_causal", False) is False
        assert node.arg(3, "attn_mask") is not None
        assert [constant.target for constant in graph.constants] == ["mask"]

    def test_a_mask_from_the_batch_stays(self) -> None:
        class Masked(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.project = nn.Linear(8, 8)

            def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
                q = self.project(x).unsqueeze(1)
                return F.scaled_dot_product_attention(q, q, q, attn_mask=mask[:, None]).sum()

        graph = graph_of(Masked(), (torch.empty(4, 6, 8), torch.ones(4, 6, 6, dtype=torch.bool)))
        (node,) = attentions(graph)
        assert len(node.inputs) == 4

    def test_scale_and_grouped_queries_survive(self) -> None:
        class Grouped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.project = nn.Linear(8, 8)
                self.register_buffer("mask", torch.ones(6, 6, dtype=torch.bool).tril())

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                q = self.project(x).view(-1, 6, 4, 2).transpose(1, 2)
                k = q[:, :2]
                return F.scaled_dot_product_attention(q, k, k, self.mask, scale=0.3, enable_gqa=True).sum()

        (node,) = attentions(graph_of(Grouped(), torch.empty(4, 6, 8)))
        assert dict(node.kwargs) == {"enable_gqa": True, "is_causal": True, "scale": 0.3}


class TestNoise:
    def test_dropout_of_zero_vanishes(self) -> None:
        graph = graph_of(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.0), nn.Linear(8, 8)))
        assert ops(graph) == ["linear", "linear"]

    def test_dropout_in_evaluation_vanishes(self) -> None:
        graph = graph_of(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)).eval())
        assert ops(graph) == ["linear", "linear"]

    def test_dropout_stays_where_it_drops(self) -> None:
        graph = graph_of(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8)))
        assert ops(graph) == ["linear", "dropout", "linear"]

    def test_casts_and_views_that_change_nothing_vanish(self) -> None:
        class Noisy(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = super().forward(x.to(torch.float32)).float().type_as(x)
                y = (y * 1.0 + 0)[:, :].view(y.shape).clone()
                return super().forward(y.contiguous())

        assert ops(graph_of(Noisy(8, 8), BATCHED)) in (["linear", "linear"], ["linear", "contiguous", "linear"])

    def test_casts_that_change_something_stay(self) -> None:
        class Cast(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x).to(torch.float64).sum()

        graph = graph_of(Cast(8, 8), BATCHED)
        assert graph.values[graph.loss or ""].dtype == "float64"
        assert len(graph.nodes) == 3

    def test_dead_code_vanishes(self) -> None:
        class Wasteful(nn.Linear):
            def __init__(self) -> None:
                super().__init__(8, 8)
                self.unused = nn.Linear(8, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.unused(x)
                return super().forward(x)

        graph = graph_of(Wasteful(), BATCHED)
        assert [parameter.target for parameter in graph.parameters] == ["weight", "bias"]
        assert ops(graph) == ["linear"]

    def test_no_grad_regions_are_inlined(self) -> None:
        class Frozen(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.frozen, self.trained = nn.Linear(8, 8), nn.Linear(8, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                with torch.no_grad():
                    y = self.frozen(x).relu()
                return self.trained(y).sum()

        graph = graph_of(Frozen(), BATCHED)
        assert [op for op in ops(graph) if op != "detach"] == ["linear", "relu", "linear", "sum"]
        gradients = {node.op.split(".")[1]: [] for node in graph.nodes}
        for node in graph.nodes:
            gradients[node.op.split(".")[1]].append(node.output.requires_grad)
        assert gradients["linear"] == [False, True]
        assert gradients["relu"] == [False]

    @pytest.mark.parametrize("in_place", [False, True])
    def test_what_a_no_grad_region_passes_through_keeps_its_gradient(self, in_place: bool) -> None:
        class Passing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                hidden = self.first(x)
                with torch.no_grad():  # to the dtype that it has: the tensor itself
                    scale = torch.dropout(hidden.to(torch.float32).type_as(x).to(x), 0.5, False).abs().mean()
                own = torch.zeros_like(x)
                if in_place:
                    own[:, :4].copy_(x[:, :4])
                return (self.second(hidden) * scale + own).sum()

        graph = graph_of(Passing(), BATCHED)
        first, second = (node for node in graph.nodes if node.op == "aten.linear.default")
        assert second.inputs[0] == first.output.name and first.output.requires_grad

    def test_in_place_ops_become_functional(self) -> None:
        graph = graph_of(nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8)))
        assert ops(graph) == ["linear", "relu", "linear"]

    def test_composite_ops_stay_whole(self) -> None:
        found = set(ops(graph_of(tiny_gpt(), token_batch())))
        assert {"linear", "layer_norm", "scaled_dot_product_attention", "gelu", "cross_entropy_loss"} <= found
