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
from tests.sharding.tensors import i, n, t, u

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


def freed_and_uncounted(rule: Rule) -> Rule:
    return freed(uncounted(rule))


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


def uncounted_units(rule: Rule) -> Rule:
    """The channels in as many pieces as there are."""
    moves = tuple(replace(move, units=None) for move in rule.moves)
    channels = Move("g", (Shard(1), Shard(0), Shard(0)), (Shard(1),))
    return replace(rule, moves=moves or (channels,))


def rows_of_experts(rule: Rule) -> Rule:
    return replace(rule, inputs=(("t", "k"), *rule.inputs[1:]), outputs=(("t", "n"),))


q, k, v = t(2, 4, 8, 4), t(2, 4, 8, 4), t(2, 4, 8, 4)
IGNORED = torch.tensor([1, -100, 2, 3])
SPLIT = Move("x", (Shard(1),), (Shard(1), Shard(1)))
SPLIT_EQUALLY = Move("x", (Shard(1, (1, 1)),), (Shard(1), Shard(1)))
JOIN = Move("x", (Shard(1), Shard(1)), (Shard(1),))
SAME = Move("x", (Shard(1),), (Shard(1),))
INNER = Move("x", (Shard(1),), (Shard(2),))
OUTER = Move("x", (Shard(0),), (Shard(1),))

COPIES = Move("x", (Shard(1),), (Shard(1, (1, 1)),))
SPOTS = torch.tensor([[0, 5, 2, 5]] * 4)
GROUPS = ((1,), (0,), (1,), 1)
OWN_STATISTICS = (None, None, None, None, True, 0.1, 1e-5, False)
BATCH_NORM = (t(4, 8, 2), t(8), t(8), None, None, True, 0.1, 1e-5, False)
OFFSETS = torch.tensor([1, 3, 4, 8], dtype=torch.int32)
EXPERTS = (t(8, 4).detach().float(), t(4, 4, 8).detach().float(), OFFSETS)

SPECTRUM = torch.stft(n(2, 15), 4, return_complex=True, window=n(4))
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
    ("replaced positions are free", freed, ("aten.scatter.src", u(4, 8), 1, SPOTS, u(4, 4))),
    ("x is added by all", added_by_all, ("aten.scatter_add.default", u(4, 8), 1, SPOTS, u(4, 4))),
    ("positions are put by all", added_by_all, ("aten.index_put.default", t(8, 4), [SPOTS[0]], t(4, 4), True)),
    ("a filled number is linear", everywhere_linear, ("aten.scatter.value", u(4, 8), 1, SPOTS, 1.5)),
    ("a transformed dim is free", freed, ("aten.fft_fft.default", t(4, 8))),
    ("an angle is linear", everywhere_linear, ("aten.angle.default", torch.complex(t(4, 8), t(4, 8)))),
    ("groups are cut", uncounted_units, ("aten.group_norm.default", t(4, 12, 2), 3, t(12), t(12))),
    ("a convolution's groups are cut", uncounted_units, ("aten.conv1d.default", t(2, 8, 4), t(8, 8, 3), t(8), *GROUPS)),
    ("a channel's positions are free", freed, ("aten.instance_norm.default", t(4, 8, 4), *OWN_STATISTICS)),
    ("a matrix's rows are free", freed, ("aten.linalg_solve.default", t(2, 4, 4), t(2, 4, 4))),
    ("each element's copies are a part", moved(COPIES), ("aten.repeat_interleave.self_int", t(2, 4), 2, 1)),
    ("windows are free", freed, ("aten.unfold.default", t(4, 8), 1, 2, 2)),
    ("an image's rows are free", freed, ("aten.upsample_bilinear2d.vec", t(2, 4, 4, 4), None, True, [2.0, 2.0])),
    ("channels are shuffled in a row", moved(SAME), ("aten.channel_shuffle.default", t(2, 8, 4), 2)),
    ("weighted classes are averaged alike", freed_and_uncounted, ("aten.nll_loss_nd.default", t(4, 8), IGNORED, n(8))),
    ("a batch's statistics are its parts'", freed, ("aten.batch_norm.default", *BATCH_NORM)),
    ("a time step is free", freed, ("aten.lstm_cell.default", t(4, 4), [t(4, 2), t(4, 2)], t(8, 4), t(8, 2))),
    ("rows of experts are free", rows_of_experts, ("aten._grouped_mm.default", *EXPERTS)),
    ("looked up rows are free", freed, ("aten.gather.default", u(4, 4), 1, i(4, 4, 4))),
    ("taken elements are free", freed, ("aten.take.default", t(4, 4), i(16, 4))),
    ("rotated dims are free", freed, ("aten.rot90.default", t(4, 4), 1, (0, 1))),
    ("frames are free", freed, ("aten.istft.default", SPECTRUM, 4, None, None, n(4))),
    ("classes of a margin are free", freed, ("aten.multi_margin_loss.default", t(4, 8), i(8, 4))),
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
