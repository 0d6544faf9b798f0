"""Shares: under ZeRO-1 and 2 a rank's optimizer has but its share of the weights, in pieces of parameters.

Weights lie in flat buffers, of which each replica updates one part (Rajbhandari et al. 2020, "ZeRO", section 5.1, laid
out as in the distributed optimizer of Megatron-LM). Optimizers that treat each element by itself give the same as with
whole parameters.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from autopart.runtime.bucket import Bucket
from autopart.runtime.mesh import Mesh

# Torch 2.13 has new names for these, and warns of the old ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor


class Shares:
    """Moves the parameters of `buckets` into flat buffers, where they stay what they are.

    Args:
        buckets: of trained parameters.
        mesh: where this rank stands.

    Attributes:
        pieces: this rank's part of each parameter, by the original names: views of the weights, in as many dims as the
            parameters have. Some may be empty.
    """

    @torch.no_grad()
    def __init__(self, buckets: Sequence[Bucket], mesh: Mesh) -> None:
        self._buckets, self._group = tuple(buckets), mesh.group("dp")
        self._rank, self._ranks = mesh.replica, mesh.size("dp")
        self._weights: dict[Bucket, torch.Tensor] = {}
        self.pieces: dict[str, nn.Parameter] = {}
        for bucket in buckets:
            weights = self._weights[bucket] = bucket.empty()
            for name, parameter in bucket.parameters.items():
                place = bucket.view(weights, name)
                parameter.data = place.copy_(parameter)
                own = bucket.share(weights, self._rank, self._ranks)
                self.pieces[name] = nn.Parameter(bucket.piece(own, name, self._rank, self._ranks))

    def spans(self) -> Mapping[str, tuple[int, int]]:
        """Which elements of each flattened parameter its piece has: the first, and the one after the last."""
        return {
            name: bucket.span(name, self._rank, self._ranks) for bucket in self._buckets for name in bucket.parameters
        }

    def gather_weights(self) -> None:
        """Bring what every replica updated to all of them; all call it together."""
        for weights in self._weights.values():
            self._gather(weights)

    def whole_gradients(self) -> Mapping[str, torch.Tensor]:
        """The gradients of all pieces, put together; zeros where there are none. All replicas call it together."""
        found: dict[str, torch.Tensor] = {}
        for bucket in self._buckets:
            whole = bucket.empty()
            share = bucket.share(whole, self._rank, self._ranks)
            for name in bucket.parameters:
                own = bucket.piece(share, name, self._rank, self._ranks)
                gradient = self.pieces[name].grad
                own.copy_(torch.zeros_like(own) if gradient is None else gradient)
            self._gather(whole)
            found.update({name: bucket.view(whole, name) for name in bucket.parameters})
        return found

    def _gather(self, whole: torch.Tensor) -> None:
        each = whole.numel() // self._ranks
        _all_gather(whole, whole.narrow(0, self._rank * each, each), group=self._group)
