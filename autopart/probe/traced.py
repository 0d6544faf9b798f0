"""Traced: a graph with the value of everything in it; a single call made into one, and its op run again on others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from autopart.capture.constants import SAMPLES
from autopart.capture.evaluate import concrete, overload
from autopart.ir.graph import Arg, Graph, Literal, Node, Parameter, Ref, Value


@dataclass(frozen=True)
class Traced:
    """A graph and the value of everything in it."""

    graph: Graph
    values: Mapping[str, torch.Tensor]


def single(op: str, *args: Any, **kwargs: Any) -> Traced:
    """A graph of one call, made without export; tensors among the arguments are its inputs.

    Args:
        op: an overload ("aten.linear.default").
        args: as the op takes them; tensors that require a gradient have one in the graph.
        kwargs: the same.
    """
    values: dict[str, torch.Tensor] = {}
    inputs: list[Value] = []

    def arg(item: Any) -> Arg:
        if isinstance(item, torch.Tensor):
            name = f"x{len(values)}"
            values[name] = item.detach()
            inputs.append(describe(name, item, item.requires_grad))
            return Ref(name)
        if isinstance(item, tuple | list):
            return tuple(map(arg, item))
        if isinstance(item, torch.device):
            return Literal("device", "device")
        for kind in (torch.dtype, torch.layout, torch.memory_format):
            if isinstance(item, kind):
                return Literal(kind.__name__, str(item))
        known: Arg = item
        return known

    node = Node("call", op, tuple(map(arg, args)), tuple((key, arg(item)) for key, item in kwargs.items()), ())
    with torch.no_grad():
        results = run(node, values)
    trained = any(value.requires_grad for value in inputs)
    outputs = tuple(
        describe(f"y{i}", y, trained and (y.is_floating_point() or y.is_complex())) for i, y in enumerate(results)
    )
    node = replace(node, outputs=outputs)
    values.update({value.name: result for value, result in zip(outputs, results, strict=True)})
    parameters = tuple(Parameter(value, value.name) for value in inputs)
    return Traced(Graph("single", (), parameters, (), (node,), tuple(v.name for v in outputs), None), values)


def run(node: Node, values: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The results of one node."""
    return apply(node, [values[name] for name in node.inputs])


def apply(node: Node, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The results of the op, without by-products, for a tensor for every tensor argument in order."""
    queue = iter(tensors)

    def arg(item: Arg) -> Any:
        if isinstance(item, Ref):
            return next(queue)
        return [arg(inner) for inner in item] if isinstance(item, tuple) else concrete(item, {}, SAMPLES)

    args = [arg(item) for item in node.args]
    result = overload(node.op)(*args, **{key: arg(item) for key, item in node.kwargs})
    results = tuple(result) if isinstance(result, tuple | list) else (result,)
    return results[: len(node.outputs)] if node.outputs else results


def describe(name: str, tensor: torch.Tensor, requires_grad: bool) -> Value:
    """The value `name` that `tensor` is of."""
    return Value(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), requires_grad)
