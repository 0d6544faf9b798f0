"""Kernels: what is timed on one device, each as a training step runs it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Run = Callable[[], object]
TINY = 4  # elements a side of tensors that take no time but the launch


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that take a device about a millisecond to a hundred.

    Attributes:
        products: (m, n, k) of float32 products; other dtypes are measured on the first `few`.
        moves: (rows, columns) of tensors.
        attention: (heads, keys, head size).
        before_messages: (m, n, k) of the product that comes before each collective.
    """

    products: tuple[tuple[int, int, int], ...]
    few: int
    moves: tuple[tuple[int, int], ...]
    attention: tuple[tuple[int, int, int], ...]
    before_messages: tuple[int, int, int]


SIZES = {
    "cpu": Sizes(
        (
            (512, 1024, 256), (512, 256, 1024), (512, 512, 512), (1024, 1024, 1024),
            (64, 1024, 256), (128, 256, 256), (128, 1024, 256), (128, 512, 512), (256, 256, 256), (256, 768, 256),
            (512, 256, 256), (512, 2048, 512), (1024, 128, 512), (1024, 256, 256), (2048, 1024, 256), (2048, 128, 128),
        ),
        4,
        ((256, 256), (512, 512), (512, 1024), (1024, 1024), (2048, 1024)),
        ((16, 128, 32), (16, 128, 64), (16, 256, 64), (8, 512, 64), (4, 1024, 64)),
        (256, 256, 256),
    ),
    "cuda": Sizes(
        (
            (4096, 8192, 8192), (8192, 4096, 4096), (4096, 4096, 4096), (4096, 14336, 4096),
            (1024, 4096, 4096), (2048, 2048, 2048), (2048, 8192, 2048), (4096, 1024, 4096), (8192, 8192, 1024),
            (16384, 4096, 4096),
        ),
        4,
        ((4096, 4096), (8192, 4096), (16384, 4096)),
        ((64, 1024, 128), (32, 2048, 128), (32, 4096, 128), (16, 8192, 128)),
        (2048, 2048, 2048),
    ),
}  # fmt: skip


def product(m: int, n: int, k: int, dtype: torch.dtype, device: torch.device) -> Run:
    """A linear layer's forward and backward pass: three products."""
    x = torch.randn(m, k, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(n, k, device=device, dtype=dtype, requires_grad=True)
    gradient = torch.randn(m, n, device=device, dtype=dtype)
    return lambda: torch.autograd.grad(F.linear(x, weight), (x, weight), gradient)


def attention(heads: int, keys: int, size: int, dtype: torch.dtype, device: torch.device) -> Run:
    """Causal attention's forward and backward pass, by the kernel that torch takes."""
    query, key, value = (
        torch.randn(1, heads, keys, size, device=device, dtype=dtype, requires_grad=True) for _ in range(3)
    )
    gradient = torch.randn(1, heads, keys, size, device=device, dtype=dtype)
    return lambda: torch.autograd.grad(
        F.scaled_dot_product_attention(query, key, value, is_causal=True), (query, key, value), gradient
    )


def moves(rows: int, columns: int, device: torch.device) -> dict[str, tuple[int, int, Run]]:
    """By op: the passes over a (rows, columns) tensor, how many kernels make them, and how to run them.

    Passes are counted as the estimate counts them: forward, inputs and output once; backward, these, and the gradients
    of inputs. They are what a transformer layer has besides products.
    """
    shape = (rows, columns)
    x, y = (torch.randn(shape, device=device, requires_grad=True) for _ in range(2))
    gradient, total = torch.randn(shape, device=device), torch.zeros(shape, device=device)
    target = torch.randint(columns, (rows,), device=device)
    weight, bias = (torch.ones(columns, device=device) for _ in range(2))

    def both(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Run:
        return lambda: torch.autograd.grad(function(*inputs), inputs, gradient)

    def loss() -> object:
        return torch.autograd.grad(F.cross_entropy(x, target), x)

    plain = x.detach()
    return {
        "copy": (2, 1, lambda: total.copy_(gradient)),
        "add": (3, 1, lambda: torch.add(plain, gradient)),
        "add_": (3, 1, lambda: total.add_(gradient)),
        "mul": (8, 2, both(torch.mul, x, y)),
        "gelu": (5, 2, both(F.gelu, x)),
        "silu": (5, 2, both(F.silu, x)),
        "layer_norm": (5, 2, both(lambda values: F.layer_norm(values, (columns,), weight, bias), x)),
        "cross_entropy": (3, 2, loss),
    }


def tiny_layer(device: torch.device) -> tuple[int, Run]:
    """A transformer layer on tensors of a few elements, forward and backward, and how many kernels the estimate counts.

    These are a kernel an op that is no view, forward and backward, two backward for a product, and one for each
    parameter, whose gradient is added to what is there.
    """
    parameters = {
        name: torch.ones(*shape, device=device, requires_grad=True)
        for name, shape in {
            "norm": (TINY,), "qkv": (3 * TINY, TINY), "out": (TINY, TINY), "up": (TINY, TINY), "down": (TINY, TINY),
        }.items()
    }  # fmt: skip
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    x = torch.ones(1, TINY, TINY, device=device, requires_grad=True)
    gradient = torch.ones(1, TINY, TINY, device=device)

    def run() -> None:
        normed = F.layer_norm(x, (TINY,), parameters["norm"])
        heads = F.linear(normed, parameters["qkv"]).view(1, TINY, 3, 1, TINY).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind()
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        added = x + F.linear(mixed.transpose(1, 2).reshape(1, TINY, TINY), parameters["out"])
        result = added + F.linear(F.gelu(F.linear(added, parameters["up"])), parameters["down"])
        result.backward(gradient)

    products, others, sums = 4, 5, 1  # others: norm, attention, gelu and two adds; one add's gradient is a sum
    return products * 3 + others * 2 + sums + len(parameters), run
