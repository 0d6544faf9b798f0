"""Searches set up on captured models."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from torch import nn

from autopart.capture.fold import fold
from autopart.estimate.node import Prices
from autopart.ir.folded import Folded, folded
from autopart.ir.units import Unit, units_of
from autopart.search.degrees import DegreeSearch
from autopart.search.request import Request
from autopart.sharding.find_rule import find_rule
from autopart.sharding.infer_axes import Axes, infer_axes
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Strategy, strategies
from cost_models import cluster as clusters
from cost_models.stack import load_stack
from tests.capture.models import graph_of

load_cluster = cache(clusters.load_cluster)


@dataclass(frozen=True)
class Problem:
    """A folded model with its rules."""

    folded: Folded

    @cached_property
    def rules(self) -> Mapping[str, Rule | None]:
        return {node.name: find_rule(node, self.folded.graph) for node in self.folded.graph.nodes}

    @cached_property
    def axes(self) -> Axes:
        return infer_axes(self.folded.graph, self.rules)

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        return units_of(self.folded)

    def options(self, tp: int) -> dict[str, tuple[Strategy, ...]]:
        graph = self.folded.graph
        return {n.name: strategies(n, graph, self.rules[n.name], self.axes.parts_of, tp) for n in graph.nodes}

    def prices(self, tp: int, batch: int, cluster: str = "dgx-h100") -> Prices:
        return Prices(self.folded.graph, self.rules, load_cluster(cluster), tp, batch, load_stack("autopart"))

    def search(
        self, world: int, global_batch: int, cluster: str = "dgx-h100", stack: str = "autopart", **pins: Any
    ) -> DegreeSearch:
        request = Request(world, global_batch, load_cluster(cluster), load_stack(stack), **pins)
        return DegreeSearch(self.folded, self.rules, self.axes, self.units, request)


def problem(model: nn.Module, inputs: object | None = None, loss: Any = None) -> Problem:
    """Capture and fold `model`."""
    return Problem(folded(fold(graph_of(model, inputs, loss))))
