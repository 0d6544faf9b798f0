"""sharded_bag: sums or means of rows looked up, where a rank holds a piece of the rows."""

import torch
import torch.nn.functional as F


def sharded_bag(
    indices: torch.Tensor,
    weight: torch.Tensor,
    offsets: torch.Tensor,
    first: int,
    mode: str,
    per_sample_weights: torch.Tensor | None,
    include_last_offset: bool,
    padding_idx: int | None,
) -> torch.Tensor:
    """This rank's part of `F.embedding_bag`: a partial sum, to which rows of other ranks add nothing.

    Args:
        indices: (places,).
        weight: (rows / ranks, width), the rows from number `first`.
        offsets: (bags,), where each bag begins; one more with `include_last_offset`.
        first: the number of the first row.
        mode: "sum" or "mean".
        per_sample_weights: (places,), for a sum.
        include_last_offset: whether `offsets` has the end of the last bag.
        padding_idx: the row, of all, that counts for nothing.
    """
    outside = (indices < first) | (indices >= first + weight.shape[0])
    counted = torch.ones_like(indices) if padding_idx is None else (indices != padding_idx).long()
    if per_sample_weights is None:
        per_sample_weights = counted.to(weight.dtype)
    share = per_sample_weights.masked_fill(outside | (counted == 0), 0)
    local = (indices - first).masked_fill(outside, 0)
    total = F.embedding_bag(
        local, weight, offsets, mode="sum", per_sample_weights=share, include_last_offset=include_last_offset
    )
    if mode == "sum":
        return total
    ends = offsets if include_last_offset else F.pad(offsets, (0, 1), value=indices.shape[0])
    sizes = F.pad(counted.cumsum(0), (1, 0))[ends].diff()
    return total / sizes.clamp(min=1).unsqueeze(-1)
