"""The tensor search: a strategy for every node and a layout for every parameter, of least total time. Exact.

One variable a node, a parameter and a tensor with several consumers; one table a choice that depends on two of them.
(min,+) variable elimination (Dechter 1999, bucket elimination) then gives the optimum; its cost is exponential only in
the width of the graph, and blocks of models are nearly chains.

Variables and tables depend on the strategies alone. One `TensorSearch` therefore serves all micro-batches and prices of
memory at a tp degree, and eliminates for all of them at once.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autopart.errors import PlanningError
from autopart.estimate.node import Prices
from autopart.ir.folded import ENTER, LEAVE, Folded
from autopart.ir.graph import Node
from autopart.ir.placement import PARTIAL_GRADIENT, REPLICATED, Layout, Placement
from autopart.search.eliminate import Order, Table
from autopart.search.layout_prices import FREE, IMPOSSIBLE, LayoutPrices
from autopart.search.minimize import minimize_each, order_of_each
from autopart.search.objective import Objective
from autopart.sharding.strategies import Strategy, without_gradient

Variable: TypeAlias = Hashable
Costs: TypeAlias = NDArray[np.float64]  # the first axis is of the objectives
# Makes the costs of a table from the seconds of conversions and of sums, by objective and number.
Build: TypeAlias = Callable[[Costs, Costs], Costs]
MOST_LAYOUTS = 4  # in which a value is needed at once


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
    """The variables and tables of a graph whose nodes have the strategies `options`, by their names.

    Parameters named in `placements` are held so.

    Raises:
        PlanningError: one of them cannot be, whatever the strategies.
    """

    def __init__(
        self,
        folded: Folded,
        options: Mapping[str, tuple[Strategy, ...]],
        placements: Mapping[str, Placement] | None = None,
    ) -> None:
        self.folded, self.graph = folded, folded.graph
        self.placements = placements or {}
        self.options = {node.name: self._worth_trying(node, options[node.name]) for node in self.graph.nodes}
        self.runs = dict(zip((node.name for node in self.graph.nodes), folded.runs, strict=True))
        self.loop_variable = self._loop_variables()
        self.layout_prices = LayoutPrices(folded)
        self._order: tuple[Order, int] | None = None
        self._alike: dict[str, tuple[list[Strategy], NDArray[np.intp]]] = {}
        self.builds: list[tuple[tuple[Variable, ...], Build]] = []
        self.storage: dict[str, tuple[Layout, ...]] = {}
        self.wants: dict[str, list[tuple[Node, int]]] = {name: [] for name in self.graph.values}
        for node in self.graph.nodes:
            for slot, name in enumerate(node.inputs):
                self.wants[name].append((node, slot))
        for name in self.graph.values:
            self._add_value(name)

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
        """The variable of a node's strategy."""
        return ("node", self.loop_variable.get(node.name, node.name))

    def run(self, objectives: Sequence[Objective]) -> list[TensorPlan]:
        """The best choice under each of the objectives."""
        plans, tables = [], self.tables(objectives)
        self._order = self._order or order_of_each(tables)
        for found in minimize_each(tables, known=self._order):
            chosen = found.chosen
            strategies = {node.name: self.options[node.name][chosen[self.variable(node)]] for node in self.graph.nodes}
            parameters = {name: layouts[chosen[("parameter", name)]] for name, layouts in self.storage.items()}
            plans.append(TensorPlan(strategies, parameters, found.cost, found.bound))
        return plans

    def tables(self, objectives: Sequence[Objective]) -> list[Table]:
        """What is to be minimized: the sum of all tables, each a cost by the choices of its variables."""
        prices = {id(objective.prices): objective.prices for objective in objectives}
        seconds = {key: self.layout_prices.of(own) for key, own in prices.items()}
        conversions_s, sums_s = (np.array([seconds[id(x.prices)][i] for x in objectives]) for i in range(2))
        alone = [*self._node_tables(objectives, prices), *self._storage_tables(objectives)]
        return alone + [Table(variables, build(conversions_s, sums_s)) for variables, build in self.builds]

    def _node_tables(self, objectives: Sequence[Objective], prices: Mapping[int, Prices]) -> list[Table]:
        """What each node costs by itself."""
        keeping = {id(x.prices) for x in objectives if x.seconds_per_kept_byte}
        tables = []
        for node in self.graph.nodes:
            if node.op == LEAVE:
                continue
            own, place = self._distinct(node, next(iter(prices.values())))
            alone = {key: np.array([each.node(node, x).total_s for x in own])[place] for key, each in prices.items()}
            kept = {key: np.array([prices[key].kept_bytes(node, x) for x in own])[place] for key in keeping}
            costs = np.array([alone[id(x.prices)] for x in objectives])
            for number, x in enumerate(objectives):
                if x.seconds_per_kept_byte:
                    costs[number] += x.seconds_per_kept_byte * kept[id(x.prices)]
            tables.append(Table((self.variable(node),), costs * self.runs[node.name]))
        return tables

    def _distinct(self, node: Node, prices: Prices) -> tuple[list[Strategy], NDArray[np.intp]]:
        """Strategies of a node, one of those that are priced alike; and for each of all the number of that."""
        if node.name not in self._alike:
            first: dict[Hashable, int] = {}
            own, numbers = list[Strategy](), []
            for strategy in self.options[node.name]:
                key = prices.alike(node, strategy)
                if key not in first:
                    first[key] = len(own)
                    own.append(strategy)
                numbers.append(first[key])
            self._alike[node.name] = own, np.array(numbers, dtype=np.intp)
        return self._alike[node.name]

    def _storage_tables(self, objectives: Sequence[Objective]) -> list[Table]:
        """What it costs to hold each parameter in each of its layouts."""
        tables = []
        for name, layouts in self.storage.items():
            alone = {
                (id(x.prices), x.micro_batches): np.array([self._storage_s(name, y, x) for y in layouts])
                for x in {(id(x.prices), x.micro_batches): x for x in objectives}.values()
            }
            costs = np.array([alone[id(x.prices), x.micro_batches] for x in objectives])
            # Vectors are a ten-thousandth of a model's memory; priced, they would decide where collectives are.
            if len(self.graph.values[name].shape) > 1:
                held = [[x.prices.local_bytes(name, y) * self.folded.copies[name] for y in layouts] for x in objectives]
                costs += np.array([x.seconds_per_byte for x in objectives])[:, None] * np.array(held)
            tables.append(Table((("parameter", name),), costs))
        return tables

    def _add_value(self, name: str) -> None:
        """Tie the layout that a value has to those in which its consumers want it."""
        wants = self.wants[name]
        if name in self.graph.leaving and name in self.graph.producer:
            self._require_whole(name)
        source = self._source(name, wants)
        if source is None or not wants:
            return
        variable, haves = source
        # Of what inputs decide, each consumer's slice is priced by itself: shared slices would tie the consumers.
        decided = name in self.graph.recomputable and name in self.graph.producer
        if len(wants) == 1 or (decided and haves == (REPLICATED,)):
            for node, slot in wants:
                self._add_use(name, variable, haves, node, slot)
        else:
            self._add_uses(name, variable, haves, wants)

    def _times(self, name: str) -> int:
        return max(self.runs[node.name] for node, _ in self.wants[name])

    def _add_use(self, name: str, variable: Variable, haves: tuple[Layout, ...], node: Node, slot: int) -> None:
        """The one use of a value: its conversion into what the node wants."""
        wanted = [option.inputs[slot] for option in self.options[node.name]]
        distinct = list(dict.fromkeys(wanted))
        rows = [[self.layout_prices.conversion(name, have, want) for want in distinct] for have in haves]
        number = np.array(rows)[:, [distinct.index(want) for want in wanted]]
        first = np.array([self._first_sum(name, have) for have in haves])[:, None]
        times = self._times(name)
        self._tie(
            variable, self.variable(node), lambda conversions, sums: (conversions[:, number] + sums[:, first]) * times
        )

    def _add_uses(
        self, name: str, variable: Variable, haves: tuple[Layout, ...], wants: list[tuple[Node, int]]
    ) -> None:
        """Several uses of a value, which share its conversions: a variable says in which layouts it is needed.

        Gradients of one layout are summed in it, then those of all conversions in the layout of the value: a use adds
        one gradient, a conversion makes one of those of its uses, and the first one of all is not added.
        """
        number: dict[Layout, int] = {}  # of every layout that the value has or is wanted in
        held = [number.setdefault(have, len(number)) for have in haves]
        asked = [[number.setdefault(x.inputs[slot], len(number)) for x in self.options[n.name]] for n, slot in wants]
        targets = list(dict.fromkeys(own for each in asked for own in each))
        layouts = list(number)
        sum_of = [self.layout_prices.sum(name, layout) for layout in layouts]
        conversion = np.zeros((len(layouts), len(layouts)), dtype=np.intp)  # of a layout into itself: FREE
        for have in dict.fromkeys(held):
            for want in targets:
                conversion[have, want] = self.layout_prices.conversion(name, layouts[have], layouts[want])
        states = [
            own
            for count in range(1, min(len(wants), MOST_LAYOUTS) + 1)
            for own in combinations(targets, count)
            if (conversion[np.ix_(held, own)] != IMPOSSIBLE).all(axis=1).any()
        ]
        bridge: Variable = ("layouts", name)
        times, made = self._times(name), 0 if self._first_sum(name, haves[0]) else self._runs_where_made(name)
        most = max(map(len, states))
        # By the layout that the value has, and those that it is needed in; padded by the former, which costs nothing.
        needed = np.array([[[*own, *[have] * (most - len(own))] for own in states] for have in held])
        converted = np.take_along_axis(conversion[held][:, None, :], needed, axis=2)
        summed, origin = np.array(sum_of)[needed], np.array(sum_of)[held]
        there = np.zeros((len(states), len(layouts)), dtype=bool)
        for state, layouts_there in enumerate(states):
            there[state, list(layouts_there)] = True

        def enter(conversions: Costs, sums: Costs) -> Costs:
            first = sums[:, origin][..., None]
            each = conversions[:, converted] + first[..., None] - sums[:, summed]
            return np.asarray(each.sum(axis=-1) * times - first * made)

        self._tie(variable, bridge, enter)
        for (node, _), own in zip(wants, asked, strict=True):
            self._add_shared_use(bridge, node, np.array([sum_of[x] for x in own]), ~there[:, own])

    def _add_shared_use(
        self, bridge: Variable, node: Node, summed: NDArray[np.intp], forbidden: NDArray[np.bool_]
    ) -> None:
        runs = self.runs[node.name]
        self._tie(
            bridge,
            self.variable(node),
            lambda _, sums: np.where(forbidden, np.inf, (sums[:, summed] * runs)[:, None, :]),
        )

    def _first_sum(self, name: str, layout: Layout) -> int:
        """A value's first gradient is added to others only where the uses before are those of another run."""
        return self.layout_prices.sum(name, layout) if name in self.folded.brought_in else FREE

    def _runs_where_made(self, name: str) -> int:
        index = self.graph.producer.get(name)
        if index is None or self.graph.nodes[index].op == LEAVE or index not in self.folded.loop_of:
            return 1
        return self.folded.loop_of[index].region.count

    def _tie(self, first: Variable, second: Variable, build: Build) -> None:
        if first == second:  # what leaves a loop enters the next run
            self.builds.append(((first,), lambda *prices: np.diagonal(build(*prices), axis1=1, axis2=2).copy()))
        else:
            self.builds.append(((first, second), build))

    def _source(self, name: str, wants: list[tuple[Node, int]]) -> tuple[Variable, tuple[Layout, ...]] | None:
        if name in self.graph.producer:
            node = self.graph.nodes[self.graph.producer[name]]
            slot = [value.name for value in node.outputs].index(name)
            return self.variable(node), tuple(option.outputs[slot] for option in self.options[node.name])
        variable: Variable = ("parameter", name)
        if name not in self.graph.parameter_of:
            self.builds.append(((variable,), lambda *_: np.zeros((1, 1))))
            return variable, (REPLICATED,)
        self.storage[name] = self._storage_layouts(name, wants)
        return variable, self.storage[name]

    def _storage_layouts(self, name: str, wants: list[tuple[Node, int]]) -> tuple[Layout, ...]:
        """Whole, whole with a gradient that is summed once a step, or any shard that a consumer asks for; of these,
        those that a pin leaves.
        """
        value = self.graph.values[name]
        asked = {option.inputs[slot] for node, slot in wants for option in self.options[node.name]}
        layouts = [REPLICATED, *([PARTIAL_GRADIENT] if value.requires_grad else [])]
        shards = sorted((layout for layout in asked if layout.shard is not None), key=str)
        layouts += [without_gradient(layout) for layout in shards]
        pinned = self.placements.get(name)
        left = tuple(layout for layout in layouts if pinned is None or layout.value == pinned)
        if not left:
            raise PlanningError(f"{self.graph.targets[name]} cannot be {pinned}")
        return left

    def _storage_s(self, name: str, layout: Layout, objective: Objective) -> float:
        prices, copies, shared = objective.prices, self.folded.copies[name], objective.micro_batches
        size = prices.local_bytes(name, layout) * copies
        reduce = 0.0
        if layout == PARTIAL_GRADIENT:
            reduce = prices.partial_gradient_s(name) * copies
        # Each use adds to the gradient, but for the first micro-batch of a step, whose gradient is taken as it is.
        uses = sum(self.runs[node.name] for node, _ in self.wants[name])
        sums = prices.gradient_sum_s(name, layout) * (uses - copies / shared)
        once = reduce + prices.optimizer_s(size)
        return sums + once / shared

    def _require_whole(self, name: str) -> None:
        """What the model returns is whole on every rank."""
        node = self.graph.nodes[self.graph.producer[name]]
        slot = [value.name for value in node.outputs].index(name)
        numbers = [self.layout_prices.conversion(name, x.outputs[slot], REPLICATED) for x in self.options[node.name]]
        self.builds.append(((self.variable(node),), lambda conversions, _: conversions[:, numbers]))
