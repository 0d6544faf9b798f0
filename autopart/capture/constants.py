"""Evaluate values of a graph that depend on no input, by running their nodes."""

from collections.abc import Mapping
from typing import Any

import sympy
import torch

from autopart.ir.graph import Arg, Graph, Literal, Ref
from autopart.ir.size import evaluate

# Two samples, so that a value which differs from sample to sample is seen to differ.
SAMPLES = 2


def evaluate_constant(graph: Graph, name: str, constants: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The tensor that `name` always is (for a batch of two), or None where a constant it needs is on `meta`."""
    known: dict[str, torch.Tensor] = {}
    for constant in graph.constants:
        known[constant.value.name] = constants[constant.target]
    wanted, pending = [], [name]
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if value in known:
            if known[value].is_meta:
                return None
        elif (index := graph.producer[value]) not in seen:
            seen.add(index)
            wanted.append(index)
            pending.extend(graph.nodes[index].inputs)
    with torch.no_grad():
        for index in sorted(wanted):
            node = graph.nodes[index]
            result = overload(node.op)(
                *(concrete(arg, known) for arg in node.args), **{key: concrete(arg, known) for key, arg in node.kwargs}
            )
            results = result if isinstance(result, tuple | list) else (result,)
            for output, tensor in zip(node.outputs, results, strict=True):
                known[output.name] = tensor
    return known[name]


def overload(op: str) -> Any:
    """The torch operator named "namespace.name.overload"."""
    namespace, name, variant = op.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), variant)


def concrete(arg: Arg, known: Mapping[str, torch.Tensor]) -> Any:
    """`arg` as torch takes it, on the CPU."""
    if isinstance(arg, Ref):
        return known[arg.name]
    if isinstance(arg, Literal):
        return torch.device("cpu") if arg.kind == "device" else getattr(torch, arg.text.removeprefix("torch."))
    if isinstance(arg, tuple):
        return [concrete(item, known) for item in arg]
    if isinstance(arg, sympy.Expr):
        return evaluate(arg, SAMPLES)
    return arg
