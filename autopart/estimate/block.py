"""Unit costs: what each unit of a model costs one rank, given a strategy for every node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autopart.estimate.attention_core import core_inputs
from autopart.estimate.chain import Chain, Made, chain_of
from autopart.estimate.conversions import Cost
from autopart.estimate.node import Kept, Prices
from autopart.estimate.work import Work, work_of
from autopart.ir.folded import ENTER, Folded
from autopart.ir.graph import Node
from autopart.ir.placement import Layout, Partial, Shard
from autopart.ir.units import Unit
from autopart.sharding.strategies import Strategy, without_gradient
from cost_models.dtype import dtype_bytes

PRODUCTS = (Work.MATMUL, Work.ATTENTION)
NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class UnitCost:
    """One unit, for one micro-batch, on one rank.

    Attributes:
        forward_s, backward_s: seconds, communication included.
        weight_s: of the backward pass, the products that give the gradients of weights.
        communication_s: of both passes.
        kept_bytes: activations kept from forward to backward without recomputation.
        input_bytes: what enters the unit and is all that full recomputation keeps; 0 for a unit that is not recomputed.
        selective_bytes, selective_s: what selective recomputation keeps, and the seconds of what it computes again.
        full_s: seconds of what full recomputation computes again.
        transient_bytes: the most that exists only while one op runs backward.
        model_flops: of forward and backward, over all ranks; recomputation not counted.
        parameters: (target, bytes on the rank, elements in all) of every parameter it uses; the target may be "" where
            no other unit uses it.
        partial_bytes: of the parameters whose gradients are summed over tp once a step.
        crossing_bytes: a rank's bytes that cross a cut right after this unit.
        crossing_whole_bytes: of these, what every tp rank holds whole.
        cut_behind: whether stages can be cut right after it: the sizes of what crosses are known beforehand.
        conversions: (value, layout it has, layout it is given) of all conversions in the unit.
        products: seconds of matrix products, convolutions and attention.
        communication_forward_s: of the communication, that of the forward pass.
        working_bytes: made again in the backward pass beside `kept_bytes`; 0 without recomputation, see `recomputed`.
        again_s: seconds of that, which `backward_s` does not contain.
    """

    forward_s: float
    backward_s: float
    communication_s: float
    kept_bytes: float
    input_bytes: float
    selective_bytes: float
    selective_s: float
    weight_s: float
    transient_bytes: float
    model_flops: float
    parameters: tuple[tuple[str, float, int], ...]
    partial_bytes: float
    crossing_bytes: float
    crossing_whole_bytes: float = 0.0
    cut_behind: bool = True
    conversions: tuple[tuple[str, Layout, Layout], ...] = ()
    products: Cost = NOTHING
    communication_forward_s: float = 0.0
    full_s: float = 0.0
    working_bytes: float = 0.0
    again_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """What crosses a cut: a rank's bytes, how many of them are of values that all tp ranks hold whole, and whether all
    shards are even: of groups of rows, a rank's share is known only when the model runs.
    """

    bytes: float = 0.0
    whole_bytes: float = 0.0
    even: bool = True

    def __add__(self, other: "Crossing") -> "Crossing":
        return Crossing(self.bytes + other.bytes, self.whole_bytes + other.whole_bytes, self.even and other.even)


def unit_costs(
    folded: Folded,
    units: Sequence[Unit],
    prices: Prices,
    strategies: Mapping[str, Strategy],
    layouts: Mapping[str, Layout],
    chain: Chain | None = None,
) -> tuple[UnitCost, ...]:
    """The cost of every unit; runs of one loop are priced once, and those alike are one object.

    `chain` is that of the units, where it is known.
    """
    chain = chain or chain_of(folded, units)
    walker = _Walker(folded, prices, strategies, layouts, chain)
    known: dict[tuple[object, ...], UnitCost] = {}
    costs = []
    for unit, made in zip(units, chain.crossing, strict=True):
        key = unit.nodes, unit.run == 0, chain.targets[unit.nodes][unit.run], made
        if key not in known:
            cost = walker.priced(unit)
            if unit.loop is not None and unit.run == 0:
                communication, sums = walker.entering(unit)
                cost = replace(
                    cost,
                    forward_s=cost.forward_s + communication.forward_s,
                    backward_s=cost.backward_s + communication.backward_s + sums.backward_s,
                    communication_s=cost.communication_s + communication.total_s,
                    communication_forward_s=cost.communication_forward_s + communication.forward_s,
                )
            cut = walker.crossing(made)
            known[key] = replace(
                cost,
                parameters=walker.parameters(unit),
                crossing_bytes=cut.bytes,
                crossing_whole_bytes=cut.whole_bytes,
                cut_behind=cut.even,
            )
        costs.append(known[key])
    return tuple(costs)


class _Walker:
    def __init__(
        self,
        folded: Folded,
        prices: Prices,
        strategies: Mapping[str, Strategy],
        layouts: Mapping[str, Layout],
        chain: Chain,
    ) -> None:
        self.folded, self.graph, self.prices = folded, folded.graph, prices
        self.strategies, self.layouts, self.targets, self.cores = strategies, layouts, chain.targets, chain.cores
        self._counted: set[tuple[str, bool]] = set()
        self._used: set[str] = set(folded.brought_in)
        self._sizes: dict[tuple[int, ...], tuple[list[float], list[int]]] = {}
        self._units: dict[tuple[int, ...], UnitCost] = {}

    def layout(self, name: str) -> Layout | None:
        """How a value is held where it is made; None for inputs and constants."""
        if name in self.graph.producer:
            node = self.graph.nodes[self.graph.producer[name]]
            made = self.strategies[node.name].outputs
            return made[0 if len(made) == 1 else [value.name for value in node.outputs].index(name)]
        return self.layouts.get(name)

    def priced(self, unit: Unit) -> UnitCost:
        """The cost of a unit, which all runs of a loop share, but for what enters the first and what is cut."""
        if unit.nodes not in self._units:
            self._units[unit.nodes] = self._priced(unit)
        return self._units[unit.nodes]

    def _priced(self, unit: Unit) -> UnitCost:
        nodes = [self.graph.nodes[index] for index in unit.nodes]
        costs = [self.prices.node(node, self.strategies[node.name]) for node in nodes]
        conversions, sums_s = self._uses([*nodes, *self._leaves(unit)])
        communication = self._seconds(conversions)
        total = (
            Cost(sum([own.forward_s for own in costs]), sum([own.backward_s for own in costs], sums_s)) + communication
        )
        host_s = self.prices.stack.dispatch_s * sum(node.name in self.prices.fusion.launches for node in nodes)
        parameters = self.parameters(unit)
        entering = 0.0
        if unit.loop is not None:
            for index in range(unit.loop.start, unit.loop.start + len(unit.loop.enters)):
                enter = self.graph.nodes[index]
                entering += self.prices.local_bytes(enter.output.name, self.strategies[enter.name].outputs[0])
        kept = self._kept(nodes, unit.loop is not None)
        if unit.loop is None:
            selective_bytes, selective_s = sum(own.bytes for own in kept), 0.0
        else:
            selective_bytes, selective_s = self._selective(unit, costs, kept, entering, total.forward_s)
        if self.prices.stack.waits_for_kernels:
            forward_s, backward_s = total.forward_s + host_s, total.backward_s + host_s
        else:
            forward_s, backward_s = max(total.forward_s, host_s), max(total.backward_s, host_s)
        return UnitCost(
            forward_s,
            backward_s,
            communication.total_s,
            sum(own.bytes for own in kept),
            entering,
            selective_bytes,
            selective_s,
            sum([self.prices.weight_s(node, self.strategies[node.name]) for node in nodes]),
            max((self.prices.transient_bytes(node, self.strategies[node.name]) for node in nodes), default=0.0),
            sum([self.prices.flops(node) + self.prices.backward_flops(node) for node in nodes]),
            parameters,
            self._partial(nodes),
            0.0,
            conversions=conversions,
            products=sum((own for node, own in zip(nodes, costs, strict=True) if work_of(node) in PRODUCTS), Cost()),
            communication_forward_s=communication.forward_s,
            full_s=0.0 if unit.loop is None else max(total.forward_s, host_s),
        )

    def _selective(
        self, unit: Unit, costs: Sequence[Cost], kept: Sequence[Kept], entering: float, forward_s: float
    ) -> tuple[float, float]:
        """What the stack's selective recomputation keeps of a repeated unit, and the seconds of what it does again."""
        nodes = [self.graph.nodes[index] for index in unit.nodes]
        if self.prices.stack.selective == "core":
            return self._without_cores(unit, costs)
        kept_bytes = sum(own.bytes for own in kept)
        if self.prices.stack.selective == "attention":  # Korthikanti et al. 2022, section 5
            scores = sum(own.bytes for own in kept if own.scores)
            again = [cost.forward_s for node, cost in zip(nodes, costs, strict=True) if work_of(node) is Work.ATTENTION]
            return kept_bytes - scores, sum(again) if self.prices.stack.attention == "math" else 0.0
        saved_bytes, saved_s, products = entering, 0.0, 0
        for node, cost in zip(nodes, costs, strict=True):
            products += work_of(node) is Work.MATMUL
            if work_of(node) is Work.ATTENTION or (work_of(node) is Work.MATMUL and products % 2):
                saved_bytes += self.prices.local_bytes(node.output.name, self.strategies[node.name].outputs[0])
                saved_s += cost.forward_s
        return min(saved_bytes, kept_bytes), forward_s - saved_s

    def _without_cores(self, unit: Unit, costs: Sequence[Cost]) -> tuple[float, float]:
        """What is kept when attention cores keep only what they take, and the seconds of their forward passes."""
        cores = self.cores[unit.nodes]
        inside = {index for core in cores for index in core}
        taken = [
            self.prices.kept_input(node, self.strategies[node.name], slot)
            for core in cores
            for node, slot in core_inputs(self.graph, core)
        ]
        kept = self._kept([self.graph.nodes[index] for index in unit.nodes if index not in inside], True, taken)
        again = (cost.forward_s for index, cost in zip(unit.nodes, costs, strict=True) if index in inside)
        return sum(own.bytes for own in kept), sum(again)

    def entering(self, unit: Unit) -> tuple[Cost, Cost]:
        """The conversions into the first run of a loop, and the sums of gradients there."""
        conversions, sums_s = self._uses(self._enters(unit))
        return self._seconds(conversions), Cost(backward_s=sums_s)

    def _enters(self, unit: Unit) -> list[Node]:
        return [] if unit.loop is None else [self.graph.nodes[i] for i in range(unit.loop.start, unit.loop.body.start)]

    def _leaves(self, unit: Unit) -> list[Node]:
        return [] if unit.loop is None else [self.graph.nodes[i] for i in range(unit.loop.body.stop, unit.loop.stop)]

    def _seconds(self, conversions: Sequence[tuple[str, Layout, Layout]]) -> Cost:
        cost = Cost()
        for name, have, want in conversions:
            cost += self.prices.conversion(name, have, want) or Cost()
        return cost

    def _uses(self, nodes: Sequence[Node]) -> tuple[tuple[tuple[str, Layout, Layout], ...], float]:
        """The conversions of what the nodes take, each done once, and seconds of the sums of its gradients.

        Gradients of one layout are summed in it, and those of all conversions in the layout of the value. A parameter's
        are added to what earlier micro-batches left.
        """
        sums_s = 0.0
        converted: dict[tuple[str, Layout], tuple[str, Layout, Layout]] = {}
        for node in nodes:
            for name, want in zip(node.inputs, self.strategies[node.name].inputs, strict=True):
                have = self.layout(name)
                if have is None:
                    continue
                if not self.graph.values[name].requires_grad:
                    have, want = without_gradient(have), without_gradient(want)
                if name in self.graph.parameter_of:
                    sums_s += self.prices.gradient_sum_s(name, have)
                if have != want and self.prices.tp > 1:
                    if (name, want) in converted:
                        sums_s += 0.0 if name in self.graph.parameter_of else self.prices.gradient_sum_s(name, want)
                        continue
                    converted[(name, want)] = (name, have, want)
                if name in self._used:
                    sums_s += self.prices.gradient_sum_s(name, have)
                elif name not in self.graph.parameter_of:
                    self._used.add(name)
        return tuple(converted.values()), sums_s

    def _kept(self, nodes: Sequence[Node], repeated: bool, besides: Sequence[Kept] = ()) -> tuple[Kept, ...]:
        """What is kept for the backward pass. A view keeps nothing of its own; a tensor kept twice is there once.

        What an earlier unit keeps of its own results counts there; behind a cut it counts as received.
        """
        kept: dict[tuple[str, bool], Kept] = {}
        each = (own for node in nodes for own in self.prices.kept(node, self.strategies[node.name]))
        for own in map(self._before_gathering, (*each, *besides)):
            key = (self._root(own.name), own.sharded)
            if key not in kept or kept[key].bytes < own.bytes:
                kept[key] = own
        found = tuple(own for key, own in kept.items() if repeated or key not in self._counted)
        made = {self._root(value.name) for node in nodes for value in node.outputs}
        self._counted |= {key for key in kept if key[0] in made}
        return found

    def _before_gathering(self, kept: Kept) -> Kept:
        """What is kept of a value that is sharded where it is made, if the stack gathers it again."""
        have = self.layout(kept.copied or kept.name) if self.prices.stack.gathers_again else None
        if have is None or kept.sharded or not isinstance(have.value, Shard):
            return kept
        return replace(kept, sharded=True, bytes=kept.bytes / self.prices.tp)

    def _root(self, name: str) -> str:
        while name in self.graph.producer:
            node = self.graph.nodes[self.graph.producer[name]]
            if work_of(node) is not Work.VIEW or node.op == ENTER or not node.inputs:
                break
            if self.prices.bytes_of[node.inputs[0]] > self.prices.bytes_of[name]:
                break  # a part of a value: the other parts may be kept too
            name = node.inputs[0]
        return name

    def parameters(self, unit: Unit) -> tuple[tuple[str, float, int], ...]:
        """The parameters that a unit uses, under their original names."""
        if unit.nodes not in self._sizes:  # those of all runs of a loop
            used = dict.fromkeys(name for index in unit.nodes for name in self.graph.nodes[index].inputs)
            names = [name for name in used if name in self.graph.parameter_of]
            sizes = [self.prices.local_bytes(name, self.layouts[name]) for name in names]
            elements = [self.prices.bytes_of[name] // dtype_bytes(self.prices.dtype(name)) for name in names]
            self._sizes[unit.nodes] = sizes, elements
        return tuple(zip(self.targets[unit.nodes][unit.run], *self._sizes[unit.nodes], strict=True))

    def _partial(self, nodes: Sequence[Node]) -> float:
        names = {name for node in nodes for name in node.inputs if name in self.layouts}
        return sum(self.prices.bytes_of[n] for n in names if isinstance(self.layouts[n].gradient, Partial))

    def crossing(self, every: Sequence[Made]) -> Crossing:
        """What crosses a cut over which these values are passed on."""
        cut = Crossing()
        for made in every:
            layout = self.strategies[self.graph.nodes[made.node].name].outputs[made.output]
            size = self.prices.local_bytes(made.value, layout)
            even = layout.shard is None or layout.shard.by is None
            cut += Crossing(size, 0.0 if layout.shard else size, even)
        return cut
