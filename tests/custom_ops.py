"""Operators of a user's own, registered when this is imported; one a property that a probe must see."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

ops = torch.ops.autopart_tests


@custom_op("autopart_tests::gate", mutates_args=())
def gate(x: Tensor, by: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """x * sigmoid(by) * scale + bias, the last two of one dim."""
    result = x * by.sigmoid() * scale
    return result if bias is None else result + bias


@gate.register_fake
def _(x: Tensor, by: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.has_bias = inputs[3] is not None


def _backward(ctx: Any, gradient: Tensor) -> Any:
    x, by, scale = ctx.saved_tensors
    sigmoid, leading = by.sigmoid(), tuple(range(x.ndim - 1))
    bias = gradient.sum(leading) if ctx.has_bias else None
    slope = sigmoid * (1 - sigmoid)
    return gradient * sigmoid * scale, gradient * x * slope * scale, (gradient * x * sigmoid).sum(leading), bias


gate.register_autograd(_backward, setup_context=_save)


def composite(signature: str) -> Callable[[Callable[..., Tensor]], None]:
    """Register a function whose gradients are those of what it calls."""

    def register(function: Callable[..., Tensor]) -> None:
        name = f"autopart_tests::{function.__name__.strip('_')}"
        torch.library.define(name, signature)
        torch.library.impl(name, "CompositeImplicitAutograd", function)

    return register


@composite("(Tensor x) -> Tensor")
def _pairs(x: Tensor) -> Tensor:
    """Neighbours in the last dim change places: two ranks with an even share each would not notice."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


@composite("(Tensor x, int count) -> Tensor")
def _heads(x: Tensor, count: int) -> Tensor:
    """A softmax inside each of `count` heads."""
    return x.unflatten(-1, (count, -1)).softmax(-1).flatten(-2)


@composite("(Tensor x) -> Tensor")
def _centred(x: Tensor) -> Tensor:
    """The mean over the first dim is taken away, as a batch norm does."""
    return x - x.mean(0, keepdim=True)


@composite("(Tensor x, Tensor y) -> Tensor")
def _two_sums(x: Tensor, y: Tensor) -> Tensor:
    """The sums of two tensors over their first dims, which have nothing to do with each other."""
    return x.sum(0) + y.sum(0)


@composite("(Tensor x, Tensor table, Tensor offset) -> Tensor")
def _score(x: Tensor, table: Tensor, offset: Tensor) -> Tensor:
    """A sum of products, plus a number."""
    return (x * table).sum(-1) + offset


@composite("(Tensor x, Tensor y) -> Tensor")
def _distance(x: Tensor, y: Tensor) -> Tensor:
    """A mean of squares."""
    return (x - y).square().mean(-1)


@composite("(Tensor x, Tensor y) -> Tensor")
def _sum_and_mean(x: Tensor, y: Tensor) -> Tensor:
    """A sum over the last dim of a mean over the one before."""
    return (x * y).mean(-2).sum(-1)


@composite("(Tensor x, Tensor weight) -> Tensor")
def _norm(x: Tensor, weight: Tensor) -> Tensor:
    """A root mean square norm that computes in float32, as Llama's does."""
    wide = x.float()
    return ((wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)) * weight.float()).to(x.dtype)


@composite("(Tensor x, Tensor w) -> Tensor")
def _single_only(x: Tensor, w: Tensor) -> Tensor:
    """A matrix product that refuses all but float32, as many kernels do."""
    if x.dtype is not torch.float32:
        raise TypeError(f"float32 wanted, {x.dtype} given")
    return x @ w


@composite("(Tensor x, int split) -> Tensor")
def _upper_rows(x: Tensor, split: int) -> Tensor:
    """What happens to a row depends on its number."""
    rows = torch.arange(x.shape[0]).unsqueeze(-1)
    return torch.where(rows < split, x, -x)


@custom_op("autopart_tests::histogram", mutates_args=())
def histogram(x: Tensor, edges: Tensor) -> Tensor:
    """How many numbers of each row are below each edge."""
    return (x.unsqueeze(-1) < edges).sum(-2)


@custom_op("autopart_tests::noise", mutates_args=())
def noise(x: Tensor) -> Tensor:
    """Draws random numbers."""
    return x + torch.rand_like(x)


@custom_op("autopart_tests::scale_in_place", mutates_args=("x",))
def scale_in_place(x: Tensor) -> None:
    """Changes its argument, and says so."""
    x.mul_(2)


@custom_op("autopart_tests::silu", mutates_args=())
def silu(x: Tensor, *, copy: bool = False) -> Tensor:
    """Has the name of an ATen op, and does something else."""
    return x * 3 if copy else x * 2


@custom_op("autopart_tests::mixes_gradients", mutates_args=())
def mixes_gradients(x: Tensor) -> Tensor:
    """Elementwise, but for its backward, which mixes rows."""
    return x * 2


@custom_op("autopart_tests::clips_gradients", mutates_args=())
def clips_gradients(x: Tensor) -> Tensor:
    """Its backward is not linear."""
    return x * 2


mixes_gradients.register_autograd(lambda ctx, gradient: gradient - gradient.mean(0, keepdim=True))
clips_gradients.register_autograd(lambda ctx, gradient: gradient.clamp(-0.1, 0.1))
