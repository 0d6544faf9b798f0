"""The composer: capture, rules, search, emission and runtime in a row."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from autopart.capture.evaluate import overload
from autopart.capture.example_inputs import example_inputs
from autopart.capture.fold import fold
from autopart.capture.samplewise import samplewise
from autopart.capture.torch_export import Captured, capture
from autopart.emit.function import Sharded
from autopart.emit.stages import emit_program
from autopart.errors import LaunchError, PinError, PlanMismatchError, UnknownNameError, UnsupportedError
from autopart.ir.folded import Folded, folded
from autopart.ir.placement import REPLICATED
from autopart.ir.plan import Note, PlanData
from autopart.ir.program import Program
from autopart.ir.units import Unit, units_of
from autopart.report.load import load_plan
from autopart.report.printed_plan import Plan
from autopart.runtime.at_hand import cluster_at_hand
from autopart.runtime.launch import run
from autopart.runtime.parallel import Parallel
from autopart.schedules.find import find_schedule
from autopart.search.request import Request
from autopart.search.solve import solve, unit_named
from autopart.sharding.batch import BatchSharding, batch_sharding
from autopart.sharding.find_rule import RuleSource, check_notation, find_rule
from autopart.sharding.groups import share_groups
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Strategy, strategies
from cost_models.cluster import Cluster, load_cluster
from cost_models.errors import UnknownCostModelError

__all__ = ["Parallel", "Plan", "load_plan", "parallelize", "plan", "run"]

DEFAULT_CLUSTER = "dgx-h100"
DEFAULT_TOKENS = 4 * 2**20
DEFAULT_SAMPLES_PER_DEVICE = 32

LossFunction = Callable[[Any, Any], torch.Tensor]


def plan(
    model: nn.Module,
    world: int,
    *,
    cluster: str | Path | None = None,
    global_batch: int | None = None,
    inputs: object | None = None,
    loss: LossFunction | None = None,
    rules: Mapping[str, RuleSource] | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    micro_batch: int | None = None,
    recompute: str | None = None,
    schedule: str | None = None,
    cuts: Sequence[str] | None = None,
    zero: int | None = None,
    sequence_parallel: bool | None = None,
) -> Plan:
    """The fastest way to train `model` on `world` devices that fits their memory. Needs no GPU and no process group.

    Args:
        model: an unmodified module, whose tensors may be on `meta`.
        world: the number of devices.
        cluster: a name from `cost_models/clusters`, or a path to such a file. Left out: inside a job the devices at
            hand, elsewhere `dgx-h100`.
        global_batch: samples a step. Left out: about 4 million tokens for a token model, 32 samples a device otherwise.
        inputs: an example batch; see `example_inputs` for what is derived when it is left out.
        loss: a function of (output, batch); left out, the model's own loss.
        rules: sharding rules of your own ops, by their names: {"mylib.my_op.default": "b* i, o i -> b* o"}.
        tp: degree of tensor parallelism; tp x pp x dp is `world`.
        pp: degree of pipeline parallelism.
        dp: degree of data parallelism.
        micro_batch: samples a micro-batch.
        recompute: "none" or "full".
        schedule: the name of one of `autopart/schedules/catalog`: "1f1b", "gpipe", "zb-h1" and others.
        cuts: names of the modules at which the second and later stages begin.
        zero: 0; sharded optimizer state is not supported yet.
        sequence_parallel: True shards what goes from layer to layer along the sequence (the second dim of an input)
            wherever tp can; False shards nothing along it.

    Raises:
        CaptureError: the model cannot be captured, or no example batch is known.
        PinError: a pin that cannot be met.
        InfeasiblePlanError: nothing fits the memory.
        UnknownNameError: no such cluster or schedule, or an operator of `rules` that is not registered.
        RuleError: a rule of `rules` that cannot be read.
    """
    names = tuple(cuts) if cuts is not None else None
    pins = Pins(tp, pp, dp, micro_batch, recompute, schedule, names, zero, sequence_parallel)
    check_names(cluster, pins)
    return make_plan(prepare(model, inputs, loss, rules), world, cluster, global_batch, pins)


def parallelize(
    model: nn.Module,
    world: int | None = None,
    *,
    plan: PlanData | None = None,
    cluster: str | Path | None = None,
    global_batch: int | None = None,
    inputs: object | None = None,
    loss: LossFunction | None = None,
    rules: Mapping[str, RuleSource] | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    micro_batch: int | None = None,
    recompute: str | None = None,
    schedule: str | None = None,
    cuts: Sequence[str] | None = None,
    zero: int | None = None,
    sequence_parallel: bool | None = None,
) -> Parallel[Plan]:
    """Plan `model`, or take a `plan` made before, write it out, and inside a job of `world` ranks get ready to train.

    The arguments are those of `plan`. With `plan=`, pins are left out, and the model and the `rules` must be those that
    it was made for.
    Under `torchrun` the process group is started if it is not running yet.

    Raises:
        PlanMismatchError: the plan was made for another model, graph or world.
        LaunchError: ranks of the job disagree.
        UnsupportedError: a schedule without a backward pass.
        and what `plan` raises.
    """
    names = tuple(cuts) if cuts is not None else None
    pins = Pins(tp, pp, dp, micro_batch, recompute, schedule, names, zero, sequence_parallel)
    if plan is None and world is None:
        raise PinError("world is missing: parallelize(model, world=64), or parallelize(model, plan=plan)")
    check_names(cluster, pins)
    _join_job(world if world is not None else plan.world if plan is not None else 1)
    prepared = prepare(model, inputs, loss, rules)
    if plan is not None:
        _check_plan(plan, prepared, world, global_batch, pins)
        made = Plan(**{item.name: getattr(plan, item.name) for item in fields(PlanData)})
    else:
        made = make_plan(prepared, world or 1, cluster, global_batch, pins)
    program = make_program(made, prepared)
    return Parallel(made, program, prepared.captured.graph, model, prepared.captured.constants)


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


@dataclass(frozen=True)
class Prepared:
    """A captured model with its rules."""

    captured: Captured
    folded: Folded
    rules: dict[str, Rule | None]
    batch: BatchSharding
    units: tuple[Unit, ...]


def check_names(cluster: str | Path | None, pins: Pins) -> None:
    """Whether names and policies are known, before a large model is captured for nothing.

    Raises:
        UnknownNameError: no such cluster or schedule.
        UnsupportedError: a ZeRO stage.
    """
    _cluster(cluster, [])
    if pins.schedule is not None:
        find_schedule(pins.schedule)
    if pins.zero not in (None, 0):
        raise UnsupportedError(f"zero={pins.zero}: sharded optimizer state is not supported yet, leave zero out")


def check_rules(given: Mapping[str, RuleSource]) -> None:
    """Whether rules of the caller's own are of operators that exist, and can be read.

    Raises:
        UnknownNameError: an operator that is not registered.
        RuleError: a notation that cannot be read.
    """
    for op, source in given.items():
        try:
            overload(op)
        except (AttributeError, ValueError) as error:
            raise UnknownNameError(
                f"rules: no operator {op!r} is registered; the name is 'namespace.name.overload', as "
                "'mylib.my_op.default', and the module that registers it must have been imported"
            ) from error
        check_notation(op, source)


def prepare(
    model: nn.Module,
    inputs: object | None,
    loss: LossFunction | None,
    given: Mapping[str, RuleSource] | None = None,
) -> Prepared:
    """Capture a model, fold it and find the rules of its nodes: what planning and emission start from.

    Args:
        model: any module.
        inputs: an example batch, or None.
        loss: a function of (output, batch), or None.
        given: rules of the caller's own, by the names of their ops.

    Raises:
        UnknownNameError: an operator of `given` that is not registered.
        RuleError: a rule of `given` that cannot be read.
        and what `capture` raises.
    """
    check_rules(given or {})
    captured = capture(model, example_inputs(model, inputs), loss)
    whole = folded(fold(captured.graph))
    rules = {node.name: find_rule(node, whole.graph, given) for node in whole.graph.nodes}
    rules = share_groups(whole.graph, rules)
    batch = batch_sharding(whole.graph, rules)
    if batch.doubtful:
        batch = batch_sharding(whole.graph, rules, samplewise(captured.graph, batch.doubtful))
    return Prepared(captured, whole, rules, batch, units_of(whole))


def make_plan(prepared: Prepared, world: int, cluster: str | Path | None, global_batch: int | None, pins: Pins) -> Plan:
    """The plan for a prepared model."""
    notes: list[Note] = []
    known = _cluster(cluster, notes)
    tokens = _tokens_per_sample(prepared)
    if global_batch is None:
        global_batch = _default_batch(tokens, world)
        size = (
            f"about {DEFAULT_TOKENS / 2**20:.0f} Mi tokens"
            if tokens
            else f"{DEFAULT_SAMPLES_PER_DEVICE} samples a device"
        )
        notes.append(Note("global_batch", f"left out: {global_batch} samples, {size}; set it with global_batch="))
    if prepared.captured.graph.loss is None:
        notes.append(
            Note("loss", "the model returns none: priced without; to train, pass loss=, a function of (output, batch)")
        )
    request = Request(
        world=world,
        global_batch=global_batch,
        cluster=known,
        tokens_per_sample=tokens,
        tp=pins.tp,
        pp=pins.pp,
        dp=pins.dp,
        micro_batch=pins.micro_batch,
        recompute=pins.recompute,
        schedule=pins.schedule,
        cuts=_cut_indices(prepared.units, pins.cuts),
        sequence_parallel=pins.sequence_parallel,
    )
    data = solve(prepared.folded, prepared.rules, prepared.batch, request, notes)
    return Plan(**{item.name: getattr(data, item.name) for item in fields(PlanData)})


def _cluster(cluster: str | Path | None, notes: list[Note]) -> Cluster:
    if cluster is None:
        cluster = cluster_at_hand() or DEFAULT_CLUSTER
        notes.append(Note("cluster", f"left out: {cluster}; set it with cluster="))
    try:
        return load_cluster(cluster)
    except UnknownCostModelError as error:
        raise UnknownNameError(str(error)) from error


def _tokens_per_sample(prepared: Prepared) -> int:
    for item in prepared.captured.graph.inputs:
        shape = item.value.shape
        if item.value.dtype == "int64" and len(shape) == 2 and isinstance(shape[1], int):
            return shape[1]
    return 0


def _default_batch(tokens: int, world: int) -> int:
    return max(1, DEFAULT_TOKENS // tokens) if tokens else DEFAULT_SAMPLES_PER_DEVICE * world


def _cut_indices(units: tuple[Unit, ...], cuts: tuple[str, ...] | None) -> tuple[int, ...] | None:
    if cuts is None:
        return None
    found = []
    for name in cuts:
        index = unit_named(units, name)
        if index is None or index == 0:
            raise PinError(
                f"no stage can begin at {name!r}: the places are {', '.join(unit.name for unit in units[1:])}"
            )
        found.append(index)
    if sorted(set(found)) != found:
        raise PinError(f"cuts must be in the order of the model, each once: {', '.join(cuts)}")
    return tuple(found)


def _check_plan(plan: PlanData, prepared: Prepared, world: int | None, global_batch: int | None, pins: Pins) -> None:
    graph = prepared.captured.graph
    pinned = [item.name for item in fields(pins) if getattr(pins, item.name) is not None]
    if pinned:
        raise PinError(f"{pinned[0]}= is given beside plan=: a plan has decided it; leave it out, or leave plan out")
    if plan.fingerprint != graph.fingerprint:
        raise PlanMismatchError(
            f"the plan was made for {plan.model} with graph {plan.fingerprint}, this {graph.name} has graph "
            f"{graph.fingerprint}: "
            "another model, other input shapes, or another version of torch; plan again"
        )
    if plan.stages[-1].stop != len(prepared.units):
        raise PlanMismatchError(
            f"the plan divides {plan.stages[-1].stop} pieces among its stages, and this version of autopart sees "
            f"{len(prepared.units)} in {graph.name}: plan again"
        )
    find_schedule(plan.schedule)
    if world is not None and world != plan.world:
        raise PlanMismatchError(f"the plan is for world={plan.world}, not {world}: plan again with world={world}")
    if global_batch is not None and global_batch != plan.global_batch:
        raise PlanMismatchError(f"the plan is for global_batch={plan.global_batch}, not {global_batch}: plan again")


def make_program(plan: PlanData, prepared: Prepared) -> Program:
    """The sources of a plan. Only choices that the rules allow are written: a plan file cannot bring in others."""
    graph, rules = prepared.folded.graph, prepared.rules
    axes = infer_axes(graph, rules)
    chosen: dict[str, Strategy] = {}
    wanted = {choice.node: choice for choice in plan.nodes}
    for node in graph.nodes:
        options = strategies(node, graph, rules[node.name], axes.parts_of, plan.tp)
        if plan.tp == 1:
            chosen[node.name] = options[0]
            continue
        choice = wanted.get(node.name)
        match = [
            o
            for o in options
            if choice
            and (o.letter, o.inputs, o.outputs, o.call) == (choice.letter, choice.inputs, choice.outputs, choice.call)
        ]
        if not match:
            raise PlanMismatchError(
                f"the plan's choice for {node.name} ({node.op}) is none that this version knows: plan again, or pass "
                "the rules= that it was made with"
            )
        chosen[node.name] = match[0]
    layouts = {choice.name: choice.layout for choice in plan.parameters}
    if plan.tp == 1:
        layouts = {parameter.value.name: REPLICATED for parameter in graph.parameters}
    sharded = Sharded(prepared.folded, rules, chosen, layouts, prepared.batch, plan.tp)
    facts = (
        f"Plan: tp={plan.tp} pp={plan.pp} dp={plan.dp}, micro-batches of {plan.micro_batch}, schedule {plan.schedule}, "
        f"recompute {plan.recompute}.\nModel graph {plan.fingerprint}. Shapes are a rank's own; b is the micro-batch "
        "size."
    )
    return emit_program(sharded, prepared.units, plan.cuts, plan.recompute == "full", facts)


def _join_job(world: int) -> None:
    """Start the process group under torchrun, where the user has not."""
    if dist.is_initialized() or not dist.is_torchelastic_launched():
        return
    if int(os.environ["WORLD_SIZE"]) != world:
        raise LaunchError(
            f"torchrun started {os.environ['WORLD_SIZE']} ranks, the plan is for world={world}: make them agree"
        )
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
