"""Expand: write a repeated layer out, as copies of the nodes of the one that was traced."""

from collections.abc import Mapping
from dataclasses import dataclass

from autopart.errors import CaptureError
from autopart.ir.graph import Arg, Node, Ref, Value


@dataclass(frozen=True, slots=True)
class TracedLayer:
    """The nodes of a layer in module `path`, called from `location`; `outside` is what they take, in order."""

    nodes: tuple[Node, ...]
    outside: tuple[str, ...]
    path: str
    location: str

    def __post_init__(self) -> None:
        made = {value.name for node in self.nodes for value in node.outputs}
        taken = {name for node in self.nodes for name in node.inputs}
        if made & set(self.outside) or taken - made - set(self.outside):
            raise CaptureError(f"{self.path} takes a tensor that it hides, and cannot be repeated")


def expand(
    layer: TracedLayer, outside: tuple[str, ...], path: str, location: str, copy: int
) -> tuple[tuple[Node, ...], Mapping[str, str]]:
    """The nodes of copy number `copy` of `layer`, and from the names in the layer to the names in it."""
    names = dict(zip(layer.outside, outside, strict=True))
    for node in layer.nodes:
        names.update((value.name, f"{value.name}@{copy}") for value in node.outputs)
    return tuple(_copy(node, layer, names, path, location, copy) for node in layer.nodes), names


def _copy(node: Node, layer: TracedLayer, names: Mapping[str, str], path: str, location: str, copy: int) -> Node:
    def rename(arg: Arg) -> Arg:
        if isinstance(arg, Ref):
            return Ref(names[arg.name])
        return tuple(map(rename, arg)) if isinstance(arg, tuple) else arg

    inside = node.scope == layer.path or node.scope.startswith(f"{layer.path}.")
    return Node(
        f"{node.name}@{copy}",
        node.op,
        tuple(map(rename, node.args)),
        tuple((key, rename(arg)) for key, arg in node.kwargs),
        tuple(Value(names[x.name], x.shape, x.dtype, x.requires_grad) for x in node.outputs),
        path + node.scope.removeprefix(layer.path) if inside else node.scope,
        location if node.location == layer.location else node.location,
        node.full,
    )
