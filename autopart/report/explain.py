"""Why a plan is as it is: where its time and memory go, and what each decision is worth, as text."""

import textwrap
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby

from autopart.ir.plan import PlanData
from autopart.ir.prediction import Decision, Parts
from autopart.report.grid import grid
from autopart.report.quantity import GIB, digits, percent, scaled, seconds

WIDTH = 120
_PARTS = {
    "products_s": "matrix products and attention",
    "kernels_s": "other kernels",
    "recompute_s": "activations computed again",
    "communication_s": "collectives between tp ranks",
    "gathers_s": "gathering shared parameters",
    "waiting_s": "waiting in the pipeline",
    "gradients_s": "sums of gradients",
    "optimizer_s": "the optimizer",
}
_BINDS = {
    "products_s": "compute: the devices multiply matrices",
    "kernels_s": "the devices' memory bandwidth: kernels other than products",
    "recompute_s": "memory: activations are computed again since they do not fit",
    "communication_s": "the links between tp ranks",
    "gathers_s": "the links between replicas, over which parameters are gathered",
    "waiting_s": "the pipeline's bubble",
    "gradients_s": "the links between replicas, over which gradients are summed",
    "optimizer_s": "the optimizer",
}
_MEMORY = {
    "parameters_bytes": "parameters",
    "gradients_bytes": "gradients",
    "optimizer_bytes": "optimizer state",
    "activations_bytes": "activations",
    "temporary_bytes": "temporaries",
    "reserve_bytes": "reserve",
}
_NAMES = {
    "micro_batch": "micro-batch",
    "virtual_stages": "stages a rank",
    "recompute": "recomputation",
    "zero": "ZeRO",
    "sequence_parallel": "sequence sharded between blocks",
    "order": "devices",
}
_FULL = 0.9  # of the memory: a stage that uses more is called full
_TOLD = 0.1  # a part is named if it makes so much of a difference


def explain(plan: PlanData) -> str:
    """What binds the step of `plan`, with seconds; what fills its memory; and for each decision the next best."""
    sections = [[_headline(plan)], _pins(plan), _time(plan), _memory(plan), _decisions(plan)]
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections if lines)


def _headline(plan: PlanData) -> str:
    told = plan.predicted
    degrees = f"tp {plan.tp} × pp {plan.pp} × dp {plan.dp}" + (f" × cp {plan.cp}" if plan.cp > 1 else "")
    return f"{plan.model} on {plan.world} {plan.device}, {degrees}: {seconds(told.step_time_s)} a step, MFU " + percent(
        told.mfu
    )


def _pins(plan: PlanData) -> list[str]:
    """What was not searched since the caller had decided it."""
    told = _listed([f"{_NAMES.get(name, name)} {value}" for name, value in plan.pins])
    return textwrap.wrap(f"Pinned: {told}.", WIDTH, break_on_hyphens=False) if told else []


def _time(plan: PlanData) -> list[str]:
    """The parts of the step, the longest first, and what the first means."""
    told = plan.predicted
    step_s = told.step_time_s
    own = {item.name: getattr(told.parts, item.name) for item in fields(Parts)}
    known = [(name, part_s) for name, part_s in sorted(own.items(), key=lambda item: -item[1]) if part_s > 0]
    if not known or step_s <= 0:
        return []
    most, most_s = known[0]
    lines = [f"What binds is {_BINDS[most]} for {seconds(most_s)} of the {seconds(step_s)}."]
    shares = 1 - told.parts.products_s / step_s
    if most == "products_s":
        lines.append(f"All else takes {percent(shares)} of the step.")
    rows = [(_PARTS[name], seconds(part_s), percent(part_s / step_s), _which(plan, name)) for name, part_s in known]
    wrapped = textwrap.wrap(" ".join(lines), WIDTH, break_on_hyphens=False)
    return [*wrapped, "", *grid(rows, ("a step is spent on", "time", "share", "which is"), "lrrl")]


def _which(plan: PlanData, part: str) -> str:
    """What a part of the step is in this plan."""
    told = plan.predicted
    if part == "products_s" and told.mfu > 0:
        peak = told.model_flops_per_gpu_per_s / told.mfu
        reached = min(1.0, told.mfu * told.step_time_s / told.parts.products_s)
        return f"{scaled(reached * peak, 'FLOP/s')} while they run, {percent(reached)} of a device's peak"
    if part == "communication_s":
        where = "inside a node" if plan.tp <= plan.devices_per_node else "between nodes"
        sent = sum(own.layers * (own.forward_bytes + own.backward_bytes) for own in plan.traffic)
        return f"{where}: {digits(sent / GIB)} GiB a micro-batch over all layers" if sent else where
    if part == "waiting_s":
        return f"{plan.pp} ranks fill and drain for {plan.micro_batches} micro-batches; sends"
    replicas = plan.dp * plan.cp
    return {
        "kernels_s": "norms, activations, residuals, losses: bound by memory",
        "recompute_s": f"a second forward pass ({plan.recompute})",
        "gathers_s": f"among {replicas} replicas, in every pass, beyond what computing hides",
        "gradients_s": f"among {replicas} replicas, once a step, beyond what the backward pass hides",
        "optimizer_s": f"{plan.optimizer}, once a step",
    }.get(part, "")


def _memory(plan: PlanData) -> list[str]:
    """What the fullest rank needs, and of what."""
    stage = min(plan.stages, key=lambda own: plan.limit_bytes(own.device) - own.memory.total_bytes)
    memory, limit = stage.memory, plan.limit_bytes(stage.device)
    rank = plan.predicted.peak_memory_bytes.index(memory.total_bytes)
    parts = sorted(
        ((label, getattr(memory, name)) for name, label in _MEMORY.items()), key=lambda item: item[1], reverse=True
    )
    made_of = ", ".join(f"{label} {digits(size / GIB)}" for label, size in parts if size)
    where = f"rank {rank} of the pipeline" if plan.pp > 1 else "a device"
    state = "memory is full" if memory.total_bytes > _FULL * limit else "memory does not bind"
    text = (
        f"{state[0].upper()}{state[1:]}: {where} needs {digits(memory.total_bytes / GIB)} of {digits(limit / GIB)} GiB "
        f"({made_of}).{_recomputed(plan)}"
    )
    return textwrap.wrap(text, WIDTH, break_on_hyphens=False)


def _recomputed(plan: PlanData) -> str:
    """Which stages compute some of their layers again, where not all layers are alike in that."""
    kinds = plan.layers_recomputed
    if len(set(kinds)) < 2:
        return ""
    again = len(kinds) - kinds.count("none")
    counts = [stage.layers - stage.recomputed("none") for stage in plan.stages]
    places = [_in_stages(count, list(run)) for count, run in groupby(range(len(counts)), counts.__getitem__) if count]
    where = f": {_listed(places)}" if len(counts) > 1 else ""
    return f" Of {len(kinds)} repeated layers {again} are recomputed{where}."


def _in_stages(count: int, stages: Sequence[int]) -> str:
    """So many layers in each of stages that follow one another."""
    if len(stages) == 1:
        return f"{count} in stage {stages[0]}"
    return f"{count} each in stages {stages[0]} to {stages[-1]}"


def _decisions(plan: PlanData) -> list[str]:
    """For each decision what the next best would have cost, and where the difference lies."""
    if not plan.decisions:
        return []
    labels = [f"{_NAMES.get(item.name, item.name)} {item.chosen}" for item in plan.decisions]
    width = max(map(len, labels)) + 4
    lines, before = ["What each decision is worth"], ""
    for label, item in zip(labels, plan.decisions, strict=True):
        shown = "" if label == before else label
        lines += textwrap.wrap(
            _otherwise(plan, item),
            WIDTH,
            initial_indent=f"  {shown}".ljust(width),
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        before = label
    return lines


def _otherwise(plan: PlanData, item: Decision) -> str:
    """`the best with 4 has pp 8 too: 80.6 s (+2.1 %); waiting in the pipeline +1.30 s`"""
    besides = _listed([f"{_NAMES.get(name, name)} {value}" for name, value in item.besides])
    takes = f"{seconds(item.step_time_s)} ({100 * (item.step_time_s / plan.predicted.step_time_s - 1):+.1f} %)"
    if item.fits:
        because = _because(plan, item)
        best = f"the best with {item.other}" + (f" has {besides} too" if besides else "")
        return f"{best}: {takes}" + (f"; {because}" if because else "")
    limit, needs = digits(plan.limit_bytes(item.device) / GIB), digits(item.peak_memory_bytes / GIB)
    where = f"rank {item.stage} of the pipeline" if _ranks(plan, item) > 1 else "a device"
    alone = f"{item.other}, with {besides}" if besides else item.other
    return f"{alone} and all else the same: {takes}, but {where} needs {needs} of {limit} GiB"


def _ranks(plan: PlanData, item: Decision) -> int:
    """How many ranks the pipeline of the other plan has."""
    return int(item.other) if item.name == "pp" else plan.pp


def _because(plan: PlanData, item: Decision) -> str:
    """Where the seconds of the difference are."""
    own, other = plan.predicted.parts, item.parts
    changes = [(_PARTS[part.name], getattr(other, part.name) - getattr(own, part.name)) for part in fields(Parts)]
    most_s = max((abs(change_s) for _, change_s in changes), default=0.0)
    told = sorted(
        ((label, change_s) for label, change_s in changes if most_s and abs(change_s) >= _TOLD * most_s),
        key=lambda pair: -abs(pair[1]),
    )
    return _listed([f"{label} {'+' if change_s > 0 else '-'}{seconds(abs(change_s))}" for label, change_s in told[:3]])


def _listed(items: Sequence[str]) -> str:
    """`a, b and c`"""
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))
