"""Examples of grouped matmuls."""

import torch

from autopart.probe.traced import Traced, single
from tests.sharding.tensors import t

OFFSETS = torch.tensor([2, 3, 3, 8], dtype=torch.int32)


def grouped(x: torch.Tensor, weight: torch.Tensor) -> Traced:
    """Transformers' own op, which takes float64 where PyTorch's does not."""
    import transformers.integrations.moe  # noqa: F401 - registers the op

    return single("transformers.grouped_mm_fallback.default", x, weight, OFFSETS)


def torch_grouped(x: torch.Tensor, weight: torch.Tensor, *offsets: torch.Tensor) -> Traced:
    """PyTorch's, in float32."""
    x, weight = (operand.detach().float().requires_grad_() for operand in (x, weight))
    return single("aten._grouped_mm.default", x, weight, *offsets)


GROUPED = {
    "grouped": grouped(t(8, 4), t(4, 4, 8)),
    "rows of groups": torch_grouped(t(8, 16), t(4, 16, 16), OFFSETS),
    "columns of groups": torch_grouped(t(4, 16, 16), t(16, 8), OFFSETS),
    "groups contracted": torch_grouped(t(16, 8), t(8, 16), OFFSETS),
    "groups in a row": torch_grouped(t(4, 16, 16), t(4, 16, 16)),
}
