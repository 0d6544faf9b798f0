"""clip_gradients: scale all gradients of the model so that their norm, over all ranks, is no more than so much."""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from autopart.errors import UnsupportedError


def clip_gradients(
    own: Mapping[str, nn.Parameter],
    counted: frozenset[str],
    groups: Sequence[dist.ProcessGroup],
    device: torch.device,
    max_norm: float,
    norm_type: float,
    error_if_nonfinite: bool,
) -> torch.Tensor:
    """What `torch.nn.utils.clip_grad_norm_` does, with the norm of the whole model's gradients.

    The norm of order p is that of the norms of the pieces, so it is enough that every piece is counted by one rank. The
    clipping is that of Pascanu et al. 2013, "On the difficulty of training recurrent neural networks", algorithm 1.

    Args:
        own: this rank's pieces, which are scaled.
        counted: the names of those that this rank counts, and no other rank of its replica does.
        groups: summed over one after another, they reach every rank of a replica.
        device: where the ranks talk.
        max_norm: the norm that may be left.
        norm_type: the order, above 0; infinity for the largest absolute value.
        error_if_nonfinite: whether a norm that is not finite is an error.

    Returns:
        The norm before clipping, a scalar, the same on every rank.

    Raises:
        UnsupportedError: a `norm_type` that is not above 0.
        RuntimeError: the norm is not finite, and `error_if_nonfinite`; gradients are left as they are.
    """
    order = float(norm_type)
    if not order > 0:
        raise UnsupportedError(f"norm_type={norm_type!r} is not the order of a norm: pass a number above 0, or 'inf'")
    gradients = {name: parameter.grad for name, parameter in own.items() if parameter.grad is not None}
    pieces = [gradients[name] for name in sorted(counted & gradients.keys())]
    norms = [torch.linalg.vector_norm(piece, order) for piece in pieces if piece.numel()]
    # In float64 where the device has it: powers of sums over many ranks lose no digits of what torch would give.
    exact = torch.float64 if device.type == "cpu" else torch.float32
    total = torch.zeros((), dtype=exact, device=device)
    if norms:
        total = torch.linalg.vector_norm(torch.stack([norm.to(device, exact) for norm in norms]), order)
    if order == float("inf"):
        for group in groups:
            dist.all_reduce(total, op=dist.ReduceOp.MAX, group=group)
    else:
        total = total.pow(order)
        for group in groups:
            dist.all_reduce(total, group=group)
        total = total.pow(1.0 / order)
    if error_if_nonfinite and not bool(total.isfinite()):
        raise RuntimeError(
            f"the norm of order {norm_type} of all gradients is {float(total)}, so they cannot be clipped: look for "
            "what made it, or pass error_if_nonfinite=False to go on"
        )
    dtype = next((gradient.dtype.to_real() for gradient in gradients.values()), exact)
    total = total.to(dtype)
    nn.utils.clip_grads_with_norm_(own.values(), max_norm, total)
    return total
