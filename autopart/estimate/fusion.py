"""Fusion: which values of a graph a stack's kernels read from memory, write to memory, and keep for the backward pass.

x ─▶ add ─▶ norm ─▶ linear ─▶ gelu ─▶ linear      a kernel each, or with a compiling stack [add norm] and [gelu]
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

import networkx as nx

from autopart.estimate.work import Keeps, Work, keeps_of, kept_inputs_of, short_name, work_of
from autopart.ir.graph import Graph, Node

# fmt: off
_POINTWISE = frozenset((
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "pow", "square", "sqrt", "rsqrt", "exp", "log", "sin", "cos",
    "tanh", "sigmoid", "silu", "gelu", "relu", "leaky_relu", "elu", "hardtanh", "hardswish", "softplus", "clamp",
    "where", "masked_fill", "to", "_to_copy", "type_as", "clone", "contiguous", "cat", "stack", "dropout",
    "native_dropout", "minimum", "maximum", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_not",
))
_REDUCTIONS = frozenset((
    "layer_norm", "native_layer_norm", "rms_norm", "mean", "sum", "amax", "var", "softmax", "_softmax", "log_softmax",
    "_log_softmax",
))
# fmt: on
LOSSES = frozenset(("cross_entropy", "cross_entropy_loss", "nll_loss", "nll_loss_nd"))
_CASTS = frozenset(("to", "_to_copy", "type_as"))


@dataclass(frozen=True, slots=True)
class Fusion:
    """What a node costs in memory traffic, by its name.

    Attributes:
        reads: the inputs, by their places, that its kernel reads and no node before it in the same kernel has read.
        writes: the outputs that leave its kernel.
        launches: the nodes that begin a kernel.
        kept_inputs, kept_outputs: those of its inputs and outputs that stay until the backward pass.
    """

    reads: Mapping[str, tuple[int, ...]]
    writes: Mapping[str, tuple[int, ...]]
    launches: frozenset[str]
    kept_inputs: Mapping[str, tuple[int, ...]]
    kept_outputs: Mapping[str, tuple[int, ...]]


def find_fusion(graph: Graph, kind: str, fused_loss: bool, bytes_of: Mapping[str, int]) -> Fusion:
    """How a stack runs `graph`, whose values have `bytes_of`.

    Args:
        graph: of the model.
        kind: "none", "chains" or "compiled".
        fused_loss: whether cross-entropy is one kernel with the casts of its logits.
        bytes_of: the bytes of every value.
    """
    fusable = {"none": frozenset(), "chains": _POINTWISE, "compiled": _POINTWISE | _REDUCTIONS}[kind]
    names = {node.name for node in graph.nodes if short_name(node.op) in fusable}
    loss = _with_casts(graph)
    return _Finder(graph, names | loss if fused_loss else names - loss, kind == "compiled", bytes_of).find()


def _with_casts(graph: Graph) -> set[str]:
    """The names of cross-entropies, and of the casts of their logits."""
    found: set[str] = set()
    for node in graph.nodes:
        if short_name(node.op) not in LOSSES:
            continue
        found.add(node.name)
        name = node.inputs[0]
        while (index := graph.producer.get(name)) is not None:
            before = graph.nodes[index]
            if short_name(before.op) in _CASTS:
                found.add(before.name)
            elif work_of(before) is not Work.VIEW or not before.inputs:
                break
            name = before.inputs[0]
    return found


class _Finder:
    def __init__(self, graph: Graph, fusable: set[str], compiled: bool, bytes_of: Mapping[str, int]) -> None:
        self.graph, self.fusable, self.compiled, self.bytes_of = graph, fusable, compiled, bytes_of
        self.root: dict[str, str] = {}
        self.group: dict[str, str] = {}  # name of a fused node -> name of the first node of its kernel

    def find(self) -> Fusion:
        self._group()
        users = self._users()
        leaving = {self._rooted(name) for name in self.graph.leaving}
        reads: dict[str, tuple[int, ...]] = {}
        writes: dict[str, tuple[int, ...]] = {}
        launches: set[str] = set()
        seen: dict[str, set[str]] = {}
        for node in self.graph.nodes:
            kernel = self.group.get(node.name)
            if kernel is None:
                reads[node.name] = tuple(range(len(node.inputs)))
                writes[node.name] = tuple(range(len(node.outputs)))
                launches.add(node.name)
                continue
            if kernel not in seen:
                launches.add(node.name)
            known = seen.setdefault(kernel, set())
            own = [slot for slot, name in enumerate(node.inputs) if self._kernel_of(self._rooted(name)) != kernel]
            reads[node.name] = tuple(slot for slot in own if self._rooted(node.inputs[slot]) not in known)
            known |= {self._rooted(node.inputs[slot]) for slot in own}
            writes[node.name] = tuple(
                slot
                for slot, value in enumerate(node.outputs)
                if value.name in leaving or any(self.group.get(user) != kernel for user in users.get(value.name, ()))
            )
        kept_inputs, kept_outputs = self._kept(users)
        return Fusion(reads, writes, frozenset(launches), kept_inputs, kept_outputs)

    def _rooted(self, name: str) -> str:
        return self.root.get(name, name)

    def _kernel_of(self, value: str) -> str | None:
        index = self.graph.producer.get(value)
        return None if index is None else self.group.get(self.graph.nodes[index].name)

    def _group(self) -> None:
        """Join fusable nodes that follow each other, with no product or attention between any two of one kernel.

        The `level` of a value is the most nodes that are not fusable on any path to it: nodes of one level have none
        between them, so what is joined never waits for itself.
        """
        level: dict[str, int] = {}
        joined: nx.utils.UnionFind[str] = nx.utils.UnionFind()
        for node in self.graph.nodes:
            at = max((level.get(name, 0) for name in node.inputs), default=0)
            if work_of(node) is Work.VIEW and not node.op.startswith("autopart.") and node.inputs:
                for value in node.outputs:
                    self.root[value.name], level[value.name] = self._rooted(node.inputs[0]), at
                continue
            fused = node.name in self.fusable
            for value in node.outputs:
                level[value.name] = at if fused else at + 1
            if not fused:
                continue
            joined.union(node.name, node.name)
            for name in node.inputs:
                index = self.graph.producer.get(self._rooted(name))
                if index is None:
                    continue
                before = self.graph.nodes[index]
                if before.name in self.fusable and level[self._rooted(name)] == at:
                    joined.union(before.name, node.name)
        first: dict[str, str] = {}
        for node in self.graph.nodes:
            if node.name in self.fusable and work_of(node) is not Work.VIEW:
                self.group[node.name] = first.setdefault(joined[node.name], node.name)

    def _users(self) -> dict[str, list[str]]:
        """For every value that is no view, the nodes that compute with it or with a view of it."""
        users: dict[str, list[str]] = {}
        for node in self.graph.nodes:
            if node.name not in self.group and work_of(node) is Work.VIEW and not node.op.startswith("autopart."):
                continue
            for name in node.inputs:
                users.setdefault(self._rooted(name), []).append(node.name)
        return users

    def _kept(self, users: Mapping[str, list[str]]) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
        """What autograd keeps; of fused kernels the fewest bytes from which their backward pass can start.

        That is a minimum cut between what the kernel reads and what its backward pass needs, as in torch.compile's
        min-cut partitioner (He and Chen 2022). A stack that only joins chains computes nothing again for products.
        """
        inputs: dict[str, tuple[int, ...]] = {}
        outputs: dict[str, tuple[int, ...]] = {}
        needed: dict[str, set[str]] = {}
        for node in self.graph.nodes:
            if not any(value.requires_grad for value in node.outputs):
                continue
            keeps, kernel = keeps_of(node), self.group.get(node.name)
            trained = [self.graph.values[name].requires_grad for name in node.inputs]
            kept = kept_inputs_of(node, trained) if keeps in (Keeps.INPUTS, Keeps.BOTH) else ()
            if kernel is None:
                inputs[node.name] = kept if not self.compiled else tuple(s for s in kept if not self._again(node, s))
                outputs[node.name] = tuple(range(len(node.outputs))) if keeps in (Keeps.OUTPUT, Keeps.BOTH) else ()
                for slot in kept:
                    source = self._kernel_of(self._rooted(node.inputs[slot]))
                    if self.compiled and source is not None:
                        needed.setdefault(source, set()).add(self._rooted(node.inputs[slot]))
                continue
            wanted = needed.setdefault(kernel, set())
            if short_name(node.op) in ("dropout", "native_dropout"):
                continue  # a mask, see `Prices.kept`; a compiling stack draws it again
            wanted |= {self._rooted(node.inputs[slot]) for slot in kept}
            if keeps in (Keeps.OUTPUT, Keeps.BOTH):
                wanted |= {value.name for value in node.outputs}
        cut = {name for kernel, wanted in needed.items() if wanted for name in self._cut(kernel, wanted)}
        counted: set[str] = set()
        for node in self.graph.nodes:
            if node.name not in self.group:
                continue
            own = [slot for slot, name in enumerate(node.inputs) if self._rooted(name) in cut - counted]
            inputs[node.name] = tuple(s for s in own if self._kernel_of(self._rooted(node.inputs[s])) is None)
            counted |= {self._rooted(node.inputs[slot]) for slot in inputs[node.name]}
            outputs[node.name] = tuple(slot for slot, value in enumerate(node.outputs) if value.name in cut)
        return inputs, outputs

    def _again(self, node: Node, slot: int) -> bool:
        """Whether an input is computed again from what its kernel keeps, instead of being kept."""
        return self._kernel_of(self._rooted(node.inputs[slot])) is not None

    def _cut(self, kernel: str, wanted: Iterable[str]) -> set[str]:
        flow = nx.DiGraph()
        for node in self.graph.nodes:
            if self.group.get(node.name) != kernel:
                continue
            for name in dict.fromkeys(self._rooted(name) for name in node.inputs):
                for value in node.outputs:
                    flow.add_edge(("out", name), ("in", value.name), capacity=inf)
                if self._kernel_of(name) != kernel:
                    flow.add_edge("source", ("in", name), capacity=inf)
                flow.add_edge(("in", name), ("out", name), capacity=float(self._kept_bytes(name)))
            for value in node.outputs:
                flow.add_edge(("in", value.name), ("out", value.name), capacity=float(self._kept_bytes(value.name)))
        for name in wanted:
            flow.add_edge(("out", name), "sink", capacity=inf)
        if "source" not in flow:
            return set(wanted)
        _, (_, behind) = nx.minimum_cut(flow, "source", "sink")
        return {node[1] for node in behind if node[0] == "out" and ("in", node[1]) not in behind}

    def _kept_bytes(self, name: str) -> int:
        return 0 if name in self.graph.weights or name in self.graph.recomputable else self.bytes_of[name]
