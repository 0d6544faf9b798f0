"""The tensor search is exact: it agrees with trying every joint choice, priced by an evaluator of its own."""

from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.errors import PlanningError
from autopart.estimate.node import Prices
from autopart.ir.placement import PARTIAL_GRADIENT, REPLICATED, Layout, Placement, Replicate, Shard
from autopart.search.objective import Objective
from autopart.search.tensor import TensorSearch, search_tensor
from autopart.search.tensor_tables import TensorTables
from autopart.sharding.strategies import Strategy
from tests.capture.models import tiny_gpt, token_batch
from tests.search.problems import Problem, problem

INFINITE = float("inf")
MICRO_BATCHES = 8


class MLP(nn.Module):
    def __init__(self, width: int, inner: int, bias: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner, bias), nn.Linear(inner, width, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x)))


class QKV(nn.Module):
    """Three projections of one tensor, and attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k = (p(x).view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2) for p in (self.q, self.k))
        return F.scaled_dot_product_attention(q, k, k, is_causal=True)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return y + self.b(y)


def on_meta(build: Any, *shape: int) -> Problem:
    with torch.device("meta"):
        return problem(build(), torch.empty(shape, dtype=torch.bfloat16))


@cache
def small(name: str) -> Problem:
    return {
        "mlp": lambda: on_meta(lambda: MLP(8192, 32768).bfloat16(), 2, 2048, 8192),
        "mlp with bias": lambda: on_meta(lambda: MLP(4096, 16384, bias=True).bfloat16(), 2, 1024, 4096),
        "small mlp": lambda: on_meta(lambda: MLP(16, 32).bfloat16(), 2, 8, 16),
        "residual": lambda: on_meta(lambda: Residual(8192).bfloat16(), 2, 2048, 8192),
        "norm": lambda: on_meta(
            lambda: nn.Sequential(nn.LayerNorm(8192), nn.Linear(8192, 8192, bias=False)).bfloat16(), 2, 2048, 8192
        ),
    }[name]()


class Evaluator:
    """What a joint choice costs, straight from the definition; knows nothing of variables or tables."""

    def __init__(
        self,
        whole: Problem,
        prices: Prices,
        seconds_per_byte: float = 0.0,
        seconds_per_kept_byte: float = 0.0,
        placements: Mapping[str, Placement] | None = None,
    ) -> None:
        self.placements = placements or {}
        self.folded, self.graph, self.prices = whole.folded, whole.folded.graph, prices
        self.seconds_per_byte, self.seconds_per_kept_byte = seconds_per_byte, seconds_per_kept_byte

    def cost(self, chosen: Mapping[str, Strategy]) -> float:
        """Nodes, and for every value the cheapest way to give all its consumers what they want."""
        assert not self.folded.loops, "the evaluator is for graphs without loops"
        total = sum(self.prices.node(node, chosen[node.name]).total_s for node in self.graph.nodes)
        for node in self.graph.nodes:
            total += self.seconds_per_kept_byte * sum(own.bytes for own in self.prices.kept(node, chosen[node.name]))
        for name in self.graph.values:
            wants = self._wants(name, chosen)
            if name in self.graph.parameter_of:
                pinned = self.placements.get(name)
                total += min(
                    (
                        self._stored(name, have) + self._conversions(name, have, set(wants))
                        for have in self._storages(name, wants)
                        if pinned in (None, have.value)
                    ),
                    default=INFINITE,
                )
            elif name in self.graph.producer:
                have = self._made(name, chosen)
                total += self._conversions(name, have, set(wants)) + self._sums(name, have, wants)
            else:
                total += self._conversions(name, REPLICATED, set(wants))
            if name in self.graph.outputs:
                total += self._convert(name, self._made(name, chosen), REPLICATED)
            if total == INFINITE:
                return total
        return total

    def _wants(self, name: str, chosen: Mapping[str, Strategy]) -> list[Layout]:
        return [
            chosen[node.name].inputs[slot]
            for node in self.graph.nodes
            for slot, used in enumerate(node.inputs)
            if used == name
        ]

    def _sums(self, name: str, have: Layout, wants: list[Layout]) -> float:
        """The gradients of uses in one layout are added in it; what conversions bring back is added to the others."""
        converted = [want for want in set(wants) if want != have]
        inside = sum((wants.count(want) - 1) * self.prices.gradient_sum_s(name, want) for want in converted)
        return inside + max(0, wants.count(have) + len(converted) - 1) * self.prices.gradient_sum_s(name, have)

    def _made(self, name: str, chosen: Mapping[str, Strategy]) -> Layout:
        node = self.graph.nodes[self.graph.producer[name]]
        return chosen[node.name].outputs[[value.name for value in node.outputs].index(name)]

    def _conversions(self, name: str, have: Layout, wants: set[Layout]) -> float:
        """Each layout that is wanted is made once, whoever wants it."""
        return sum(self._convert(name, have, want) for want in wants if want != have)

    def _convert(self, name: str, have: Layout, want: Layout) -> float:
        if have == want:
            return 0.0
        if name in self.graph.parameter_of and isinstance(have.value, Shard):
            return INFINITE
        cost = self.prices.conversion(name, have, want)
        return INFINITE if cost is None else cost.total_s

    def _storages(self, name: str, wants: list[Layout]) -> Iterator[Layout]:
        yield REPLICATED
        if self.graph.values[name].requires_grad:
            yield PARTIAL_GRADIENT
        for want in wants:
            if isinstance(want.value, Shard):
                yield want if self.graph.values[name].requires_grad else Layout(want.value, Replicate())

    def _stored(self, name: str, have: Layout) -> float:
        size = self.prices.local_bytes(name, have)
        once = self.prices.optimizer_s(size)
        once += self.prices.partial_gradient_s(name) if have == PARTIAL_GRADIENT else 0.0
        uses = sum(node.inputs.count(name) for node in self.graph.nodes)
        sums = (uses - 1 / MICRO_BATCHES) * self.prices.gradient_sum_s(name, have)
        memory = self.seconds_per_byte * size if len(self.graph.values[name].shape) > 1 else 0.0
        return sums + once / MICRO_BATCHES + memory


def brute_force(options: Mapping[str, tuple[Strategy, ...]], evaluator: Evaluator) -> float:
    names = list(options)
    return min(
        evaluator.cost(dict(zip(names, joint, strict=True))) for joint in product(*(options[name] for name in names))
    )


@pytest.mark.parametrize("name", ["mlp", "mlp with bias", "small mlp", "residual", "norm"])
@pytest.mark.parametrize("memory_prices", [(0.0, 0.0), (1e-10, 0.0), (1e-10, 1e-11)])
@pytest.mark.parametrize("tp", [2, 8])
def test_it_agrees_with_brute_force(name: str, tp: int, memory_prices: tuple[float, float]) -> None:
    whole = small(name)
    options, prices = whole.options(tp), whole.prices(tp, 2)
    evaluator = Evaluator(whole, prices, *memory_prices)
    found = search_tensor(whole.folded, options, prices, MICRO_BATCHES, *memory_prices)
    assert evaluator.cost(found.strategies) == pytest.approx(found.seconds, rel=1e-9)
    assert found.seconds == pytest.approx(brute_force(options, evaluator), rel=1e-9)


@pytest.mark.parametrize("name", ["mlp with bias", "small mlp", "residual"])
def test_pinned_placements_agree_with_brute_force(name: str) -> None:
    """Every placement that any parameter could have, pinned by itself and beside one of another parameter."""
    whole = small(name)
    options, prices = whole.options(2), whole.prices(2, 2)
    storage = TensorTables(whole.folded, options).storage
    placed = [(own, placement) for own, layouts in storage.items() for placement in {x.value for x in layouts}]
    seconds = set()
    for (one, first), (other, second) in zip(placed, [*placed[3:], *placed[:3]], strict=True):
        for pins in ({one: first}, {other: second, one: first}):
            expected = brute_force(options, Evaluator(whole, prices, placements=pins))
            try:
                (found,) = TensorSearch(whole.folded, options, pins).run([Objective(prices, MICRO_BATCHES)])
            except PlanningError:
                assert expected == INFINITE
                continue
            assert found.seconds == pytest.approx(expected, rel=1e-9)
            assert {own: found.parameters[own].value for own in pins} == pins
            seconds.add(round(found.seconds, 12))
    assert len(seconds) > 2, "the pins make no difference"


@pytest.mark.parametrize("keep", [(1, 4, 5), (2, 3), (3, 5)], ids=str)
def test_attention_with_some_of_its_strategies(keep: tuple[int, ...]) -> None:
    """Its joint choices are too many to try all, so a few of each node's at a time, and the replicated one."""
    whole = on_meta_attention()
    every = whole.options(4)
    options = {name: (own[0], *(own[i] for i in keep if 0 < i < len(own))) for name, own in every.items()}
    prices = whole.prices(4, 1)
    evaluator = Evaluator(whole, prices)
    found = search_tensor(whole.folded, options, prices, MICRO_BATCHES)
    assert evaluator.cost(found.strategies) == pytest.approx(found.seconds, rel=1e-9)
    assert found.seconds == pytest.approx(brute_force(options, evaluator), rel=1e-9)


@cache
def on_meta_attention() -> Problem:
    return on_meta(lambda: QKV(4096, 32).bfloat16(), 1, 4096, 4096)


def letters(whole: Problem, strategies: Mapping[str, Strategy], op: str) -> list[Strategy]:
    return [strategies[node.name] for node in whole.folded.graph.nodes if node.op.split(".")[1] == op]


def test_a_large_mlp_is_cut_by_columns_and_then_by_rows() -> None:
    whole = small("mlp")
    found = search_tensor(whole.folded, whole.options(8), whole.prices(8, 2))
    up, down = letters(whole, found.strategies, "linear")
    assert up.outputs[0].shard == Shard(2), "the output of the first is not sharded by its features"
    assert down.inputs[0] == up.outputs[0]
    assert str(down.outputs[0]) == "P|R", "the second does not leave a partial sum"
    weights = {whole.folded.graph.parameter_of[name].target: str(x.value) for name, x in found.parameters.items()}
    assert weights == {"up.weight": "S(0)", "down.weight": "S(1)"}


def test_a_small_mlp_is_not_shared() -> None:
    whole = small("small mlp")
    found = search_tensor(whole.folded, whole.options(8), whole.prices(8, 2))
    assert all(own.letter == "" for own in found.strategies.values())
    assert {str(layout) for layout in found.parameters.values()} == {"R|R"}


def test_a_price_on_memory_shares_it_all_the_same() -> None:
    whole = small("small mlp")
    found = search_tensor(whole.folded, whole.options(8), whole.prices(8, 2), seconds_per_byte=1.0)
    assert all(layout.shard is not None for layout in found.parameters.values())


def test_attention_is_shared_by_heads() -> None:
    whole = on_meta_attention()
    found = search_tensor(whole.folded, whole.options(4), whole.prices(4, 1))
    (attention,) = letters(whole, found.strategies, "scaled_dot_product_attention")
    assert [layout.shard for layout in attention.inputs] == [Shard(1)] * 3


def test_what_leaves_a_loop_enters_it() -> None:
    whole = problem(tiny_gpt(hidden=1024, vocab=4096, context=128), token_batch(128))
    for byte_price in (0.0, 1e-9):
        found = search_tensor(whole.folded, whole.options(4), whole.prices(4, 8), seconds_per_byte=byte_price)
        for loop in whole.folded.loops:
            for enter, leave in zip(loop.enters, loop.leaves, strict=True):
                assert found.strategies[enter].outputs == found.strategies[leave].outputs


def test_a_layer_counts_as_often_as_it_runs() -> None:
    """Four layers cost what one costs, four times, plus what is outside."""
    totals = []
    for layers in (2, 4, 6):
        whole = problem(tiny_gpt(layers=layers), token_batch())
        assert len(whole.folded.loops) == 1
        totals.append(search_tensor(whole.folded, whole.options(1), whole.prices(1, 2)).seconds)
    assert totals[2] - totals[1] == pytest.approx(totals[1] - totals[0], rel=1e-9)
    assert totals[1] > totals[0]


def test_the_objective_is_the_same_every_time() -> None:
    whole = small("residual")
    first = search_tensor(whole.folded, whole.options(8), whole.prices(8, 2))
    again = search_tensor(whole.folded, whole.options(8), whole.prices(8, 2))
    assert first == again
