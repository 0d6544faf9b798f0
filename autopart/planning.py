"""planning: from a prepared model and the caller's pins to a plan, and what a plan must be to serve a model."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from autopart.errors import PinError, PlanMismatchError, UnknownNameError, UnsupportedError
from autopart.ir.action import Kind
from autopart.ir.kept import KEPT, function_name
from autopart.ir.plan import Note, PlanData
from autopart.ir.units import Unit
from autopart.report.printed_plan import Plan
from autopart.schedules.find import find_schedule
from autopart.search.layouts import LARGEST_MICRO_BATCH
from autopart.search.placements import pinned_placements
from autopart.search.request import Request
from autopart.search.solve import solve, unit_named
from autopart.sharding.batch_sizes import BatchSizes
from autopart.sharding.ruled import Ruled
from cost_models.cluster import Cluster, load_cluster
from cost_models.device import Device
from cost_models.errors import UnknownCostModelError
from cost_models.mixed_cluster import MixedCluster, is_mixed, load_mixed_cluster, mixed_cluster_names
from cost_models.precision import check_precision
from cost_models.stack import Stack, load_stack

DEFAULT_CLUSTER = "dgx-h100"
DEFAULT_STACK = "autopart"
DEFAULT_TOKENS = 4 * 2**20
DEFAULT_SAMPLES_PER_DEVICE = 32
_DEGREES = ("tp", "pp", "dp", "cp", "micro_batch")
_POLICIES = ("recompute", "schedule", "virtual_stages", "zero", "sequence_parallel", "cuts")
_MOST_PLACES = 12  # of which an error lists all
FASTER = 2  # from here on a dtype is worth a note
RUN_PRECISIONS = ("as-built", "bf16-mixed", "fp16-mixed")  # of those that can be planned


@dataclass(frozen=True)
class Pins:
    """What the caller decided; None is searched."""

    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    micro_batch: int | None = None
    recompute: str | None = None
    schedule: str | None = None
    cuts: tuple[str, ...] | None = None
    zero: int | None = None
    sequence_parallel: bool | None = None
    cp: int | None = None
    virtual_stages: int | None = None
    precision: str | None = None
    stack: str | Path | Stack | None = None
    memory_limit_bytes: float | None = None
    search_seconds: float | None = None
    placements: Mapping[str, str] | None = None

    @property
    def decisions(self) -> tuple[tuple[str, str], ...]:
        """Those that a search would else decide, and what they are, as text; a parameter's placement by its name."""
        named = ((name, getattr(self, name)) for name in (*_DEGREES, *_POLICIES))
        given = [(name, ", ".join(own) if name == "cuts" else str(own)) for name, own in named if own is not None]
        return (*given, *(self.placements or {}).items())


def check_names(cluster: str | Path | Cluster | MixedCluster | None, pins: Pins) -> None:
    """Whether names and policies are known, before a large model is captured for nothing.

    Raises:
        UnknownNameError: no such cluster, schedule, stack or precision.
    """
    _cluster(cluster, [])
    if pins.schedule is not None:
        find_schedule(pins.schedule)
    _stack(pins.stack)
    try:
        check_precision(pins.precision or "as-built")
    except UnknownCostModelError as error:
        raise UnknownNameError(str(error)) from error


def make_plan(
    prepared: Ruled,
    world: int,
    cluster: str | Path | Cluster | MixedCluster | None,
    global_batch: int | None,
    pins: Pins,
) -> Plan:
    """The plan for a prepared model, or for a graph that was saved of one; then torch is not needed."""
    if not prepared.folded.source.parameters:
        raise UnsupportedError(
            f"{prepared.folded.source.name} has no parameters that it computes with: there is nothing to train, and "
            "nothing to divide among stages. Plan a model with weights"
        )
    notes: list[Note] = []
    known, mixed = _nodes(_cluster(cluster, notes), world)
    tokens = _tokens_per_sample(prepared)
    if global_batch is None:
        global_batch = _default_batch(tokens, world)
        size = (
            f"about {DEFAULT_TOKENS / 2**20:.0f} Mi tokens"
            if tokens
            else f"{DEFAULT_SAMPLES_PER_DEVICE} samples a device"
        )
        notes.append(Note("global_batch", f"left out: {global_batch} samples, {size}; set it with global_batch="))
    if prepared.folded.source.loss is None:
        notes.append(
            Note("loss", "the model returns none: priced without; to train, pass loss=, a function of (output, batch)")
        )
    if prepared.kept_unasked:
        text = "as they cannot be captured, keep_whole='auto' keeps these, each computed by every tensor-parallel rank"
        notes.append(Note("keep_whole", f"{text}: {', '.join(prepared.kept_unasked)}"))
    notes += _precision_notes(prepared, pins, known.device)
    kept = [node.scope for node in prepared.folded.graph.nodes if node.op == KEPT and not function_name(node)]
    if kept:
        guess = (
            "the price of a module kept whole is a guess, by the bytes of its weights, inputs and outputs, and whether "
            "it mixes samples was seen on random numbers"
        )
        notes.append(Note("keep_whole", f"{guess}: {', '.join(kept)}"))
    sizes = BatchSizes(prepared.folded.graph)
    if pins.micro_batch is not None and (why := sizes.misfit(pins.micro_batch)) is not None:
        raise PinError(f"micro_batch={pins.micro_batch}: {prepared.folded.source.name} mixes samples, and {why}")
    request = Request(
        world=world,
        global_batch=global_batch,
        cluster=known,
        mixed=mixed,
        tokens_per_sample=tokens,
        tp=pins.tp,
        pp=pins.pp,
        dp=pins.dp,
        micro_batch=pins.micro_batch,
        unfit=frozenset(size for size in range(1, LARGEST_MICRO_BATCH + 1) if sizes.misfit(size)),
        recompute=pins.recompute,
        schedule=pins.schedule,
        cuts=_cut_indices(prepared.units, pins.cuts),
        sequence_parallel=pins.sequence_parallel,
        cp=pins.cp,
        zero=pins.zero,
        virtual_stages=pins.virtual_stages,
        precision=pins.precision or "as-built",
        memory_limit_bytes=pins.memory_limit_bytes,
        search_seconds=pins.search_seconds,
        placements=pinned_placements(prepared.folded, pins.placements or {}),
        stack=_stack(pins.stack),
    )
    data = solve(prepared.folded, prepared.units, prepared.rules, prepared.batch, request, notes, pins.decisions)
    return Plan(**{item.name: getattr(data, item.name) for item in fields(PlanData)})


def _precision_notes(prepared: Ruled, pins: Pins, device: Device) -> list[Note]:
    """Which precision the device multiplies much faster in, where nothing was said or bfloat16 is asked of a device
    from before it had that.
    """
    dtypes = [parameter.value.dtype for parameter in prepared.folded.graph.parameters]
    if not dtypes or max(set(dtypes), key=dtypes.count) != "float32":
        return []
    whole, brain, half = (device.peak(dtype) for dtype in ("float32", "bfloat16", "float16"))
    if half >= FASTER * brain:
        precision, dtype, peak = "fp16-mixed", "float16", half
    else:
        precision, dtype, peak = "bf16-mixed", "bfloat16", brain
    if pins.precision is None:
        said, dtype_now, now = "left out", "float32", whole
    elif pins.precision == "bf16-mixed":
        said, dtype_now, now = pins.precision, "bfloat16", brain
    else:
        return []
    if peak < FASTER * now:
        return []
    text = (
        f"{said}: products in {dtype_now}, at most {now / 1e12:.0f} TFLOP/s a device; precision={precision!r} computes "
        f"them in {dtype}, at most {peak / 1e12:.0f}"
    )
    return [Note("precision", text)]


def _cluster(cluster: str | Path | Cluster | MixedCluster | None, notes: list[Note]) -> Cluster | MixedCluster:
    if isinstance(cluster, (Cluster, MixedCluster)):
        return cluster
    if cluster is None:
        cluster = _at_hand() or DEFAULT_CLUSTER
        notes.append(Note("cluster", f"left out: {cluster}; set it with cluster="))
    try:
        return load_mixed_cluster(cluster) if is_mixed(cluster) else load_cluster(cluster)
    except UnknownCostModelError as error:
        raise UnknownNameError(
            f"{error}. Clusters of several kinds of nodes: {', '.join(mixed_cluster_names())}"
        ) from error


def _nodes(cluster: Cluster | MixedCluster, world: int) -> tuple[Cluster, MixedCluster | None]:
    """The nodes that `world` ranks fill: of one kind, or of several."""
    if isinstance(cluster, Cluster):
        return cluster, None
    if world > cluster.devices:
        groups = " + ".join(f"{own.devices} {own.cluster.device.name}" for own in cluster.groups)
        raise PinError(f"world={world}: {cluster.name} has {cluster.devices} devices, {groups}: ask for no more")
    mixed = cluster.first(max(1, world))
    return mixed.busiest, mixed if len(mixed.groups) > 1 else None


def _at_hand() -> str | None:
    if "torch" not in sys.modules:  # a process that has not imported it is in no job
        return None
    from autopart.runtime.at_hand import cluster_at_hand

    return cluster_at_hand()


def _stack(stack: str | Path | Stack | None) -> Stack:
    if isinstance(stack, Stack):
        return stack
    try:
        return load_stack(stack or DEFAULT_STACK)
    except UnknownCostModelError as error:
        raise UnknownNameError(str(error)) from error


def _tokens_per_sample(prepared: Ruled) -> int:
    for item in prepared.folded.source.inputs:
        shape = item.value.shape
        if item.value.dtype == "int64" and len(shape) == 2 and isinstance(shape[1], int):
            return shape[1]
    return 0


def _default_batch(tokens: int, world: int) -> int:
    """A batch of the usual size that many numbers of replicas and micro-batches share evenly.

    A multiple of the world, or of its largest divisor that is no larger than the batch; the multiple has four
    significant bits, which takes at most a ninth of the batch away.
    """
    if not tokens:
        return DEFAULT_SAMPLES_PER_DEVICE * world
    most = max(1, DEFAULT_TOKENS // tokens)
    replicas = max(divisor for divisor in range(1, min(world, most) + 1) if world % divisor == 0)
    each = most // replicas
    step = 1 << max(0, each.bit_length() - 4)
    return replicas * (each // step * step)


def _cut_indices(units: tuple[Unit, ...], cuts: tuple[str, ...] | None) -> tuple[int, ...] | None:
    if cuts is None:
        return None
    found = []
    for name in cuts:
        index = unit_named(units, name)
        if index is None or index == 0:
            raise PinError(f"no stage can begin at {name!r}: the places are {_place_names(units)}")
        found.append(index)
    if sorted(set(found)) != found:
        raise PinError(f"cuts must be in the order of the model, each once: {', '.join(cuts)}")
    return tuple(found)


def _place_names(units: tuple[Unit, ...]) -> str:
    """Where stages can begin, each once; of many the first and the last."""
    found = list(dict.fromkeys(unit.name for unit in units[1:]))
    return ", ".join(found if len(found) <= _MOST_PLACES else [*found[:3], "...", *found[-3:]])


def check_runnable(plan: PlanData) -> None:
    """Whether the runtime can do what a plan says; other plans are predictions only.

    Raises:
        UnsupportedError: it cannot, with what to change.
    """
    if plan.cp != 1:
        raise UnsupportedError(f"cp={plan.cp} can be planned but not run yet: leave it out, which is cp=1")
    if plan.zero >= 2 and plan.dp > 1 and Kind.WEIGHT in find_schedule(plan.schedule).kinds:
        raise UnsupportedError(
            f"zero={plan.zero} keeps no whole gradients, and schedule {plan.schedule!r} puts part of them off while "
            "others wait: choose zero=1, or a schedule without split backward passes, as '1f1b'"
        )
    if plan.precision not in RUN_PRECISIONS:
        raise UnsupportedError(
            f"precision={plan.precision!r} can be planned but not run yet: choose among {', '.join(RUN_PRECISIONS)}"
        )
    if plan.precision != "as-built" and plan.dtype != "float32":
        raise UnsupportedError(
            f"precision={plan.precision!r} trains float32 weights, and those of {plan.model} are {plan.dtype}: build "
            "the model in float32 (model.float()), or leave precision out"
        )


def check_plan(plan: PlanData, prepared: Ruled, world: int | None, global_batch: int | None, pins: Pins) -> None:
    """Whether `plan` serves the model and what the caller asks for.

    Raises:
        PinError: a pin beside a plan.
        PlanMismatchError: it was made for another model, graph, world or batch.
    """
    graph = prepared.folded.source
    pinned = [item.name for item in fields(pins) if getattr(pins, item.name) is not None]
    if pinned:
        raise PinError(f"{pinned[0]}= is given beside plan=: a plan has decided it; leave it out, or leave plan out")
    if plan.fingerprint != graph.fingerprint:
        raise PlanMismatchError(
            f"the plan was made for {plan.model} with graph {plan.fingerprint}, this {graph.name} has graph "
            f"{graph.fingerprint}: "
            "another model, other input shapes, or another version of torch: plan again. Code that registers modules "
            "as it walks a set does so in another order in every process, unless PYTHONHASHSEED is set"
        )
    if plan.stages[-1].stop != len(prepared.units):
        raise PlanMismatchError(
            f"the plan divides {plan.stages[-1].stop} pieces among its stages, and this version of autopart sees "
            f"{len(prepared.units)} in {graph.name}: plan again"
        )
    layers = sum(unit.loop is not None for unit in prepared.units)
    if len(plan.layers_recomputed) != layers:
        raise PlanMismatchError(
            f"the plan says how {len(plan.layers_recomputed)} layers are recomputed, and this version of "
            f"autopart sees {layers} in {graph.name}: plan again"
        )
    find_schedule(plan.schedule)
    if world is not None and world != plan.world:
        raise PlanMismatchError(f"the plan is for world={plan.world}, not {world}: plan again with world={world}")
    if global_batch is not None and global_batch != plan.global_batch:
        raise PlanMismatchError(f"the plan is for global_batch={plan.global_batch}, not {global_batch}: plan again")
