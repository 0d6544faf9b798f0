"""The tensor search: a strategy for every node and a layout for every parameter, of least total time. Exact.

Variables and their costs are in `tensor_tables`.
(min,+) variable elimination (Dechter 1999, bucket elimination) then gives the optimum; its cost is exponential only in
the width of the graph, and blocks of models are nearly chains.

One `TensorSearch` serves all micro-batches and prices of memory at a tp degree, and eliminates for all of them at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopart.estimate.node import Prices
from autopart.ir.folded import Folded
from autopart.ir.placement import Layout, Placement
from autopart.search.eliminate import Order
from autopart.search.minimize import minimize_each, order_of_each
from autopart.search.objective import Objective
from autopart.search.tensor_tables import TensorTables
from autopart.sharding.strategies import Strategy


@dataclass(frozen=True)
class TensorPlan:
    """A strategy for every node of the folded graph, a layout for every parameter, and the objective.

    No layout has an objective below `bound_s`, which is `seconds` itself where the optimum is proved.
    """

    strategies: Mapping[str, Strategy]
    parameters: Mapping[str, Layout]
    seconds: float
    bound_s: float

    def is_alike(self, other: "TensorPlan") -> bool:
        """Whether all layouts are the same."""
        return self.strategies == other.strategies and self.parameters == other.parameters


def search_tensor(
    folded: Folded,
    options: Mapping[str, tuple[Strategy, ...]],
    prices: Prices,
    micro_batches: int = 8,
    seconds_per_byte: float = 0.0,
    seconds_per_kept_byte: float = 0.0,
) -> TensorPlan:
    """The strategies of least time for one micro-batch, forward and backward.

    Args:
        folded: the graph.
        options: every node's strategies, by its name.
        prices: as the others, see `Objective`.
        micro_batches: how many share what is done once a step.
        seconds_per_byte: a price on the memory of matrices.
        seconds_per_kept_byte: the same on what nodes keep.
    """
    objective = Objective(prices, micro_batches, seconds_per_byte, seconds_per_kept_byte)
    return TensorSearch(folded, options).run([objective])[0]


class TensorSearch:
    """That of a graph; arguments and errors are those of `TensorTables`."""

    def __init__(
        self,
        folded: Folded,
        options: Mapping[str, tuple[Strategy, ...]],
        placements: Mapping[str, Placement] | None = None,
    ) -> None:
        self.tables = TensorTables(folded, options, placements)
        self._order: tuple[Order, int] | None = None

    def run(self, objectives: Sequence[Objective]) -> list[TensorPlan]:
        """The best choice under each of the objectives."""
        plans, own, tables = [], self.tables, self.tables.of(objectives)
        self._order = self._order or order_of_each(tables)
        for found in minimize_each(tables, known=self._order):
            chosen = found.chosen
            strategies = {node.name: own.options[node.name][chosen[own.variable(node)]] for node in own.graph.nodes}
            parameters = {name: layouts[chosen[("parameter", name)]] for name, layouts in own.storage.items()}
            plans.append(TensorPlan(strategies, parameters, found.cost, found.bound))
        return plans

    def least_s(self, prices: Sequence[Prices], nodes_s: Sequence[Mapping[str, tuple[float, float]]]) -> list[float]:
        """Seconds of both passes that no layout is below, see `TensorTables.least`."""
        tables = self.tables.least(prices, nodes_s)
        self._order = self._order or order_of_each(tables)
        return [found.bound for found in minimize_each(tables, known=self._order)]
