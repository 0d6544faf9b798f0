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
quick = settings(max_examples=20, derandomize=True)


def t(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_()


def prove_all(op: str, *args: Any, **kwargs: Any) -> int:
    """Prove all strategies of one call; how many of them shard."""
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats the stack for each kind of device
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


GROUPS = st.sampled_from((1, 2, 4, 8))


@quick
@given(GROUPS, SIZES, SIZES, st.booleans(), st.booleans())
def test_grouped_channels(groups: int, own: int, made: int, transposed: bool, bias: bool) -> None:
    x = t(2, groups * own, 4)
    weight = t(groups * own, made, 2) if transposed else t(groups * made, own, 2)
    args = (x, weight, *((t(groups * made),) if bias else (None,)))
    if transposed:
        prove_all("aten.conv_transpose1d.default", *args, (2,), (0,), (1,), groups)
    else:
        prove_all("aten.conv1d.default", *args, (2,), (1,), (1,), groups)
    prove_all("aten.group_norm.default", x, groups, t(groups * own), t(groups * own))


@quick
@given(SHAPES, st.integers(1, 6), st.data())
def test_repetition(shape: list[int], times: int, data: st.DataObject) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    prove_all("aten.repeat_interleave.self_int", t(*shape), times, dim)
    counts = data.draw(st.lists(st.sampled_from((1, 2, 4)), min_size=len(shape), max_size=len(shape) + 1))
    assume(prod(shape) * prod(counts) < 4096)
    prove_all("aten.repeat.default", t(*shape), counts)
    prove_all("aten.tile.default", t(*shape), counts[1:])


@quick
@given(SHAPES, SHAPES)
def test_kronecker(left: list[int], right: list[int]) -> None:
    assume(prod(left) * prod(right) < 2048)
    prove_all("aten.kron.default", t(*left), t(*right))


@quick
@given(SIZES, SIZES, SIZES, st.sampled_from((1, 2, 3)))
def test_pixels(channels: int, rows: int, columns: int, factor: int) -> None:
    prove_all("aten.pixel_shuffle.default", t(2, channels * factor**2, rows, columns), factor)
    prove_all("aten.pixel_unshuffle.default", t(2, channels, rows * factor, columns * factor), factor)
    prove_all("aten.channel_shuffle.default", t(2, channels * factor, rows), factor)


@quick
@given(SHAPES, SIZES, st.data())
def test_scatters(shape: list[int], count: int, data: st.DataObject) -> None:
    dim = data.draw(st.integers(0, len(shape) - 1))
    smaller = [data.draw(st.integers(1, size)) if data.draw(st.booleans()) else size for size in shape]
    own = [count if place == dim else size for place, size in enumerate(smaller)]
    indices = torch.randint(shape[dim], own)
    prove_all("aten.scatter_add.default", t(*shape), dim, indices, t(*own))
    prove_all("aten.gather.default", t(*shape), dim, indices)
    rows = [count if place == dim else size for place, size in enumerate(shape)]
    prove_all("aten.index_add.default", t(*shape), dim, torch.randint(shape[dim], (count,)), t(*rows))
    if count <= shape[dim]:
        once = torch.rand(shape).argsort(dim).narrow(dim, 0, count)
        once = once[tuple(slice(size) for size in own)]
        prove_all("aten.scatter.src", t(*shape), dim, once, t(*own))


@quick
@given(SHAPES, st.data(), st.booleans())
def test_several_indices(shape: list[int], data: st.DataObject, adds: bool) -> None:
    dims = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    common = data.draw(st.lists(st.sampled_from((1, 2, 4)), min_size=1, max_size=2))
    places: list[torch.Tensor | None] = [None] * (max(dims) + 1)
    for dim in dims:
        own = [data.draw(st.sampled_from((1, size))) for size in common][data.draw(st.integers(0, len(common) - 1)) :]
        places[dim] = torch.randint(shape[dim], own)
    x = t(*shape)
    prove_all("aten.index.Tensor", x, places)
    indices = [slice(None) if place is None else place for place in places]
    values = torch.randn_like(x[tuple(indices)]).requires_grad_()
    if adds:
        prove_all("aten.index_put.default", x, places, values, True)


@quick
@given(SHAPES, st.data())
def test_transforms(shape: list[int], data: st.DataObject) -> None:
    dims = data.draw(st.lists(st.integers(-1, len(shape) - 2), unique=True, min_size=1))
    prove_all("aten.fft_fftn.default", t(*shape), None, dims)
    prove_all("aten.fft_rfftn.default", t(*shape), None, dims)
    prove_all("aten.fft_fftshift.default", t(*shape), dims)


@quick
@given(st.lists(SIZES, min_size=2, max_size=4), st.data(), st.sampled_from((0, 1, 2)), st.booleans(), st.booleans())
def test_losses_of_classes(shape: list[int], data: st.DataObject, reduction: int, weighted: bool, soft: bool) -> None:
    rows = [shape[0], *shape[2:]]
    targets = torch.rand(shape, dtype=torch.float64) if soft else torch.randint(shape[1], rows)
    weight = torch.rand(shape[1], dtype=torch.float64) + 0.1 if weighted else None
    smoothing = data.draw(st.sampled_from((0.0, 0.2)))
    prove_all("aten.cross_entropy_loss.default", t(*shape), targets, weight, reduction, -100, smoothing)
    if not soft:
        prove_all("aten.nll_loss_nd.default", t(*shape), targets, weight, reduction)


@quick
@given(st.lists(st.integers(0, 8), min_size=3, max_size=3), st.sampled_from((4, 8)), st.sampled_from((4, 8)))
def test_experts(ends: list[int], k: int, n: int) -> None:
    ends, rows = [*sorted(ends), 8], 8
    x, weight = (x.detach().float() for x in (t(rows, k), t(4, k, n)))
    x = x.requires_grad_()
    prove_all("aten._grouped_mm.default", x, weight, torch.tensor(ends, dtype=torch.int32))


def test_what_is_drawn_does_shard() -> None:
    assert prove_all("aten.reshape.default", t(4, 24), (4, 3, 8)) >= 6
    assert prove_all("aten.reshape.default", t(8, 6), (16, 3)) >= 1
    assert prove_all("aten.repeat_interleave.self_int", t(2, 4), 4, 1) >= 4
    assert prove_all("aten.group_norm.default", t(2, 8, 2), 4) >= 3
    assert prove_all("aten.conv1d.default", t(1, 8, 4), t(8, 1, 2), None, (1,), (0,), (1,), 8) >= 2
    assert prove_all("aten.split_with_sizes.default", t(2, 16), (8, 4, 4), 1) >= 2
