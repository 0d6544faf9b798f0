"""Following the batch axis: sums and means over samples, targets that count, and what mixes samples."""

import linecache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autopart import api
from autopart.search.notes import mixing_notes
from autopart.sharding.batch import BatchSharding


def _batch(model: nn.Module, *inputs: Any, loss: Any = None) -> BatchSharding:
    return api.prepare(model, inputs, loss).batch


class Of(nn.Module):
    """A loss made of a linear layer's output."""

    def __init__(self, loss: Any) -> None:
        super().__init__()
        self.layer, self.loss = nn.Linear(4, 4), loss

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.loss(self.layer(x), y)
        return result


X, Y = torch.randn(4, 4), torch.randint(0, 4, (4,))


def test_a_mean_is_a_share() -> None:
    found = _batch(Of(lambda x, y: x.square().mean()), X, Y)
    assert len(found.shares) == 1 and not found.counted and not found.weighted and not found.mixing


def test_the_number_of_samples_is_that_of_the_global_batch() -> None:
    for loss in (
        lambda x, y: x.square().sum() / x.shape[0],
        lambda x, y: x.square().sum() / (3.0 * x.shape[0] + 1),
        lambda x, y: (x * x.shape[0]).mean(),
        lambda x, y: x.mean() * torch.full((), x.shape[0], dtype=x.dtype),
    ):
        found = _batch(Of(loss), X, Y)
        assert len(found.sized) == 1 and not found.weighted and not found.mixing


def test_what_is_no_sum_is_added_by_shares() -> None:
    found = _batch(Of(lambda x, y: (torch.zeros(4) + x.sum(0)).sum()), X, Y)
    assert not found.weighted and not found.mixing and not found.shares
    for loss in (
        lambda x, y: (torch.ones(4) + x.sum(0)).sum(),
        lambda x, y: x.sum() + (y.sum() + 1.0).sqrt(),
    ):
        found = _batch(Of(loss), X, Y)
        assert not found.weighted and not found.mixing and len(found.shares) == 1
    found = _batch(Of(lambda x, y: F.cross_entropy(x, y) + (1 - x.mean())), X, Y)
    assert found.counted and len(found.offsets) == 1 and not found.weighted and not found.mixing
    found = _batch(Of(lambda x, y: F.cross_entropy(x, y) + x.mean().exp()), X, Y)
    assert found.counted and found.mixing and len(found.shares) == 1 and not found.weighted


def test_what_inputs_add_up_to_is_known_before() -> None:
    def weighted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.sum(-1) * y).sum() / y.sum().clamp(min=1)

    found = _batch(Of(weighted), X, Y)
    assert len(found.totals) == 1 and not found.weighted and not found.mixing
    found = _batch(Of(lambda x, y: (x.sum(-1) * (y / (y / y.sum()).sum())).sum()), X, Y)  # a total of totals
    assert found.mixing and not found.totals


def test_a_new_tensor_takes_no_values_of_another() -> None:
    for loss in (
        lambda x, y: torch.where(y.unsqueeze(1) > 1, x, y.new_full((), 3)).sum(),
        lambda x, y: (x.sum(-1) * (y + y.new_ones(()))).sum(),
        lambda x, y: torch.where(y.unsqueeze(1) > 1, x, x.detach().new_full((), 3)).sum(),
    ):
        found = _batch(Of(loss), X, Y)
        assert not found.totals and not found.mixing and not found.weighted and not found.shares


def test_a_sum_of_which_something_else_is_made_is_that_of_the_part() -> None:
    found = _batch(Of(lambda x, y: (x - x.mean(0)).square().mean()), X, Y)
    assert [item.op for item in found.mixing] == ["aten.sub.Tensor"] and len(found.shares) == 1
    found = _batch(Of(lambda x, y: (x - x.sum(0) / x.shape[0]).square().mean()), X, Y)
    assert found.mixing and not found.sized


def test_a_sum_needs_no_weight() -> None:
    found = _batch(Of(lambda x, y: 0.5 * x.square().sum()), X, Y)
    assert not found.shares and not found.weighted and not found.mixing


def test_cross_entropy_counts_its_targets() -> None:
    found = _batch(Of(lambda x, y: F.cross_entropy(x, y) + 0.1 * F.cross_entropy(2 * x, y.flip(0))), X, Y)
    assert len(found.counted) == 2 or found.mixing  # the flip of a batch mixes samples, and is said to
    assert len(_batch(Of(lambda x, y: F.cross_entropy(x, y) + x.mean()), X, Y).counted) == 1


class Counting(nn.Module):
    """Counts what it has seen, and divides by what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4), y: (batch,)."""
        x = self.layer(x)
        self.seen += y.sum()
        self.mean = self.mean * 0.9 + x.mean(0)
        return x.sum() / y.sum() + self.mean.sum()


def test_buffers_take_no_shares_and_no_totals() -> None:
    found = _batch(Counting(), X, Y)
    assert {item.changes for item in found.mixing if item.changes} == {"seen", "mean"}
    graph = api.prepare(Counting(), (X, Y)).folded.graph
    made = {node.name: node for node in graph.nodes}
    (mean,) = (update.value for update in graph.updates if graph.targets[update.constant] == "mean")
    inputs = {graph.nodes[graph.producer[name]].name for name in made[mean].inputs if name in graph.producer}
    assert found.shares.isdisjoint({mean, *inputs})


def test_targets_that_the_model_makes_are_not_counted_before() -> None:
    def confident(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(x, torch.where(x.amax(-1) > 0.5, x.argmax(-1), -100))

    assert [item.op for item in _batch(Of(confident), X, Y).mixing] == ["aten.cross_entropy_loss.default"]
    found = _batch(Of(lambda x, y: F.cross_entropy(x, x.argmax(-1))), X, Y)
    assert len(found.shares) == 1 and not found.mixing


def test_a_loss_that_is_no_sum_is_weighted_and_named() -> None:
    found = _batch(Of(lambda x, y: x.mean().exp()), X, Y)
    assert found.weighted and [item.op for item in found.mixing] == ["aten.exp.default"]
    assert "test_batch.py" in found.mixing[0].location


def test_samples_that_meet_are_named() -> None:
    found = _batch(Of(lambda x, y: F.cross_entropy(x @ x.T, y)), X, Y)
    assert any(item.op == "aten.matmul.default" for item in found.mixing)
    found = _batch(Of(lambda x, y: (x - x.mean(0)).square().mean()), X, Y)
    assert found.mixing


class Masked(nn.Module):
    """A mask that is looked up with the numbers of the samples; `shifted` looks it up for the next sample."""

    def __init__(self, shifted: bool) -> None:
        super().__init__()
        self.layer, self.shifted = nn.Linear(4, 4), shifted

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4), mask: (batch, 4)."""
        numbers = torch.arange(x.shape[0])
        numbers = numbers.flip(0) if self.shifted else numbers
        return (self.layer(x) * mask[numbers]).square().mean()


def test_what_letters_cannot_tell_is_found_out_by_running() -> None:
    mask = torch.randint(0, 2, (4, 4))
    assert not _batch(Masked(shifted=False), X, mask).mixing
    assert _batch(Masked(shifted=True), X, mask).mixing


def test_samples_are_counted_through_the_global_batch_where_none_meet() -> None:
    bank = torch.randn(4, 9)
    for loss in (
        lambda x, y: (x.sum(-1) * torch.arange(x.shape[0])).sum(),
        lambda x, y: F.cross_entropy(x @ bank.to(x), torch.arange(x.shape[0]) % 9),
    ):
        found = _batch(Of(loss), X, Y)
        assert found.numbered == {"arange"} and not found.mixing and not found.doubtful
    for loss in (
        lambda x, y: x[torch.arange(len(x)), y].sum(),
        lambda x, y: x[torch.arange(x.shape[0])[:, None], y[:, None]].sum(),
    ):
        found = _batch(Of(loss), X, Y)
        assert not found.numbered and not found.mixing


def test_samples_that_meet_are_counted_in_each_micro_batch_which_is_noted() -> None:
    """A contrastive loss, the diagonal of a batch, and numbers that are looked up with as well as computed with."""

    def both(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        numbers = torch.arange(x.shape[0])
        return (x[numbers, y] * numbers).sum()

    for loss, op, others in (
        (lambda x, y: F.cross_entropy(x @ x.T, torch.arange(len(x))), "aten.arange.default", True),
        (lambda x, y: (x * torch.eye(x.shape[0])[:, :1]).sum(), "aten.eye.default", False),
        (lambda x, y: (x[torch.randperm(x.shape[0])] * y[:, None]).sum(), "aten.randperm.default", True),
        (both, "aten.arange.default", False),
    ):
        found = _batch(Of(loss), X, Y)
        assert [item.op for item in found.mixing if item.counts] == [op] and not found.numbered
        assert (len(found.mixing) > 1) == others
        assert any("from 0 in every micro-batch" in note.text for note in mixing_notes(found))


class Bags(nn.Module):
    """Sums over bags of rows, which `bags` makes of tokens of shape (batch, 6)."""

    def __init__(self, bags: Any) -> None:
        super().__init__()
        self.rows, self.bags = nn.EmbeddingBag(8, 4), bags

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: (batch, 6)."""
        found: torch.Tensor = self.rows(*self.bags(tokens))
        return found.square().sum(-1).mean()


def test_bags_of_one_sample_each_are_separable_and_others_are_not() -> None:
    tokens = torch.randint(0, 8, (4, 6))
    for own in (lambda x: (x,), lambda x: (x.view(-1, 3),), lambda x: (x[:, 1:],)):
        assert not _batch(Bags(own), tokens).mixing
    for mixed in (lambda x: (x.T,), lambda x: (x.T.reshape(-1, 6),), lambda x: (x.flatten(), x[:, 0].cumsum(0))):
        assert _batch(Bags(mixed), tokens).mixing


def test_a_balancing_loss_is_named_once() -> None:
    """The auxiliary loss of a router is a product of two means over the batch."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=8, num_local_experts=4, output_router_logits=True,
    )  # fmt: skip
    tokens = torch.randint(0, 32, (4, 8))
    prepared = api.prepare(MixtralForCausalLM(config), {"input_ids": tokens, "labels": tokens.clone()}, None)
    (note,) = mixing_notes(prepared.batch)
    file, _, line = note.text.partition("(")[2].partition(")")[0].rpartition(":")
    assert not prepared.batch.weighted and "load_balancing_loss_func(" in linecache.getline(file, int(line))


def test_one_note_a_line() -> None:
    model = Of(lambda x, y: ((x - x.mean(0)) * x.flip(0).cumsum(0)).square().mean())
    prepared = api.prepare(model, (X, Y), None)
    assert len(prepared.batch.mixing) > 1
    (note,) = mixing_notes(prepared.batch)
    assert all(item.op in note.subject for item in prepared.batch.mixing)
