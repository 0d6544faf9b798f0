"""Layouts: the tensor plans of a model and what its units cost under them, by tp degree, micro-batch and variant."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from autopart.errors import PlanningError
from autopart.estimate.block import UnitCost, unit_costs
from autopart.estimate.chain import Chain, chain_of
from autopart.estimate.context import Context, find_context
from autopart.estimate.each_unit import each_unit
from autopart.estimate.least_work import LeastWork, least_work
from autopart.estimate.memory import held_bytes
from autopart.estimate.node import Prices
from autopart.estimate.sorts import Sorts
from autopart.ir.folded import Folded
from autopart.ir.placement import Layout, Placement, Shard
from autopart.ir.units import Unit
from autopart.search.objective import Objective
from autopart.search.request import Request, divisors_up_to
from autopart.search.sequence_parallel import pinned_strategies
from autopart.search.tensor import TensorPlan, TensorSearch
from autopart.search.tensor_tables import TensorTables
from autopart.sharding.infer_axes import Axes
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Strategy, strategies

LARGEST_MICRO_BATCH = 64
# In a lean layout, the memory of all parameters weighs as much as this many unsharded passes.
LEAN_WEIGHT = 100.0
# In a sparing layout, which is lean too, all activations that are kept weigh as much as this share of such a pass:
# enough to keep shards of what norms take, too little for splits that keep less still and send many times as much.
SPARING_WEIGHT = 0.3
FAST, LEAN, SPARING = "fast", "lean", "sparing"


@dataclass
class Layouts:
    """Those at one degree of context parallelism.

    Each tensor search is set up once for a tp degree, and run once for all variants of a micro-batch together.
    """

    folded: Folded
    rules: Mapping[str, Rule | None]
    axes: Axes
    units: tuple[Unit, ...]
    request: Request
    cp: int = 1
    _sorts: Sorts = field(default_factory=Sorts)
    _options: dict[int, dict[str, tuple[Strategy, ...]]] = field(default_factory=dict)
    _prices: dict[tuple[int, int], Prices] = field(default_factory=dict)
    _plans: dict[tuple[int, int, str], TensorPlan] = field(default_factory=dict)
    _costs: dict[tuple[int, int, str], tuple[UnitCost, ...]] = field(default_factory=dict)
    _keeps: dict[int, bool] = field(default_factory=dict)
    _expected: dict[int, set[int]] = field(default_factory=dict)
    _searches: dict[int, TensorSearch] = field(default_factory=dict)
    _first: dict[tuple[int, int, str], str] = field(default_factory=dict)
    _shared: dict[int, frozenset[str]] = field(default_factory=dict)
    _worth: dict[int, tuple[float, float]] = field(default_factory=dict)

    def options(self, tp: int) -> dict[str, tuple[Strategy, ...]]:
        """Every node's strategies on `tp` ranks."""
        if tp not in self._options:
            graph = self.folded.graph
            pin, axes = self.request.sequence_parallel if tp > 1 else None, self.axes
            self._options[tp] = {
                node.name: pinned_strategies(
                    pin, node, strategies(node, graph, self.rules[node.name], axes.parts_of, tp), axes
                )
                for node in graph.nodes
            }
        return self._options[tp]

    @cached_property
    def context(self) -> Context:
        """What context parallelism divides."""
        return find_context(self.folded.graph, self.axes, self.cp)

    @cached_property
    def _chain(self) -> Chain:
        return chain_of(self.folded, self.units)

    def prices(self, tp: int, micro_batch: int) -> Prices:
        """What everything costs at a tp degree and micro-batch."""
        request, key = self.request, (tp, micro_batch)
        if key not in self._prices:
            self._prices[key] = Prices(
                self.folded.graph,
                self.rules,
                request.cluster,
                tp,
                micro_batch,
                request.stack,
                request.precision,
                self.context,
                self._sorts,
            )
        return self._prices[key]

    def plan(self, tp: int, micro_batch: int, variant: str) -> TensorPlan:
        """The tensor plan."""
        if (tp, micro_batch, variant) not in self._plans:
            sizes = sorted(self._expected.get(tp, set()) | {micro_batch})
            self._expected.pop(tp, None)
            keys = [(tp, size, own) for size in sizes for own in variants(self.request, tp)]
            found = self._search(tp).run([self._objective(*key) for key in keys])
            self._plans.update(zip(keys, found, strict=True))
        return self._plans[tp, micro_batch, variant]

    def _search(self, tp: int) -> TensorSearch:
        if tp not in self._searches:
            pins = dict(self.request.placements) if tp > 1 else {}  # a device alone holds all, and is the measure
            self._searches[tp] = TensorSearch(self.folded, self.options(tp), pins)
        return self._searches[tp]

    def expect(self, tp: int, micro_batch: int) -> None:
        """Search the layouts of this micro-batch together with those of the first one that is asked for."""
        self._expected.setdefault(tp, set()).add(micro_batch)

    def first_alike(self, tp: int, micro_batch: int, variant: str) -> str:
        """The first variant that has the same layout."""
        key = (tp, micro_batch, variant)
        if key not in self._first:
            own, others = self.plan(*key), variants(self.request, tp)
            before = others[: others.index(variant)] if variant in others else ()
            alike = (other for other in before if self.plan(tp, micro_batch, other).is_alike(own))
            self._first[key] = next(alike, variant)
        return self._first[key]

    def least_work(self, tp: int, micro_batch: int) -> LeastWork:
        """What all units take at the least, before a layout is searched."""
        alone = {name: options[0] for name, options in self.options(1).items()}
        return least_work(self.prices(1, micro_batch), self.units, alone, self._divided(tp), tp)

    def with_conversions(self, tp: int, works: Mapping[int, LeastWork]) -> dict[int, LeastWork]:
        """The least work of some micro-batches, with what has to be sent so that ranks can share it."""
        if tp == 1:
            return dict(works)
        least_s = self._search(tp).least_s(
            [self.prices(tp, size) for size in works], [own.nodes_s for own in works.values()]
        )
        return {
            size: replace(own, both_s=max(own.both_s, own.sums_s + each_s))
            for (size, own), each_s in zip(works.items(), least_s, strict=True)
        }

    def _divided(self, tp: int) -> frozenset[str]:
        """The names of the nodes whose work `tp` ranks can share."""
        if tp not in self._shared:
            shared = (name for name, options in self.options(tp).items() if any(own.divided for own in options))
            self._shared[tp] = frozenset(shared)
        return self._shared[tp]

    def keeps_placements(self, tp: int) -> bool:
        """Whether `tp` ranks can hold all parameters as they are pinned; one rank shards nothing."""
        if tp not in self._keeps:
            placements = dict(self.request.placements)
            self._keeps[tp] = not placements or self.can_hold(tp, placements)
        return self._keeps[tp]

    def can_hold(self, tp: int, placements: Mapping[str, Placement]) -> bool:
        """Whether there is a layout of the model on `tp` ranks with these placements of parameters."""
        if tp == 1:
            return not any(isinstance(own, Shard) for own in placements.values())
        size = micro_batches(self.request, self.request.global_batch)[0]
        try:
            TensorSearch(self.folded, self.options(tp), placements).run([Objective(self.prices(tp, size))])
        except PlanningError:
            return False
        return True

    def storage(self, tp: int, name: str) -> tuple[Layout, ...]:
        """The layouts in which `tp` ranks may hold a parameter, without regard to pins."""
        return TensorTables(self.folded, self.options(tp)).storage[name]

    def costs(self, tp: int, micro_batch: int, variant: str) -> tuple[UnitCost, ...]:
        """What each unit costs under it."""
        key = (tp, micro_batch, self.first_alike(tp, micro_batch, variant))
        if key not in self._costs:
            plan, prices = self.plan(*key), self.prices(tp, micro_batch)
            self._costs[key] = unit_costs(
                self.folded, self.units, prices, plan.strategies, plan.parameters, self._chain
            )
        return self._costs[key]

    def _objective(self, tp: int, micro_batch: int, variant: str) -> Objective:
        held_price, kept_price = (0.0, 0.0) if variant == FAST else self._memory_prices(micro_batch)
        prices = self.prices(tp, micro_batch)
        kept_price = kept_price if variant == SPARING else 0.0
        return Objective(prices, seconds_per_byte=held_price, seconds_per_kept_byte=kept_price)

    def _memory_prices(self, micro_batch: int) -> tuple[float, float]:
        """What a byte of parameters and one that is kept are worth, by the units' costs on a device alone."""
        if micro_batch not in self._worth:
            whole = self.costs(1, micro_batch, FAST)
            seconds = sum([cost.forward_s + cost.backward_s for cost in whole])
            held, kept = sum(each_unit(whole, held_bytes)), sum([cost.kept_bytes for cost in whole])
            self._worth[micro_batch] = (
                LEAN_WEIGHT * seconds / max(1.0, held),
                SPARING_WEIGHT * seconds / max(1.0, kept),
            )
        return self._worth[micro_batch]


def variants(request: Request, tp: int) -> tuple[str, ...]:
    """Layouts of least time, then such as take less memory. A pinned tp asks for the model to be shared."""
    if tp == 1:
        return (FAST,)
    return (LEAN, SPARING) if request.tp else (FAST, LEAN, SPARING)


def micro_batches(request: Request, share: int) -> tuple[int, ...]:
    """The sizes of micro-batches to try for a replica with `share` samples."""
    if request.micro_batch:
        return () if share % request.micro_batch else (request.micro_batch,)
    return tuple(size for size in divisors_up_to(share, LARGEST_MICRO_BATCH) if size not in request.unfit)
