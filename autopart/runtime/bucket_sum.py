"""BucketSum: the gradients of a bucket's parameters in one step after another, and their sums over replicas."""

import torch
import torch.distributed as dist

from autopart.runtime.bucket import Bucket
from autopart.runtime.flat_collectives import Works, sum_shares
from autopart.runtime.mesh import Mesh


class BucketSum:
    """Gradients are made in their places in a buffer, or moved there once, and are summed there.

    Args:
        bucket: of the parameters.
        mesh: where this rank stands.
        zero: the ZeRO stage. 0: every replica gets the whole sum. 1: its share of it, at its place in the buffer. From
            2 on no buffer is kept, and the shares of one sum after another add up.

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
        self._buffer: torch.Tensor | None = None
        self._made: set[str] = set()
        self._work: dist.Work | Works | None = None
        self._started = False
        self.total: torch.Tensor

    def begin(self, in_use: bool) -> None:
        """Before the passes of a step; what was kept of the one before may still be `in_use`."""
        kept = self.bucket.empty(1 if self._kept_whole else self._ranks) if in_use or self._kept is None else self._kept
        if self._kept is None:
            self._kept = kept
        self._buffer = kept if self._kept_whole else None
        self.total = self._share(kept) if self._shared and self._kept_whole else kept
        self.missing, self._started = None, False
        self._made.clear()

    def take(self, name: str) -> None:
        """Move a gradient to its place in the buffer, if it is not there; further ones are added to it there."""
        if self._kept_whole and name in self._made:
            return  # autograd added it there
        if not self._kept_whole:
            self.wait()  # for the sum of the pass before, which has the buffer
        parameter = self.bucket.parameters[name]
        place = self.bucket.view(self._whole(), name)
        if parameter.grad is None:
            place.zero_()
        elif name in self._made:
            place.add_(parameter.grad)
        else:
            place.copy_(parameter.grad)
        parameter.grad = place if self._kept_whole else None
        self._made.add(name)

    def start(self) -> None:
        """Start to sum what is there over the replicas; zeros of parameters that got no gradient."""
        for name, parameter in self.bucket.parameters.items():
            if name not in self._made:
                self.take(name)
            if self._shared:
                parameter.grad = None
        self._made.clear()
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

    def _whole(self) -> torch.Tensor:
        if self._buffer is None:
            self._buffer = self.bucket.empty()
        return self._buffer

    def _share(self, buffer: torch.Tensor) -> torch.Tensor:
        return self.bucket.share(buffer, self._rank, self._ranks)
