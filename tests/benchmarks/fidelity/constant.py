"""Constant: one fitted number of a device, a cluster or a stack."""

from dataclasses import dataclass, replace

from cost_models.cluster import Cluster, load_cluster
from cost_models.device import Device, device_names, load_device
from cost_models.stack import Stack, load_stack, stack_names

HALF = ("float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Constant:
    """The figure `field` of the `kind` ("device", "cluster" or "stack") named `owner`.

    A device's owner may be a family, "a100-": all whose names begin so share the figure; a stack's variants ("-eager")
    share its, and several stacks, with commas between them, share one. Of `matmul_fraction`,
    `field` says for which arithmetic: "matmul_fraction.half" or ".float8"; of attention for which kernel:
    "attention_fraction.flash". `prior` is what was
    known before any fitting, and `spread` how far off, relatively, that could be; `least` and
    `most` are what is physically possible.
    """

    kind: str
    owner: str
    field: str
    prior: float
    spread: float
    least: float
    most: float
    unit: str = "fraction"

    def value(self) -> float:
        """What the file says."""
        if self.kind == "stack":
            stack = next(stack for stack in map(load_stack, stack_names()) if self._of(stack))
            return float(getattr(stack, self.field))
        if self.kind == "cluster":
            cluster = load_cluster(self.owner)
            return cluster.inter_node.fraction if self.field == "inter_node" else float(getattr(cluster, self.field))
        device = next(load_device(name) for name in device_names() if name.startswith(self.owner))
        name, _, detail = self.field.partition(".")
        if name == "matmul_fraction":
            return device.arithmetic(HALF[0] if detail == "half" else detail).matmul_fraction
        return device.attention_fraction(detail) if name == "attention_fraction" else float(getattr(device, name))

    def concerns(self, cluster: Cluster, stack: Stack) -> bool:
        """Whether it is a figure of one of these."""
        if self.kind == "device":
            return cluster.device.name.startswith(self.owner)
        return self._of(stack) if self.kind == "stack" else self.owner == cluster.name

    def _of(self, stack: Stack) -> bool:
        return any(stack.name == owner or stack.name.startswith(f"{owner}-") for owner in self.owner.split(", "))

    def put(self, cluster: Cluster, stack: Stack, value: float) -> tuple[Cluster, Stack]:
        """The cluster and the stack with this figure, if it is one of theirs."""
        if not self.concerns(cluster, stack):
            return cluster, stack
        if self.kind == "stack":
            return cluster, replace(stack, **{self.field: value})
        if self.kind == "device":
            return replace(cluster, device=self._device(cluster.device, value)), stack
        if self.field == "inter_node":
            return replace(cluster, inter_node=replace(cluster.inter_node, fraction=value)), stack
        return replace(cluster, **{self.field: value}), stack

    def _device(self, device: Device, value: float) -> Device:
        name, _, detail = self.field.partition(".")
        if name == "matmul_fraction":
            dtypes = HALF if detail == "half" else (detail,)
            own = tuple(replace(a, matmul_fraction=value) if a.dtype in dtypes else a for a in device.arithmetics)
            return replace(device, arithmetics=own)
        if name == "attention_fraction":
            kept = tuple((kernel, old) for kernel, old in device.attention_fractions if kernel != detail)
            return replace(device, attention_fractions=(*kept, (detail, value)))
        return replace(device, **{name: value})

    @property
    def owners(self) -> str:
        """Whose figure it is, for a reader."""
        return self.owner.rstrip("-")

    def __str__(self) -> str:
        return f"{self.kind} {self.owners}: {self.field}"
