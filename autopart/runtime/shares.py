"""Shares: under ZeRO a rank's optimizer has but its share of the weights, in pieces of parameters.

Weights lie in flat buffers, of which each replica updates one part (Rajbhandari et al. 2020, "ZeRO", section 5.1, laid
out as in the distributed optimizer of Megatron-LM). Optimizers that treat each element by itself give the same as with
whole parameters.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import nn

from autopart.runtime.bucket import Bucket
from autopart.runtime.flat_collectives import Works, gather_shares
from autopart.runtime.mesh import Mesh


class Shares:
    """Moves the parameters of `buckets` into flat buffers, where they stay what they are.

    Args:
        buckets: of the parameters.
        mesh: where this rank stands.
        parts: whether a rank keeps its share alone, as under ZeRO-3. Then parameters have no values yet, shares are to
            be filled, and what is gathered lies in buffers which `Unsharder` makes and frees.

    Attributes:
        buckets: those.
        pieces: this rank's part of each parameter, by the original names: views of its shares, in as many dims as the
            parameters have. Some may be empty.
        buffers: where the parameters of each bucket lie one after another.
    """

    @torch.no_grad()
    def __init__(self, buckets: Sequence[Bucket], mesh: Mesh, parts: bool = False) -> None:
        self.buckets, self._group = tuple(buckets), mesh.group("dp")
        self._rank, self._ranks = mesh.replica, mesh.size("dp")
        self._own: dict[Bucket, torch.Tensor] = {}
        self.buffers: dict[Bucket, torch.Tensor] = {}
        self.pieces: dict[str, nn.Parameter] = {}
        self._homes = {name: bucket for bucket in buckets for name in bucket.parameters}
        for bucket in buckets:
            whole = self.buffers[bucket] = bucket.empty(dtype=bucket.computed)
            own = bucket.empty(self._ranks) if parts else bucket.share(whole, self._rank, self._ranks)
            self._own[bucket] = own
            for name, parameter in bucket.parameters.items():
                place = bucket.view(whole, name)
                parameter.data = place if parts else place.copy_(parameter)
                piece = bucket.piece(own, name, self._rank, self._ranks)
                self.pieces[name] = nn.Parameter(piece, requires_grad=bucket.trained)
            if parts:
                whole.untyped_storage().resize_(0)

    def spans(self) -> Mapping[str, tuple[int, int]]:
        """Which elements of each flattened parameter its piece has: the first, and the one after the last."""
        return {
            name: bucket.span(name, self._rank, self._ranks) for bucket in self.buckets for name in bucket.parameters
        }

    def gather(self, bucket: Bucket) -> Works:
        """Begin to bring the shares of all replicas into the bucket's buffer; all call it together."""
        whole = self.buffers[bucket]
        return gather_shares(whole, self._own[bucket].to(whole.dtype), self._group)

    def whole(self, name: str) -> torch.Tensor:
        """A parameter as the optimizer has it, put together; all replicas call it together."""
        bucket = self._homes[name]
        found = torch.empty(bucket.shapes[name], dtype=bucket.dtype, device=self._own[bucket].device)
        for rank in range(self._ranks):
            start, stop = bucket.span(name, rank, self._ranks)
            if start < stop:
                part = found.view(-1).narrow(0, start, stop - start)
                if rank == self._rank:
                    part.copy_(self.pieces[name].detach().view(-1))
                dist.broadcast(part, dist.get_global_rank(self._group, rank), group=self._group)
        return found

    def whole_gradients(self) -> Mapping[str, torch.Tensor]:
        """The gradients of all pieces, put together; zeros where there are none. All replicas call it together."""
        found: dict[str, torch.Tensor] = {}
        for bucket in self.buckets:
            if not bucket.trained:
                continue
            whole = bucket.empty()
            share = bucket.share(whole, self._rank, self._ranks)
            for name in bucket.parameters:
                own = bucket.piece(share, name, self._rank, self._ranks)
                gradient = self.pieces[name].grad
                own.copy_(torch.zeros_like(own) if gradient is None else gradient)
            gather_shares(whole, share, self._group).wait()
            found.update({name: bucket.view(whole, name) for name in bucket.parameters})
        return found
