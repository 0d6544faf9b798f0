"""Graph: a captured model as values, nodes and repeated regions. It knows no torch and prints as code."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import sympy

from autopart.ir.size import BATCH, Size, is_batched

# What is not the same each time, or not known to be: a module kept whole.
RANDOM = ("rand", "dropout", "bernoulli", "multinomial", "normal_", "uniform", "exponential", "autopart.kept")


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph. `dtype` is torch's name for it (`"float32"`); a size may hold the batch symbol."""

    name: str
    shape: tuple[Size, ...]
    dtype: str
    requires_grad: bool = False


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is a value of the graph."""

    name: str


@dataclass(frozen=True, slots=True)
class Literal:
    """An argument that is a torch constant: `kind` is "dtype", "device", "layout" or "memory_format"."""

    kind: str
    text: str


Arg: TypeAlias = "Ref | Literal | int | float | bool | str | sympy.Expr | tuple[Arg, ...] | None"


@dataclass(frozen=True)
class Node:
    """One call of `op`, an ATen overload ("aten.linear.default"), in module `scope`, at the user's line `location`.

    Where it is `full`, the model has autocast off around it: it is computed in the dtypes that stand here, whatever
    the precision of the passes.
    """

    name: str
    op: str
    args: tuple[Arg, ...]
    kwargs: tuple[tuple[str, Arg], ...]
    outputs: tuple[Value, ...]
    scope: str = ""
    location: str = ""
    full: bool = False

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tensor arguments, in order of appearance; a tensor passed twice stands twice."""
        return tuple(references((*self.args, *(value for _, value in self.kwargs))))

    def arg(self, index: int, name: str, default: Arg = None) -> Arg:
        """The argument at `index`, or given by `name`, or `default`."""
        if index < len(self.args):
            return self.args[index]
        return dict(self.kwargs).get(name, default)


@dataclass(frozen=True, slots=True)
class Input:
    """A model input. `path` says where it lies in the batch: a keyword, or a position as a digit."""

    value: Value
    path: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter under its original name. `aliases` are further names of the same tensor (tied weights)."""

    value: Value
    target: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """A buffer or a tensor constant of the model, never trained."""

    value: Value
    target: str


@dataclass(frozen=True, slots=True)
class Update:
    """At the end of a forward pass, the constant named `constant` takes the value named `value`."""

    constant: str
    value: str


@dataclass(frozen=True, slots=True)
class Region:
    """`count` structurally equal runs of `length` nodes, one after another from node `start`.

    `carried` pairs what a run takes from the one before with what it gives to the next: the value that enters the first
    run, and the positions (node in the run, output) that produce it.
    """

    start: int
    length: int
    count: int
    carried: tuple[tuple[str, tuple[int, int]], ...]

    @property
    def stop(self) -> int:
        """The index of the first node after the region."""
        return self.start + self.length * self.count


@dataclass(frozen=True)
class Graph:
    """A model as one list of nodes in execution order."""

    name: str
    inputs: tuple[Input, ...]
    parameters: tuple[Parameter, ...]
    constants: tuple[Constant, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    loss: str | None
    regions: tuple[Region, ...] = ()
    example_batch: int = 1
    updates: tuple[Update, ...] = ()

    @cached_property
    def values(self) -> dict[str, Value]:
        """Every value by its name."""
        table = {item.value.name: item.value for item in self.inputs}
        table.update({item.value.name: item.value for item in self.parameters})
        table.update({item.value.name: item.value for item in self.constants})
        table.update({value.name: value for node in self.nodes for value in node.outputs})
        return table

    @cached_property
    def producer(self) -> dict[str, int]:
        """For every value that a node makes, the index of that node."""
        return {value.name: index for index, node in enumerate(self.nodes) for value in node.outputs}

    @cached_property
    def consumers(self) -> dict[str, tuple[int, ...]]:
        """For every value, the indices of the nodes that take it."""
        table: dict[str, list[int]] = {name: [] for name in self.values}
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys(node.inputs):
                table[name].append(index)
        return {name: tuple(indices) for name, indices in table.items()}

    @cached_property
    def parameter_of(self) -> dict[str, Parameter]:
        """Every parameter by the name of its value."""
        return {parameter.value.name: parameter for parameter in self.parameters}

    @cached_property
    def trained(self) -> frozenset[str]:
        """The parameters, and what is made of them and of constants alone: a weight transposed or put together."""
        known = set(self.parameter_of)
        for node in self.nodes:
            if any(name in known for name in node.inputs) and all(
                name in known or name in self.weights for name in node.inputs
            ):
                known.update(value.name for value in node.outputs)
        return frozenset(known)

    @cached_property
    def batched_inputs(self) -> dict[str, int]:
        """How many rows each sample has in the inputs whose first dim is the batch, or a multiple, by their paths."""
        batched = [item for item in self.inputs if item.value.shape and is_batched(item.value.shape[0])]
        return {item.path: int(item.value.shape[0] / BATCH) for item in batched}

    @cached_property
    def leaving(self) -> frozenset[str]:
        """The names of the values that leave the graph: what it returns, and what constants are updated with."""
        return frozenset(self.outputs).union(update.value for update in self.updates)

    @cached_property
    def targets(self) -> dict[str, str]:
        """The names that the model gives its parameters and constants, by their values' names."""
        table = {parameter.value.name: parameter.target for parameter in self.parameters}
        return table | {constant.value.name: constant.target for constant in self.constants}

    @cached_property
    def weights(self) -> frozenset[str]:
        """The names of all parameters and constants: what a repeated layer has its own of."""
        return frozenset(self.targets)

    @cached_property
    def recomputable(self) -> frozenset[str]:
        """Values that depend on inputs and constants alone: each stage that needs one computes it for itself."""
        known = {item.value.name for item in self.inputs} | {item.value.name for item in self.constants}
        for node in self.nodes:
            if all(name in known for name in node.inputs) and not any(word in node.op for word in RANDOM):
                known.update(value.name for value in node.outputs)
        return frozenset(known)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that decides what the graph computes; equal for equal models on every machine."""
        trained = " ".join(name for name, value in self.values.items() if value.requires_grad)
        return hashlib.sha256(f"{self}\n{trained}".encode()).hexdigest()[:16]

    def __str__(self) -> str:
        lines = [f"graph {self.name}({', '.join(f'{i.path}: {describe(i.value)}' for i in self.inputs)}):"]
        for name, target in self.targets.items():
            kind = "parameter" if name in self.parameter_of else "constant"
            lines.append(f"    {kind} {name} = {target}: {describe(self.values[name])}")
        lines += [f"    {show(node)}" for node in self.nodes]
        lines += [f"    update {update.constant} = {update.value}" for update in self.updates]
        lines.append(f"    return {', '.join(self.outputs)}" + (f"  # loss: {self.loss}" if self.loss else ""))
        return "\n".join(lines)


def references(args: tuple[Arg, ...]) -> Iterator[str]:
    """The names of all values in `args`, nested tuples included."""
    for arg in args:
        if isinstance(arg, Ref):
            yield arg.name
        elif isinstance(arg, tuple):
            yield from references(arg)


def describe(value: Value) -> str:
    """`float32[b, 16, 64]`"""
    return f"{value.dtype}[{', '.join(map(_spelled, value.shape))}]"


@lru_cache(maxsize=1024)
def _spelled(size: Size) -> str:
    """A size as text: sympy takes a while over each, and a graph has few that differ."""
    return str(size)


def show(node: Node) -> str:
    """One node as a line of code."""
    shown = [_show(arg) for arg in node.args] + [f"{key}={_show(arg)}" for key, arg in node.kwargs]
    targets = ", ".join(f"{value.name}: {describe(value)}" for value in node.outputs)
    return f"{targets} = {node.op}({', '.join(shown)})" + ("  # autocast off" if node.full else "")


def _show(arg: Arg) -> str:
    if isinstance(arg, Ref):
        return arg.name
    if isinstance(arg, Literal):
        return arg.text
    if isinstance(arg, tuple):
        return f"({', '.join(map(_show, arg))})"
    return repr(arg) if isinstance(arg, str) else str(arg)
