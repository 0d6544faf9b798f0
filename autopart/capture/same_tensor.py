"""passed_through: what leaves a region without gradients as it came, with the gradient that it had outside."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def passed_through(result: T, given: Mapping[torch.fx.Node, Any]) -> T | Any:
    """What stands for a `result` of a region outside of it; `given` has what stands for its placeholders.

    An operator with nothing to do returns the very tensor that it was given: `x.to(x.dtype)` is `x`. For export that is
    from then on the operator's result, and a later `x`, outside of the region, becomes a result of the region. It has
    its gradient still.
    """
    node: Any = result
    while isinstance(node, torch.fx.Node) and node not in given and _has_nothing_to_do(node):
        node = node.args[0]
    return given.get(node, result) if isinstance(node, torch.fx.Node) else result


def _has_nothing_to_do(node: torch.fx.Node) -> bool:
    """Whether an operator returns its first argument itself: it is called on such a tensor to see."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return False
    first, *others = node.args
    value = first.meta.get("val") if isinstance(first, torch.fx.Node) else None
    further = any(isinstance(arg, torch.fx.Node | torch.SymInt) for arg in (*others, *node.kwargs.values()))
    if not isinstance(value, torch.Tensor) or further or node.target._schema.is_mutable:
        return False
    shape = [size if isinstance(size, int) else 2 for size in value.shape]
    tensor = torch.empty(shape, dtype=value.dtype, device="meta")
    kwargs = {key: tensor.device if arg == value.device else arg for key, arg in node.kwargs.items()}
    try:
        return bool(node.target(tensor, *others, **kwargs) is tensor)
    except (RuntimeError, NotImplementedError):
        return False
