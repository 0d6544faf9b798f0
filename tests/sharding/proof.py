"""The proof of a strategy: run the op whole, run it on virtual ranks, and compare the outputs and all gradients.

Every rank gets its inputs as the strategy's layouts say, runs the expression that the emitter writes, and its outputs
and gradients are put together as the layouts say. A partial tensor is split into random summands, so that nothing but
linearity passes.
"""

import re
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.nn.functional as F

from autopart.emit.spelling import spell
from autopart.ir.graph import Node
from autopart.ir.placement import Layout, Partial, Placement, Replicate, Shard, local_shape
from autopart.runtime.comm import Comm
from autopart.runtime.grouped_mm import grouped_mm
from autopart.runtime.pieces import join, own_piece
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import PartsOf, Strategy, divides, strategies
from tests.sharding.captured import Traced, apply

FORCED = ((1, 1), (1, 1, 1), (2, 1, 1))


def demanded(node: Node, traced: Traced, parts_of: PartsOf, degree: int) -> PartsOf:
    """`parts_of`, and for the node's own dims all of FORCED that their sizes allow."""
    asked = dict(parts_of)
    for name in (*node.inputs, *(value.name for value in node.outputs)):
        shape = traced.graph.values[name].shape
        for dim in range(len(shape)):
            forced = {parts for parts in FORCED if divides(Shard(dim, parts), shape, degree)}
            asked[(name, dim)] = frozenset(forced | set(asked.get((name, dim), frozenset())))
    return asked


def all_strategies(node: Node, traced: Traced, rule: Rule, parts_of: PartsOf, degree: int) -> tuple[Strategy, ...]:
    """The strategies under all demands."""
    return strategies(node, traced.graph, rule, demanded(node, traced, parts_of, degree), degree)


def prove(node: Node, traced: Traced, rule: Rule, strategy: Strategy, degree: int) -> None:
    """Raise AssertionError unless `strategy` computes what `node` does."""
    torch.manual_seed(0)
    graph, values = traced.graph, traced.values
    whole = [values[name].detach().clone().requires_grad_(graph.values[name].requires_grad) for name in node.inputs]
    pieces = [cut(x.detach(), layout.value, degree) for x, layout in zip(whole, strategy.inputs, strict=True)]
    local = [
        [own[rank].clone().requires_grad_(x.requires_grad) for x, own in zip(whole, pieces, strict=True)]
        for rank in range(degree)
    ]
    results = run_ranks(node, traced, rule, strategy, local)
    names = [value.name for value in node.outputs]
    for rank in range(degree):
        for value, layout, result in zip(node.outputs, strategy.outputs, results[rank], strict=True):
            assert tuple(result.shape) == local_shape(value.shape, layout, degree), "the shape of a rank's own output"
    if rule.random:
        return
    expected = apply(node, whole)
    tolerance = 1e-10 if all(x.dtype != torch.float32 for x in (*whole, *expected)) else 1e-5
    for slot, (name, layout) in enumerate(zip(names, strategy.outputs, strict=True)):
        check(
            [own[slot].detach() for own in results], expected[slot].detach(), layout.value, tolerance, f"output {name}"
        )
    gradients(node, traced, strategy, whole, local, expected, results, tolerance)


def gradients(
    node: Node,
    traced: Traced,
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
    return x.requires_grad and type(x.grad_fn).__name__ != "NotImplemented"


def backward(outputs: list[torch.Tensor], inputs: list[torch.Tensor], given: list[torch.Tensor]) -> list[torch.Tensor]:
    pairs = [(output, gradient) for output, gradient in zip(outputs, given, strict=True) if output.requires_grad]
    found = torch.autograd.grad([o for o, _ in pairs], inputs, [g for _, g in pairs], allow_unused=True)
    return [torch.zeros_like(x) if gradient is None else gradient for x, gradient in zip(inputs, found, strict=True)]


def cut(x: torch.Tensor, placement: Placement, degree: int) -> list[torch.Tensor]:
    """What every rank holds of `x`."""
    if isinstance(placement, Replicate):
        return [x] * degree
    if isinstance(placement, Shard):
        return [own_piece(x, placement, rank, degree) for rank in range(degree)]
    assert x.dtype is not torch.bool, "a sum of booleans"
    real = x.is_floating_point() or x.is_complex()
    summands = [torch.randn_like(x) if real else torch.randint_like(x, 9) for _ in range(degree - 1)]
    return [*summands, x - sum(summands)]


def check(pieces: list[torch.Tensor], whole: torch.Tensor, placement: Placement, tolerance: float, what: str) -> None:
    """Compare what the ranks hold with the whole."""
    if isinstance(placement, Shard):
        found = [join(pieces, placement)]
    elif isinstance(placement, Partial):
        assert whole.dtype is not torch.bool, "a sum of booleans"
        found = [torch.stack(pieces).sum(0)]
    else:
        found = pieces
    for tensor in found:
        torch.testing.assert_close(
            tensor,
            whole,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda text: f"{what} ({placement}): {text}",
        )


def run_ranks(
    node: Node, traced: Traced, rule: Rule, strategy: Strategy, local: list[list[torch.Tensor]]
) -> list[tuple[torch.Tensor, ...]]:
    """The outputs of every virtual rank, from the expression that the emitter writes."""
    degree = len(local)
    shapes = tuple(
        local_shape(value.shape, layout, degree) for value, layout in zip(node.outputs, strategy.outputs, strict=True)
    )
    own = tuple(
        local_shape(traced.graph.values[name].shape, layout, degree)
        for name, layout in zip(node.inputs, strategy.inputs, strict=True)
    )
    text = spell(node, tuple(f"x{i}" for i in range(len(node.inputs))), shapes, "device", own)
    if strategy.call is not None:
        text = text.replace("F.", "self.comm.", 1)
    if rule.random and strategy.divided:
        text = re.sub(r"^([\w.]+)\(", r"self.comm.sharded_random(\1, ", text)
    if strategy.scale:
        text = f"({text}) / {degree}"

    def rank_run(comm: Comm, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        result = eval(text, namespace(inputs, comm))
        return tuple(result) if isinstance(result, tuple | list) else (result,)

    if strategy.call is None:
        return [rank_run(Comm(None, rank, degree), inputs) for rank, inputs in enumerate(local)]
    return together(rank_run, local)


def namespace(inputs: list[torch.Tensor], comm: Comm | None) -> dict[str, Any]:
    names: dict[str, Any] = {f"x{i}": x for i, x in enumerate(inputs)}
    emitted = {"torch": torch, "F": F, "grouped_mm": grouped_mm}
    return {**names, **emitted, "self": SimpleNamespace(comm=comm), "device": torch.device("cpu")}


def together(rank_run: Any, local: list[list[torch.Tensor]]) -> list[tuple[torch.Tensor, ...]]:
    """Run the ranks as threads whose all-reduce is a real one."""
    degree = len(local)
    barrier = threading.Barrier(degree, timeout=20)
    slots: list[Any] = [None] * degree
    results: list[Any] = [None] * degree
    current = threading.local()

    def all_reduce(tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        slots[current.rank] = tensor.clone()
        barrier.wait()
        stacked = torch.stack(slots)
        barrier.wait()
        tensor.copy_(stacked.amax(0) if op == dist.ReduceOp.MAX else stacked.sum(0))

    def work(rank: int) -> None:
        current.rank = rank
        try:
            results[rank] = rank_run(Comm(None, rank, degree), local[rank])
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    with patch.object(dist, "all_reduce", all_reduce):
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(degree)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def show(strategy: Strategy) -> str:
    """`i: S(1)|S(1), S(1)|S(1) -> P|R`"""
    return f"{strategy.letter}: {_layouts(strategy.inputs)} -> {_layouts(strategy.outputs)}"


def _layouts(layouts: tuple[Layout, ...]) -> str:
    return ", ".join(map(str, layouts))
