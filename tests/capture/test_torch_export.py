"""Capture with torch.export: what the traps of real models become in the graph."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture.example_inputs import example_inputs
from autopart.errors import CaptureError, InputsError, UnsupportedError
from autopart.ir.graph import Node
from autopart.ir.size import BATCH
from tests.capture.models import captured, graph_of, ops, tiny_gpt, tiny_gpt2, tiny_llama, token_batch

BATCHED = torch.empty(4, 8)


def line_of(text: str) -> int:
    """The number of the one line of this file that ends with `text`."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    (number,) = [index for index, line in enumerate(lines, 1) if line.endswith(text)]
    return number


def attentions(graph: Any) -> list[Node]:
    return [node for node in graph.nodes if "attention" in node.op]


class TokenPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.head(self.embedding(tokens)).flatten(0, 1), labels.flatten())


class Attention(nn.Module):
    """Attention with a constant mask."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.project(x).view(x.shape[0], x.shape[1], 2, 4).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.mask).sum()


class TestInputs:
    def test_a_tensor_passed_twice_stays_two_inputs(self) -> None:
        tokens = torch.zeros(4, 6, dtype=torch.long)
        graph = graph_of(TokenPair(), {"tokens": tokens, "labels": tokens})
        assert [item.path for item in graph.inputs] == ["tokens", "labels"]
        loss = next(node for node in graph.nodes if "cross_entropy" in node.op)
        embedding = next(node for node in graph.nodes if "embedding" in node.op)
        assert embedding.inputs[1] == "tokens"
        flattened = graph.nodes[graph.producer[loss.inputs[1]]]
        assert flattened.inputs == ("labels",)

    def test_positions_are_named_after_the_arguments_of_forward(self) -> None:
        graph = graph_of(TokenPair(), token_batch())
        assert [(item.path, item.value.name) for item in graph.inputs] == [("0", "tokens"), ("1", "labels")]

    def test_order_of_keywords_does_not_matter(self) -> None:
        tokens, labels = token_batch()
        graph = graph_of(TokenPair(), {"labels": labels, "tokens": tokens})
        embedding = next(node for node in graph.nodes if "embedding" in node.op)
        assert embedding.inputs[1] == "tokens"

    def test_plain_values_are_baked_in(self) -> None:
        class Scaled(nn.Linear):
            def forward(self, x: torch.Tensor, scale: float, power: int) -> torch.Tensor:
                return (super().forward(x) * scale).pow(power).sum()

        graph = graph_of(Scaled(8, 8), {"x": BATCHED, "scale": 3.5, "power": 3})
        assert [item.path for item in graph.inputs] == ["x"]
        constants = [arg for node in graph.nodes for arg in node.args if isinstance(arg, int | float)]
        assert 3.5 in constants and 3 in constants

    def test_a_tensor_without_the_batch_keeps_its_shape(self) -> None:
        class Weighted(nn.Linear):
            def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
                return (super().forward(x) * weights).sum()

        graph = graph_of(Weighted(8, 6), (BATCHED, torch.ones(6)))
        assert [item.value.shape for item in graph.inputs] == [(BATCH, 8), (6,)]

    @pytest.mark.parametrize("samples", [1, 2, 5])
    def test_the_size_of_the_example_leaves_no_trace(self, samples: int) -> None:
        graph = graph_of(TokenPair(), token_batch(batch=samples))
        assert graph.fingerprint == graph_of(TokenPair(), token_batch(batch=3)).fingerprint
        assert graph.example_batch == samples


class TestDerivedInputs:
    def test_hugging_face(self) -> None:
        batch = example_inputs(tiny_llama(), None)
        assert isinstance(batch, dict)
        assert {name: tuple(item.shape) for name, item in batch.items()} == {"input_ids": (2, 16), "labels": (2, 16)}
        assert batch["input_ids"] is not batch["labels"]
        assert all(item.is_meta and item.dtype is torch.long for item in batch.values())

    def test_a_long_context_is_limited(self) -> None:
        batch = example_inputs(tiny_llama(max_position_embeddings=131072), None)
        assert isinstance(batch, dict)
        assert batch["input_ids"].shape[1] == 4096

    @pytest.mark.parametrize("array", ["tensor", "tuple", "dict"])
    def test_example_input_array_of_lightning(self, array: str) -> None:
        class Module(nn.Linear):
            example_input_array: object = None

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x).mean()

        model = Module(8, 3)
        model.example_input_array = {"tensor": BATCHED, "tuple": (BATCHED,), "dict": {"x": BATCHED}}[array]
        graph = graph_of(model)
        assert [item.path for item in graph.inputs] == ["x" if array == "dict" else "0"]
        assert graph.inputs[0].value.shape == (BATCH, 8)

    @pytest.mark.parametrize(
        ("first", "shape"),
        [
            (nn.Linear(8, 4), (2, 8)),
            (nn.LayerNorm((3, 8)), (2, 3, 8)),
            (nn.Conv2d(3, 4, 3), (2, 3, 224, 224)),
            (nn.Embedding(16, 8), (2, 128)),
            (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), (2, 5)),
        ],
    )
    def test_first_layer_of_a_sequential(self, first: nn.Module, shape: tuple[int, ...]) -> None:
        batch = example_inputs(nn.Sequential(first, nn.ReLU()), None)
        assert isinstance(batch, tuple)
        assert [tuple(item.shape) for item in batch] == [shape]
        assert batch[0].dtype is (torch.long if isinstance(first, nn.Embedding) else torch.float32)

    def test_dtype_of_a_sequential(self) -> None:
        batch = example_inputs(nn.Sequential(nn.Linear(8, 4)).to(torch.bfloat16), None)
        assert isinstance(batch, tuple)
        assert batch[0].dtype is torch.bfloat16


class TestInputErrors:
    def test_nothing_to_derive_from(self) -> None:
        with pytest.raises(InputsError, match=r"no example batch can be derived for TokenPair: pass inputs="):
            example_inputs(TokenPair(), None)

    def test_a_sequential_without_sizes(self) -> None:
        with pytest.raises(InputsError, match="the Sequential has no Linear, Embedding, Conv or LayerNorm"):
            example_inputs(nn.Sequential(nn.ReLU()), None)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ("tokens", "inputs is a str: pass a dict of keyword arguments, a tuple of positional ones, or a tensor"),
            ({"x": 3}, "the example batch holds no tensor"),
            ((), "the example batch holds no tensor"),
            ((torch.tensor(3.0),), "the first tensor of the batch, '0', has no batch dim: its shape is ()"),
            ((torch.empty(0, 8),), "the first tensor of the batch, '0', has no batch dim: its shape is (0, 8)"),
            ({"x": BATCHED, "y": [BATCHED]}, "batch item 'y' is a list: tensors and plain values are supported"),
        ],
    )
    def test_a_batch_that_is_none(self, inputs: object, message: str) -> None:
        with pytest.raises(InputsError, match=re.escape(message)):
            captured(nn.Linear(8, 8), inputs)


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

    def test_in_place_ops_become_functional(self) -> None:
        graph = graph_of(nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 8)))
        assert ops(graph) == ["linear", "relu", "linear"]

    def test_composite_ops_stay_whole(self) -> None:
        found = set(ops(graph_of(tiny_gpt(), token_batch())))
        assert {"linear", "layer_norm", "scaled_dot_product_attention", "gelu", "cross_entropy_loss"} <= found


class TestParameters:
    def test_tied_parameters_are_one(self) -> None:
        graph = graph_of(tiny_gpt(), token_batch())
        tied = [parameter for parameter in graph.parameters if parameter.aliases]
        assert [(parameter.target, parameter.aliases) for parameter in tied] == [("wte.weight", ("lm_head.weight",))]
        assert len(graph.consumers[tied[0].value.name]) == 2

    def test_original_names(self) -> None:
        model = tiny_llama()
        graph = graph_of(model)
        assert {parameter.target for parameter in graph.parameters} == set(dict(model.named_parameters()))

    def test_a_model_called_model(self) -> None:
        class Outer(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = nn.Sequential(nn.Linear(8, 8))
                self.register_buffer("model_scale", torch.ones(8))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (self.model(x) * self.model_scale).sum()

        found = captured(Outer(), BATCHED)
        assert [parameter.target for parameter in found.graph.parameters] == ["model.0.weight", "model.0.bias"]
        assert [constant.target for constant in found.graph.constants] == ["model_scale"]
        assert list(found.constants) == ["model_scale"]

    def test_frozen_parameters(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        model[0].requires_grad_(False)
        graph = graph_of(model)
        assert [parameter.value.requires_grad for parameter in graph.parameters] == [False, False, True, True]
        assert [node.output.requires_grad for node in graph.nodes] == [False, True]

    def test_scopes_and_locations(self) -> None:
        graph = graph_of(tiny_gpt(), token_batch())
        first = next(node for node in graph.nodes if node.op == "aten.linear.default")
        assert first.scope == "blocks.0.attention.qkv"
        attention = attentions(graph)[0]
        assert re.fullmatch(r".*examples/gpt\.py:\d+", attention.location)

    def test_meta_allocates_nothing(self) -> None:
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(2**20, 2**20), nn.Linear(2**20, 2**20))  # 8 TiB
        graph = graph_of(model)
        assert graph.parameters[0].value.shape == (2**20, 2**20)
        assert all(parameter.is_meta for parameter in model.parameters())


class TestBatch:
    @pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_gpt])
    def test_it_is_a_symbol_in_all_shapes(self, build: Any) -> None:
        graph = graph_of(build(), token_batch() if build is tiny_gpt else None)
        symbols = {
            symbol
            for value in graph.values.values()
            for size in value.shape
            if not isinstance(size, int)
            for symbol in size.free_symbols
        }
        assert symbols == {BATCH}
        for node in graph.nodes:
            if node.op == "aten.linear.default":
                assert node.output.shape[0] == BATCH
        loss = next(node for node in graph.nodes if "cross_entropy" in node.op)
        assert graph.values[loss.inputs[0]].shape[0] == 16 * BATCH


class TestLoss:
    def test_the_models_own_scalar(self) -> None:
        graph = graph_of(TokenPair(), token_batch())
        assert graph.outputs == (graph.loss,)
        assert graph.values[graph.loss or ""].shape == ()

    def test_the_models_own_attribute(self) -> None:
        graph = graph_of(tiny_llama())
        assert graph.loss is not None and graph.outputs == (graph.loss,)

    def test_none(self) -> None:
        graph = graph_of(nn.Linear(8, 4), BATCHED)
        assert graph.loss is None
        assert graph.values[graph.outputs[0]].shape == (BATCH, 4)

    def test_a_function_of_output_and_batch(self) -> None:
        class Classifier(nn.Linear):
            def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
                return super().forward(x)

        def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
            return F.cross_entropy(output, batch["target"])

        graph = graph_of(Classifier(8, 4), {"x": BATCHED, "target": torch.zeros(4, dtype=torch.long)}, loss)
        assert graph.nodes[-1].op == "aten.cross_entropy_loss.default"
        assert graph.nodes[-1].inputs[1] == "target"
        assert graph.loss == graph.outputs[0]

    def test_it_must_be_a_scalar(self) -> None:
        with pytest.raises(CaptureError, match=r"the loss has shape \(.*, 4\): it must be a scalar"):
            graph_of(nn.Linear(8, 4), BATCHED, lambda output, batch: output)

    def test_an_output_without_tensors(self) -> None:
        class Silent(nn.Linear):
            def forward(self, x: torch.Tensor) -> str:
                return "done"

        with pytest.raises(CaptureError, match="the model returns a str with no tensor in it"):
            graph_of(Silent(8, 8), BATCHED)


class Branching(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # the branch
            x = -x
        return super().forward(x)


class Reading(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.max().item()  # the reading
        return super().forward(x) * scale


class FixedBatch(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.zeros(4, 8, device=x.device)  # the fixed batch


class Mistaken(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ torch.ones(3, 3, device=x.device)  # the mistake


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "mark", "advice"),
        [
            (Branching, "# the branch", "the value of a tensor decides what runs: use torch.where"),
            (Reading, "# the reading", "a number read from a tensor .*drop .item"),
            (FixedBatch, "# the fixed batch", r"FixedBatch fixes the batch size of '0' .*x\.shape\[0\]"),
            (Mistaken, "# the mistake", "the graph must be the same for every batch"),
        ],
    )
    def test_the_users_line(self, model: type[nn.Linear], mark: str, advice: str) -> None:
        with pytest.raises(CaptureError, match=advice) as caught:
            graph_of(model(8, 8), BATCHED)
        assert f"{Path(__file__).name}:{line_of(mark)}" in str(caught.value)

    def test_a_tensor_that_happens_to_have_the_size_of_the_exported_batch(self) -> None:
        class Weighted(nn.Linear):
            def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
                return (super().forward(x) * weights).sum()

        graph = graph_of(Weighted(8, 4), (torch.empty(3, 8), torch.ones(4)))
        assert [item.value.shape for item in graph.inputs] == [(BATCH, 8), (4,)]

    def test_batch_statistics(self) -> None:
        with pytest.raises(UnsupportedError, match=r"updates 1\.running_mean in its forward .* use GroupNorm"):
            graph_of(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))

    def test_batch_norm_in_evaluation(self) -> None:
        graph = graph_of(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval())
        assert {constant.target for constant in graph.constants} >= {"1.running_mean", "1.running_var"}


class TestFingerprint:
    """A plan is made offline on meta, and used later where the model is real."""

    @pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
    def test_meta_and_cpu_agree(self, build: Any) -> None:
        assert graph_of(build("meta")).fingerprint == graph_of(build("cpu")).fingerprint

    def test_meta_and_cpu_agree_with_real_inputs(self) -> None:
        real = (torch.zeros(4, 16, dtype=torch.long), torch.ones(4, 16, dtype=torch.long))
        assert graph_of(tiny_gpt("meta"), token_batch()).fingerprint == graph_of(tiny_gpt("cpu"), real).fingerprint

    def test_values_do_not_matter(self) -> None:
        torch.manual_seed(0)
        first = graph_of(tiny_gpt("cpu", layers=1), token_batch()).fingerprint
        torch.manual_seed(1)
        assert graph_of(tiny_gpt("cpu", layers=1), token_batch()).fingerprint == first

    def test_what_matters(self) -> None:
        prints = {
            "base": graph_of(tiny_gpt(layers=1), token_batch()),
            "layers": graph_of(tiny_gpt(layers=2), token_batch()),
            "hidden": graph_of(tiny_gpt(layers=1, hidden=64), token_batch()),
            "sequence": graph_of(tiny_gpt(layers=1), token_batch(sequence=8)),
            "dtype": graph_of(tiny_gpt(layers=1).to(torch.bfloat16), token_batch()),
            "frozen": graph_of(tiny_gpt(layers=1).requires_grad_(False), token_batch()),
            "keywords": graph_of(tiny_gpt(layers=1), dict(zip(("tokens", "labels"), token_batch(), strict=True))),
        }
        assert len({graph.fingerprint for graph in prints.values()}) == len(prints)
