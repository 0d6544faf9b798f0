"""The proof of a strategy: run the op whole, run it on virtual ranks, and compare the outputs and all gradients.

Every rank gets its inputs as the strategy's layouts say, runs the expression that the emitter writes, and its outputs
and gradients are put together as the layouts say. A partial tensor is split into random summands, so that nothing but
linearity passes.
"""

from collections.abc import Iterable

import torch

from autopart.ir.graph import Node
from autopart.ir.placement import Layout, Partial, Placement, Replicate, Shard, divides, local_shape
from autopart.probe.ranks import Runner, in_turn, run_ranks
from autopart.probe.traced import Traced, apply
from autopart.runtime.pieces import join, own_piece
from autopart.runtime.seeded import seeded
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import PartsOf, Strategy, strategies

FORCED = ((1, 1), (1, 1, 1), (2, 1, 1))


class Disproved(Exception):  # noqa: N818 - a finding, not a failure
    """The ranks together do not compute what one does."""


def all_strategies(
    node: Node, traced: Traced, rule: Rule | None, parts_of: PartsOf, degree: int
) -> tuple[Strategy, ...]:
    """The strategies under all demands: `parts_of`, and for the node's own dims all of FORCED that sizes allow."""
    asked = dict(parts_of)
    for name in (*node.inputs, *(value.name for value in node.outputs)):
        shape = traced.graph.values[name].shape
        for dim in range(len(shape)):
            forced = {parts for parts in FORCED if divides(Shard(dim, parts), shape, degree)}
            asked[(name, dim)] = frozenset(forced | set(asked.get((name, dim), frozenset())))
    return strategies(node, traced.graph, rule, asked, degree)


def prove(
    node: Node,
    traced: Traced,
    rule: Rule,
    strategy: Strategy,
    degree: int,
    *,
    runner: Runner = in_turn,
    tolerance: float | None = None,
) -> None:
    """Show that `strategy` computes what `node` does.

    Args:
        node: a node of `traced`.
        traced: has the values of its inputs.
        rule: its rule.
        strategy: one of the rule's, on `degree` ranks.
        degree: the number of virtual ranks.
        runner: runs them.
        tolerance: relative and absolute; left out, 1e-10, or 1e-5 where something is in float32.

    Raises:
        Disproved: shapes, outputs or gradients differ; the message says which.
        and whatever the op raises on shards.
    """
    graph, values = traced.graph, traced.values
    device = next((values[name].device for name in node.inputs if values[name].is_cuda), torch.device("cpu"))
    with seeded(0, device):
        whole = [values[name].detach().clone().requires_grad_(graph.values[name].requires_grad) for name in node.inputs]
        pieces = [cut(x.detach(), layout.value, degree) for x, layout in zip(whole, strategy.inputs, strict=True)]
        local = [
            [own[rank].clone().requires_grad_(x.requires_grad) for x, own in zip(whole, pieces, strict=True)]
            for rank in range(degree)
        ]
        results = run_ranks(node, rule, strategy, local, runner)
        for own in results:
            for value, layout, result in zip(node.outputs, strategy.outputs, own, strict=True):
                if tuple(result.shape) != local_shape(value.shape, layout, degree):
                    raise Disproved(f"output {value.name} of a rank has shape {tuple(result.shape)}")
        if rule.random:
            return
        expected = apply(node, whole)
        if tolerance is None:
            tolerance = 1e-10 if all(x.dtype != torch.float32 for x in (*whole, *expected)) else 1e-5
        for slot, (value, layout) in enumerate(zip(node.outputs, strategy.outputs, strict=True)):
            shares = [own[slot].detach() for own in results]
            check(shares, expected[slot].detach(), layout.value, tolerance, f"output {value.name}")
        _gradients(node, strategy, whole, local, expected, results, tolerance)


def _gradients(
    node: Node,
    strategy: Strategy,
    whole: list[torch.Tensor],
    local: list[list[torch.Tensor]],
    expected: tuple[torch.Tensor, ...],
    results: list[tuple[torch.Tensor, ...]],
    tolerance: float,
) -> None:
    """Compare the gradients of all inputs, for random gradients of the outputs."""
    slots = [i for i, value in enumerate(node.outputs) if value.requires_grad and differentiable(expected[i])]
    wanted = [i for i, x in enumerate(whole) if x.requires_grad]
    if not slots or not wanted:
        return
    given = [torch.randn_like(expected[slot]) for slot in slots]
    shares = [cut(g, strategy.outputs[slot].gradient, len(local)) for g, slot in zip(given, slots, strict=True)]
    target = backward([expected[s] for s in slots], [whole[i] for i in wanted], given)
    own = [
        backward([results[rank][s] for s in slots], [local[rank][i] for i in wanted], [g[rank] for g in shares])
        for rank in range(len(local))
    ]
    for place, index in enumerate(wanted):
        placement = strategy.inputs[index].gradient
        check([g[place] for g in own], target[place], placement, tolerance, f"gradient of {node.inputs[index]}")


def differentiable(x: torch.Tensor) -> bool:
    """Whether a gradient can be sent back from `x`."""
    return x.requires_grad and type(x.grad_fn).__name__ != "NotImplemented"


def backward(
    outputs: Iterable[torch.Tensor], inputs: list[torch.Tensor], given: Iterable[torch.Tensor]
) -> list[torch.Tensor]:
    """The gradients of `inputs` for those `given` of `outputs`; zeros where nothing depends on an input."""
    pairs = [(output, gradient) for output, gradient in zip(outputs, given, strict=True) if output.requires_grad]
    found = torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
    return [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(inputs, found, strict=True)]


def cut(x: torch.Tensor, placement: Placement, degree: int) -> list[torch.Tensor]:
    """What every rank holds of `x`."""
    if isinstance(placement, Replicate):
        return [x] * degree
    if isinstance(placement, Shard):
        return [own_piece(x, placement, rank, degree) for rank in range(degree)]
    if x.dtype is torch.bool:
        raise Disproved("a sum of booleans")
    random = torch.randn_like if x.is_floating_point() or x.is_complex() else _small_integers
    summands = [random(x) for _ in range(degree - 1)]
    return [*summands, x - torch.stack(summands).sum(0).to(x.dtype)] if summands else [x]


def _small_integers(x: torch.Tensor) -> torch.Tensor:
    return torch.randint_like(x, 9)


def check(pieces: list[torch.Tensor], whole: torch.Tensor, placement: Placement, tolerance: float, what: str) -> None:
    """Compare what the ranks hold with the whole.

    Raises:
        Disproved: they differ by more than `tolerance`.
    """
    if isinstance(placement, Shard):
        found = [join(pieces, placement)]
    elif isinstance(placement, Partial):
        if whole.dtype is torch.bool:
            raise Disproved("a sum of booleans")
        found = [torch.stack(pieces).sum(0)]
    else:
        found = pieces
    for tensor in found:
        if tensor.dtype is whole.dtype and torch.equal(tensor, whole):
            continue  # what is compared below takes ten times as long
        try:
            torch.testing.assert_close(tensor, whole, rtol=tolerance, atol=tolerance, equal_nan=True)
        except AssertionError as error:
            raise Disproved(f"{what} ({placement}): {error}") from None


def show(strategy: Strategy) -> str:
    """`i: S(1)|S(1), S(1)|S(1) -> P|R`"""
    return f"{strategy.letter}: {_layouts(strategy.inputs)} -> {_layouts(strategy.outputs)}"


def _layouts(layouts: tuple[Layout, ...]) -> str:
    return ", ".join(map(str, layouts))
