"""The proof fails for rules that are wrong: what it says of the right ones is worth something."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from autopart.ir.placement import Shard
from autopart.probe.prove import Disproved, all_strategies
from autopart.probe.traced import Traced, single
from autopart.sharding.find_rule import find_rule
from autopart.sharding.rule import Move, Rule
from tests.sharding.proof import prove
from tests.sharding.tensors import i, t, u

Break = Callable[[Rule], Rule]


def freed(rule: Rule) -> Rule:
    return replace(rule, whole=frozenset())


def everywhere_linear(rule: Rule) -> Rule:
    return replace(rule, linear=frozenset(range(len(rule.inputs))))


def linear_maximum(rule: Rule) -> Rule:
    return replace(rule, whole=frozenset(), linear=frozenset({0}))


def added_by_all(rule: Rule) -> Rule:
    return replace(rule, once=frozenset())


def not_averaged(rule: Rule) -> Rule:
    return replace(rule, mean=False)


def uncounted(rule: Rule) -> Rule:
    return replace(rule, counts=None)


def without_calls(rule: Rule) -> Rule:
    return replace(rule, moves=tuple(replace(move, call=None) for move in rule.moves))


def transposed(rule: Rule) -> Rule:
    return replace(rule, inputs=(rule.inputs[0], rule.inputs[1][::-1]))


def misaligned(rule: Rule) -> Rule:
    return replace(rule, inputs=(rule.inputs[0], ("d0",)))


def moved(*moves: Move) -> Break:
    return lambda rule: replace(rule, moves=moves)


def unreduced(rule: Rule) -> Rule:
    return replace(rule, moves=tuple(replace(move, reduces=False) for move in rule.moves))


q, k, v = t(2, 4, 8, 4), t(2, 4, 8, 4), t(2, 4, 8, 4)
IGNORED = torch.tensor([1, -100, 2, 3])
SPLIT = Move("x", (Shard(1),), (Shard(1), Shard(1)))
SPLIT_EQUALLY = Move("x", (Shard(1, (1, 1)),), (Shard(1), Shard(1)))
JOIN = Move("x", (Shard(1), Shard(1)), (Shard(1),))
SAME = Move("x", (Shard(1),), (Shard(1),))
INNER = Move("x", (Shard(1),), (Shard(2),))
OUTER = Move("x", (Shard(0),), (Shard(1),))

BROKEN: list[tuple[str, Break, tuple[str, Any]]] = [
    ("a normalized dim is free", freed, ("aten.layer_norm.default", t(4, 8), (8,), t(8), t(8))),
    ("a softmaxed dim is free", freed, ("aten.softmax.int", t(4, 8), -1)),
    ("a cumulated dim is free", freed, ("aten.cumsum.default", t(4, 8), 1)),
    ("a sorted dim is free", freed, ("aten.sort.default", t(4, 8), 1)),
    ("a flipped dim is free", freed, ("aten.flip.default", t(4, 8), (1,))),
    ("a group's channels are free", freed, ("aten.group_norm.default", t(4, 8, 2), 2, t(8), t(8))),
    ("causal queries are free", freed, ("aten.scaled_dot_product_attention.default", q, k, v, None, 0.0, True)),
    ("keys are free", freed, ("aten.scaled_dot_product_attention.default", q, k, v)),
    ("positions of a convolution are free", freed, ("aten.conv1d.default", t(2, 4, 8), t(4, 4, 2), t(4))),
    ("a maximum is summed", linear_maximum, ("aten.amax.default", t(4, 8), (1,))),
    ("a norm is summed", freed, ("aten.linalg_vector_norm.default", t(4, 8), 2, (1,))),
    ("the bias is added by all", added_by_all, ("aten.linear.default", t(4, 8), t(4, 8), t(4))),
    ("a mean is a sum", not_averaged, ("aten.mean.dim", t(4, 8), (1,))),
    ("a sum is a mean", lambda r: replace(r, mean=True), ("aten.sum.dim_IntList", t(4, 8), (1,))),
    ("an average loss is a sum", not_averaged, ("aten.mse_loss.default", t(4, 8), t(4, 8))),
    ("targets are not counted", uncounted, ("aten.cross_entropy_loss.default", t(4, 8), IGNORED)),
    ("a sharded loss is partial", unreduced, ("aten.cross_entropy_loss.default", t(4, 8), IGNORED)),
    ("a number is added by all", everywhere_linear, ("aten.add.Tensor", t(4, 8), 1)),
    ("a product is linear", everywhere_linear, ("aten.mul.Tensor", t(4, 8), t(4, 8))),
    ("an exponential is linear", everywhere_linear, ("aten.exp.default", t(4, 8))),
    ("a padded number is added by all", everywhere_linear, ("aten.constant_pad_nd.default", t(4, 8), (1, 1), 2.5)),
    ("pieces are not parts", moved(SPLIT), ("aten.split_with_sizes.default", t(2, 12), (4, 8), 1)),
    ("unequal pieces are equal parts", moved(SPLIT_EQUALLY), ("aten.split_with_sizes.default", t(2, 12), (4, 8), 1)),
    ("joined pieces are not parts", moved(JOIN), ("aten.cat.default", [t(2, 4), t(2, 4)], 1)),
    ("an inner factor is outer", moved(INNER), ("aten.view.default", t(4, 8), (4, 4, 2))),
    ("rows are columns", moved(OUTER), ("aten.view.default", t(4, 4), (4, 4))),
    ("halves are no parts", moved(SAME), ("aten.glu.default", t(4, 8), 1)),
    ("rows are found anywhere", without_calls, ("aten.embedding.default", t(8, 4), i(4, 2))),
    ("a matrix's dims change places", transposed, ("aten.mm.default", t(4, 4), t(4, 4))),
    ("a broadcast operand is sharded", misaligned, ("aten.mul.Tensor", t(4, 4), t(4))),
    ("a repeated dim is contiguous", moved(SAME), ("aten.repeat.default", t(2, 4), (1, 2))),
    ("looked up rows are free", freed, ("aten.gather.default", u(4, 4), 1, i(4, 4, 4))),
]  # fmt: skip


def fails(traced: Traced, rule: Rule) -> bool:
    node = traced.graph.nodes[0]
    for strategy in all_strategies(node, traced, rule, {}, 2):
        try:
            prove(node, traced, rule, strategy, 2)
        except (Disproved, RuntimeError, IndexError):
            return True
    return False


@pytest.mark.parametrize(("broken", "call"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_the_proof_of_a_broken_rule_fails(broken: Break, call: tuple[str, Any]) -> None:
    traced = single(*call)
    rule = find_rule(traced.graph.nodes[0], traced.graph)
    assert rule is not None
    assert not fails(traced, rule)
    assert fails(traced, broken(rule))
