"""Examples as graphs: captured by `torch.export` as models are, and run node by node for the values."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopart.capture.torch_export import capture
from autopart.ir.graph import Node
from autopart.probe.traced import Traced, run

BATCH = torch.zeros(2)  # the only thing with a batch: all other sizes stay integers, which can be sharded


@dataclass(frozen=True)
class Example:
    """A call of something on tensors; those that require a gradient become parameters."""

    call: Callable[..., Any]
    tensors: tuple[torch.Tensor, ...]


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


def nodes(families: Mapping[str, tuple[Example, ...]], others: Mapping[str, Traced]) -> Iterator[Case]:
    """Every node of every family's graph, and of other graphs."""
    for family, examples in families.items():
        traced = trace(examples)
        yield from (Case(f"{family}-{node.name}", traced, node) for node in traced.graph.nodes[:-1])
    yield from (Case(name, traced, traced.graph.nodes[0]) for name, traced in others.items())
