"""The grouped matmul of emitted modules, beside PyTorch's and beside a product a group."""

import pytest
import torch
import torch.nn.functional as F

from autopart.runtime import grouped_mm

ENDS = torch.tensor([2, 2, 6, 8], dtype=torch.int32)


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


@pytest.mark.parametrize(
    ("first", "second", "groups"),
    [((8, 4), (4, 4, 8), True), ((4, 8, 4), (4, 8), True), ((8, 8), (8, 4), True), ((4, 8, 4), (4, 4, 8), False)],
)
def test_all_forms_agree_with_pytorch(first: tuple[int, ...], second: tuple[int, ...], groups: bool) -> None:
    x, weight = (numbers(*shape, dtype=torch.float32) for shape in (first, second))
    found, expected = (
        grouped_mm(x, weight, ENDS if groups else None),
        F.grouped_mm(x, weight, offs=ENDS if groups else None),
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    given = torch.randn_like(found)
    own = torch.autograd.grad(found, (x, weight), given)
    theirs = torch.autograd.grad(expected, (x, weight), given)
    torch.testing.assert_close(own, theirs, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda x, w: grouped_mm(x, w, ENDS), (numbers(8, 2), numbers(4, 2, 3)))


def test_rows_after_the_last_group_are_zeros() -> None:
    x, weight = numbers(10, 4), numbers(4, 4, 8)
    found = grouped_mm(x, weight, ENDS)
    assert found[8:].eq(0).all() and found[:8].ne(0).all()
    found.sum().backward()
    assert x.grad is not None and x.grad[8:].eq(0).all()
    assert weight.grad is not None and weight.grad[1].eq(0).all()  # a group without rows
