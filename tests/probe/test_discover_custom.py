"""What is discovered of ops that no rule is written for."""

from typing import Any

import pytest
import torch

from autopart import RuleError, rules
from tests.custom_ops import ops

GENERATOR = torch.Generator().manual_seed(0)


def r(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


FOUND: list[tuple[str, Any, list[tuple[Any, ...]], str]] = [
    ("one rank", ops.gate, [(r(6, 12), r(6, 12), r(12))], "a b, a b, b -> a b"),
    ("all sizes alike", ops.gate, [(r(6, 6), r(6, 6), r(6))], "a b, a b, b -> a b"),
    (
        "any number of leading dims",
        ops.gate,
        [(r(12), r(12), r(12)), (r(6, 12), r(6, 12), r(12)), (r(6, 18, 12), r(6, 18, 12), r(12))],
        "b* a, b* a, a -> b* a",
    ),
    ("by name", ops.gate, [(r(6, 12), {"scale": r(12), "by": r(6, 12)})], "a b, a b, b -> a b"),
    ("pairs", ops.pairs, [(r(6, 12),)], "a X -> a X; linear 0"),
    ("pairs that shares leave together", ops.pairs, [(r(6, 24),), (r(6, 36),)], "a X -> a X; linear 0"),
    ("a number that fits the whole", ops.heads, [(r(6, 12), 2)], "a X -> a X"),
    ("samples mixed", ops.centred, [(r(6, 12),)], "X a -> X a; linear 0"),
    ("two sums", ops.two_sums, [(r(6, 12), r(18, 12))], "i a?, j a? -> a; linear 0 1"),
    ("two sums of one size", ops.two_sums, [(r(6, 12), r(6, 12))], "i a?, j a? -> a; linear 0 1"),
    ("a product summed", ops.score, [(r(6, 12), r(6, 12), r())], "a i, a i, ? -> a"),
    ("an average", ops.distance, [(r(6, 12), r(6, 12))], "a i, a i -> a; mean"),
    ("float32 inside", ops.norm, [(r(6, 12), r(12)), (r(6, 18, 12), r(12))], "b* X, X -> b* X"),
    ("float32 only", ops.single_only, [(r(6, 12), r(12, 18))], "a i, i b -> a b"),
    ("whole numbers", ops.histogram, [(r(6, 12), r(18))], "a i, b -> a b"),
    ("rows by their number", ops.upper_rows, [(r(6, 12), 3)], "X a -> X a; linear 0"),
    ("a backward that mixes", ops.mixes_gradients, [(r(6, 12),)], "X a -> X a; linear 0"),
    ("sizes that cannot be shared", ops.gate, [(r(5, 12), r(5, 12), r(12))], "X a, X a, a -> X a"),
    (
        "sizes that two examples share",
        ops.gate,
        [(r(4, 12), r(4, 12), r(12)), (r(9, 12), r(9, 12), r(12))],
        "a b, a b, b -> a b",
    ),
    ("constant data", ops.gate, [(torch.zeros(6, 12), torch.zeros(6, 12), torch.ones(12))], "a b, a b, b -> a b"),
    ("a name that ATen has too", ops.silu, [(r(6, 12), {"copy": True})], "a b -> a b; linear 0"),
]


@pytest.mark.parametrize(("op", "examples", "notation"), [case[1:] for case in FOUND], ids=[case[0] for case in FOUND])
def test_what_is_found(op: Any, examples: list[tuple[Any, ...]], notation: str) -> None:
    assert rules.discover(op, examples).notation == notation


def test_what_is_left_out_of_some_examples_must_be_only_added() -> None:
    x, w = r(6, 12), r(18, 12)
    found = rules.discover(torch.ops.aten.linear.default, [(x, w), (x, w, r(18))])
    assert found.notation == "a i, b i, b? -> a b"
    with pytest.raises(RuleError, match="with and without weight need a notation each"):
        rules.discover(torch.ops.aten.layer_norm.default, [(x, [12]), (x, [12], r(12))])


def test_a_sum_beside_a_mean_is_left_whole() -> None:
    found = rules.discover(ops.sum_and_mean, [(r(6, 12, 18), r(6, 12, 18))])
    assert found.notation == "a X i, a X i -> a"
    assert {item.dim: item.why for item in found.whole} == {
        "x dim 1": "may be sharded in some examples only, or not beside the others",
        "y dim 1": "may be sharded in some examples only, or not beside the others",
    }


REFUSED: list[tuple[str, Any, list[tuple[Any, ...]], str]] = [
    ("random", ops.noise, [(r(6, 12),)], "autopart_tests.noise.default draws random numbers"),
    ("in place", ops.scale_in_place, [(r(6, 12),)], "changes its arguments"),
    ("a backward not linear", ops.clips_gradients, [(r(6, 12),)], "backward is not linear"),
    ("no operator", torch.sigmoid, [(r(6, 12),)], "pass it as torch.ops"),
    ("several overloads", torch.ops.aten.add, [(r(6), r(6))], "pass one: aten.add.Tensor, aten.add.Scalar"),
    ("no examples", ops.gate, [], "no examples given"),
    ("no tensor", torch.ops.aten.full.default, [([6], 1.0)], "was given no tensor"),
    ("a call that fails", ops.gate, [(r(6, 12), r(5), r(12))], "fails on the example: RuntimeError"),
    ("leading dims not alike", ops.centred, [(r(6, 12),), (r(6, 18, 12),)], "no one notation fits"),
]


@pytest.mark.parametrize(
    ("op", "examples", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_is_refused(op: Any, examples: list[tuple[Any, ...]], message: str) -> None:
    with pytest.raises(RuleError, match=message):
        rules.discover(op, examples)


def test_what_it_says() -> None:
    found = rules.discover(ops.gate, [(r(6, 12), r(6, 12), r(12)), (r(6, 18, 12), r(6, 18, 12), r(12))])
    text = str(found)
    assert 'autopart_tests.gate.default: "b* a, b* a, a -> b* a"' in text
    assert "b* kept       x leading dims, by leading dims, output leading dims" in text
    assert "a  kept       x dim -1, by dim -1, scale dim 0, output dim -1" in text
    assert found.source in text
    assert [axis.letter for axis in found.letters] == ["b*", "a"]
    space: dict[str, Any] = {}
    exec(found.source, space)
    assert space["RULES"] == {found.op: found.notation}
    assert space["__doc__"].startswith("The sharding rule of autopart_tests.gate.default")


def test_weak_proofs_are_said() -> None:
    assert "values alone were compared" in str(rules.discover(ops.histogram, [(r(6, 12), r(18))]))
    assert "does not compute in float64" in str(rules.discover(ops.single_only, [(r(6, 12), r(12, 18))]))
    whole = rules.discover(ops.gate, [(r(5, 12), r(5, 12), r(12))]).whole
    assert whole[0].dim == "x dim 0" and "give a multiple of 6" in whole[0].why


def test_the_callers_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    rules.discover(ops.gate, [(r(6, 12), r(6, 12), r(12))])
    assert torch.equal(before, torch.get_rng_state())
