"""Capture with torch.export: what the traps of real models become in the graph."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.errors import CaptureError, UnsupportedError
from autopart.ir.graph import Node
from autopart.ir.kept import KEPT, function_name, is_elementwise, is_samplewise
from autopart.ir.size import BATCH
from tests.capture.models import captured, graph_of, tiny_gpt, tiny_gpt2, tiny_llama, token_batch

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
            (Branching, "# the branch", r"the value of a tensor decides what runs\s+use torch.where"),
            (Reading, "# the reading", r"a number read from a tensor\s+.*drop .item"),
            (FixedBatch, "# the fixed batch", r"batch size becomes the fixed number 4.*\s+.*x\.shape\[0\]"),
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
        graph = graph_of(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)))
        updated = {graph.targets[update.constant] for update in graph.updates}
        assert updated == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
        assert {"aten.native_batch_norm.default", "aten.lerp.Scalar"} <= {node.op for node in graph.nodes}

    def test_an_input_that_is_changed(self) -> None:
        class Changing(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x.add_(1)).sum()

        with pytest.raises(UnsupportedError, match="write the result to a new tensor"):
            graph_of(Changing(8, 8), (torch.empty(2, 8),))

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

    def test_meta_and_cpu_agree_on_a_loss_of_two_numbers(self) -> None:
        class Regression(nn.Linear):
            def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
                return F.mse_loss(super().forward(x), target)

        batch = (torch.empty(4, 8), torch.empty(4, 8))
        graphs = [graph_of(Regression(8, 8, device=device), batch) for device in ("cpu", "meta")]
        assert graphs[0].fingerprint == graphs[1].fingerprint
        assert not any(item.value.requires_grad for item in graphs[1].inputs)

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


class _Straight(torch.autograd.Function):
    """Rounds, and lets gradients through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient


class _Clipping(torch.autograd.Function):
    """Clips its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient.clamp(-0.1, 0.1)


class _Shares(torch.autograd.Function):
    """What part each number of a sample has in their sum; the sum counts as a constant."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.sum(-1, keepdim=True)
        ctx.save_for_backward(total)
        return x / total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        (total,) = ctx.saved_tensors
        return gradient / total


class _Reversible(torch.autograd.Function):
    """Takes a module."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        result: torch.Tensor = module(x)
        return result


class _Applying(nn.Linear):
    """A layer whose output goes through a function, and what else that takes."""

    def __init__(self, function: type[torch.autograd.Function], *others: Any) -> None:
        super().__init__(8, 8)
        self.function, self.others = function, others

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function.apply(super().forward(x), *self.others).sum()  # the function


class TestOwnGradients:
    """Export would forget the backward of a `torch.autograd.Function`."""

    def test_carried_over_as_one_call(self) -> None:
        (node,) = [node for node in graph_of(_Applying(_Straight), BATCHED).nodes if node.op == KEPT]
        assert function_name(node) == f"{__name__}:_Straight"
        assert is_samplewise(node)
        assert node.output.requires_grad

    def test_elementwise_or_not(self) -> None:
        for function in (_Straight, _Shares):
            (node,) = [node for node in graph_of(_Applying(function), BATCHED).nodes if node.op == KEPT]
            assert is_samplewise(node)
            assert is_elementwise(node) == (function is _Straight)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (_Applying(_Clipping), "its backward is not linear in the gradient of its output"),
            (_Applying(_Reversible, nn.Linear(8, 8)), "its argument '1' is a Linear"),
        ],
    )
    def test_refused_with_the_line(self, model: nn.Module, message: str) -> None:
        with pytest.raises(CaptureError, match=rf"a torch\.autograd\.Function: .*{message}") as caught:
            graph_of(model, BATCHED)
        assert f"{Path(__file__).name}:{line_of('  # the function')}" in str(caught.value)

    def test_one_that_cannot_be_imported(self) -> None:
        class Local(_Straight):
            pass

        with pytest.raises(CaptureError, match="not defined at the top of a module"):
            graph_of(_Applying(Local), BATCHED)

    def test_they_work_again_afterwards(self) -> None:
        graph_of(nn.Linear(8, 8), BATCHED)
        x = torch.tensor([0.3], requires_grad=True)
        _Straight.apply(x).sum().backward()
        assert x.grad is not None


class TestNumbersReadFromTensors:
    """A check of one is dropped, a use of one is refused."""

    def test_a_check(self) -> None:
        class Checking(nn.Linear):
            def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
                torch._check(lengths.max().item() <= 8)
                return super().forward(x).sum()

        graph = graph_of(Checking(8, 8), (torch.empty(2, 8), torch.ones(2, dtype=torch.long)))
        assert "aten.linear.default" in {node.op for node in graph.nodes}

    def test_a_use(self) -> None:
        class Using(nn.Linear):
            def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
                return (super().forward(x) * lengths.max().item()).sum()

        with pytest.raises(CaptureError, match="a number read from a tensor"):
            graph_of(Using(8, 8), (torch.empty(2, 8), torch.ones(2, dtype=torch.long)))

    def test_a_size(self) -> None:
        class Splitting(nn.Linear):
            def forward(self, x: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
                pieces = super().forward(x).split(counts.tolist(), dim=-1)
                return sum(piece.sum() for piece in pieces)

        with pytest.raises(CaptureError, match=r"read from (a tensor|the values of a tensor)"):
            graph_of(Splitting(8, 8), (torch.empty(2, 8), torch.tensor([3, 5, 0])))
