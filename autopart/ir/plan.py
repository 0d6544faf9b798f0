"""Plan: every decision about how a model is split, with what they are predicted to cost."""

from dataclasses import dataclass

from autopart.ir.placement import Layout
from autopart.ir.prediction import Alternative, Decision, Memory, Prediction

RECOMPUTE = ("none", "selective", "full")


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
