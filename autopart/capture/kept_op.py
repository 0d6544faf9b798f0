"""The operator that stands for a module or function kept whole while a model is exported. It never runs."""

from collections.abc import Sequence

import torch

from autopart.capture.layer_ops import NAMESPACE
from autopart.errors import UnsupportedError


def _outputs(sizes: Sequence[int], ranks: Sequence[int], dtypes: str, device: torch.device) -> list[torch.Tensor]:
    left = list(sizes)
    found = []
    for rank, dtype in zip(ranks, dtypes.split(), strict=True):
        shape, left = left[:rank], left[rank:]
        found.append(torch.empty(shape, dtype=getattr(torch, dtype), device=device))
    return found


@torch.library.custom_op(f"{NAMESPACE}::kept", mutates_args=())
def kept(
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    call: str,
    samplewise: bool,
    function: str,
    elementwise: bool,
    sizes: Sequence[int],
    ranks: Sequence[int],
    dtypes: str,
) -> list[torch.Tensor]:
    """The outputs of a module: `sizes` are those of all outputs, one after another, `ranks` how many each has."""
    raise UnsupportedError(
        f"the graph holds {call or function!r} as a call of the module itself and cannot compute it: run the emitted "
        "program, or the model"
    )


@kept.register_fake
def _(
    inputs: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    call: str,
    samplewise: bool,
    function: str,
    elementwise: bool,
    sizes: Sequence[int],
    ranks: Sequence[int],
    dtypes: str,
) -> list[torch.Tensor]:
    return _outputs(sizes, ranks, dtypes, [*inputs, *weights][0].device)
