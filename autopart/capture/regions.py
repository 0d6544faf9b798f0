"""Regions: subgraphs inside an exported program, which higher-order operators run."""

from collections.abc import Iterator
from traceback import FrameSummary

import torch

from autopart.capture.found_places import FoundPlaces
from autopart.capture.node_source import location, scope

# Higher-order operators that only set a mode around a subgraph; the position of the subgraph among their arguments.
WRAPPERS = {"wrap_with_set_grad_enabled": 1, "wrap_with_autocast": 4}


def check_regions(module: torch.fx.GraphModule, model: str) -> None:
    """Whether all regions only set a mode, so that they can be written in line.

    Raises:
        CaptureError: some do something else; all are listed.
    """
    found = FoundPlaces()
    for node in _others(module):
        file, _, line = location(node).rpartition(":")
        frame = FrameSummary(file, int(line), "") if line.isdigit() else None
        advice = "write it with plain tensor operators, as torch.where for torch.cond"
        found.add(frame, scope(node), f"unsupported call: the higher-order operator {node.target}", advice)
    if found.count:
        raise found.error(model)


def _others(module: torch.fx.GraphModule) -> Iterator[torch.fx.Node]:
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.HigherOrderOperator):
            continue
        name = getattr(node.target, "__name__", "")
        if name in WRAPPERS:
            inner = node.args[WRAPPERS[name]]
            yield from _others(getattr(module, inner.target))
        else:
            yield node
