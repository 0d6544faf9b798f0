"""The text that makes an uninitialized weight of a rank's own shape."""

from autopart.emit.function import Sharded


def weight_text(sharded: Sharded, name: str) -> str:
    """`parameter(96, 64, dtype=torch.float32)`, or the same with `constant`."""
    graph = sharded.graph
    value = graph.values[name]
    shape = ", ".join(map(str, sharded.shape(name, sharded.layout(name)))) or "()"
    if name not in graph.parameter_of:
        return f"constant({shape}, dtype=torch.{value.dtype})"
    frozen = "" if value.requires_grad else ", trainable=False"
    return f"parameter({shape}, dtype=torch.{value.dtype}{frozen})"
