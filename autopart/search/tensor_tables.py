"""The tables of a tensor search: what its choices cost, by themselves and two by two.

One variable a node, a parameter and a tensor with several consumers; one table a choice that depends on two of them.
Variables and tables depend on the strategies alone: they serve all micro-batches and prices of memory at a tp degree.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from autopart.errors import PlanningError
from autopart.estimate.node import Prices
from autopart.estimate.sorts import Sorts
from autopart.ir.folded import ENTER, LEAVE, Folded
from autopart.ir.graph import Node
from autopart.ir.placement import PARTIAL_GRADIENT, REPLICATED, Layout, Placement
from autopart.search.eliminate import Table
from autopart.search.layout_prices import FREE, LayoutPrices, Seconds
from autopart.search.objective import Objective
from autopart.search.shared_conversions import SharedConversions
from autopart.sharding.strategies import Strategy, without_gradient

Variable: TypeAlias = Hashable
Costs: TypeAlias = NDArray[np.float64]  # the first axis is of the objectives
# Makes the costs of a table from the seconds of conversions and of sums, by objective and number.
Build: TypeAlias = Callable[[Costs, Costs], Costs]


@dataclass(frozen=True, slots=True)
class Tie:
    """A table of a value's conversions, and what share of them the units count at the `least`.

    That is 0 for what is no unit's (inputs, constants, what the model returns), and else below 1 where its uses differ
    in how often they run.
    """

    variables: tuple[Variable, ...]
    build: Build
    least: float = 1.0


class TensorTables:
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
        self._alike: dict[str, tuple[list[Strategy], NDArray[np.intp]]] = {}
        self._seconds: dict[int, tuple[Prices, tuple[Seconds, Seconds]]] = {}
        self._ties: list[Tie] = []
        self._shared: dict[str, NDArray[np.intp]] = {}
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

    def of(self, objectives: Sequence[Objective]) -> list[Table]:
        """What is to be minimized: the sum of all tables, each a cost by the choices of its variables."""
        prices = {id(objective.prices): objective.prices for objective in objectives}
        seconds = [self._seconds_of(objective.prices) for objective in objectives]
        conversions_s, sums_s = (np.array([own[i] for own in seconds]) for i in range(2))
        alone = [*self._node_tables(objectives, prices), *self._storage_tables(objectives)]
        return alone + [Table(tie.variables, tie.build(conversions_s, sums_s)) for tie in self._ties]

    def least(self, prices: Sequence[Prices], nodes_s: Sequence[Mapping[str, tuple[float, float]]]) -> list[Table]:
        """Tables of which no layout costs more than its units do: of conversions, and of nodes what they take at the
        least.

        Args:
            prices: of each problem, what conversions cost.
            nodes_s: of each problem, of every node by its name, the least seconds of the whole work in all units, and
                of a share of it.
        """
        conversions_s = np.array([self._seconds_of(own)[0] for own in prices])
        free = np.zeros((len(prices), self.layout_prices.count_of_sums))
        tables = []
        for node in self.graph.nodes:
            if node.op != LEAVE:
                seconds = np.array([own.get(node.name, (0.0, 0.0)) for own in nodes_s])
                tables.append(Table((self.variable(node),), seconds[:, self._shares(node)]))
        tables += [Table((("parameter", name),), np.zeros((1, len(own)))) for name, own in self.storage.items()]
        return tables + [Table(tie.variables, _scaled(tie.build(conversions_s, free), tie.least)) for tie in self._ties]

    def _shares(self, node: Node) -> NDArray[np.intp]:
        """Of each strategy of a node, 1 where a rank may have less than the whole work, else 0."""
        if node.name not in self._shared:
            options = self.options[node.name]
            shared = [any(x.shard for x in (*own.inputs, *own.outputs)) or own.divided for own in options]
            self._shared[node.name] = np.array(shared, dtype=np.intp)
        return self._shared[node.name]

    def _seconds_of(self, prices: Prices) -> tuple[Seconds, Seconds]:
        """Of all conversions and sums, by their numbers."""
        if id(prices) not in self._seconds:
            self._seconds[id(prices)] = prices, self.layout_prices.of(prices)
        return self._seconds[id(prices)][1]

    def _node_tables(self, objectives: Sequence[Objective], prices: Mapping[int, Prices]) -> list[Table]:
        """What each node costs by itself."""
        keeping = {id(x.prices) for x in objectives if x.seconds_per_kept_byte}
        tables = []
        for node in self.graph.nodes:
            if node.op == LEAVE:
                continue
            own, place = self._distinct(node, next(iter(prices.values())).sorts)
            alone = {key: np.array([each.node(node, x).total_s for x in own])[place] for key, each in prices.items()}
            kept = {key: np.array([prices[key].kept_bytes(node, x) for x in own])[place] for key in keeping}
            costs = np.array([alone[id(x.prices)] for x in objectives])
            for number, x in enumerate(objectives):
                if x.seconds_per_kept_byte:
                    costs[number] += x.seconds_per_kept_byte * kept[id(x.prices)]
            tables.append(Table((self.variable(node),), costs * self.runs[node.name]))
        return tables

    def _distinct(self, node: Node, sorts: Sorts) -> tuple[list[Strategy], NDArray[np.intp]]:
        """Strategies of a node, one of those that are priced alike; and for each of all the number of that."""
        if node.name not in self._alike:
            first: dict[int, int] = {}
            own, numbers = list[Strategy](), []
            for strategy in self.options[node.name]:
                key = sorts.of(node, strategy)
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

    def _times(self, name: str) -> tuple[int, float]:
        """How often the conversions of a value are done, and the least share of that which one of its uses asks for."""
        runs, known = [self.runs[node.name] for node, _ in self.wants[name]], name in self.graph.producer
        return max(runs), min(runs) / max(runs) if known or name in self.graph.parameter_of else 0.0

    def _add_use(self, name: str, variable: Variable, haves: tuple[Layout, ...], node: Node, slot: int) -> None:
        """The one use of a value: its conversion into what the node wants."""
        wanted = [option.inputs[slot] for option in self.options[node.name]]
        distinct = list(dict.fromkeys(wanted))
        rows = [[self.layout_prices.conversion(name, have, want) for want in distinct] for have in haves]
        number = np.array(rows)[:, [distinct.index(want) for want in wanted]]
        first = np.array([self._first_sum(name, have) for have in haves])[:, None]
        times, least = self._times(name)
        self._tie(
            variable,
            self.variable(node),
            lambda conversions, sums: (conversions[:, number] + sums[:, first]) * times,
            least,
        )

    def _add_uses(
        self, name: str, variable: Variable, haves: tuple[Layout, ...], wants: list[tuple[Node, int]]
    ) -> None:
        """Several uses of a value: a variable says in which layouts it is needed."""
        wanted = [[option.inputs[slot] for option in self.options[node.name]] for node, slot in wants]
        shared = SharedConversions.of(name, haves, wanted, self.layout_prices)
        bridge: Variable = ("layouts", name)
        times, least = self._times(name)
        made = 0 if self._first_sum(name, haves[0]) else self._runs_where_made(name)
        self._tie(variable, bridge, partial(shared.making_s, times=times, made=made), least)
        for use, (node, _) in enumerate(wants):
            self._tie(bridge, self.variable(node), partial(shared.using_s, use=use, runs=self.runs[node.name]))

    def _first_sum(self, name: str, layout: Layout) -> int:
        """A value's first gradient is added to others only where the uses before are those of another run."""
        return self.layout_prices.sum(name, layout) if name in self.folded.brought_in else FREE

    def _runs_where_made(self, name: str) -> int:
        index = self.graph.producer.get(name)
        if index is None or self.graph.nodes[index].op == LEAVE or index not in self.folded.loop_of:
            return 1
        return self.folded.loop_of[index].region.count

    def _tie(self, first: Variable, second: Variable, build: Build, least: float = 1.0) -> None:
        if first == second:  # what leaves a loop enters the next run
            alike: Build = lambda *prices: np.diagonal(build(*prices), axis1=1, axis2=2).copy()  # noqa: E731
            self._ties.append(Tie((first,), alike, least))
        else:
            self._ties.append(Tie((first, second), build, least))

    def _source(self, name: str, wants: list[tuple[Node, int]]) -> tuple[Variable, tuple[Layout, ...]] | None:
        if name in self.graph.producer:
            node = self.graph.nodes[self.graph.producer[name]]
            slot = [value.name for value in node.outputs].index(name)
            return self.variable(node), tuple(option.outputs[slot] for option in self.options[node.name])
        variable: Variable = ("parameter", name)
        if name not in self.graph.parameter_of:
            self._ties.append(Tie((variable,), lambda *_: np.zeros((1, 1))))
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
        self._ties.append(Tie((self.variable(node),), lambda conversions, _: conversions[:, numbers], 0.0))


def _scaled(costs: Costs, share: float) -> Costs:
    """What is forbidden stays so."""
    return costs if share == 1 else costs * share if share else np.where(np.isinf(costs), costs, 0.0)
