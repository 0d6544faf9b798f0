"""A plan as a table in text, for people."""

import textwrap
from collections.abc import Iterable, Sequence

from autopart.ir.plan import DeviceGroup, Note, PlanData
from autopart.report.grid import grid
from autopart.report.quantity import GIB, MIB, column, count, digits, percent, scaled, seconds
from autopart.report.stage_table import stage_table

WIDTH = 120
_LABEL_WIDTH = 12
_MOST_NOTES = 10
_MOST_SUBJECTS = 6
OWN_STACK = "autopart"


def table(plan: PlanData) -> str:
    """`plan`, printed: what is split and how, what it is predicted to do, a row a stage, and what came close."""
    sections = [
        [_headline(plan)],
        [*_decisions(plan), *_prediction(plan), *_axes(plan)],
        stage_table(plan, WIDTH),
        [*_notes("replicated", plan.replicated), *_notes("notes", plan.notes)],
        _runners_up(plan),
    ]
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in sections if lines)


def _headline(plan: PlanData) -> str:
    per_node, world, device = plan.devices_per_node, plan.world, plan.device
    if plan.groups:
        where = " + ".join(_nodes(own) for own in plan.groups) + f" = {world} devices, in the order of the ranks"
    elif world <= per_node:
        where = f"{world} {device}" + (" in one node" if world > 1 else "")
    elif world % per_node:
        where = f"{world} {device} in {-(-world // per_node)} nodes of {per_node}"
    else:
        where = f"{world // per_node} nodes × {per_node} {device} = {world} devices"
    text = f"{plan.model}, {count(plan.parameter_count)} parameters, {plan.dtype}, on {plan.cluster}: {where}"
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _nodes(group: DeviceGroup) -> str:
    """`4 nodes × 8 h100-sxm-80gb`"""
    if group.devices % group.devices_per_node:
        return f"{group.devices} {group.device}"
    count = group.devices // group.devices_per_node
    return f"{count} node{'s' if count > 1 else ''} × {group.devices_per_node} {group.device}"


def _decisions(plan: PlanData) -> list[str]:
    plural = "" if plan.micro_batches == 1 else "es"
    micro = f"{plan.micro_batches} micro-batch{plural} of {plan.micro_batch} × dp {plan.dp}"
    batch = f"global batch {plan.global_batch} samples"
    if plan.tokens_per_sample:
        tokens = plan.global_batch * plan.tokens_per_sample
        batch += f" of {plan.tokens_per_sample} tokens = {count(tokens)} tokens"
    recompute = "no recomputation" if plan.recompute == "none" else f"recomputation {plan.recompute}"
    if len(set(plan.layers_recomputed)) > 1:
        recompute = f"layers recomputed {plan.recompute}"
    zero = f"ZeRO {plan.zero}" if plan.zero else "no ZeRO"
    schedule = plan.schedule + (f" with {plan.virtual_stages} stages a rank" if plan.virtual_stages > 1 else "")
    precision = "" if plan.precision == "as-built" else f", precision {plan.precision}"
    software = "" if plan.stack == OWN_STACK else f", software {plan.stack}"
    policies = f"schedule {schedule}, {recompute}, {zero}{precision}, memory for optimizer {plan.optimizer}{software}"
    context = f" × cp {plan.cp}" if plan.cp > 1 else ""
    pins = ", ".join(f"{name} {value}" for name, value in plan.pins)
    return [
        *_labelled("split", f"tp {plan.tp} × pp {plan.pp} × dp {plan.dp}{context}"),
        *_labelled("batch", f"{micro} = {batch}"),
        *_labelled("policies", policies),
        *(_labelled("pinned", pins) if pins else []),
    ]


def _prediction(plan: PlanData) -> list[str]:
    told = plan.predicted
    rate = (
        f"{count(told.tokens_per_s)} tokens/s" if plan.tokens_per_sample else f"{count(told.samples_per_s)} samples/s"
    )
    flops = scaled(told.model_flops_per_gpu_per_s, "FLOP/s")
    use = f"{flops} a device (MFU {percent(told.mfu)}), bubble {percent(told.bubble_fraction)}"
    band = f" ± {percent(told.time_error)}" if told.time_error else ""
    predicted = _labelled("predicted", f"{seconds(told.step_time_s)}{band} a step, {rate}, {use}")
    return [*predicted, *(_labelled("search", plan.optimality) if plan.optimality else [])]


def _axes(plan: PlanData) -> list[str]:
    if plan.tp == 1:
        return []
    between = {name for layers in plan.traffic for name in layers.between}
    inside = ", ".join(f"{name} ({size})" for name, size in plan.axes if name not in between)
    outside = ", ".join(f"{name} ({size})" for name, size in plan.axes if name in between)
    shards = inside + (f"; {outside} between blocks" if outside else "") or "nothing"
    return [*_labelled("tp shards", shards), *_traffic(plan)]


def _traffic(plan: PlanData) -> list[str]:
    """What a rank sends to its tp group in each repeated layer."""
    lines: list[str] = []
    for number, layers in enumerate(plan.traffic):
        forward, backward = (_sent(own) for own in (layers.forward, layers.backward))
        both = (
            f"{forward}, forward and again backward"
            if forward == backward
            else f"forward {forward}, backward {backward}"
        )
        which = f"{layers.first} and its like: " if len(plan.traffic) > 1 else ""
        lines += _labelled(
            "" if number else "tp sends", f"{which}{both}; a rank, in each of {layers.layers} layers, a micro-batch"
        )
    return lines


def _sent(collectives: Sequence[tuple[str, int, int]]) -> str:
    """`2 all-gather + 2 reduce-scatter = 448 MiB`"""
    total = sum(sent for _, _, sent in collectives)
    kinds = " + ".join(f"{number} {name.replace('_', '-')}" for name, number, _ in collectives)
    return f"{kinds} = {digits(total / MIB)} MiB" if collectives else "nothing"


def _notes(label: str, notes: Iterable[Note]) -> list[str]:
    """The notes under one label, those of one text in one entry."""
    subjects: dict[str, list[str]] = {}
    for note in notes:
        subjects.setdefault(note.text, []).append(note.subject)
    entries = [f"{_some(names)}: {text}" if any(names) else text for text, names in subjects.items()]
    if len(entries) > _MOST_NOTES:
        entries[_MOST_NOTES:] = [f"and {len(entries) - _MOST_NOTES} more, in the saved plan under {label!r}"]
    return [line for index, entry in enumerate(entries) for line in _labelled("" if index else label, entry)]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_SUBJECTS
    return ", ".join(names[:_MOST_SUBJECTS]) + (f" and {more} more" if more > 0 else "")


def _runners_up(plan: PlanData) -> list[str]:
    """A row for each; cp and ZeRO have a column where any has them."""
    others, best = plan.alternatives, plan.predicted.step_time_s
    if not others:
        return []
    columns: list[tuple[str, str, list[str]]] = [
        ("tp", "r", [str(other.tp) for other in others]),
        ("pp", "r", [str(other.pp) for other in others]),
        ("dp", "r", [str(other.dp) for other in others]),
        ("cp", "r", [str(other.cp) for other in others] if any(other.cp > 1 for other in others) else []),
        ("micro-batch", "r", [str(other.micro_batch) for other in others]),
        ("schedule", "l", [_schedule(other.schedule, other.virtual_stages) for other in others]),
        ("recompute", "l", [other.recompute for other in others]),
        ("ZeRO", "r", [str(other.zero) for other in others] if any(other.zero for other in others) else []),
        ("step", "r", [seconds(other.step_time_s) for other in others]),
        ("slower by", "r", [f"{100 * (other.step_time_s / best - 1):+.1f} %" if best else "" for other in others]),
        ("peak GiB", "r", column([other.peak_memory_bytes / GIB for other in others])),
    ]
    shown = [own for own in columns if own[2]]
    headers, aligned, cells = zip(*shown, strict=True)
    return ["runners-up", *grid(list(zip(*cells, strict=True)), headers, "".join(aligned))]


def _schedule(name: str, virtual_stages: int) -> str:
    return name if virtual_stages == 1 else f"{name} × {virtual_stages}"


def _labelled(label: str, text: str) -> list[str]:
    """`text` behind `label`, broken into lines that stay behind it."""
    indent = " " * _LABEL_WIDTH
    return textwrap.wrap(
        text, WIDTH, initial_indent=label.ljust(_LABEL_WIDTH), subsequent_indent=indent, break_on_hyphens=False
    ) or [label]
