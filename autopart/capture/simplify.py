"""Simplify a captured graph: drop what computes nothing, and see constant masks for what they are."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from autopart.capture.by_products import without_by_products
from autopart.capture.canonical_order import in_canonical_order
from autopart.capture.constants import evaluate_constant
from autopart.capture.filled import without_filling
from autopart.capture.gradient_paths import without_lost_gradients
from autopart.capture.merged_dims import without_merged_dims
from autopart.capture.running_statistics import without_running_statistics
from autopart.ir.graph import RANDOM, Arg, Graph, Literal, Node, Ref, Update, Value

CASTS = ("aten.to.", "aten._to_copy.", "aten.type_as.")
IDENTITIES = ("aten.alias.default", "aten.lift_fresh_copy.default", "aten.lift_fresh.default", "aten.clone.default")
DROPOUTS = ("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
# What looks at how a tensor lies in memory; for all else a contiguous copy is the same tensor.
STRIDED = ("aten.view.dtype", "aten.view_as_complex.default", "aten.view_as_real.default", "aten.as_strided.default")
NEUTRAL = {"aten.add.Tensor": 0, "aten.sub.Tensor": 0, "aten.mul.Tensor": 1, "aten.div.Tensor": 1}
BROADCAST = "aten.broadcast_tensors.default"
WHOLE = 2**63 - 1  # what a slice without an end ends at
ATTENTION = "aten.scaled_dot_product_attention.default"


def simplify(graph: Graph, constants: Mapping[str, torch.Tensor]) -> Graph:
    """`graph` without identities and dead nodes, and with causal masks turned into `is_causal`.

    The result is the same on every device: a plan made on `meta` must fit the model on GPUs.
    """
    graph = without_by_products(without_filling(without_running_statistics(graph)))
    graph = without_merged_dims(_drop_identities(graph))
    graph = _drop_identities(graph)
    graph = _use_is_causal(graph, constants)
    return _renumber(in_canonical_order(without_lost_gradients(_drop_dead(graph))))


def _drop_identities(graph: Graph) -> Graph:
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        node = _rename(node, renamed)
        if node.inputs and (_is_identity(node, graph.values[node.inputs[0]]) or _is_copy(graph, node)):
            renamed[node.output.name] = node.inputs[0]
        elif _replaces_all(node, graph):
            renamed[node.output.name] = node.inputs[1]
        elif node.op == BROADCAST and all(a.shape == graph.values[b].shape for a, b in _pairs(node)):
            renamed.update((value.name, name) for value, name in _pairs(node))
        else:
            nodes.append(node)
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    loss = renamed.get(graph.loss, graph.loss) if graph.loss else None
    return replace(graph, nodes=tuple(nodes), outputs=outputs, loss=loss, updates=_renamed_updates(graph, renamed))


def _pairs(node: Node) -> list[tuple[Value, str]]:
    """The outputs of a node that has as many as inputs, each with its input."""
    return list(zip(node.outputs, node.inputs, strict=True))


def _renamed_updates(graph: Graph, renamed: Mapping[str, str]) -> tuple[Update, ...]:
    return tuple(Update(item.constant, renamed.get(item.value, item.value)) for item in graph.updates)


def _is_identity(node: Node, source: Value) -> bool:
    if len(node.outputs) != 1:
        return False
    same = node.output.shape == source.shape and node.output.dtype == source.dtype
    same = same and node.output.requires_grad == source.requires_grad
    if node.op in IDENTITIES or node.op.startswith(CASTS):
        return same
    if node.op in DROPOUTS:
        return same and (node.arg(1, "p") == 0 or node.arg(2, "train") is False)
    if node.op in ("aten.slice.Tensor", "aten.expand.default", "aten.view.default", "aten.reshape.default"):
        return same  # a slice that keeps the shape keeps everything
    if node.op in NEUTRAL:
        return same and len(node.args) > 1 and node.args[1] == NEUTRAL[node.op] and not isinstance(node.args[1], bool)
    return False


def _replaces_all(node: Node, graph: Graph) -> bool:
    """Whether `node` writes a whole tensor, as `x[:, :3] = 0` does with the rows once it has its columns."""
    if node.op != "aten.slice_scatter.default" or len(node.inputs) < 2:
        return False
    source, end, dim = graph.values[node.inputs[1]], node.arg(4, "end"), node.arg(2, "dim", 0)
    size = node.output.shape[dim] if isinstance(dim, int) else None
    whole = node.arg(3, "start") in (None, 0) and (end in (None, size) or (isinstance(end, int) and end >= WHOLE))
    same = source.requires_grad == node.output.requires_grad and source.dtype == node.output.dtype
    return whole and same and source.shape == node.output.shape and node.arg(5, "step", 1) == 1


def _is_copy(graph: Graph, node: Node) -> bool:
    """Whether `node` only lays its input out anew; captured or not by the strides that kernels of the device give."""
    users = (graph.nodes[index].op for index in graph.consumers[node.output.name])
    return node.op == "aten.contiguous.default" and not any(op in STRIDED for op in users)


def _use_is_causal(graph: Graph, constants: Mapping[str, torch.Tensor]) -> Graph:
    """With no mask given, transformers builds the causal triangle in the graph, which loses the flash kernel."""
    fixed = _input_free(graph)
    verdicts: dict[str, bool] = {}
    nodes = []
    for node in graph.nodes:
        mask = node.arg(3, "attn_mask") if node.op == ATTENTION else None
        if isinstance(mask, Ref) and mask.name in fixed:
            if mask.name not in verdicts:
                verdicts[mask.name] = _is_triangle(evaluate_constant(graph, mask.name, constants))
            if verdicts[mask.name]:
                node = _causal(node)
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def _causal(node: Node) -> Node:
    args: list[Arg] = [*node.args[:3]]
    kwargs = {**dict(node.kwargs)}
    for index, name in ((4, "dropout_p"), (6, "scale"), (7, "enable_gqa")):
        if index < len(node.args):
            kwargs[name] = node.args[index]
    kwargs.pop("attn_mask", None)
    kwargs["is_causal"] = True
    return replace(node, args=tuple(args), kwargs=tuple(sorted(kwargs.items())))


def _is_triangle(mask: torch.Tensor | None) -> bool:
    if mask is None or mask.ndim < 2 or mask.shape[-1] != mask.shape[-2]:
        return False
    triangle = torch.ones(mask.shape[-2:], dtype=torch.bool).tril()
    if mask.dtype is torch.bool:
        return bool((mask == triangle).all())
    allowed = mask == 0
    return bool((allowed == triangle).all()) and bool((mask[~allowed] <= torch.finfo(mask.dtype).min).all())


def _input_free(graph: Graph) -> frozenset[str]:
    known = {item.value.name for item in graph.constants}
    for node in graph.nodes:
        if all(name in known for name in node.inputs) and not any(word in node.op for word in RANDOM):
            known.update(value.name for value in node.outputs)
    return frozenset(known)


def _drop_dead(graph: Graph) -> Graph:
    live = set(graph.leaving) | {update.constant for update in graph.updates}
    kept = []
    for node in reversed(graph.nodes):
        if any(value.name in live for value in node.outputs):
            live.update(node.inputs)
            kept.append(node)
    return replace(
        graph,
        nodes=tuple(reversed(kept)),
        parameters=tuple(p for p in graph.parameters if p.value.name in live),
        constants=tuple(c for c in graph.constants if c.value.name in live),
    )


def _renumber(graph: Graph) -> Graph:
    """Nodes named by their op and their number: what was dropped leaves no gap."""
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    counts: dict[str, int] = {}
    taken = {item.value.name for item in graph.inputs} | graph.weights

    def fresh(name: str) -> str:
        while True:
            number = counts.get(name, 0)
            counts[name] = number + 1
            numbered = f"{name}_{number}" if number else name
            if numbered not in taken:
                taken.add(numbered)
                return numbered

    for node in graph.nodes:
        name = fresh(node.op.split(".")[1].strip("_"))
        single = len(node.outputs) == 1
        outputs = []
        for index, value in enumerate(node.outputs):
            renamed[value.name] = name if single else fresh(f"{name}_{index}")
            outputs.append(Value(renamed[value.name], value.shape, value.dtype, value.requires_grad))
        args, kwargs = _rename_args(node, renamed), _rename_kwargs(node, renamed)
        nodes.append(Node(name, node.op, args, kwargs, tuple(outputs), node.scope, node.location, node.full))
    outputs_of_graph = tuple(renamed.get(name, name) for name in graph.outputs)
    loss = renamed.get(graph.loss, graph.loss) if graph.loss else None
    updates = _renamed_updates(graph, renamed)
    return replace(graph, nodes=tuple(nodes), outputs=outputs_of_graph, loss=loss, updates=updates)


def _rename(node: Node, renamed: Mapping[str, str]) -> Node:
    if renamed.keys().isdisjoint(node.inputs):
        return node
    return replace(node, args=_rename_args(node, renamed), kwargs=_rename_kwargs(node, renamed))


def _rename_args(node: Node, renamed: Mapping[str, str]) -> tuple[Arg, ...]:
    return tuple(_rename_arg(arg, renamed) for arg in node.args)


def _rename_kwargs(node: Node, renamed: Mapping[str, str]) -> tuple[tuple[str, Arg], ...]:
    return tuple((key, _rename_arg(arg, renamed)) for key, arg in node.kwargs)


def _rename_arg(arg: Arg, renamed: Mapping[str, str]) -> Arg:
    if isinstance(arg, Ref):
        return Ref(renamed.get(arg.name, arg.name))
    if isinstance(arg, tuple):
        return tuple(_rename_arg(item, renamed) for item in arg)
    if isinstance(arg, Literal):
        return arg
    return arg
