"""passed_through: what leaves a region without gradients as it came, with the gradient that it had outside."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch

T = TypeVar("T")
META = torch.device("meta")


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
    sizes = any(isinstance(arg, torch.SymInt) for arg in (*node.args, *node.kwargs.values()))
    if sizes or node.target._schema.is_mutable:
        return False  # what takes sizes makes a view, which is a tensor of its own
    device = getattr(_value(node.args[0]), "device", None)
    first, *others = (META if device is not None and arg == device else _like(arg) for arg in node.args)
    if not isinstance(first, torch.Tensor):
        return False
    kwargs = {key: META if device is not None and arg == device else _like(arg) for key, arg in node.kwargs.items()}
    try:
        return bool(node.target(first, *others, **kwargs) is first)
    except (RuntimeError, NotImplementedError):  # it needs values, or other sizes: then it has something to do
        return False


def _like(arg: Any) -> Any:
    """In place of a tensor one like it without values, with 2 for sizes that are not known; all else as it is."""
    value = _value(arg)
    if not isinstance(value, torch.Tensor):
        return arg
    shape = [size if isinstance(size, int) else 2 for size in value.shape]
    return torch.empty(shape, dtype=value.dtype, device="meta")


def _value(arg: Any) -> Any:
    return arg.meta.get("val") if isinstance(arg, torch.fx.Node) else None
