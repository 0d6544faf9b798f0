"""Plan: every decision about how a model is split, with what they are predicted to cost. Plain data, saved as JSON."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from autopart.errors import PlanFileError
from autopart.ir.placement import Layout, Partial, Placement, Replicate, Shard

FORMAT = 5
RECOMPUTE = ("none", "selective", "full")
_SHARD = re.compile(r"S\((?P<dim>\d+)(@(?P<by>\w+))?(,(?P<parts>[1-9]\d*(:[1-9]\d*)*))?\)", re.ASCII)


@dataclass(frozen=True, slots=True)
class NodeChoice:
    """How the tp ranks compute a node of the folded graph: the sharded `letter`, and the layouts in and out."""

    node: str
    letter: str
    inputs: tuple[Layout, ...]
    outputs: tuple[Layout, ...]
    call: str | None


@dataclass(frozen=True, slots=True)
class ParameterChoice:
    """How the tp ranks hold a parameter of the folded graph (a repeated layer's stands for all)."""

    name: str
    layout: Layout


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one device of a stage at its peak, by what they are for.

    `cached_bytes` are not part of the peak: what the allocator holds of freed memory where the device has room, and
    gives back before it runs out.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    temporary_bytes: int
    reserve_bytes: int
    cached_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of them but what is only cached."""
        own = (self.parameters_bytes, self.gradients_bytes, self.optimizer_bytes)
        return sum(own) + self.activations_bytes + self.temporary_bytes + self.reserve_bytes


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One pipeline stage: units `start` up to `stop` of the model; seconds are for one micro-batch on one device.

    `forward_s` and `backward_s` contain the communication inside the stage, which `communication_s` gives for both
    passes together; `weight_s` is the part of `backward_s` for the gradients of weights, and `send_s` the transfer to
    the next stage. `parameters` counts elements of the whole stage, over all its tp ranks. `recompute` says of its
    `layers` in order how they are recomputed: ("full", 5), ("none", 15) for the first five of twenty. `device` is what
    it runs on.
    """

    start: int
    stop: int
    first: str
    last: str
    layers: int
    parameters: int
    forward_s: float
    backward_s: float
    communication_s: float
    memory: Memory
    weight_s: float
    send_s: float
    recompute: tuple[tuple[str, int], ...]
    device: str

    def recomputed(self, kind: str) -> int:
        """How many of its layers are recomputed so."""
        return sum(layers for own, layers in self.recompute if own == kind)


@dataclass(frozen=True, slots=True)
class LayerTraffic:
    """What the tp ranks send each other in each of `layers` equal layers, for one micro-batch.

    Attributes:
        first: the name of the first of them.
        between: names of the axes along which what goes from layer to layer is sharded; empty where it is whole.
        forward, backward: for each kind of collective its name, how many there are, and the bytes that a rank sends in
            them, counted as a ring sends them: of a tensor of S bytes 2 (tp-1)/tp S in an all-reduce, half of that in
            an all-gather or a reduce-scatter, and (tp-1)/tp of its own S/tp in an all-to-all.
    """

    first: str
    layers: int
    between: tuple[str, ...]
    forward: tuple[tuple[str, int, int], ...]
    backward: tuple[tuple[str, int, int], ...]

    @property
    def forward_bytes(self) -> int:
        """The bytes that a rank sends in the forward pass."""
        return sum(sent for _, _, sent in self.forward)

    @property
    def backward_bytes(self) -> int:
        """The same of the backward pass."""
        return sum(sent for _, _, sent in self.backward)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the seconds of a step are spent on, in the mean over the ranks of the pipeline; together they are the step.

    Attributes:
        products_s: matrix products, convolutions and attention.
        kernels_s: all other kernels, which the memory's bandwidth or their launches pace.
        recompute_s: activations computed again.
        communication_s: collectives between the tp ranks.
        gathers_s: gathering parameters that the replicas share (ZeRO 3), as far as computing does not hide it.
        waiting_s: the pipeline's bubble, with sends that nothing hides.
        gradients_s: sums of gradients that nothing hides.
        optimizer_s: the optimizer, and what the software does once a step.
    """

    products_s: float
    kernels_s: float
    recompute_s: float
    communication_s: float
    gathers_s: float
    waiting_s: float
    gradients_s: float
    optimizer_s: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a plan is predicted to do; `peak_memory_bytes` is by rank of the pipeline.

    `time_error` is the mean relative error that predictions for this software had on published runs; 0 on a device
    for which none was compared.
    """

    step_time_s: float
    time_error: float
    tokens_per_s: float
    samples_per_s: float
    model_flops_per_gpu_per_s: float
    mfu: float
    bubble_fraction: float
    peak_memory_bytes: tuple[int, ...]
    parts: Parts


@dataclass(frozen=True, slots=True)
class Alternative:
    """A plan that came close: its degrees and policies, and how long its step takes."""

    tp: int
    pp: int
    dp: int
    cp: int
    micro_batch: int
    schedule: str
    virtual_stages: int
    recompute: str
    zero: int
    step_time_s: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What a decision is worth: the fastest plan in which it falls otherwise, or a near one that does not fit.

    Attributes:
        name: of the decision, as it is pinned ("micro_batch").
        chosen, other: what it is in the plan, and what it is otherwise.
        besides: (name, value) of other decisions that then change too.
        fits: whether that plan fits the memory; if not, it is the plan itself with this one decision changed.
        step_time_s, parts: what it takes.
        stage, peak_memory_bytes, device: its fullest rank of the pipeline, what that needs, and what it runs on.
    """

    name: str
    chosen: str
    other: str
    besides: tuple[tuple[str, str], ...]
    fits: bool
    step_time_s: float
    parts: Parts
    stage: int
    peak_memory_bytes: int
    device: str


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Of a cluster of several kinds of nodes, those of one kind: `devices` of them are taken, by ranks in a row."""

    device: str
    devices: int
    devices_per_node: int
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something that the reader of a plan should know, about `subject`."""

    subject: str
    text: str


@dataclass(frozen=True)
class PlanData:
    """All decisions of a plan.

    Attributes:
        model: the model's class.
        fingerprint: of the captured graph; a plan serves that graph only.
        parameter_count: elements of all parameters.
        tokens_per_sample: 0 for a model without tokens.
        cp: degree of context parallelism.
        virtual_stages: how many stages each rank of the pipeline has.
        precision: a name that `cost_models.precision` knows.
        stack: the software whose behaviour is predicted.
        recompute: "none", "full" or "selective" of all layers, or in a few words where they differ; stages say which.
        blocking_sends: a rank computes nothing while it sends to another stage.
        cluster: its name; `device` and `memory_limit_bytes` are of one of its devices. Of several kinds, `device` has
            all names, and what nodes and devices have is the least.
        groups: of several kinds of devices, each, in the order of the ranks; empty for one kind.
        cuts: indices of the units that begin a stage, the first stage left out.
        nodes, parameters: the tensor-parallel choices; empty for tp=1.
        axes: (name, size) of the logical axes that tp shards.
        traffic: of the repeated layers, what the tp ranks send each other; empty for tp=1.
        replicated: what every tp rank computes whole though it could matter, and why.
        decisions: for each decision that was searched, what the next best would have cost.
        pins: (name, value) of the decisions that were not: what the caller had decided, as text.
        optimizer: whose state the memory is reckoned for.
        optimality: what is proved of the plan: that it is optimal under the model, or how far from it at the most.
    """

    model: str
    fingerprint: str
    parameter_count: int
    dtype: str
    tokens_per_sample: int
    cluster: str
    device: str
    devices_per_node: int
    memory_limit_bytes: int
    groups: tuple[DeviceGroup, ...]
    world: int
    tp: int
    pp: int
    dp: int
    cp: int
    global_batch: int
    micro_batch: int
    schedule: str
    virtual_stages: int
    recompute: str
    zero: int
    precision: str
    stack: str
    blocking_sends: bool
    optimizer: str
    cuts: tuple[int, ...]
    stages: tuple[StagePlan, ...]
    predicted: Prediction
    nodes: tuple[NodeChoice, ...]
    parameters: tuple[ParameterChoice, ...]
    axes: tuple[tuple[str, str], ...]
    traffic: tuple[LayerTraffic, ...]
    replicated: tuple[Note, ...]
    alternatives: tuple[Alternative, ...]
    decisions: tuple[Decision, ...]
    pins: tuple[tuple[str, str], ...]
    optimality: str
    notes: tuple[Note, ...]

    @property
    def micro_batches(self) -> int:
        """How many micro-batches a replica works through in a step."""
        return self.global_batch // (self.dp * self.micro_batch)

    @property
    def layers_recomputed(self) -> tuple[str, ...]:
        """How each repeated layer of the model is recomputed, in order."""
        return tuple(kind for stage in self.stages for kind, layers in stage.recompute for _ in range(layers))

    def limit_bytes(self, device: str) -> int:
        """What a device of this name has."""
        return next((own.memory_limit_bytes for own in self.groups if own.device == device), self.memory_limit_bytes)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON.

        Raises:
            PlanFileError: the file cannot be written.
        """
        try:
            Path(path).write_text(json.dumps(to_json(self), indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise PlanFileError(
                f"the plan cannot be saved as {path}: {reason}. Save it in a folder that exists"
            ) from error


def to_json(plan: PlanData) -> dict[str, Any]:
    """The plan as JSON values."""
    data: dict[str, Any] = {"autopart_plan": FORMAT}
    data.update({item.name: _dump(getattr(plan, item.name)) for item in dataclasses.fields(PlanData)})
    return data


def from_json(data: object, where: str) -> dict[str, Any]:
    """The fields of a plan from JSON values; nothing in them is executed.

    Raises:
        PlanFileError: another format, or an entry that is missing, unknown, of the wrong kind or at odds with the
            others; `where` names the file.
    """
    if not isinstance(data, dict) or "autopart_plan" not in data:
        raise PlanFileError(
            f"{where} is not an autopart plan: it has no 'autopart_plan' entry. Name a file that plan.save() wrote"
        )
    if data["autopart_plan"] != FORMAT:
        raise PlanFileError(
            f"{where} has plan format {data['autopart_plan']!r}, and this autopart reads format {FORMAT}. "
            "Plan again with this version, or use the version that wrote it"
        )
    try:
        fields = _load_fields(PlanData, {name: value for name, value in data.items() if name != "autopart_plan"}, "")
        _check_sums(fields)
    except (ValueError, OverflowError) as error:
        raise PlanFileError(f"{where} is damaged: {error}. Plan again and save it") from error
    return fields


def _check_sums(fields: dict[str, Any]) -> None:
    """Raise ValueError where the counts in `fields` contradict each other."""
    for name in (
        "world",
        "tp",
        "pp",
        "dp",
        "cp",
        "global_batch",
        "micro_batch",
        "virtual_stages",
        "devices_per_node",
    ):
        if fields[name] < 1:
            raise ValueError(f"entry {name!r} is {fields[name]}, below 1")
    tp, pp, dp, cp, world = (fields[name] for name in ("tp", "pp", "dp", "cp", "world"))
    if tp * pp * dp * cp != world:
        shown = f"tp {tp} x pp {pp} x dp {dp}" + (f" x cp {cp}" if cp > 1 else "")
        raise ValueError(f"{shown} is {tp * pp * dp * cp}, and 'world' is {world}")
    devices = sum(group.devices for group in fields["groups"])
    if devices not in (0, world):
        raise ValueError(f"'groups' have {devices} devices, and 'world' is {world}")
    batch, step = fields["global_batch"], dp * fields["micro_batch"]
    if batch % step:
        raise ValueError(f"'global_batch' is {batch}, not a multiple of dp x micro_batch = {step}")
    every = pp * fields["virtual_stages"]
    lengths = {"stages": every, "cuts": every - 1}
    counts = {name: len(fields[name]) for name in lengths} | {
        "predicted.peak_memory_bytes": len(fields["predicted"].peak_memory_bytes)
    }
    for name, count in counts.items():
        if count != lengths.get(name, pp):
            raise ValueError(f"entry {name!r} has {count} items where pp {pp} needs {lengths.get(name, pp)}")
    stages, cuts = fields["stages"], fields["cuts"]
    if tuple(stage.start for stage in stages) != (0, *cuts) or any(
        stage.start >= stage.stop or stage.stop != after
        for stage, after in zip(stages, (*cuts, stages[-1].stop), strict=True)
    ):
        shown = ", ".join(f"{stage.start} to {stage.stop}" for stage in stages)
        raise ValueError(f"'cuts' is {list(cuts)}, and 'stages' are of units {shown}")
    for number, stage in enumerate(stages):
        if sum(layers for _, layers in stage.recompute) != stage.layers or any(n < 1 for _, n in stage.recompute):
            raise ValueError(f"stage {number} has {stage.layers} layers, and its 'recompute' is of {stage.recompute}")
        if unknown := [kind for kind, _ in stage.recompute if kind not in RECOMPUTE]:
            raise ValueError(f"stage {number} recomputes {unknown[0]!r}: known are {', '.join(RECOMPUTE)}")


def _dump(value: Any) -> Any:
    if isinstance(value, Layout):
        return str(value)
    if isinstance(value, tuple):
        return [_dump(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _dump(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return value


def _load_fields(kind: type, value: object, path: str) -> dict[str, Any]:
    """The fields of the dataclass `kind` from a JSON object; `path` is where it stands, for ValueErrors."""
    if not isinstance(value, dict):
        raise ValueError(f"entry {path!r} is {_short(value)}, not an object")
    prefix = f"{path}." if path else ""
    known = {item.name: item.type for item in dataclasses.fields(kind)}
    for name in known:
        if name not in value:
            raise ValueError(f"entry {prefix + name!r} is missing")
    for name in value:
        if name not in known:
            raise ValueError(f"entry {prefix + name!r} is unknown")
    return {name: _load(inner, value[name], prefix + name) for name, inner in known.items()}


def _load(kind: Any, value: Any, path: str) -> Any:
    """The value of type `kind` from a JSON value."""
    if kind is Layout:
        if not isinstance(value, str):
            raise ValueError(f"entry {path!r} is {_short(value)}, not a layout")
        try:
            return parse_layout(value)
        except ValueError as error:
            raise ValueError(f"entry {path!r}: {error}") from error
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(**_load_fields(kind, value, path))
    if get_origin(kind) is tuple:
        return _load_tuple(get_args(kind), value, path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wanted = (str, type(None)) if kind == (str | None) else (kind,)
    if type(value) not in wanted or (kind is float and not math.isfinite(value)):
        name = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")
        raise ValueError(f"entry {path!r} is {_short(value)}, not {name}")
    return value


def _load_tuple(arguments: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"entry {path!r} is {_short(value)}, not a list")
    inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(inner) != len(value):
        raise ValueError(f"entry {path!r} has {len(value)} items, not {len(inner)}")
    return tuple(
        _load(kind, item, f"{path}[{index}]") for index, (kind, item) in enumerate(zip(inner, value, strict=True))
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_layout(text: str) -> Layout:
    """The layout that prints as `text` ("S(2,1:1:1)|S(2,1:1:1)").

    Raises:
        ValueError: no layout prints so.
    """
    value, separator, gradient = text.partition("|")
    if not separator:
        raise ValueError(f"{text!r} is no layout, which is two placements, as in 'R|P'")
    return Layout(parse_placement(value), parse_placement(gradient))


def parse_placement(text: str) -> Placement:
    """The placement that prints as `text` ("S(2,1:1:1)").

    Raises:
        ValueError: no placement prints so.
    """
    if text == "R":
        return Replicate()
    if text == "P":
        return Partial()
    match = _SHARD.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no placement, which is R, P, S(dim), S(dim,part:part:...) or S(dim@value)")
    parts = tuple(int(part) for part in match["parts"].split(":")) if match["parts"] else (1,)
    return Shard(int(match["dim"]), parts, match["by"])
