"""Example batches: given in any form, derived from the model, or refused with what to pass."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture.example_inputs import example_inputs
from autopart.errors import BatchError, InputsError
from autopart.ir.size import BATCH
from autopart.runtime.batches import Batches
from tests.capture.models import captured, graph_of, tiny_llama, token_batch
from tests.plain_models import Codebooks

BATCHED = torch.empty(4, 8)


class TokenPair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16)

    def forward(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.head(self.embedding(tokens)).flatten(0, 1), labels.flatten())


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


def test_rows_of_a_sample_that_lie_together() -> None:
    """A first dim that is a multiple of the batch, where the model cannot be captured otherwise."""
    codes, labels = torch.zeros(8, 6, dtype=torch.long), torch.zeros(4, 6, 2, dtype=torch.long)
    graph = graph_of(Codebooks(), {"codes": codes, "labels": labels})
    assert graph.batched_inputs == {"codes": 2, "labels": 1}
    assert [item.value.shape[0] for item in graph.inputs] == [2 * BATCH, BATCH]
    cut = Batches(graph, dp=2, global_batch=4).cut({"codes": codes, "labels": labels}, 1)
    assert (cut["codes"].shape[0], cut["labels"].shape[0]) == (4, 2)
    with pytest.raises(BatchError, match="'codes' has 7 rows, of which each sample has 2"):
        Batches(graph, dp=2, global_batch=4).cut({"codes": codes[:7], "labels": labels}, 1)


def test_a_table_whose_size_is_a_multiple_is_no_batch() -> None:
    class Table(nn.Module):
        def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
            return table[x].square().mean()

    graph = graph_of(Table(), {"x": torch.zeros(4, dtype=torch.long), "table": torch.randn(8, 3)})
    assert graph.batched_inputs == {"x": 1}
