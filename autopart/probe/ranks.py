"""Virtual ranks: every rank of a strategy runs, one after another, the expression that the emitter writes for it."""

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from autopart.emit.spelling import spell
from autopart.ir.graph import Node
from autopart.ir.placement import local_shape
from autopart.runtime.comm import Comm
from autopart.runtime.grouped_mm import grouped_mm
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Strategy

Tensors = tuple[torch.Tensor, ...]
RankRun = Callable[[Comm, list[torch.Tensor]], Tensors]
Runner = Callable[[RankRun, list[list[torch.Tensor]]], list[Tensors]]


def in_turn(rank_run: RankRun, local: list[list[torch.Tensor]]) -> list[Tensors]:
    """Run the ranks one after another: enough where none waits for another."""
    return [rank_run(Comm(None, rank, len(local)), inputs) for rank, inputs in enumerate(local)]


def run_ranks(
    node: Node, rule: Rule, strategy: Strategy, local: list[list[torch.Tensor]], runner: Runner = in_turn
) -> list[Tensors]:
    """The outputs of every virtual rank.

    Args:
        node: the call.
        rule: its rule.
        strategy: one of the rule's.
        local: what every rank holds of the inputs.
        runner: runs the ranks; those of a strategy with a `call` must run at once.
    """
    degree = len(local)
    shapes = tuple(
        local_shape(value.shape, layout, degree) for value, layout in zip(node.outputs, strategy.outputs, strict=True)
    )
    own = tuple(tuple(x.shape) for x in local[0])
    text = spell(node, tuple(f"x{i}" for i in range(len(node.inputs))), shapes, "device", own)
    if strategy.call is not None:
        text = text.replace("F.", "self.comm.", 1)
    if rule.random and strategy.divided:
        text = re.sub(r"^([\w.]+)\(", r"self.comm.sharded_random(\1, ", text)
    if strategy.scale:
        text = f"({text}) / {degree}"

    def rank_run(comm: Comm, inputs: list[torch.Tensor]) -> Tensors:
        result = eval(text, namespace(inputs, comm))
        return tuple(result) if len(node.outputs) > 1 else (result,)

    return runner(rank_run, local)


def namespace(inputs: list[torch.Tensor], comm: Comm | None) -> dict[str, Any]:
    """The names that an emitted expression may use, x0 and so on being `inputs`."""
    names: dict[str, Any] = {f"x{i}": x for i, x in enumerate(inputs)}
    device = inputs[0].device if inputs else torch.device("cpu")
    emitted = {"torch": torch, "F": F, "grouped_mm": grouped_mm}
    return {**names, **emitted, "self": SimpleNamespace(comm=comm), "device": device}
