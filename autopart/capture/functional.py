"""Functional: an exported program without in-place operators, in which `torch.no_grad` still means what it says."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.export.graph_signature import InputKind

from autopart.capture.node_source import location
from autopart.capture.same_tensor import passed_through
from autopart.errors import UnsupportedError

GRAD_REGION = "wrap_with_set_grad_enabled"
DETACH = torch.ops.aten.detach.default


def functional(exported: Any) -> Any:
    """`exported` itself if nothing in it is changed in place; else one that computes the same with new tensors.

    What `run_decompositions` makes functional it also takes out of its regions without gradients. So what goes into
    these regions is detached first, which says the same without a region.

    Raises:
        UnsupportedError: in a region without gradients, something is changed in place that may have one.
    """
    if not any(_mutates(node) for part in _parts(exported.graph_module) for node in part.graph.nodes):
        return exported
    specs = zip(_placeholders(exported.graph_module), exported.graph_signature.input_specs, strict=True)
    plain = {node for node, spec in specs if spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR)}
    _inline(exported.graph_module, plain)
    return exported.run_decompositions({})  # composite operators stay whole


def _parts(module: torch.fx.GraphModule) -> Iterator[torch.fx.GraphModule]:
    return (part for part in module.modules() if isinstance(part, torch.fx.GraphModule))


def _placeholders(module: torch.fx.GraphModule) -> list[torch.fx.Node]:
    return [node for node in module.graph.nodes if node.op == "placeholder"]


def _inline(module: torch.fx.GraphModule, plain: set[torch.fx.Node]) -> None:
    """Write the regions without gradients of `module` in line. `plain`: what may be changed there, as it has none."""
    for region in [node for node in module.graph.nodes if getattr(node.target, "__name__", "") == GRAD_REGION]:
        enabled, source, *given = region.args
        inner = getattr(module, source.target)
        if enabled:
            continue
        _check(inner, dict(zip(_placeholders(inner), given, strict=True)), plain)
        with module.graph.inserting_before(region):
            detached: dict[torch.fx.Node, Any] = {}
            for placeholder, outer in zip(_placeholders(inner), given, strict=True):
                detached[placeholder] = outer if outer in plain else _detached(module.graph, outer)
            results: Any = module.graph.graph_copy(inner.graph, detached)
        outer = dict(zip(_placeholders(inner), given, strict=True))
        (left,) = inner.graph.output_node().args
        for user in list(region.users):  # each takes one of its results
            passed = passed_through(left[user.args[1]], outer)
            user.replace_all_uses_with(passed if passed in given else results[user.args[1]])
            module.graph.erase_node(user)
        module.graph.erase_node(region)
    module.recompile()


def _detached(graph: torch.fx.Graph, node: Any) -> Any:
    if not isinstance(node, torch.fx.Node) or not isinstance(node.meta.get("val"), torch.Tensor):
        return node
    made = graph.call_function(DETACH, (node,))
    made.meta = {**node.meta}
    return made


def _check(inner: torch.fx.GraphModule, outer: dict[torch.fx.Node, Any], plain: set[torch.fx.Node]) -> None:
    """Whether what `inner` changes in place is its own or has no gradient: else the change would lose it."""
    for node in inner.graph.nodes:
        if getattr(node.target, "__name__", "") == GRAD_REGION:
            raise UnsupportedError(
                f"gradients are turned on again inside torch.no_grad ({location(node)}), in a forward that changes "
                "tensors in place: write one of the two in another way"
            )
        if not _mutates(node):
            continue
        for changed in _changed(node):
            base = _base(changed)
            if base in outer and outer[base] not in plain:
                raise UnsupportedError(
                    f"{node.target} in torch.no_grad ({location(node)}) changes a tensor that may have a gradient: "
                    "make a new tensor there, or detach it before"
                )


def _changed(node: torch.fx.Node) -> Iterator[torch.fx.Node]:
    """The tensors that `node` writes to."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    for position, argument in enumerate(arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
        yield from (item for item in (given if isinstance(given, list | tuple) else (given,)) if item is not None)


def _base(node: torch.fx.Node) -> torch.fx.Node:
    """The tensor that `node` is a view of, or was made of in place; or `node` itself."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not schema.returns or schema.returns[0].alias_info is None:
        return node
    sets = schema.returns[0].alias_info.before_set
    for argument, given in zip(schema.arguments, node.args, strict=False):
        if argument.alias_info is not None and argument.alias_info.before_set & sets:
            return _base(given) if isinstance(given, torch.fx.Node) else node
    written = [item for item in _changed(node) if isinstance(item, torch.fx.Node)]  # out=
    return _base(written[0]) if written else node


def _mutates(node: torch.fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)
