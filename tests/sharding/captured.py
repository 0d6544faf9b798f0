"""Examples as graphs: captured by `torch.export` as models are, and run node by node for the values."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopart.capture.constants import SAMPLES
from autopart.capture.evaluate import concrete, overload
from autopart.capture.torch_export import capture
from autopart.ir.graph import Arg, Graph, Node, Parameter, Ref, Value

BATCH = torch.zeros(2)  # the only thing with a batch: all other sizes stay integers, which can be sharded


@dataclass(frozen=True)
class Example:
    """A call of something on tensors; those that require a gradient become parameters."""

    call: Callable[..., Any]
    tensors: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Traced:
    """A graph and the value of everything in it."""

    graph: Graph
    values: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """A node to try, and what to call it."""

    name: str
    traced: Traced
    node: Node


class _Calls(nn.Module):
    def __init__(self, examples: tuple[Example, ...]) -> None:
        super().__init__()
        self.examples = examples
        for number, example in enumerate(examples):
            for place, tensor in enumerate(example.tensors):
                if tensor.requires_grad:
                    self.register_parameter(f"t{number}_{place}", nn.Parameter(tensor.detach()))
                else:
                    self.register_buffer(f"t{number}_{place}", tensor.clone())

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results: list[torch.Tensor] = []
        for number, example in enumerate(self.examples):
            tensors = [getattr(self, f"t{number}_{place}") for place in range(len(example.tensors))]
            result = example.call(*tensors)
            results += result if isinstance(result, tuple | list) else (result,)
        return (*results, batch + 1)


def trace(examples: tuple[Example, ...]) -> Traced:
    """One graph with the calls of all examples."""
    module = _Calls(examples)
    captured = capture(module, (BATCH,))
    graph = captured.graph
    values = {graph.inputs[0].value.name: BATCH}
    parameters = dict(module.named_parameters())
    values.update({item.value.name: parameters[item.target].detach() for item in graph.parameters})
    values.update({item.value.name: captured.constants[item.target] for item in graph.constants})
    with torch.no_grad():
        for node in graph.nodes:
            values.update(zip((value.name for value in node.outputs), run(node, values), strict=True))
    return Traced(graph, values)


def run(node: Node, values: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The results of one node."""
    return apply(node, [values[name] for name in node.inputs])


def apply(node: Node, tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The results of the op, with a tensor for every tensor argument in order."""
    queue = iter(tensors)

    def arg(item: Arg) -> Any:
        if isinstance(item, Ref):
            return next(queue)
        return [arg(inner) for inner in item] if isinstance(item, tuple) else concrete(item, {}, SAMPLES)

    args = [arg(item) for item in node.args]
    result = overload(node.op)(*args, **{key: arg(item) for key, item in node.kwargs})
    return tuple(result) if isinstance(result, tuple | list) else (result,)


def single(op: str, *args: Any, **kwargs: Any) -> Traced:
    """A graph of one node, made without export; tensors among `args` are its inputs."""
    values: dict[str, torch.Tensor] = {}

    def arg(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            name = f"x{len(values)}"
            values[name] = item.detach()
            grads[name] = item.requires_grad
            return Ref(name)
        return tuple(map(arg, item)) if isinstance(item, tuple | list) else item

    grads: dict[str, bool] = {}
    node = Node("call", op, tuple(map(arg, args)), tuple((key, arg(item)) for key, item in kwargs.items()), ())
    inputs = tuple(describe(name, value, grads[name]) for name, value in values.items())
    results = run(node, values)
    outputs = tuple(
        describe(f"y{i}", value, any(grads.values()) and (value.is_floating_point() or value.is_complex()))
        for i, value in enumerate(results)
    )
    node = Node("call", op, node.args, node.kwargs, outputs)
    values.update({value.name: result for value, result in zip(outputs, results, strict=True)})
    parameters = tuple(Parameter(value, value.name) for value in inputs)
    return Traced(Graph("single", (), parameters, (), (node,), tuple(v.name for v in outputs), None), values)


def describe(name: str, tensor: torch.Tensor, requires_grad: bool) -> Value:
    return Value(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), requires_grad)


def nodes(families: Mapping[str, tuple[Example, ...]], others: Mapping[str, Traced]) -> Iterator[Case]:
    """Every node of every family's graph, and of other graphs."""
    for family, examples in families.items():
        traced = trace(examples)
        yield from (Case(f"{family}-{node.name}", traced, node) for node in traced.graph.nodes[:-1])
    yield from (Case(name, traced, traced.graph.nodes[0]) for name, traced in others.items())
