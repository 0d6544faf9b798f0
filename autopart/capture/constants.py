"""Evaluate values of a graph that depend on no input."""

from collections.abc import Mapping

import torch

from autopart.capture.evaluate import evaluate, needed
from autopart.ir.graph import Graph

# Two samples, so that a value which differs from sample to sample is seen to differ.
SAMPLES = 2


def evaluate_constant(graph: Graph, name: str, constants: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """The tensor that `name` always is (for a batch of two), or None where a constant it needs is on `meta`."""
    given = {constant.value.name: constants[constant.target] for constant in graph.constants}
    used = {value for index in needed(graph, name, given) for value in graph.nodes[index].inputs} | {name}
    if any(given[value].is_meta for value in used if value in given):
        return None
    return evaluate(graph, name, given, SAMPLES)
