"""Rules whose letters depend on sizes, proved on sizes that hypothesis draws."""

from math import prod
from typing import Any

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autopart.probe.prove import all_strategies
from autopart.probe.traced import Traced, single
from autopart.sharding.find_rule import find_rule
from autopart.sharding.infer_axes import infer_axes
from tests.sharding.proof import prove

SIZES = st.sampled_from((1, 2, 3, 4, 6, 8))
SHAPES = st.lists(SIZES, min_size=1, max_size=4)
quick = settings(max_examples=20, deadline=None, derandomize=True)


def t(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def prove_all(op: str, *args: Any, **kwargs: Any) -> int:
    """Prove all strategies of one call; how many of them shard."""
    torch.manual_seed(0)
    traced = single(op, *args, **kwargs)
    return sum(prove_graph(traced, degree) for degree in (2, 4))


def prove_graph(traced: Traced, degree: int) -> int:
    node = traced.graph.nodes[0]
    rule = find_rule(node, traced.graph)
    if rule is None:
        return 0
    parts_of = infer_axes(traced.graph, {node.name: rule}).parts_of
    found = all_strategies(node, traced, rule, parts_of, degree)
    for strategy in found:
        prove(node, traced, rule, strategy, degree)
    return sum(strategy.divided for strategy in found)


@quick
@given(SHAPES, st.data())
def test_reshape(shape: list[int], data: st.DataObject) -> None:
    rest, result = prod(shape), []
    for _ in range(data.draw(st.integers(0, 3))):
        size = data.draw(st.sampled_from([size for size in range(1, rest + 1) if rest % size == 0]))
        result.append(size)
        rest //= size
    prove_all("aten.reshape.default", t(*shape), [*result, rest])


@quick
@given(st.permutations(range(4)), st.lists(SIZES, min_size=4, max_size=4))
def test_permute(order: list[int], shape: list[int]) -> None:
    prove_all("aten.permute.default", t(*shape), order)


@quick
@given(SHAPES, st.data())
def test_broadcast_operands(shape: list[int], data: st.DataObject) -> None:
    other = [data.draw(st.sampled_from((1, size))) for size in shape][data.draw(st.integers(0, len(shape))) :]
    prove_all("aten.mul.Tensor", t(*shape), t(*other))
    prove_all("aten.sub.Tensor", t(*other), t(*shape))


@quick
@given(SHAPES, SHAPES, SIZES, SIZES, SIZES, st.data())
def test_matmul(left: list[int], right: list[int], m: int, k: int, n: int, data: st.DataObject) -> None:
    right = [data.draw(st.sampled_from((1, size))) for size in left][data.draw(st.integers(0, len(left))) :]
    prove_all("aten.matmul.default", t(*left, m, k), t(*right, k, n))


@quick
@given(SHAPES, st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
def test_split_and_cat(shape: list[int], sizes: list[int], data: st.DataObject) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    shapes = [[size if place == dim % len(shape) else own for place, own in enumerate(shape)] for size in sizes]
    prove_all("aten.cat.default", [t(*own) for own in shapes], dim)
    whole = [sum(sizes) if place == dim % len(shape) else own for place, own in enumerate(shape)]
    prove_all("aten.split_with_sizes.default", t(*whole), sizes, dim)
    prove_all("aten.split.Tensor", t(*whole), sizes[0], dim)
    prove_all("aten.chunk.default", t(*whole), len(sizes), dim)


@quick
@given(SHAPES, st.data())
def test_reductions(shape: list[int], data: st.DataObject) -> None:
    dims = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True))
    keep = data.draw(st.booleans())
    for op in ("aten.sum.dim_IntList", "aten.mean.dim", "aten.amax.default"):
        prove_all(op, t(*shape), dims, keep)


@quick
@given(SHAPES, SHAPES, st.data())
def test_expand(new: list[int], shape: list[int], data: st.DataObject) -> None:
    source = [data.draw(st.sampled_from((1, size))) for size in shape]
    assume(prod(new) * prod(shape) < 4096)
    prove_all("aten.expand.default", t(*source), [*new, *shape])


@quick
@given(st.data(), st.booleans(), st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 4)))
def test_attention(data: st.DataObject, causal: bool, kv_heads: int, group: int) -> None:
    queries, keys, size, out = (data.draw(st.sampled_from((1, 2, 4, 8))) for _ in range(4))
    q, k, v = t(2, kv_heads * group, queries, size), t(2, kv_heads, keys, size), t(2, kv_heads, keys, out)
    args = (None, 0.0, causal)
    prove_all("aten.scaled_dot_product_attention.default", q, k, v, *args, enable_gqa=group > 1)


def test_what_is_drawn_does_shard() -> None:
    assert prove_all("aten.reshape.default", t(4, 24), (4, 3, 8)) >= 6
    assert prove_all("aten.reshape.default", t(8, 6), (16, 3)) >= 1
    assert prove_all("aten.split_with_sizes.default", t(2, 16), (8, 4, 4), 1) >= 2
