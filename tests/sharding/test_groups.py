"""Groups of rows shared out among ranks: values and gradients, and where the search chooses so."""

from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from autopart import api
from autopart.estimate.node import Prices
from autopart.ir.placement import PARTIAL_GRADIENT, PARTIAL_VALUE, REPLICATED, Layout, Shard, parse_layout, sharded
from autopart.runtime.comm import Comm
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.reshard import ALL_ROWS, OWN_ROWS, conversion
from autopart.sharding.rules.experts import GROUPED
from autopart.sharding.strategies import strategies
from cost_models.cluster import load_cluster
from cost_models.stack import load_stack
from tests.sharding import test_dispatch as dispatched

OWN = Layout(Shard(0, by="ends"), Shard(0, by="ends"))
GROUPS = 4


def through(comm: Comm, x: Tensor, up: Tensor, down: Tensor, ends: Tensor, scores: Tensor) -> Tensor:
    """A rank's part of two grouped products and what is between them, its part of the sum."""
    own = comm.grouped_mm(comm.own_rows(x, ends), up, ends)
    own = comm.grouped_mm(F.gelu(own) + 1, down, ends) / comm.own_rows(scores, ends)
    return comm.all_rows(own, ends)


@pytest.mark.parametrize("ends", [(3, 5, 6, 9), (0, 0, 9, 9), (9, 9, 9, 9), (0, 0, 0, 9)], ids=str)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_compute_what_one_does(ends: tuple[int, ...], ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((9, 4), (GROUPS, 4, 6), (GROUPS, 6, 4), (9, 1))
    whole = [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    x, up, down, scores = whole
    places = torch.tensor(ends, dtype=torch.int32)
    starts = [0, *ends[:-1]]
    rows = [F.gelu(x[a:b] @ up[i]) + 1 for i, (a, b) in enumerate(zip(starts, ends, strict=True))]
    expected = torch.cat([own @ matrix for own, matrix in zip(rows, down, strict=True)]) / scores
    total = torch.zeros_like(expected)
    for rank in range(ranks):
        comm, share = Comm(None, rank, ranks), GROUPS // ranks
        mine = slice(rank * share, (rank + 1) * share)
        total = total + through(comm, x, up[mine], down[mine], places, scores)
    torch.testing.assert_close(total, expected)
    gradient = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(total, whole, gradient)  # sums over the ranks are autograd's own here
    for own, other in zip(found, torch.autograd.grad(expected, whole, gradient), strict=True):
        torch.testing.assert_close(own, other)


def test_conversions() -> None:
    assert conversion(PARTIAL_GRADIENT, OWN, True) == OWN_ROWS
    assert conversion(REPLICATED, OWN, False) == OWN_ROWS
    assert conversion(OWN, PARTIAL_VALUE, True) == ALL_ROWS
    assert conversion(REPLICATED, OWN, True) is None, "the gradient would be whole, and each rank has its rows of it"
    for other in (sharded(0), sharded(1), PARTIAL_VALUE, Layout(Shard(0, by="others"), Shard(0, by="others"))):
        assert conversion(other, OWN, True) is None
    for other in (sharded(0), sharded(1), REPLICATED, PARTIAL_GRADIENT):
        assert conversion(OWN, other, True) is None
    assert parse_layout(str(OWN)) == OWN


def moves_by_group(expert: object) -> set[str]:
    prepared = api.prepare(dispatched.Dispatched(expert), dispatched.X, None)  # type: ignore[arg-type]
    return {
        node.op
        for node in prepared.folded.graph.nodes
        if (rule := prepared.rules[node.name]) is not None
        for move in rule.moves
        if any(shard is not None and shard.by is not None for shard in move.inputs)
    }


def test_only_rows_in_their_order_are_shared_out() -> None:
    found = moves_by_group(dispatched.put_by_number)
    assert {"transformers.grouped_mm_fallback.default", "aten.silu.default", "aten.mul.Tensor"} <= found
    assert "aten.sum.dim_IntList" not in found and "aten.view.default" not in found
    assert not moves_by_group(dispatched.downwards) and not moves_by_group(dispatched.groups_by_place)


def true_width(experts: int, width: int, hidden: int) -> torch.nn.Module:
    """Two layers of a Qwen3-MoE on meta."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=32_000, hidden_size=hidden, intermediate_size=4 * hidden, moe_intermediate_size=width,
        num_hidden_layers=2, num_attention_heads=32, num_key_value_heads=8, head_dim=128, num_experts=experts,
        num_experts_per_tok=8, max_position_embeddings=4096, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        return Qwen3MoeForCausalLM(config).to(torch.bfloat16)


def test_the_search_shares_out_whole_experts_where_nothing_else_divides() -> None:
    """Of 12 experts of 2048 x 1024, three ranks can share the number alone."""
    ids = torch.zeros(1, 4096, dtype=torch.int64, device="meta")
    prepared = api.prepare(true_width(12, 1024, 2048), {"input_ids": ids, "labels": ids.clone()}, None)
    plan = api.make_plan(prepared, 3, "dgx-h100", 8, api.Pins(tp=3, micro_batch=1))
    grouped = {node.name for node in prepared.folded.graph.nodes if node.op in GROUPED}
    assert {choice.call for choice in plan.nodes if choice.node in grouped} == {"grouped_mm"}
    experts = [choice.layout for choice in plan.parameters if "experts" in choice.name]
    assert len(experts) == 2 and all(layout == sharded(0) for layout in experts)


def test_whole_experts_are_priced_as_larger_products() -> None:
    """Qwen3-30B-A3B has 128 experts of 768 (arXiv:2505.09388, table 2): an eighth of each is a narrow product."""
    ids = torch.zeros(1, 4096, dtype=torch.int64, device="meta")
    prepared = api.prepare(true_width(128, 768, 2048), {"input_ids": ids, "labels": ids.clone()}, None)
    graph, tp = prepared.folded.graph, 8
    prices = Prices(graph, prepared.rules, load_cluster("dgx-h100"), tp, 1, load_stack("autopart"))
    parts_of = infer_axes(graph, prepared.rules).parts_of
    for node in graph.nodes:
        if node.op not in GROUPED:
            continue
        rule = prepared.rules[node.name]
        seconds = {own.letter: prices.node(node, own).total_s for own in strategies(node, graph, rule, parts_of, tp)}
        assert seconds["R"] < min(seconds["n"], seconds["k"]) < seconds[""]
        assert prices.flops(node) == 2 * 4096 * 8 * prod(prices.shapes[node.inputs[1]][1:])
