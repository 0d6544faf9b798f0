"""Deferred: a backward pass that leaves out the gradients of weights in products, to be added up when it suits.

Nearly all work of weights' gradients is in products. Weights of other ops get theirs in the backward pass itself.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from autopart.runtime.precision import as_computed

Added = Callable[[torch.Tensor | None], torch.Tensor]  # computes a gradient, and adds it to what is there


class Deferred(TorchFunctionMode):
    """While it is entered, products with a parameter leave the parameter's gradient to `add_gradients`.

    To be entered for the forward pass of a micro-batch, and for its backward pass, in which parts of the forward may be
    computed again. Until `add_gradients`, what entered a product is kept, with the gradient of what left it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[Added] = []
        self._weights: list[nn.Parameter] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if func in _OPERANDS and torch.is_grad_enabled():
            operands = _OPERANDS[func](*args, **named)
            if operands is not None:
                x, weight, *rest = operands
                # The weight is no input of the function: autograd would call its hooks with no gradient.
                anchor = None if x.requires_grad else x.new_empty(0).requires_grad_()
                if func in _CONVOLUTIONS:
                    return _applied(_Convolution, func, x, anchor, (weight,), *rest, self)
                return _applied(_Product, x, anchor, (weight,), *rest, self)
        return func(*args, **named)  # most calls: every op of a forward pass comes here

    def put_off(self, weight: nn.Parameter, gradient: "Added") -> None:
        """Keep how a gradient of `weight` is computed, and added to the `grad` that it is given, if there is one."""
        self._weights.append(weight)
        self._pending.append(gradient)

    @property
    def weights(self) -> Sequence[nn.Parameter]:
        """Whose gradients were put off, once for each of them."""
        return self._weights

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Compute all gradients that were put off, and add them to the `grad` of their weights.

        Of each weight that gets no more the post-accumulate hooks are called, as autograd does.
        """
        last = {id(weight): position for position, weight in enumerate(self._weights)}
        for position, (weight, added_to) in enumerate(zip(self._weights, self._pending, strict=True)):
            weight.grad = added_to(weight.grad).to(weight.dtype)
            if last[id(weight)] == position:
                for hook in (weight._post_accumulate_grad_hooks or {}).values():
                    hook(weight)
        self._weights.clear()
        self._pending.clear()


def _applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)


def _linear(input: Any, weight: Any, bias: Any = None) -> tuple[Any, ...] | None:
    return (input, weight, bias, False) if _trained(weight) else None


def _matmul(input: Any, other: Any) -> tuple[Any, ...] | None:
    return (input, other, None, True) if _trained(other) and other.dim() == 2 and input.dim() >= 2 else None


def _addmm(input: Any, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> tuple[Any, ...] | None:
    plain = beta == 1 and alpha == 1 and input.shape == mat2.shape[1:]
    return (mat1, mat2, input, True) if plain and _trained(mat2) else None


def _convolution(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> tuple[Any, ...] | None:
    dims = weight.dim() - 2
    if not _trained(weight) or isinstance(padding, str) or input.dim() != weight.dim():
        return None
    spread = (tuple([x] * dims if isinstance(x, int) else x) for x in (stride, padding, dilation))
    return (input, weight, bias, *spread, groups)


# Each says what a product's input, weight and bias are, and whether the weight is (in, out) instead of (out, in), or of
# a convolution its geometry; None if it has no weight of its own.
_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
_OPERANDS: dict[Any, Callable[..., tuple[Any, ...] | None]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    torch.Tensor.matmul: _matmul,
    torch.Tensor.__matmul__: _matmul,
    torch.addmm: _addmm,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
}


def _trained(weight: Any) -> bool:
    """Whether it gets a gradient that can be put off.

    That of a complex one, which takes the conjugate of the input, is autograd's, and so is one that hooks may change.
    """
    trained = isinstance(weight, nn.Parameter) and weight.requires_grad
    return trained and not weight.is_complex() and not weight._backward_hooks


class _Product(torch.autograd.Function):
    """x (..., in) and a weight -> (..., out). Where x needs no gradient, the `anchor` makes the result need one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        anchor: torch.Tensor | None,
        held: tuple[nn.Parameter],
        bias: torch.Tensor | None,
        transposed: bool,
        deferred: Deferred,
    ) -> torch.Tensor:
        (weight,), x = held, as_computed(x)
        ctx.save_for_backward(x)
        ctx.weight, ctx.transposed, ctx.deferred = weight, transposed, deferred
        return F.linear(x, weight.t() if transposed else weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        weight, x_gradient, bias_gradient = ctx.weight, None, None
        if ctx.needs_input_grad[0]:
            own = weight.to(gradient.dtype)
            x_gradient = gradient @ (own.t() if ctx.transposed else own)
        if ctx.needs_input_grad[3]:
            bias_gradient = gradient.reshape(-1, gradient.shape[-1]).sum(dim=0)
        into, out = (x, gradient) if ctx.transposed else (gradient, x)
        ctx.deferred.put_off(weight, partial(_outer, into, out))
        return x_gradient, None, None, bias_gradient, None, None


def _outer(left: torch.Tensor, right: torch.Tensor, total: torch.Tensor | None) -> torch.Tensor:
    """(..., n), (..., m) -> (n, m), the sum over all other dims, and over what is in the `total`.

    Added up inside the product where dtypes are the same, as in Megatron-LM's fused accumulation.
    """
    left, right = left.reshape(-1, left.shape[-1]).t(), right.reshape(-1, right.shape[-1])
    if total is None:
        return left @ right
    return total.addmm_(left, right) if total.dtype == left.dtype else total.add_(left @ right)


class _Convolution(torch.autograd.Function):
    """A convolution whose weight has its gradient put off."""

    @staticmethod
    def forward(
        ctx: Any,
        function: Callable[..., torch.Tensor],
        x: torch.Tensor,
        anchor: torch.Tensor | None,
        held: tuple[nn.Parameter],
        *rest: Any,
    ) -> Any:
        bias, stride, padding, dilation, groups, deferred = rest
        (weight,), x = held, as_computed(x)
        ctx.save_for_backward(x)
        ctx.weight, ctx.deferred = weight, deferred
        ctx.geometry = (stride, padding, dilation, False, [0] * len(stride), groups)
        return function(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        weight, own = ctx.weight, ctx.weight.to(gradient.dtype)
        gradients = partial(
            torch.ops.aten.convolution_backward.default, gradient, x, own, [weight.shape[0]], *ctx.geometry
        )
        x_gradient, _, bias_gradient = gradients([ctx.needs_input_grad[1], False, ctx.needs_input_grad[4]])

        def added(total: torch.Tensor | None) -> torch.Tensor:
            gradient: torch.Tensor = gradients([False, True, False])[1]
            return gradient if total is None else total.add_(gradient)

        ctx.deferred.put_off(weight, added)
        return None, x_gradient, None, None, bias_gradient, None, None, None, None, None
