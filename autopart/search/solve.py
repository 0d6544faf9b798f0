"""Solve: from a folded graph and a request to a plan."""

from collections.abc import Mapping, Sequence
from math import ceil

from autopart.estimate.work import Work, work_of
from autopart.ir.folded import Folded
from autopart.ir.plan import DeviceGroup, LayerTraffic, NodeChoice, Note, ParameterChoice, PlanData
from autopart.ir.prediction import Alternative, Prediction
from autopart.ir.uncollected import uncollected
from autopart.ir.units import Unit
from autopart.search.candidate import Candidate
from autopart.search.decisions import decisions, unpinned
from autopart.search.degrees import DegreeSearch, Found
from autopart.search.notes import mixing_notes, replicated_notes
from autopart.search.parts import parts
from autopart.search.request import Request
from autopart.search.stage_plans import stage_plans
from autopart.sharding.batch import BatchSharding
from autopart.sharding.infer_axes import Axes, infer_axes
from autopart.sharding.rule import Rule
from cost_models.device import Device
from cost_models.precision import computed_dtype

PROVED = 1e-9  # a relative gap that rounding explains


@uncollected()
def solve(
    folded: Folded,
    units: tuple[Unit, ...],
    rules: Mapping[str, Rule | None],
    batch: BatchSharding,
    request: Request,
    notes: Sequence[Note] = (),
    pins: Sequence[tuple[str, str]] = (),
) -> PlanData:
    """The fastest plan that fits.

    Args:
        folded: the model.
        units: its pieces.
        rules: of every node, by its name.
        batch: what mixes the samples, for the notes.
        request: world, batch, cluster and pins.
        notes: what the reader should know besides.
        pins: (name, value) of what `request` has pinned, as the caller wrote it.

    Raises:
        PlanningError: as `DegreeSearch.run`.
    """
    graph = folded.graph
    axes = infer_axes(graph, rules)
    search = DegreeSearch(folded, rules, axes, units, request)
    found = search.run()
    best, cluster = found.best, request.cluster
    groups = _device_groups(request, best)
    dtypes = [parameter.value.dtype for parameter in graph.parameters]
    return PlanData(
        model=graph.name,
        fingerprint=folded.source.fingerprint,
        parameter_count=_parameter_count(folded),
        dtype=max(set(dtypes), key=dtypes.count) if dtypes else "float32",
        tokens_per_sample=request.tokens_per_sample,
        cluster=request.mixed.name if request.mixed else cluster.name,
        device=" + ".join(dict.fromkeys(own.device for own in groups)) or cluster.device.name,
        devices_per_node=min((own.devices_per_node for own in groups), default=cluster.devices_per_node),
        memory_limit_bytes=min(
            (own.memory_limit_bytes for own in groups), default=_limit_bytes(request, cluster.device)
        ),
        groups=groups,
        world=request.world,
        tp=best.tp,
        pp=best.pp,
        dp=best.dp,
        cp=best.cp,
        global_batch=request.global_batch,
        micro_batch=best.micro_batch,
        schedule=best.schedule,
        virtual_stages=best.virtual_stages,
        recompute=best.recompute,
        zero=best.keeping.zero,
        precision=request.precision,
        stack=request.stack.name,
        blocking_sends=request.stack.blocking_sends,
        optimizer=request.optimizer,
        cuts=best.cuts,
        stages=stage_plans(best, units),
        predicted=_prediction(best, request, folded),
        nodes=_node_choices(folded, best),
        parameters=tuple(ParameterChoice(n, x) for n, x in best.tensor.parameters.items()) if best.tp > 1 else (),
        axes=_sharded_axes(folded, axes, best),
        traffic=_traffic(folded, search, axes, units, best),
        replicated=replicated_notes(folded, rules, best, search.pricing.layouts(best.cp).options(best.tp)),
        alternatives=_alternatives(found),
        decisions=(*decisions(search, best), *unpinned(search, best)),
        pins=tuple(pins),
        optimality=_optimality(found),
        notes=(*notes, *(mixing_notes(batch) if graph.loss is not None else ())),
    )


def _limit_bytes(request: Request, device: Device) -> int:
    own = request.memory_limit_bytes
    return device.memory_bytes if own is None or own == float("inf") else int(own)


def _device_groups(request: Request, best: Candidate) -> tuple[DeviceGroup, ...]:
    """The kinds of nodes, in the order of the ranks."""
    groups = [request.mixed.groups[number] for number in best.point.order] if request.mixed else ()
    return tuple(
        DeviceGroup(
            own.cluster.device.name,
            own.devices,
            own.cluster.devices_per_node,
            _limit_bytes(request, own.cluster.device),
        )
        for own in groups
    )


def _optimality(found: Found) -> str:
    """What is proved of the best candidate, and by what.

    A layout is searched for a price on memory, not for the limit. Cuts are those of the least slowest stage, and for
    the best those of the shortest step, played out; bounds hold for all cuts.
    """
    best = found.best
    faster = max(0.0, 1 - found.least_s / best.step_s) if best.step_s > 0 else 0.0
    proof = "optimal" if faster <= PROVED else f"within {_upwards(faster)} of the optimum"
    own = best.tensor
    gap = 1 - own.bound_s / own.seconds if own.seconds > 0 else 0.0
    layout = "exact" if gap <= PROVED else f"within {_upwards(gap)} of the best (the graph is too entangled for more)"
    return f"{proof} among {found.points} candidates under the model; layout for its objective {layout}, {_cuts(found)}"


def _cuts(found: Found) -> str:
    """What is proved of the cuts."""
    best_s = found.best.step_s
    bounds = (found.least_of_any_cuts_s, found.least_of_several_s)
    one, several = (max(0.0, 1 - least_s / best_s) if best_s > 0 else 0.0 for least_s in bounds)
    exact = "exact" if one <= PROVED else f"at most {_upwards(one)} from the best"
    if several <= PROVED:
        return f"cuts {exact}"
    return f"cuts {exact} with one stage a rank, evened out with several (others at most {_upwards(several)} faster)"


def _upwards(fraction: float) -> str:
    """A share, never less than it is: 0.00123 is 0.2 %."""
    return f"{ceil(1000 * fraction) / 10:.1f} %"


def _parameter_count(folded: Folded) -> int:
    total = 0
    for parameter in folded.source.parameters:
        count = 1
        for size in parameter.value.shape:
            count *= int(size)
        total += count
    return total


def _prediction(best: Candidate, request: Request, folded: Folded) -> Prediction:
    step_s = best.step_s
    samples_per_s = request.global_batch / step_s
    flops = sum(cost.model_flops for cost in best.costs) * best.micro_batches * best.dp
    per_device = flops / step_s / request.world
    busiest = [node.output.dtype for node in folded.graph.nodes if work_of(node) is Work.MATMUL]
    dtype = computed_dtype(request.precision, max(set(busiest), key=busiest.count) if busiest else "float32")
    devices = [best.device_of(rank) for rank in range(best.pp)]
    return Prediction(
        step_time_s=step_s,
        time_error=request.stack.time_error if all(device.checked for device in devices) else 0.0,
        tokens_per_s=samples_per_s * request.tokens_per_sample,
        samples_per_s=samples_per_s,
        model_flops_per_gpu_per_s=per_device,
        mfu=per_device / (sum(device.peak(dtype) for device in devices) / best.pp),
        bubble_fraction=best.timeline.bubble_fraction,
        peak_memory_bytes=tuple(memory.total_bytes for memory in best.memory),
        parts=parts(best),
    )


def _node_choices(folded: Folded, best: Candidate) -> tuple[NodeChoice, ...]:
    if best.tp == 1:
        return ()
    chosen = best.tensor.strategies
    return tuple(
        NodeChoice(node.name, own.letter, own.inputs, own.outputs, own.call)
        for node in folded.graph.nodes
        for own in [chosen[node.name]]
    )


def _traffic(
    folded: Folded, search: DegreeSearch, axes: Axes, units: Sequence[Unit], best: Candidate
) -> tuple[LayerTraffic, ...]:
    if best.tp == 1:
        return ()
    prices = search.pricing.layouts(best.cp).prices(best.tp, best.micro_batch)
    found = []
    for unit, cost in zip(units, best.costs, strict=True):
        if unit.loop is None or unit.run:
            continue
        sent: tuple[dict[str, list[float]], dict[str, list[float]]] = ({}, {})
        for conversion in cost.conversions:
            for table, collective in zip(sent, prices.sent_bytes(*conversion), strict=True):
                if collective is not None:
                    table.setdefault(collective[0], []).append(collective[1])
        forward, backward = (tuple((name, len(s), int(sum(s))) for name, s in sorted(table.items())) for table in sent)
        shards = [(name, best.tensor.strategies[name].outputs[0].shard) for name in unit.loop.enters]
        values = {node.name: node.output.name for node in folded.graph.nodes}
        between = dict.fromkeys(axes.axis_of[(values[name], x.dim)].name for name, x in shards if x is not None)
        found.append(LayerTraffic(unit.name, unit.loop.region.count, tuple(between), forward, backward))
    return tuple(found)


def _sharded_axes(folded: Folded, axes: Axes, best: Candidate) -> tuple[tuple[str, str], ...]:
    """The axes along which weights or activations are sharded; those that an op names come first."""
    if best.tp == 1:
        return ()
    weights: dict[str, str] = {}
    for name, layout in best.tensor.parameters.items():
        if layout.shard is not None:
            axis = axes.axis_of[(name, layout.shard.dim)]
            weights.setdefault(axis.name, str(axis.size))
    named: dict[str, str] = {}
    for node in folded.graph.nodes:
        for value, layout in zip(node.outputs, best.tensor.strategies[node.name].outputs, strict=True):
            if layout.shard is not None:
                axis = axes.axis_of[(value.name, layout.shard.dim)]
                if "[" not in axis.name:
                    named.setdefault(axis.name, str(axis.size))
    return (*named.items(), *((name, size) for name, size in weights.items() if name not in named))


def _alternatives(found: Found) -> tuple[Alternative, ...]:
    return tuple(
        Alternative(
            tp=own.tp,
            pp=own.pp,
            dp=own.dp,
            cp=own.cp,
            micro_batch=own.micro_batch,
            schedule=own.schedule,
            virtual_stages=own.virtual_stages,
            recompute=own.recompute,
            zero=own.keeping.zero,
            step_time_s=own.step_s,
            peak_memory_bytes=own.peak_bytes,
        )
        for own in sorted(found.others, key=lambda own: own.step_s)  # they were found by the estimate of it
    )


def unit_named(units: Sequence[Unit], name: str) -> int | None:
    """The index of the unit called `name`, or of the first one inside that module."""
    for index, unit in enumerate(units):
        if unit.name == name or unit.name.startswith(f"{name}."):
            return index
    return None
