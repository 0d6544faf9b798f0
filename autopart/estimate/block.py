"""Unit costs: what each unit of a model costs one rank, given a strategy for every node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
        transient_bytes: the most that exists only while one op runs backward.
        model_flops: of forward and backward, over all ranks; recomputation not counted.
        parameters: (target, bytes on the rank, elements in all) of every parameter it uses.
        partial_bytes: of the parameters whose gradients are summed over tp once a step.
        crossing_bytes: a rank's bytes that cross a cut right after this unit.
        crossing_whole_bytes: of these, what every tp rank holds whole.
        conversions: (value, layout it has, layout it is given) of all conversions in the unit.
        products: seconds of matrix products, convolutions and attention.
        communication_forward_s: of the communication, that of the forward pass.
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
    conversions: tuple[tuple[str, Layout, Layout], ...] = ()
    products: Cost = NOTHING
    communication_forward_s: float = 0.0


def unit_costs(
    folded: Folded,
    units: Sequence[Unit],
    prices: Prices,
    strategies: Mapping[str, Strategy],
    layouts: Mapping[str, Layout],
) -> tuple[UnitCost, ...]:
    """The cost of every unit; runs of one loop are priced once."""
    walker = _Walker(folded, prices, strategies, layouts)
    crossing = walker.crossing(units)
    once: dict[int, UnitCost] = {}
    costs = []
    for unit, (crossing_bytes, whole_bytes) in zip(units, crossing, strict=True):
        if unit.loop is None:
            costs.append(replace(walker.unit(unit), crossing_bytes=crossing_bytes, crossing_whole_bytes=whole_bytes))
            continue
        if unit.loop.start not in once:
            once[unit.loop.start] = walker.unit(unit)
        cost = once[unit.loop.start]
        if unit.run == 0:
            communication, sums = walker.entering(unit)
            cost = replace(
                cost,
                forward_s=cost.forward_s + communication.forward_s,
                backward_s=cost.backward_s + communication.backward_s + sums.backward_s,
                communication_s=cost.communication_s + communication.total_s,
                communication_forward_s=cost.communication_forward_s + communication.forward_s,
            )
        parameters = walker.parameters(unit)
        costs.append(
            replace(cost, parameters=parameters, crossing_bytes=crossing_bytes, crossing_whole_bytes=whole_bytes)
        )
    return tuple(costs)


class _Walker:
    def __init__(
        self, folded: Folded, prices: Prices, strategies: Mapping[str, Strategy], layouts: Mapping[str, Layout]
    ) -> None:
        self.folded, self.graph, self.prices = folded, folded.graph, prices
        self.strategies, self.layouts = strategies, layouts
        self._counted: set[tuple[str, bool]] = set()
        self._used: set[str] = set(folded.brought_in)
        self._sizes: dict[tuple[int, ...], tuple[tuple[str, float, int], ...]] = {}

    def layout(self, name: str) -> Layout | None:
        """How a value is held where it is made; None for inputs and constants."""
        if name in self.graph.producer:
            node = self.graph.nodes[self.graph.producer[name]]
            slot = [value.name for value in node.outputs].index(name)
            return self.strategies[node.name].outputs[slot]
        return self.layouts.get(name)

    def unit(self, unit: Unit) -> UnitCost:
        nodes = [self.graph.nodes[index] for index in unit.nodes]
        costs = [self.prices.node(node, self.strategies[node.name]) for node in nodes]
        conversions, sums_s = self._uses([*nodes, *self._leaves(unit)])
        communication = self._seconds(conversions)
        total = sum(costs, Cost(backward_s=sums_s)) + communication
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
            selective_bytes, selective_s = self._selective(nodes, costs, kept, entering, total.forward_s)
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
            sum(self.prices.weight_s(node, self.strategies[node.name]) for node in nodes),
            max((self.prices.transient_bytes(node, self.strategies[node.name]) for node in nodes), default=0.0),
            sum(self.prices.flops(node) + self.prices.backward_flops(node) for node in nodes),
            parameters,
            self._partial(nodes),
            0.0,
            conversions=conversions,
            products=sum((own for node, own in zip(nodes, costs, strict=True) if work_of(node) in PRODUCTS), Cost()),
            communication_forward_s=communication.forward_s,
        )

    def _selective(
        self, nodes: Sequence[Node], costs: Sequence[Cost], kept: Sequence[Kept], entering: float, forward_s: float
    ) -> tuple[float, float]:
        """What the stack's selective recomputation keeps of a repeated unit, and the seconds of what it does again."""
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

    def _kept(self, nodes: Sequence[Node], repeated: bool) -> tuple[Kept, ...]:
        """What is kept for the backward pass. A view keeps nothing of its own; a tensor kept twice is there once.

        What an earlier unit keeps of its own results counts there; behind a cut it counts as received.
        """
        kept: dict[tuple[str, bool], Kept] = {}
        for node in nodes:
            for own in self.prices.kept(node, self.strategies[node.name]):
                own = self._before_gathering(own)
                key = (self._root(own.name), own.sharded)
                if key not in kept or kept[key].bytes < own.bytes:
                    kept[key] = own
        found = tuple(own for key, own in kept.items() if repeated or key not in self._counted)
        made = {self._root(value.name) for node in nodes for value in node.outputs}
        self._counted |= {key for key in kept if key[0] in made}
        return found

    def _before_gathering(self, kept: Kept) -> Kept:
        """What is kept of a value that is sharded where it is made, if the stack gathers it again."""
        have = self.layout(kept.name) if self.prices.stack.gathers_again else None
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
        table = self.folded.weights_in_runs[unit.loop.start][unit.run] if unit.loop is not None else {}
        if unit.nodes not in self._sizes:  # those of all runs of a loop
            used = dict.fromkeys(name for index in unit.nodes for name in self.graph.nodes[index].inputs)
            self._sizes[unit.nodes] = tuple(
                (
                    name,
                    self.prices.local_bytes(name, self.layouts[name]),
                    self.prices.bytes_of[name] // dtype_bytes(self.prices.dtype(name)),
                )
                for name in used
                if name in self.graph.parameter_of
            )
        source = self.folded.source.parameter_of
        return tuple(
            (source[table.get(name, name)].target, size, elements) for name, size, elements in self._sizes[unit.nodes]
        )

    def _partial(self, nodes: Sequence[Node]) -> float:
        names = {name for node in nodes for name in node.inputs if name in self.layouts}
        return sum(self.prices.bytes_of[n] for n in names if isinstance(self.layouts[n].gradient, Partial))

    def crossing(self, units: Sequence[Unit]) -> list[tuple[float, float]]:
        """For the cut after each unit: the bytes, of one rank, made before it and used after it, and how many of them
        are of values that all tp ranks hold whole.
        """
        made: dict[str, int] = {}
        used: dict[str, int] = {}
        sizes: dict[str, tuple[float, float]] = {}
        for position, unit in enumerate(units):
            if unit.loop is not None:
                for number, enter_name in enumerate(unit.loop.enters):
                    enter = self.graph.nodes[unit.loop.start + number]
                    outside = enter.inputs[0] if unit.run == 0 else f"{enter_name}{unit.run}"
                    used[outside] = position
                    last = unit.run + 1 == unit.loop.region.count
                    leave = self.graph.nodes[unit.loop.body.stop + number].output.name
                    name = leave if last else f"{enter_name}{unit.run + 1}"
                    made[name] = position
                    sizes[name] = self._held(enter.output.name, self.strategies[enter.name].outputs[0])
            if unit.loop is not None and unit.run + 1 < unit.loop.region.count:
                continue  # what all runs use, the last one uses last
            for index in unit.nodes:
                node = self.graph.nodes[index]
                for name in node.inputs:
                    used[name] = position
                if unit.loop is None:
                    for value, layout in zip(node.outputs, self.strategies[node.name].outputs, strict=True):
                        made[value.name] = position
                        sizes[value.name] = self._held(value.name, layout)
        after = [(0.0, 0.0)] * len(units)
        for name, position in made.items():
            if name not in self.graph.recomputable:
                for cut in range(position, used.get(name, position)):
                    after[cut] = (after[cut][0] + sizes[name][0], after[cut][1] + sizes[name][1])
        return after

    def _held(self, name: str, layout: Layout) -> tuple[float, float]:
        size = self.prices.local_bytes(name, layout)
        return size, 0.0 if isinstance(layout.value, Shard) else size
