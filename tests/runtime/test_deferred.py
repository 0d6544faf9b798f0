"""Deferred leaves the weights' gradients of products out of a backward pass, and adds up the same ones afterwards."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from autopart.runtime.deferred import Deferred


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(drawn(*shape))


Products = list[tuple[str, tuple[int, ...], tuple[int, ...], Callable[[torch.Tensor, nn.Parameter], torch.Tensor]]]
PRODUCTS: Products = [
    ("linear", (2, 3, 4), (5, 4), lambda x, w: F.linear(x, w)),
    ("linear_of_a_vector", (4,), (5, 4), lambda x, w: F.linear(x, w)),
    ("linear_with_bias", (2, 3, 4), (5, 4), lambda x, w: F.linear(x, w, x.sum() * w.new_ones(5))),
    ("vector_with_bias", (4,), (5, 4), lambda x, w: F.linear(x, w, x.sum() * w.new_ones(5))),
    ("matmul", (2, 3, 4), (4, 5), lambda x, w: torch.matmul(x, w)),
    ("at", (3, 4), (4, 5), lambda x, w: x @ w),
    ("mm", (3, 4), (4, 5), lambda x, w: torch.mm(x, w)),
    ("addmm", (3, 4), (4, 5), lambda x, w: torch.addmm(x.sum() * torch.ones(5, dtype=x.dtype), x, w)),
    ("conv1d", (2, 4, 9), (6, 2, 3), lambda x, w: F.conv1d(x, w, groups=2, padding=1)),
    ("conv2d", (2, 3, 6, 6), (5, 3, 3, 3), lambda x, w: F.conv2d(x, w, x.sum() * w.new_ones(5), stride=2)),
    ("conv3d", (1, 2, 5, 5, 5), (3, 2, 2, 2, 2), lambda x, w: F.conv3d(x, w, dilation=(1, 2, 1))),
]
KEPT_WHOLE: Products = [
    ("scaled_addmm", (3, 4), (4, 5), lambda x, w: torch.addmm(x.new_ones(5), x, w, alpha=2)),
    ("addmm_of_one_bias", (3, 4), (4, 5), lambda x, w: torch.addmm(x.sum() * w.new_ones(1), x, w)),
    ("same_padding", (2, 4, 9), (6, 4, 3), lambda x, w: F.conv1d(x, w, padding="same")),
    ("one_image", (3, 6, 6), (5, 3, 3, 3), lambda x, w: F.conv2d(x, w)),
    ("stacked_matmul", (2, 3, 4), (2, 4, 5), lambda x, w: x @ w),
    ("transposed_weight", (3, 4), (5, 4), lambda x, w: x @ w.t()),
    ("layer_norm", (3, 4), (4,), lambda x, w: F.layer_norm(x, (4,), w)),
]
Function = Callable[[torch.Tensor, nn.Parameter], torch.Tensor]


def gradients(function: Function, x: torch.Tensor, w: nn.Parameter) -> tuple[torch.Tensor, torch.Tensor]:
    result: tuple[torch.Tensor, torch.Tensor] = torch.autograd.grad(function(x, w).tanh().sum(), (x, w))
    return result


def backward(function: Function, x: torch.Tensor, w: nn.Parameter) -> Deferred:
    deferred = Deferred()
    with deferred:
        loss = function(x, w).tanh().sum()
    with deferred:
        torch.autograd.backward([torch.autograd.graph.get_gradient_edge(loss)], [torch.ones_like(loss)])
    return deferred


@pytest.mark.parametrize(("name", "x_shape", "w_shape", "function"), PRODUCTS, ids=[case[0] for case in PRODUCTS])
def test_products(name: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], function: Function) -> None:
    x, w = drawn(*x_shape).requires_grad_(), weight(*w_shape)
    x_gradient, w_gradient = gradients(function, x, w)
    deferred = backward(function, x, w)
    torch.testing.assert_close(x.grad, x_gradient, rtol=1e-12, atol=1e-12)
    assert w.grad is None
    deferred.add_gradients()
    torch.testing.assert_close(w.grad, w_gradient, rtol=1e-12, atol=1e-12)
    deferred.add_gradients()
    torch.testing.assert_close(w.grad, w_gradient, rtol=1e-12, atol=1e-12)  # each is added once
    total = w.grad
    backward(function, x, w).add_gradients()
    torch.testing.assert_close(w.grad, 2 * w_gradient, rtol=1e-12, atol=1e-12)
    assert w.grad is total, "further ones are added where the first is"


def test_products_in_half_are_added_up_in_full() -> None:
    x, w = drawn(8, 4).float(), nn.Parameter(drawn(5, 4).float())
    with torch.autocast("cpu", torch.bfloat16):
        passes = [backward(lambda x, w: F.linear(x, w).float(), rows, w) for rows in (x[:3], x[3:])]
    for deferred in passes:
        deferred.add_gradients()
    assert w.grad is not None and w.grad.dtype == torch.float32
    (expected,) = torch.autograd.grad(F.linear(x, w).tanh().sum(), w)
    torch.testing.assert_close(w.grad, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("name", "x_shape", "w_shape", "function"), KEPT_WHOLE, ids=[case[0] for case in KEPT_WHOLE])
def test_what_is_not_put_off(name: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...], function: Function) -> None:
    x, w = drawn(*x_shape).requires_grad_(), weight(*w_shape)
    expected = gradients(function, x, w)
    backward(function, x, w)
    for found, own in zip((x.grad, w.grad), expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12)


def test_a_weight_of_two_products() -> None:
    def function(x: torch.Tensor, w: nn.Parameter) -> torch.Tensor:
        return F.linear(F.linear(x, w).tanh(), w) + w.sum()

    x, w = drawn(3, 4).requires_grad_(), weight(4, 4)
    _, expected = gradients(function, x, w)
    deferred = backward(function, x, w)
    assert w.grad is not None and not torch.allclose(w.grad, expected)  # of the sum alone
    deferred.add_gradients()
    torch.testing.assert_close(w.grad, expected, rtol=1e-12, atol=1e-12)


def test_a_frozen_weight() -> None:
    x, w = drawn(3, 4).requires_grad_(), nn.Parameter(drawn(5, 4), requires_grad=False)
    backward(lambda x, w: F.linear(x, w), x, w).add_gradients()
    assert x.grad is not None and w.grad is None


def test_hooks_of_a_weight() -> None:
    """One that may change a gradient changes autograd's; one that follows it is called when it is all there, once."""
    x, w, seen = drawn(3, 4).requires_grad_(), weight(4, 4), list[torch.Tensor]()
    function: Function = lambda x, w: F.linear(F.linear(x, w).tanh(), w)  # noqa: E731
    _, expected = gradients(function, x, w)
    w.register_post_accumulate_grad_hook(lambda w: seen.append(w.grad.clone()))  # type: ignore[union-attr]
    deferred = backward(function, x, w)
    assert not seen
    deferred.add_gradients()
    w.register_hook(lambda gradient: 2 * gradient)
    backward(function, x, w).add_gradients()
    for found, times in zip(seen, (1, 3), strict=True):
        torch.testing.assert_close(found, times * expected, rtol=1e-12, atol=1e-12)


def test_an_input_without_gradient() -> None:
    x, w = drawn(3, 4), weight(5, 4)
    (expected,) = torch.autograd.grad(F.linear(x, w).tanh().sum(), w)
    deferred = backward(lambda x, w: F.linear(x, w), x, w)
    assert w.grad is None
    deferred.add_gradients()
    torch.testing.assert_close(w.grad, expected, rtol=1e-12, atol=1e-12)


def test_what_is_computed_again() -> None:
    def inner(x: torch.Tensor, w: nn.Parameter) -> torch.Tensor:
        return F.linear(F.gelu(F.linear(x, w)), w)

    def function(x: torch.Tensor, w: nn.Parameter) -> torch.Tensor:
        result: torch.Tensor = checkpoint(inner, x, w, use_reentrant=False)
        return result

    x, w = drawn(3, 4).requires_grad_(), weight(4, 4)
    expected = gradients(inner, x, w)
    deferred = backward(function, x, w)
    assert w.grad is None
    deferred.add_gradients()
    for found, own in zip((x.grad, w.grad), expected, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12)
