"""Regions of torch.autocast: nodes in one that turns it off are marked; one that turns it on is refused."""

import pytest
import torch
from torch import nn

from autopart import CaptureError, api
from autopart.emit.full_precision import made_without_autocast, widened
from autopart.ir.graph_json import graph_from_json, graph_to_json


class Guarded(nn.Module):
    """A region without autocast, with gradients cut inside and one inside where they are; `changes` a buffer or not."""

    def __init__(self, changes: bool, casts: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.changes, self.casts = changes, casts
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 4)."""
        if self.changes:
            self.calls += 1
        x = self.first(x)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.casts):
            y = self.second(x.float()).softmax(-1)
            with torch.no_grad():
                y = y + x.relu()
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            z = (x @ x.transpose(0, 1)).sum()
        return (self.first(y) * z).sum()


@pytest.mark.parametrize("changes", [False, True])
def test_what_stands_in_such_a_region_is_marked(changes: bool) -> None:
    graph = api.prepare(Guarded(changes), torch.randn(4, 4)).captured.graph
    full = [node.op.split(".")[1] for node in graph.nodes if node.full and "detach" not in node.op]
    assert full == ["linear", "softmax", "relu", "add", "transpose", "matmul", "sum"] and len(graph.updates) == changes
    (added,) = (node for node in graph.nodes if node.full and node.op == "aten.add.Tensor")
    assert not graph.values[added.inputs[0]].requires_grad and not added.output.requires_grad  # no_grad still holds
    assert graph_from_json(graph_to_json(graph)) == graph and "# autocast off" in str(graph)
    # Of these, the products are called with autocast off, and what comes from outside is made float32.
    assert {n.op.split(".")[1] for n in graph.nodes if made_without_autocast(n)} == {"linear", "matmul"}
    (first,) = (node for node in graph.nodes if node.full and node.op == "aten.linear.default")
    assert widened(graph)[first.name] == {first.inputs[0]}


@pytest.mark.parametrize("changes", [False, True])
def test_a_region_that_casts_is_refused(changes: bool) -> None:
    with pytest.raises(CaptureError, match=r"a region of torch\.autocast"):
        api.prepare(Guarded(changes, casts=True), torch.randn(4, 4))
