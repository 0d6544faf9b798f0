"""The tensor search: a strategy for every node and a layout for every parameter, of least total time. Exact.

One variable a node, a parameter and a tensor with several consumers; one table a choice that depends on two of them.
(min,+) variable elimination (Dechter 1999, bucket elimination) then gives the optimum; its cost is exponential only in
the width of the graph, and blocks of models are nearly chains.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autopart.estimate.node import Prices
from autopart.ir.folded import ENTER, LEAVE, Folded
from autopart.ir.graph import Node
from autopart.ir.placement import PARTIAL_GRADIENT, REPLICATED, Layout, Shard
from autopart.search.eliminate import Table
from autopart.search.minimize import minimize
from autopart.sharding.strategies import Strategy, without_gradient

Variable: TypeAlias = Hashable
MOST_CONVERSIONS = 3


@dataclass(frozen=True)
class TensorPlan:
    """A strategy for every node of the folded graph, a layout for every parameter, and the objective.

    No layout has an objective below `bound_s`, which is `seconds` itself where the optimum is proved.
    """

    strategies: Mapping[str, Strategy]
    parameters: Mapping[str, Layout]
    seconds: float
    bound_s: float


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
        prices: what nodes and conversions cost.
        micro_batches: how many share what is done once a step: reducing partial gradients of parameters, the optimizer.
        seconds_per_byte: a price on the memory of matrices, to find layouts that take less of it.
        seconds_per_kept_byte: the same on what nodes keep for their backward pass.
    """
    return _Problem(folded, options, prices, micro_batches, seconds_per_byte, seconds_per_kept_byte).solve()


class _Problem:
    def __init__(
        self,
        folded: Folded,
        options: Mapping[str, tuple[Strategy, ...]],
        prices: Prices,
        micro_batches: int,
        seconds_per_byte: float,
        seconds_per_kept_byte: float,
    ) -> None:
        self.folded, self.graph, self.prices = folded, folded.graph, prices
        self.options = {node.name: self._worth_trying(node, options[node.name]) for node in self.graph.nodes}
        self.micro_batches, self.seconds_per_byte = micro_batches, seconds_per_byte
        self.seconds_per_kept_byte = seconds_per_kept_byte
        self.runs = dict(zip((node.name for node in self.graph.nodes), folded.runs, strict=True))
        self.loop_variable = self._loop_variables()
        self.tables: list[Table] = []
        self.storage: dict[str, tuple[Layout, ...]] = {}

    def _worth_trying(self, node: Node, options: tuple[Strategy, ...]) -> tuple[Strategy, ...]:
        """What inputs and constants decide (masks, rotary tables) each rank computes whole and slices.

        It is cheap and used all over the graph: left free, it would tie the strategies of all its users together, and
        no elimination order would keep the tables small.
        """
        decided = all(value.name in self.graph.recomputable for value in node.outputs)
        return options[:1] if decided and node.op not in (ENTER, LEAVE) else options

    def _loop_variables(self) -> dict[str, str]:
        """A leave has the strategy of its enter: one variable for both."""
        same: dict[str, str] = {}
        for loop in self.folded.loops:
            same.update(zip(loop.leaves, loop.enters, strict=True))
        return same

    def variable(self, node: Node) -> Variable:
        return ("node", self.loop_variable.get(node.name, node.name))

    def solve(self) -> TensorPlan:
        for node in self.graph.nodes:
            own = [self._node_s(node, option) * self.runs[node.name] for option in self.options[node.name]]
            if node.op != LEAVE:
                self.tables.append(Table((self.variable(node),), np.array(own)))
        for name in self.graph.values:
            self._add_value(name)
        found = minimize(self.tables)
        chosen = found.chosen
        strategies = {node.name: self.options[node.name][chosen[self.variable(node)]] for node in self.graph.nodes}
        parameters = {name: layouts[chosen[("parameter", name)]] for name, layouts in self.storage.items()}
        return TensorPlan(strategies, parameters, found.cost, found.bound)

    def _node_s(self, node: Node, option: Strategy) -> float:
        seconds = self.prices.node(node, option).total_s
        if self.seconds_per_kept_byte:
            seconds += self.seconds_per_kept_byte * self.prices.kept_bytes(node, option)
        return seconds

    def _add_value(self, name: str) -> None:
        """Tie the layout that a value has to those in which its consumers want it."""
        consumers = [self.graph.nodes[index] for index in self.graph.consumers[name]]
        wants = [(node, slot) for node in consumers for slot, used in enumerate(node.inputs) if used == name]
        if name in self.graph.leaving and name in self.graph.producer:
            self._require_whole(name)
        source = self._source(name, wants)
        if source is None or not wants:
            return
        variable, haves = source
        times = max(self.runs[node.name] for node, _ in wants)
        # Of what inputs decide, each consumer's slice is priced by itself: shared slices would tie the consumers.
        decided = name in self.graph.recomputable and name in self.graph.producer
        if len(wants) == 1 or (decided and haves == (REPLICATED,)):
            for node, slot in wants:
                costs = [
                    [
                        (self._convert(name, have, option.inputs[slot]) + self._first_sum_s(name, have)) * times
                        for option in self.options[node.name]
                    ]
                    for have in haves
                ]
                self._tie(variable, self.variable(node), np.array(costs))
            return
        # Gradients of one layout are summed in it, then those of all conversions in the layout of the value: a use
        # adds one gradient, a conversion makes one of those of its uses, and the first one of all is not added.
        sums_s = {layout: self._sum_s(name, layout) for layout in (*haves, *self._targets(wants))}
        made = self._runs_where_made(name) if not self._first_sum_s(name, haves[0]) else 0
        converted = {
            (have, target): self._convert(name, have, target) + sums_s[have] - sums_s[target]
            for have in dict.fromkeys(haves)
            for target in self._targets(wants)
            if target != have
        }
        states = self._states(converted, haves, wants)
        bridge: Variable = ("conversions", name)
        enter = np.full((len(haves), len(states)), np.inf)
        for i, have in enumerate(haves):
            for j, (origin, extra) in enumerate(states):
                if have == origin:
                    enter[i, j] = sum(converted[have, t] for t in extra) * times - sums_s[have] * made
        self._tie(variable, bridge, enter)
        for node, slot in wants:
            allowed = [
                [
                    sums_s[option.inputs[slot]] * self.runs[node.name]
                    if option.inputs[slot] == origin or option.inputs[slot] in extra
                    else np.inf
                    for option in self.options[node.name]
                ]
                for origin, extra in states
            ]
            self._tie(bridge, self.variable(node), np.array(allowed))

    def _sum_s(self, name: str, layout: Layout) -> float:
        """Seconds to add a gradient of an activation; those of parameters are in `_storage_s`."""
        return 0.0 if name in self.graph.parameter_of else self.prices.gradient_sum_s(name, layout)

    def _first_sum_s(self, name: str, layout: Layout) -> float:
        """The same of its first gradient, which is added only where the uses before are those of another run."""
        return self._sum_s(name, layout) if name in self.folded.brought_in else 0.0

    def _runs_where_made(self, name: str) -> int:
        index = self.graph.producer.get(name)
        if index is None or self.graph.nodes[index].op == LEAVE or index not in self.folded.loop_of:
            return 1
        return self.folded.loop_of[index].region.count

    def _tie(self, first: Variable, second: Variable, costs: NDArray[np.float64]) -> None:
        if first == second:  # what leaves a loop enters the next run
            costs = np.diagonal(costs).copy()
            self.tables.append(Table((first,), costs))
        else:
            self.tables.append(Table((first, second), costs))

    def _states(
        self,
        converted: Mapping[tuple[Layout, Layout], float],
        haves: tuple[Layout, ...],
        wants: list[tuple[Node, int]],
    ) -> list[tuple[Layout, frozenset[Layout]]]:
        targets = self._targets(wants)
        states = []
        for have in dict.fromkeys(haves):
            reachable = [t for t in targets if t != have and np.isfinite(converted[have, t])]
            for count in range(min(len(wants), MOST_CONVERSIONS) + 1):
                states += [(have, frozenset(extra)) for extra in combinations(reachable, count)]
        return states

    def _targets(self, wants: list[tuple[Node, int]]) -> list[Layout]:
        return list(dict.fromkeys(option.inputs[slot] for node, slot in wants for option in self.options[node.name]))

    def _convert(self, name: str, have: Layout, want: Layout) -> float:
        if name in self.graph.trained and have != want and isinstance(have.value, Shard):
            # Gathering weights would share their memory but not the work: that is what dp and ZeRO do.
            return float("inf")
        cost = self.prices.conversion(name, have, want)
        if cost is None:
            return float("inf")
        return cost.total_s

    def _source(self, name: str, wants: list[tuple[Node, int]]) -> tuple[Variable, tuple[Layout, ...]] | None:
        if name in self.graph.producer:
            node = self.graph.nodes[self.graph.producer[name]]
            slot = [value.name for value in node.outputs].index(name)
            return self.variable(node), tuple(option.outputs[slot] for option in self.options[node.name])
        variable: Variable = ("parameter", name)
        if name not in self.graph.parameter_of:
            self.tables.append(Table((variable,), np.zeros(1)))
            return variable, (REPLICATED,)
        layouts = self._storage_layouts(name, wants)
        self.storage[name] = layouts
        self.tables.append(Table((variable,), np.array([self._storage_s(name, layout, wants) for layout in layouts])))
        return variable, layouts

    def _storage_layouts(self, name: str, wants: list[tuple[Node, int]]) -> tuple[Layout, ...]:
        """Whole, whole with a gradient that is summed once a step, or any shard that a consumer asks for."""
        value = self.graph.values[name]
        asked = {option.inputs[slot] for node, slot in wants for option in self.options[node.name]}
        layouts = [REPLICATED, *([PARTIAL_GRADIENT] if value.requires_grad else [])]
        shards = sorted((layout for layout in asked if layout.shard is not None), key=str)
        return (*layouts, *(without_gradient(layout) for layout in shards))

    def _storage_s(self, name: str, layout: Layout, wants: list[tuple[Node, int]]) -> float:
        prices, copies = self.prices, self.folded.copies[name]
        size = prices.local_bytes(name, layout) * copies
        reduce = 0.0
        if layout == PARTIAL_GRADIENT:
            reduce = prices.partial_gradient_s(name) * copies
        # Each use adds to the gradient, but for the first micro-batch of a step, whose gradient is taken as it is.
        uses = sum(self.runs[node.name] for node, _ in wants)
        sums = prices.gradient_sum_s(name, layout) * (uses - copies / self.micro_batches)
        once = reduce + prices.optimizer_s(size)
        # Vectors are a ten-thousandth of a model's memory; priced, they would decide where collectives are.
        memory = self.seconds_per_byte * size if len(self.graph.values[name].shape) > 1 else 0.0
        return sums + once / self.micro_batches + memory

    def _require_whole(self, name: str) -> None:
        """What the model returns is whole on every rank."""
        node = self.graph.nodes[self.graph.producer[name]]
        slot = [value.name for value in node.outputs].index(name)
        costs = [self._convert(name, option.outputs[slot], REPLICATED) for option in self.options[node.name]]
        self.tables.append(Table((self.variable(node),), np.array(costs)))
