"""The composer: capture, rules, search, emission and runtime in a row."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from autopart.calibration import calibrate
from autopart.capture.captured import Captured
from autopart.capture.example_inputs import example_inputs
from autopart.capture.front_end import find_front_end
from autopart.capture.keep_as_needed import AUTO
from autopart.capture.keep_whole import KeepWhole
from autopart.capture.returned import Returned
from autopart.emission import make_program
from autopart.errors import LaunchError, PinError
from autopart.evaluation import evaluation_variant
from autopart.ir.plan import PlanData
from autopart.planning import Pins, check_names, check_plan, check_runnable, make_plan
from autopart.prepared import LossFunction, Prepared, capture, prepare
from autopart.report.load import load_plan
from autopart.report.printed_plan import Plan
from autopart.runtime.launch import run
from autopart.runtime.parallel import Parallel
from autopart.sharding.find_rule import RuleSource
from autopart.sharding.load_ruled import load_ruled as load_graph
from autopart.sharding.ruled import Ruled
from autopart.sharding.strict import refuse_mixing
from cost_models.cluster import Cluster
from cost_models.mixed_cluster import MixedCluster
from cost_models.stack import Stack

__all__ = [
    "Parallel",
    "Plan",
    "Prepared",
    "calibrate",
    "load_graph",
    "load_plan",
    "parallelize",
    "plan",
    "prepare",
    "run",
]


def plan(
    model: nn.Module | Ruled,
    world: int,
    *,
    cluster: str | Path | Cluster | MixedCluster | None = None,
    global_batch: int | None = None,
    inputs: object | None = None,
    loss: LossFunction | None = None,
    rules: Mapping[str, RuleSource] | None = None,
    front_end: str | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    micro_batch: int | None = None,
    recompute: str | None = None,
    schedule: str | None = None,
    cuts: Sequence[str] | None = None,
    placements: Mapping[str, object] | None = None,
    zero: int | None = None,
    sequence_parallel: bool | None = None,
    cp: int | None = None,
    virtual_stages: int | None = None,
    precision: str | None = None,
    stack: str | Path | Stack | None = None,
    memory_limit_bytes: float | None = None,
    keep_whole: KeepWhole | None = None,
    search_seconds: float | None = None,
    strict: bool = False,
) -> Plan:
    """The fastest way to train `model` on `world` devices that fits their memory. Needs no GPU and no process group.

    What is left out is searched, all of it jointly, among what the stack's software can do.

    Args:
        model: an unmodified module, whose tensors may be on `meta`; or what `prepare` made of one, or `load_graph`
            read, where `inputs`, `loss` and `rules` are not looked at.
        world: the number of devices.
        cluster: a name from `cost_models/clusters`, a path to such a file, or a `Cluster`. Left out: inside a job the
            devices at hand, elsewhere `dgx-h100`. Or nodes of several kinds, from `cost_models/mixed_clusters`: each
            stage of the pipeline is then on one kind, and the printout says on which.
        global_batch: samples a step. Left out: about 4 million tokens for a token model, 32 samples a device otherwise.
        inputs: an example batch; see `example_inputs` for what is derived when it is left out.
        loss: a function of (output, batch); left out, the model's own loss.
        rules: sharding rules of your own ops, by their names: {"mylib.my_op.default": "b* i, o i -> b* o"}.
        front_end: what captures the model: "torch_export", or "fx_trace" for code that only `torch.fx` can follow. Left
            out: torch_export.
        tp: degree of tensor parallelism; tp x pp x dp is `world`.
        pp: degree of pipeline parallelism.
        dp: degree of data parallelism.
        micro_batch: samples a micro-batch.
        recompute: "none", "full" (of every repeated layer; "full:1/2" of every second), or "selective" (what the stack
            calls so: here, attention). Left out: chosen for each layer, as the memory of its stage demands.
        schedule: the name of one of `autopart/schedules/catalog`; "1f1b", "gpipe", "zb-h1" and others.
        cuts: names of the modules at which the second and later stages begin.
        placements: how the tp ranks hold parameters, by their original names, in which `*` stands for one name or for
            a part of it: {"model.layers.*.mlp.up_proj.weight": "S(0)"}. The notation is that of
            `torch.distributed.tensor`, whose `Shard(0)` and `Replicate()` are taken too: S(0) shards the first dim, R
            is whole on every rank; S(0,1:1:1) is a fused weight of three equal parts. Layers that are repeated have one
            layout, and a pinned shard asks for a tp above 1.
        zero: the ZeRO stage: 1 shares the optimizer's state among the replicas, 2 the gradients too, 3 the parameters
            too. With 1 or 2 an optimizer is given pieces of parameters, so it must treat each element by itself.
        sequence_parallel: True shards what goes from layer to layer along the sequence (the second dim of an input)
            wherever tp can; False shards nothing along it, and leaves whole what goes from layer to layer.
        cp: degree of context parallelism, which shares the sequence; tp x pp x dp x cp is then `world`.
        virtual_stages: how many stages each rank of the pipeline has.
        precision: "as-built" computes and keeps everything in the dtypes of the model; "bf16-mixed", "fp16-mixed" and
            "fp8-mixed" keep float32 parameters beside half ones. Left out: as built.
        stack: the software whose behaviour is predicted, a name from `cost_models/stacks`, a path to such a file, or a
            `Stack`. Left out: autopart's own runtime.
        memory_limit_bytes: of a device. Left out: what the cluster's have.
        keep_whole: names of modules that cannot be captured, or should not be: each is called as it is, on one stage,
            by every tensor-parallel rank. `*` stands for one name: "model.layers.*.mlp". To see what it returns, a copy
            is run on random numbers; a mapping can give a function to run instead. "auto" keeps what stands in the
            way, the smallest modules that can be, and warns.
        search_seconds: after this time the search ends with the best plan so far, as soon as there is one, and
            `optimality` says how far it may be from the best. Left out: it ends when it is done, and is the same
            every time.
        strict: refuse a model that mixes the samples of a batch (a batch norm, a contrastive loss, a buffer that a
            forward pass changes), of which micro-batches and replicas compute something else than the whole batch
            would; left out, the plan notes it. A module kept whole is refused where it was seen to mix them.

    Raises:
        CaptureError: the model cannot be captured, or no example batch is known.
        PinError: a pin that cannot be met.
        InfeasiblePlanError: nothing fits the memory.
        MixingError: the model mixes samples, and `strict` refuses that.
        UnknownNameError: no such cluster, stack, schedule, precision or module, or an operator of `rules` that is not
            registered.
        RuleError: a rule of `rules` that cannot be read.
    """
    names = tuple(cuts) if cuts is not None else None
    pins = Pins(
        tp,
        pp,
        dp,
        micro_batch,
        recompute,
        schedule,
        names,
        zero,
        sequence_parallel,
        cp,
        virtual_stages,
        precision,
        stack,
        memory_limit_bytes,
        search_seconds,
        _texts(placements),
    )
    check_names(cluster, pins)
    find_front_end(front_end)
    if not isinstance(model, Ruled):
        model = prepare(model, inputs, loss, rules, keep_whole, front_end, strict)
    elif strict:
        refuse_mixing(model.folded.source.name, model.batch)
    return make_plan(model, world, cluster, global_batch, pins)


def parallelize(
    model: nn.Module,
    world: int | None = None,
    *,
    plan: PlanData | None = None,
    cluster: str | Path | Cluster | MixedCluster | None = None,
    global_batch: int | None = None,
    inputs: object | None = None,
    loss: LossFunction | None = None,
    rules: Mapping[str, RuleSource] | None = None,
    front_end: str | None = None,
    tp: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    micro_batch: int | None = None,
    recompute: str | None = None,
    schedule: str | None = None,
    cuts: Sequence[str] | None = None,
    placements: Mapping[str, object] | None = None,
    zero: int | None = None,
    sequence_parallel: bool | None = None,
    cp: int | None = None,
    virtual_stages: int | None = None,
    precision: str | None = None,
    stack: str | Path | Stack | None = None,
    memory_limit_bytes: float | None = None,
    keep_whole: KeepWhole | None = None,
    strict: bool = False,
) -> Parallel[Plan]:
    """Plan `model`, or take a `plan` made before, write it out, and inside a job of `world` ranks get ready to train.

    The arguments are those of `plan`. With `plan=`, pins are left out, and the model, the `rules` and `keep_whole` must
    be those that it was made for.
    What is trained is the model as it is now: in its mode, with what is frozen of it, and with a copy of its weights.
    What is done to `model` afterwards does not reach them.
    Under `torchrun` the process group is started if it is not running yet.
    There is no `search_seconds`: ranks that stop by the clock could find different plans. Make the plan first, then.

    Raises:
        PlanMismatchError: the plan was made for another model, graph or world.
        LaunchError: ranks of the job disagree.
        UnsupportedError: the plan can be made but not run yet: cp above 1, fp8-mixed, ZeRO-2 or 3 under a schedule that
            puts weights' gradients off.
        and what `plan` raises.
    """
    names = tuple(cuts) if cuts is not None else None
    pins = Pins(
        tp,
        pp,
        dp,
        micro_batch,
        recompute,
        schedule,
        names,
        zero,
        sequence_parallel,
        cp,
        virtual_stages,
        precision,
        stack,
        memory_limit_bytes,
        placements=_texts(placements),
    )
    if plan is None and world is None:
        raise PinError("world is missing: parallelize(model, world=64), or parallelize(model, plan=plan)")
    check_names(cluster, pins)
    find_front_end(front_end)
    _join_job(world if world is not None else plan.world if plan is not None else 1)
    prepared = prepare(model, inputs, loss, rules, keep_whole, front_end, strict)
    if plan is not None:
        check_plan(plan, prepared, world, global_batch, pins)
        made = Plan(**{item.name: getattr(plan, item.name) for item in fields(PlanData)})
    else:
        made = make_plan(prepared, world or 1, cluster, global_batch, pins)
    check_runnable(made)
    program = make_program(made, prepared)
    example = example_inputs(model, inputs)

    def again(returned: Returned | None) -> Captured:
        kept = prepared.kept_unasked if keep_whole == AUTO else keep_whole
        return capture(model, example, returned or loss, kept, front_end)

    variant = partial(evaluation_variant, made, program, prepared, model, again, rules)

    items = example.items() if isinstance(example, Mapping) else enumerate(example)
    plain = {str(name): item for name, item in items if not isinstance(item, torch.Tensor)}
    return Parallel(made, program, prepared.captured.graph, model, prepared.captured.constants, variant, plain)


def _texts(placements: Mapping[str, object] | None) -> Mapping[str, str] | None:
    """Placements in the notation that `Shard(0)` of `torch.distributed.tensor` prints as: "S(0)"."""
    return None if placements is None else {name: str(own) for name, own in placements.items()}


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
