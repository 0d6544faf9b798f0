"""Evaluate values of a graph by running the nodes that they depend on."""

from collections.abc import Mapping, MutableMapping
from typing import Any

import sympy
import torch

from autopart.ir import size
from autopart.ir.graph import Arg, Graph, Literal, Ref


def evaluate(graph: Graph, name: str, given: Mapping[str, torch.Tensor], batch: int) -> torch.Tensor:
    """The tensor `name`, on the CPU, at `batch` samples.

    Args:
        graph: has the nodes.
        name: the value wanted.
        given: the inputs, parameters and constants that it depends on, by their values' names.
        batch: what the batch symbol stands for.
    """
    known: MutableMapping[str, torch.Tensor] = dict(given)
    with torch.no_grad():
        for index in needed(graph, name, given):
            node = graph.nodes[index]
            args = (concrete(arg, known, batch) for arg in node.args)
            result = overload(node.op)(*args, **{key: concrete(arg, known, batch) for key, arg in node.kwargs})
            results = result if isinstance(result, tuple | list) else (result,)
            for output, tensor in zip(node.outputs, results, strict=False):  # of by-products, none is known
                known[output.name] = tensor
    return known[name]


def needed(graph: Graph, name: str, given: Mapping[str, torch.Tensor]) -> list[int]:
    """The indices of the nodes that `name` depends on, in order; values in `given` are taken as they are."""
    pending, found = [name], set()
    while pending:
        value = pending.pop()
        if value not in given and (index := graph.producer[value]) not in found:
            found.add(index)
            pending += graph.nodes[index].inputs
    return sorted(found)


def overload(op: str) -> Any:
    """The torch operator named "namespace.name.overload"."""
    namespace, name, variant = op.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), variant)


def concrete(arg: Arg, known: Mapping[str, torch.Tensor], batch: int) -> Any:
    """`arg` as torch takes it, on the CPU."""
    if isinstance(arg, Ref):
        return known[arg.name]
    if isinstance(arg, Literal):
        return torch.device("cpu") if arg.kind == "device" else getattr(torch, arg.text.removeprefix("torch."))
    if isinstance(arg, tuple):
        return [concrete(item, known, batch) for item in arg]
    if isinstance(arg, sympy.Expr):
        return size.evaluate(arg, batch)
    return arg
