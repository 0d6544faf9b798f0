"""The search over degrees: every tp x pp x dp, micro-batch and recomputation, each with its best layout and cuts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import NoReturn

from autopart.errors import InfeasiblePlanError, PinError, PlanningError
from autopart.estimate.block import UnitCost, unit_costs
from autopart.estimate.node import Prices
from autopart.ir.folded import Folded
from autopart.ir.units import Unit
from autopart.schedules.find import find_schedule
from autopart.search.candidate import Candidate, peak_in_flight
from autopart.search.pipeline import search_cuts
from autopart.search.request import RECOMPUTE, Request, check, divisors
from autopart.search.sequence_parallel import check_sequence, pinned_strategies
from autopart.search.tensor import TensorPlan, search_tensor
from autopart.sharding.infer_axes import Axes
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Strategy, strategies
from cost_models.memory import usable_bytes

LARGEST_MICRO_BATCH = 32
REPLAYED = 12
STATE_COPIES = 4.0  # parameters, gradients, and the two moments of AdamW
# In a lean layout, the memory of all parameters weighs as much as this many unsharded passes.
LEAN_WEIGHT = 100.0
# In a sparing layout, which is lean too, all activations that are kept weigh as much as this share of such a pass:
# enough to keep shards of what norms take, too little for splits that keep less still and send many times as much.
SPARING_WEIGHT = 0.3
FAST, LEAN, SPARING = "fast", "lean", "sparing"
DEFAULT_SCHEDULE = "1f1b"  # as fast as GPipe in the same memory or less; others are chosen by a pin


@dataclass(frozen=True)
class Found:
    """The best candidate, those that came close (one for each tp x pp x dp), and how many were looked at."""

    best: Candidate
    others: tuple[Candidate, ...]
    evaluated: int


@dataclass
class DegreeSearch:
    """Searches plans for one model; prices and layouts are shared between candidates."""

    folded: Folded
    rules: Mapping[str, Rule | None]
    axes: Axes
    units: tuple[Unit, ...]
    request: Request
    _costs: dict[tuple[int, int, str], tuple[TensorPlan, tuple[UnitCost, ...]]] = field(default_factory=dict)
    _flying: dict[tuple[str, int, int], tuple[int, ...]] = field(default_factory=dict)
    _options: dict[int, dict[str, tuple[Strategy, ...]]] = field(default_factory=dict)

    def run(self) -> Found:
        """The best plan.

        Raises:
            PinError: a pin that cannot be met.
            InfeasiblePlanError: nothing fits the memory; the message names the stage and what would fit.
            PlanningError: no way to use so many devices.
        """
        found = self._search()
        return found if found is not None else self._explain()

    def _search(self) -> Found | None:
        check(self.request, len(self.units))
        self._check_tp()
        limit = usable_bytes(self.request.cluster.device)
        best: dict[tuple[int, int, int], list[Candidate]] = {}
        evaluated = 0
        for candidate in self._candidates(limit):
            evaluated += 1
            if candidate.peak_bytes <= self.request.cluster.device.memory_bytes:
                best.setdefault((candidate.tp, candidate.pp, candidate.dp), []).append(candidate)
        if not best:
            return None
        every = sorted((c for group in best.values() for c in group), key=_rank)
        replayed = sorted(every[:REPLAYED], key=lambda c: (c.step_s, *_rank(c)))
        winner = replayed[0]
        degrees = (winner.tp, winner.pp, winner.dp)
        others = sorted((min(group, key=_rank) for key, group in best.items() if key != degrees), key=_rank)
        return Found(winner, tuple(others[:5]), evaluated)

    def _candidates(self, limit: float) -> Iterator[Candidate]:
        request = self.request
        recomputes = (request.recompute,) if request.recompute else RECOMPUTE
        for tp, pp, dp in self._degrees():
            share = request.global_batch // dp
            sizes = (request.micro_batch,) if request.micro_batch else divisors_up_to(share, LARGEST_MICRO_BATCH)
            for micro_batch in sizes:
                if share % micro_batch:
                    continue
                fitting: set[str] = set()
                for variant in self._variants(tp):
                    # Activations are spared where they do not fit otherwise.
                    spared = variant == SPARING and limit < float("inf")
                    for recompute in [x for x in recomputes if not spared or x not in fitting]:
                        candidate = self._candidate(
                            tp, pp, dp, micro_batch, share // micro_batch, recompute, variant, limit
                        )
                        if candidate is not None:
                            fitting.add(recompute)
                            yield candidate
                if not fitting:
                    break  # a larger micro-batch needs more memory

    def _degrees(self) -> Iterator[tuple[int, int, int]]:
        request = self.request
        for tp in (request.tp,) if request.tp else divisors(request.world):
            if not request.tp and tp > 1 and (tp > request.cluster.devices_per_node or not self.shares_work(tp)):
                continue
            rest = request.world // tp
            pps = (
                (request.pp,)
                if request.pp
                else (len(request.cuts) + 1,)
                if request.cuts is not None
                else divisors(rest)
            )
            for pp in pps:
                if rest % pp or pp > len(self.units):
                    continue
                dp = rest // pp
                if (request.dp is None or dp == request.dp) and request.global_batch % dp == 0:
                    yield tp, pp, dp

    def _variants(self, tp: int) -> tuple[str, ...]:
        """Layouts of least time, then such as take less memory. A pinned tp asks for the model to be shared."""
        if tp == 1:
            return (FAST,)
        return (LEAN, SPARING) if self.request.tp else (FAST, LEAN, SPARING)

    def _check_tp(self) -> None:
        tp, world = self.request.tp, self.request.world
        if self.request.sequence_parallel:
            degrees = [other for other in ((tp,) if tp else divisors(world)) if other > 1]
            check_sequence({other: self.options(other) for other in degrees}, self.folded.graph.nodes, self.axes)
        if tp is None or self.shares_work(tp):
            return
        possible = [other for other in divisors(world) if other == 1 or self.shares_work(other)]
        shown = " and ".join(map(str, sorted(sorted(possible, key=lambda other: abs(other - tp))[:2])))
        raise PinError(f"tp={tp} divides no axis along which work can be shared: nearest are {shown}")

    def shares_work(self, tp: int) -> bool:
        """Whether any matmul-like node can be divided by `tp` ranks at all."""
        if tp == 1:
            return True
        options = self.options(tp)
        return any(s.divided and any(x.shard for x in (*s.inputs, *s.outputs)) for own in options.values() for s in own)

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

    def costs(self, tp: int, micro_batch: int, variant: str) -> tuple[TensorPlan, tuple[UnitCost, ...]]:
        """The tensor plan and the costs of all units at a tp degree and micro-batch."""
        key = (tp, micro_batch, variant)
        if key not in self._costs:
            prices = Prices(self.folded.graph, self.rules, self.request.cluster, tp, micro_batch)
            held_price = kept_price = 0.0
            if variant != FAST:
                _, whole = self.costs(1, micro_batch, FAST)
                seconds = sum(cost.forward_s + cost.backward_s for cost in whole)
                held_price = LEAN_WEIGHT * seconds / max(1.0, sum(s for cost in whole for _, s, _ in cost.parameters))
                if variant == SPARING:
                    kept_price = SPARING_WEIGHT * seconds / max(1.0, sum(cost.kept_bytes for cost in whole))
            plan = search_tensor(
                self.folded, self.options(tp), prices, seconds_per_byte=held_price, seconds_per_kept_byte=kept_price
            )
            self._costs[key] = plan, unit_costs(self.folded, self.units, prices, plan.strategies, plan.parameters)
        return self._costs[key]

    def _candidate(
        self, tp: int, pp: int, dp: int, micro_batch: int, count: int, recompute: str, variant: str, limit: float
    ) -> Candidate | None:
        schedule = self.request.schedule or DEFAULT_SCHEDULE
        tensor, costs = self.costs(tp, micro_batch, variant)
        key = (schedule, pp, count)
        if key not in self._flying:
            self._flying[key] = peak_in_flight(schedule, pp, count)
        flying = self._flying[key]
        cuts = search_cuts(costs, pp, flying, limit, recompute == "full", STATE_COPIES, self.request.cuts)
        if cuts is None:
            return None
        cluster, optimizer = self.request.cluster, self.request.optimizer
        return Candidate(
            tp, pp, dp, micro_batch, count, schedule, recompute, cuts, costs, tensor, cluster, optimizer, flying
        )

    def _explain(self) -> NoReturn:
        """Raise the error that says why there is no plan."""
        find_schedule(self.request.schedule or DEFAULT_SCHEDULE)
        request = self.request
        unlimited = list(self._candidates(float("inf")))
        if not unlimited:
            named = {
                axis.name: axis.size for axis in self.axes.axes if isinstance(axis.size, int) and "[" not in axis.name
            }
            sizes = ", ".join(f"{name} {size}" for name, size in sorted(named.items()) if size > 1) or "it has none"
            raise PlanningError(
                f"no tp x pp x dp makes world={request.world}: tp must divide an axis (among them {sizes}), pp can be "
                f"at most {len(self.units)}, and dp must divide global_batch={request.global_batch}; try "
                f"world={_nearby(request)}"
            )
        least = min(unlimited, key=lambda c: c.peak_bytes)
        stage, memory = max(enumerate(least.memory), key=lambda item: item[1].total_bytes)
        device = request.cluster.device
        gib = 2**30
        raise InfeasiblePlanError(
            f"stage {stage} needs {memory.total_bytes / gib:.1f} GiB at the least (parameters "
            f"{memory.parameters_bytes / gib:.1f}, "
            f"gradients {memory.gradients_bytes / gib:.1f}, optimizer {memory.optimizer_bytes / gib:.1f}, activations "
            f"{memory.activations_bytes / gib:.1f}, temporary {memory.temporary_bytes / gib:.1f}, reserve "
            f"{memory.reserve_bytes / gib:.1f}), {device.name} has {device.memory_bytes / gib:.1f}, with tp={least.tp} "
            f"pp={least.pp} "
            f"dp={least.dp} micro_batch={least.micro_batch} recompute={least.recompute!r}: {self._remedies()}"
        )

    def _remedies(self) -> str:
        """Changes that were searched and found to fit."""
        request, gib, found = self.request, 2**30, []
        for name in ("recompute", "micro_batch", "tp", "pp", "dp", "cuts"):
            if getattr(request, name) is not None:
                plan = self._with(_without(request, name))
                if plan is not None:
                    found.append(f"{name}={self._shown(plan.best, name)} ({plan.best.peak_bytes / gib:.1f} GiB)")
        pinned = [name for name in ("tp", "pp", "dp") if getattr(request, name) is not None]
        if len(pinned) > 1 and not found:  # degrees make the world together, so they are changed together
            plan = self._with(replace(request, tp=None, pp=None, dp=None))
            if plan is not None:
                degrees = " ".join(f"{name}={getattr(plan.best, name)}" for name in ("tp", "pp", "dp"))
                found.append(f"{degrees} ({plan.best.peak_bytes / gib:.1f} GiB)")
        free = None in (request.tp, request.pp, request.dp)
        for factor in (2, 4, 8, 16) if free and not found else ():
            larger = replace(request, world=request.world * factor, global_batch=request.global_batch * factor)
            plan = self._with(larger)
            if plan is not None:
                found.append(
                    f"world={larger.world} ({plan.best.peak_bytes / gib:.1f} GiB, global_batch={larger.global_batch})"
                )
                break
        return f"try {' or '.join(found)}" if found else "use more devices, or larger ones"

    def _shown(self, plan: Candidate, pin: str) -> str:
        """What `plan` has for `pin`, as a caller writes it."""
        value = getattr(plan, pin)
        return repr([self.units[index].name for index in value] if pin == "cuts" else value)

    def _with(self, request: Request) -> Found | None:
        try:
            return replace(self, request=request, _flying={}, _costs={})._search()
        except PlanningError:
            return None


def divisors_up_to(number: int, largest: int) -> tuple[int, ...]:
    """The divisors of `number` that are at most `largest`."""
    return tuple(d for d in range(1, min(number, largest) + 1) if number % d == 0)


def _rank(candidate: Candidate) -> tuple[float, ...]:
    """By time; among equals by memory, then the simpler degrees."""
    return (candidate.estimated_s, candidate.peak_bytes, candidate.tp, candidate.pp, candidate.micro_batch)


def _nearby(request: Request) -> int:
    """The next smaller world that the pins and the batch allow."""
    pp = len(request.cuts) + 1 if request.cuts is not None else request.pp or 1
    fixed = (request.tp or 1) * pp
    possible = [
        fixed * dp for dp in divisors(request.global_batch) if fixed * dp < request.world and request.dp in (None, dp)
    ]
    return max(possible, default=fixed * (request.dp or 1))


def _without(request: Request, pin: str) -> Request:
    """The request with one pin taken off; without cuts it keeps the number of stages."""
    values = {item.name: getattr(request, item.name) for item in fields(Request)}
    stages = {"pp": len(request.cuts) + 1} if pin == "cuts" and request.cuts is not None else {}
    return Request(**(values | {pin: None} | stages))
