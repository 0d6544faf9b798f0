"""Rows that are sorted and put back do not mix the samples; any other use of their order does. Each is run as well."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopart import api
from tests.benchmarks.zoo.architectures import architectures

SAMPLES, TOKENS, WIDTH, EXPERTS, PER_TOKEN = 4, 6, 8, 4, 2
X = torch.randn(SAMPLES, TOKENS, WIDTH, generator=torch.Generator().manual_seed(1))


class Dispatched(nn.Module):
    """Every token times the matrices of two experts; `expert` computes it from tokens, experts' numbers and scores."""

    def __init__(self, expert: Callable[["Dispatched", Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.weight = nn.Parameter(torch.randn(EXPERTS, WIDTH, WIDTH))
        self.bias = nn.Parameter(torch.randn(EXPERTS, WIDTH))
        self.expert = expert

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, tokens, width); the loss is a mean."""
        tokens = x.view(-1, WIDTH)
        scores, numbers = self.router(tokens).softmax(-1).topk(PER_TOKEN)
        loss: Tensor = self.expert(self, tokens, numbers, scores).square().mean()
        return loss


def grouped_mm(rows: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """Transformers' own op: PyTorch's is for bfloat16 alone."""
    import transformers.integrations.moe  # noqa: F401 - registers the op

    result: Tensor = torch.ops.transformers.grouped_mm_fallback(rows, weight, ends)
    return result


def ends_of(numbers: Tensor) -> Tensor:
    """Where the rows of each expert end."""
    return torch.histc(numbers.float(), EXPERTS, 0, EXPERTS - 1).cumsum(0).int()


def product(own: Dispatched, tokens: Tensor, order: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    """Rows in order times their matrices, with biases and scores."""
    rows = grouped_mm(tokens[order // PER_TOKEN], own.weight, ends_of(numbers))
    return (F.silu(rows) + own.bias[numbers[order]]) * scores.view(-1)[order].unsqueeze(-1)


def put_by_number(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1)
    order = flat.sort().indices
    rows = product(own, tokens, order, flat, scores)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0])
    return rows[inverse].view(-1, PER_TOKEN, WIDTH).sum(1)


def put_by_sorting(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1)
    order = flat.argsort(stable=True)
    rows = product(own, tokens, order, flat, scores)
    return rows[order.argsort()].view(-1, PER_TOKEN, WIDTH).sum(1)


def put_in_place(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1)
    order = flat.argsort()
    rows = product(own, tokens, order, flat, scores)
    back = torch.zeros_like(rows).index_put((order,), rows)
    return back.view(-1, PER_TOKEN, WIDTH).sum(1)


def added_to_tokens(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1)
    order = flat.argsort()
    return tokens.index_add(0, order // PER_TOKEN, product(own, tokens, order, flat, scores))


def scattered_to_tokens(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1)
    order = flat.argsort()
    place = (order // PER_TOKEN).unsqueeze(-1).expand(-1, WIDTH)
    return tokens.scatter_add(0, place, product(own, tokens, order, flat, scores))


def counted_by_classes(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    order = numbers.view(-1).argsort()
    ends = F.one_hot(numbers, EXPERTS).sum((0, 1)).cumsum(0).int()
    rows = grouped_mm(tokens[order // PER_TOKEN], own.weight, ends) * scores.view(-1)[order].unsqueeze(-1)
    return tokens.index_add(0, order // PER_TOKEN, rows)


def never_put_back(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1)
    return product(own, tokens, flat.argsort(), flat, scores)  # of which the mean is taken, in any order


SEPARATE = (
    put_by_number,
    put_by_sorting,
    put_in_place,
    added_to_tokens,
    scattered_to_tokens,
    counted_by_classes,
    never_put_back,
)


def limited(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    """Each expert takes the four tokens that come first."""
    flat = numbers.view(-1)
    turn = (F.one_hot(flat, EXPERTS).cumsum(0) * F.one_hot(flat, EXPERTS)).sum(1)
    order = flat.argsort()
    taken = (turn <= 4).float()[order].unsqueeze(-1)
    return tokens.index_add(0, order // PER_TOKEN, product(own, tokens, order, flat, scores) * taken)


def limited_by_place(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    """The same, by the places within each expert's rows."""
    flat = numbers.view(-1)
    order = flat.argsort(stable=True)
    starts = ends_of(flat) - torch.histc(flat.float(), EXPERTS, 0, EXPERTS - 1).int()
    taken = (torch.arange(order.shape[0]) - starts[flat[order]] < 4).float().unsqueeze(-1)
    return tokens.index_add(0, order // PER_TOKEN, product(own, tokens, order, flat, scores) * taken)


def first_in_order(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    return scores.view(-1).sort().values[:8]


def weighted_by_place(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    ranks = scores[:, 0].argsort().argsort()
    return scores[:, 0] * ranks


def ordered_beside_unordered(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = scores.view(-1)
    return flat * flat[numbers.view(-1).argsort(stable=True)]


def put_back_by_another(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = scores.view(-1)
    order, other = numbers.view(-1).argsort(stable=True), flat.argsort()
    return flat * flat[order][other.argsort()]


def downwards(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1)
    order = flat.argsort(descending=True)
    return tokens.index_add(0, order // PER_TOKEN, product(own, tokens, order, flat, scores))


def ends_of_others(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    order = numbers.view(-1).argsort()
    rows = grouped_mm(tokens[order // PER_TOKEN], own.weight, ends_of((numbers[:, 0] + numbers[:, 1]) // 2) * 2)
    return tokens.index_add(0, order // PER_TOKEN, rows)


def numbers_below_zero(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    flat = numbers.view(-1) - 1  # of which the counts leave out the first
    order = flat.argsort()
    rows = grouped_mm(tokens[order // PER_TOKEN], own.weight, ends_of(flat))
    return tokens.index_add(0, order // PER_TOKEN, rows)


def groups_by_place(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    return grouped_mm(tokens, own.weight, torch.tensor([3, 6, 9, 12], dtype=torch.int32))


def balanced(own: Dispatched, tokens: Tensor, numbers: Tensor, scores: Tensor) -> Tensor:
    share = F.one_hot(numbers, EXPERTS).float().mean((0, 1))
    return share * own.router(tokens).softmax(-1).mean(0)


MIXING = (
    limited,
    limited_by_place,
    first_in_order,
    weighted_by_place,
    ordered_beside_unordered,
    put_back_by_another,
    downwards,
    ends_of_others,
    numbers_below_zero,
    groups_by_place,
    balanced,
)


def parts_give_the_whole(model: nn.Module) -> bool:
    """Whether the loss of the batch is the mean of those of its halves."""
    first, second = X.chunk(2)
    return torch.allclose(model(X), (model(first) + model(second)) / 2, rtol=1e-5)


@pytest.mark.parametrize("expert", SEPARATE, ids=lambda expert: expert.__name__)
def test_rows_that_are_put_back_do_not_mix(expert: Callable[..., Tensor]) -> None:
    model = Dispatched(expert)
    assert parts_give_the_whole(model)
    found = api.prepare(model, X, None).batch
    assert not found.mixing and not found.weighted


@pytest.mark.parametrize("expert", MIXING, ids=lambda expert: expert.__name__)
def test_any_other_use_of_an_order_mixes(expert: Callable[..., Tensor]) -> None:
    model = Dispatched(expert)
    assert not parts_give_the_whole(model)
    found = api.prepare(model, X, None).batch
    assert found.mixing and all("test_dispatch.py" in item.location for item in found.mixing)


@pytest.mark.parametrize("name", ["gpt_oss", "granitemoe", "jamba"])
def test_models_of_experts_do_not_mix(name: str) -> None:
    """Biases looked up by expert, dense layers between, state spaces beside: all as transformers has them."""
    (architecture,) = (item for item in architectures() if item.name == name)
    model, batch = architecture.build()
    found = api.prepare(model, batch, None).batch
    assert not found.mixing and not found.weighted
