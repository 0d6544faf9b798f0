"""Grouped matmul: one product a group, of rows (or columns) that stand one group after another."""

import torch
import torch.nn.functional as F

from autopart.runtime.precision import as_computed

ALIGNMENT_BYTES = 16  # what the kernel asks of every row of an operand


def grouped_mm(x: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor | None = None) -> torch.Tensor:
    """The product of each group. `offs`: (groups,), where each group ends along the dim that is cut; sorted.

    x              weight         result
    (rows, k)      (groups, k, n) (rows, n)       rows are cut
    (groups, m, k) (k, columns)   (m, columns)    columns are cut
    (m, k)         (k, n)         (groups, m, n)  what is contracted is cut
    (groups, m, k) (groups, k, n) (groups, m, n)  nothing is cut, and `offs` is None

    Elements after the last group are zeros. Takes PyTorch's kernel where it has one for the dtype, device and sizes;
    else a loop over the groups, which waits for `offs` to reach the CPU.
    """
    x, weight = as_computed(x), as_computed(weight)
    if offs is None:
        return torch.bmm(x, weight)
    if _has_kernel(x, weight):
        return F.grouped_mm(x, weight, offs=offs.to(torch.int32))
    ends = offs.tolist()
    sizes = [stop - start for start, stop in zip([0, *ends[:-1]], ends, strict=True)]
    if x.dim() == 2 and weight.dim() == 3:
        *groups, rest = x.split([*sizes, x.shape[0] - ends[-1]])
        products = [rows @ matrix for rows, matrix in zip(groups, weight.unbind(), strict=True)]
        return torch.cat([*products, rest.new_zeros(rest.shape[0], weight.shape[2])])
    if x.dim() == 3:
        *groups, rest = weight.split([*sizes, weight.shape[1] - ends[-1]], dim=1)
        products = [matrix @ columns for matrix, columns in zip(x.unbind(), groups, strict=True)]
        return torch.cat([*products, rest.new_zeros(x.shape[1], rest.shape[1])], dim=1)
    *columns, _ = x.split([*sizes, x.shape[1] - ends[-1]], dim=1)
    *rows, _ = weight.split([*sizes, weight.shape[0] - ends[-1]])
    return torch.stack([left @ right for left, right in zip(columns, rows, strict=True)])


def _has_kernel(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether `torch.nn.functional.grouped_mm` runs as one kernel: bfloat16, on CUDA from compute capability 8.0."""
    if not x.is_cuda or x.dtype != torch.bfloat16 or torch.cuda.get_device_capability(x.device) < (8, 0):
        return False
    sizes = (x.shape[-1], weight.shape[-2], weight.shape[-1])
    return all(size * x.element_size() % ALIGNMENT_BYTES == 0 for size in sizes)
