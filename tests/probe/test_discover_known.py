"""What is discovered of ops whose rules are written by hand: every letter of theirs, and none that they know better."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from autopart import rules
from autopart.capture.evaluate import overload
from autopart.ir.graph import Graph, Node
from autopart.probe.traced import single
from autopart.sharding.find_rule import find_rule
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import strategies

GENERATOR = torch.Generator().manual_seed(0)


def r(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


def i(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(high, shape, generator=GENERATOR)


def b(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=GENERATOR) < 0.5


q, k, v = r(6, 12, 18, 24), r(6, 12, 30, 24), r(6, 12, 30, 36)
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("aten.linear.default", (r(6, 24, 12), r(18, 12), r(18))),
    ("aten.linear.default", (r(6, 6), r(6, 6), r(6))),
    ("aten.mm.default", (r(6, 12), r(12, 18))),
    ("aten.mm.default", (r(6, 6), r(6, 6))),
    ("aten.addmm.default", (r(18), r(6, 12), r(12, 18))),
    ("aten.bmm.default", (r(6, 12, 18), r(6, 18, 24))),
    ("aten.baddbmm.default", (r(6, 12, 24), r(6, 12, 18), r(6, 18, 24))),
    ("aten.matmul.default", (r(6, 12, 18), r(18, 24))),
    ("aten.einsum.default", ("abc,dbc->ad", [r(6, 12, 18), r(24, 12, 18)])),
    ("aten.add.Tensor", (r(6, 12, 18), r(12, 18))),
    ("aten.add.Tensor", (r(6, 12), r(6, 1))),
    ("aten.add.Tensor", (r(6, 6), r(6, 6))),
    ("aten.sub.Tensor", (i(9, 6, 12), i(9, 6, 12))),
    ("aten.mul.Tensor", (r(6, 6), r(6))),
    ("aten.mul.Tensor", (r(6, 12), 3.0)),
    ("aten.silu.default", (r(6, 12),)),
    ("aten.neg.default", (r(6, 12),)),
    ("aten.where.self", (b(6, 12), r(6, 12), r(12))),
    ("aten.masked_fill.Scalar", (r(6, 12), b(6, 12), 0.0)),
    ("aten.logical_and.default", (b(6, 12), b(12))),
    ("aten.layer_norm.default", (r(6, 12, 18), [18], r(18), r(18))),
    ("aten.rms_norm.default", (r(6, 12, 18), [18], r(18))),
    ("aten.group_norm.default", (r(6, 12, 18), 2, r(12), r(12))),
    ("aten.softmax.int", (r(6, 12, 18), 1)),
    ("aten.log_softmax.int", (r(6, 6), -1)),
    ("aten.cumsum.default", (r(6, 12), 1)),
    ("aten.cumprod.default", (r(6, 12), 0)),
    ("aten.sort.default", (r(6, 12), 1)),
    ("aten.topk.default", (r(6, 12), 3)),
    ("aten.argmax.default", (r(6, 12), 1)),
    ("aten.max.dim", (r(6, 12), 1)),
    ("aten.sum.dim_IntList", (r(6, 12, 18), [1])),
    ("aten.sum.dim_IntList", (r(6, 12, 18), [0, 2], True)),
    ("aten.mean.dim", (r(6, 12, 18), [1, 2])),
    ("aten.logsumexp.default", (r(6, 12), [1])),
    ("aten.embedding.default", (r(18, 12), i(18, 6, 24))),
    ("aten.index_select.default", (r(6, 12), 1, i(12, 18))),
    ("aten.gather.default", (r(6, 12), 1, i(12, 6, 18))),
    ("aten.conv1d.default", (r(6, 12, 24), r(18, 12, 3), r(18))),
    ("aten.conv2d.default", (r(6, 12, 5, 5), r(18, 12, 3, 3))),
    ("aten.max_pool2d.default", (r(6, 12, 8, 8), [2, 2])),
    ("aten.scaled_dot_product_attention.default", (q, k, v)),
    ("aten.scaled_dot_product_attention.default", (q, q, q, None, 0.0, True)),
    ("aten.transpose.int", (r(6, 12, 18), 0, 2)),
    ("aten.permute.default", (r(6, 12, 18), [2, 0, 1])),
    ("aten.expand.default", (r(6, 1), [6, 12])),
    ("aten.unsqueeze.default", (r(6, 12), 1)),
    ("aten.select.int", (r(6, 12), 1, 3)),
    ("aten.slice.Tensor", (r(6, 12), 1, 0, 6)),
    ("aten.flip.default", (r(6, 12), [1])),
    ("aten.tril.default", (r(6, 12, 18),)),
    ("aten.stack.default", ([r(6, 12), r(6, 12)], 1)),
    ("aten.cat.default", ([r(6, 12), r(18, 12)], 0)),
    ("aten.split_with_sizes.default", (r(6, 18), [6, 12], 1)),
    ("aten.mse_loss.default", (r(6, 12), r(6, 12))),
    ("aten.mse_loss.default", (r(6, 12), r(6, 12), 2)),
    ("aten.mse_loss.default", (r(6, 12), r(6, 12), 0)),
]  # fmt: skip

Layouts = tuple[tuple[str, ...], bool]


def learning(arg: Any) -> Any:
    """`arg` with its tensors in float64 and requiring gradients, where they can."""
    if isinstance(arg, list):
        return [learning(item) for item in arg]
    return arg.double().requires_grad_() if torch.is_tensor(arg) and arg.is_floating_point() else arg


def layouts(rule: Rule, node: Node, graph: Graph, divided: bool) -> set[Layouts]:
    """What the letters of a rule allow, or what it allows beside them, on two ranks and three."""
    bare = replace(rule, moves=())
    found = (s for degree in (2, 3) for s in strategies(node, graph, bare, {}, degree))
    return {(tuple(map(str, (*s.inputs, "->", *s.outputs))), s.scale) for s in found if s.divided is divided}


@pytest.mark.parametrize(("op", "args"), CALLS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_letters_of_hand_written_rules_are_found(op: str, args: tuple[Any, ...]) -> None:
    found = rules.discover(overload(op), [args])
    traced = single(op, *map(learning, args))
    node, graph = traced.graph.nodes[0], traced.graph
    by_hand, own = find_rule(node, graph), find_rule(node, graph, {op: found.notation})
    assert by_hand is not None and own is not None
    assert layouts(own, node, graph, divided=True) == layouts(by_hand, node, graph, divided=True)
    assert layouts(own, node, graph, divided=False) >= layouts(by_hand, node, graph, divided=False)


def test_every_call_shards_by_letters_or_has_none() -> None:
    """The comparison would pass for rules that allow nothing."""
    sharded = set()
    for op, args in CALLS:
        traced = single(op, *map(learning, args))
        rule = find_rule(traced.graph.nodes[0], traced.graph)
        if rule is not None and layouts(rule, traced.graph.nodes[0], traced.graph, divided=True):
            sharded.add(op)
    assert sharded == {op for op, _ in CALLS}
