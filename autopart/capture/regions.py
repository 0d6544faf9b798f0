"""Regions: subgraphs inside an exported program, which higher-order operators run."""

from collections.abc import Iterator
from traceback import FrameSummary
from typing import Any

import torch

from autopart.capture.found_places import FoundPlaces
from autopart.capture.node_source import location, scope

# Higher-order operators that only set a mode around a subgraph; the position of the subgraph among their arguments.
WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}

AUTOCAST = (
    'leave torch.autocast out of forward, and plan with precision="bf16-mixed" or "fp16-mixed"; or convert with '
    "x.to(torch.bfloat16) and back"
)


def check_regions(module: torch.fx.GraphModule, model: str) -> None:
    """Whether all regions only set a mode, so that they can be written in line.

    Raises:
        CaptureError: some do something else; all are listed.
    """
    found = FoundPlaces()
    for node in _others(module):
        inside = _first(node) if _casts(node) else node  # such a region itself has no line
        file, _, line = location(inside).rpartition(":")
        frame = FrameSummary(file, int(line), "") if line.isdigit() else None
        if _casts(node):
            found.add(frame, scope(inside), "a region of torch.autocast, of which a graph has nothing", AUTOCAST)
            continue
        advice = "write it with plain tensor operators, as torch.where for torch.cond"
        found.add(frame, scope(node), f"unsupported call: the higher-order operator {node.target}", advice)
    if found.count:
        raise found.error(model)


def _others(module: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        name = getattr(node.target, "__name__", "")
        if name in WRAPPERS and not _casts(node):
            inner = node.args[WRAPPERS[name]]
            yield from _others(getattr(module, inner.target))
        else:
            yield node


def _casts(node: torch.fx.Node) -> bool:
    """Whether `node` is a region in which autocast is on: what it computes in half would be computed in full."""
    return getattr(node.target, "__name__", "") == "wrap_with_autocast" and node.args[2] is True


def _first(region: torch.fx.Node) -> torch.fx.Node:
    """The first call in a region."""
    source: Any = region.args[WRAPPERS["wrap_with_autocast"]]
    inner = getattr(region.graph.owning_module, source.target)
    return next((node for node in inner.graph.nodes if node.op == "call_function"), region)
