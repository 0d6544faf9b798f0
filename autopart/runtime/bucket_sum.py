"""BucketSum: the gradients of a bucket's parameters in one step after another, and their sums over replicas."""

from collections.abc import Mapping

import torch
import torch.distributed as dist

from autopart.runtime.bucket import Bucket
from autopart.runtime.flat_collectives import Works, sum_shares
from autopart.runtime.mesh import Mesh


class BucketSum:
    """Gradients are added up in their places in a buffer, and are summed there.

    Args:
        bucket: of the parameters.
        mesh: where this rank stands.
        zero: the ZeRO stage. 0: every replica gets the whole sum. 1: its share of it, at its place in the buffer. From
            2 on no buffer is kept: gradients are moved into one as they come, and the shares of one sum after another
            add up.

    Attributes:
        missing: the parameters whose gradients are to come before the sum may start; None where that is not known yet.
        total: where the sum ends, over all of a step: a buffer, or this rank's share of one.
    """

    def __init__(self, bucket: Bucket, mesh: Mesh, zero: int) -> None:
        self.bucket = bucket
        self.missing: set[str] | None = None
        self._shared, self._kept_whole, self._group = zero >= 1, zero < 2, mesh.group("dp")
        self._rank, self._ranks = mesh.replica, mesh.size("dp")
        self._kept: torch.Tensor | None = None
        self._places: Mapping[str, torch.Tensor] = {}  # in the buffer that is kept
        self._buffer: torch.Tensor | None = None
        self._moved: set[str] = set()
        self._work: dist.Work | Works | None = None
        self._started = False
        self.total: torch.Tensor

    def begin(self, in_use: bool) -> None:
        """Before the passes of a step; what was kept of the one before may still be `in_use`."""
        shares = 1 if self._kept_whole else self._ranks
        if self._kept is None:
            self._kept = self.bucket.empty(shares)
            self._places = self._views(self._kept) if self._kept_whole else {}
        kept = self.bucket.empty(shares) if in_use else self._kept
        self._buffer = kept if self._kept_whole else None
        self.total = self._share(kept) if self._shared and self._kept_whole else kept
        self.missing, self._started = None, False
        self._moved.clear()
        if self._kept_whole:  # zeros for autograd to add to, so that nothing has to be moved
            kept.zero_()
            places = self._views(kept) if in_use else self._places
            for name, parameter in self.bucket.parameters.items():
                parameter.grad = places[name]

    def take(self, name: str) -> None:
        """From ZeRO-2 on: move a gradient into the buffer, or add it to those of the same pass there."""
        self.wait()  # for the sum of the pass before, which has the buffer
        parameter = self.bucket.parameters[name]
        place = self.bucket.view(self._whole(), name)
        if parameter.grad is None:
            place.zero_()
        elif name in self._moved:
            place.add_(parameter.grad)
        else:
            place.copy_(parameter.grad)
        parameter.grad = None
        self._moved.add(name)

    def start(self) -> None:
        """Start to sum what is there over the replicas; zeros of parameters that got no gradient."""
        if not self._kept_whole:
            for name in self.bucket.parameters.keys() - self._moved:
                self.take(name)
            self._moved.clear()
        elif self._shared:
            for parameter in self.bucket.parameters.values():
                parameter.grad = None
        whole = self._whole()
        if self._ranks == 1:
            return
        if self._shared:
            self._work = sum_shares(whole, self._group)
        else:
            self._work = dist.all_reduce(whole, group=self._group, async_op=True)

    def wait(self) -> None:
        """Wait until `total` has the sum, or has it added to those before."""
        if self._work is None:
            return
        self._work.wait()
        self._work = None
        if not self._kept_whole:
            share = self._share(self._whole())
            if self._started:
                self.total.add_(share)
            else:
                self.total.copy_(share)
            self._started, self._buffer = True, None

    def _views(self, buffer: torch.Tensor) -> Mapping[str, torch.Tensor]:
        return {name: self.bucket.view(buffer, name) for name in self.bucket.parameters}

    def _whole(self) -> torch.Tensor:
        if self._buffer is None:
            self._buffer = self.bucket.empty()
        return self._buffer

    def _share(self, buffer: torch.Tensor) -> torch.Tensor:
        return self.bucket.share(buffer, self._rank, self._ranks)
