"""BucketSum: the gradients of a bucket's parameters in one step after another, and their sums over replicas."""

import torch
import torch.distributed as dist

from autopart.runtime.bucket import Bucket
from autopart.runtime.mesh import Mesh

# Torch 2.13 has new names for these, and warns of the old ones.
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class BucketSum:
    """Gradients are made in their places in a buffer, or moved there once, and are summed there.

    Args:
        bucket: of the parameters.
        mesh: where this rank stands.
        zero: the ZeRO stage. 0: every replica gets the whole sum. 1: its share of it, at its place in the buffer. 2: no
            buffer is kept, and the shares of one sum after another add up.

    Attributes:
        missing: the parameters whose gradients are to come before the sum may start; None where that is not known yet.
        total: where the sum ends, over all of a step: a buffer, or this rank's share of one.
    """

    def __init__(self, bucket: Bucket, mesh: Mesh, zero: int) -> None:
        self.bucket = bucket
        self.missing: set[str] | None = None
        self._zero, self._group = zero, mesh.group("dp")
        self._rank, self._ranks = mesh.replica, mesh.size("dp")
        self._kept: torch.Tensor | None = None
        self._buffer: torch.Tensor | None = None
        self._made: set[str] = set()
        self._work: dist.Work | None = None
        self._started = False
        self.total: torch.Tensor

    def begin(self, in_use: bool) -> None:
        """Before the passes of a step; what was kept of the one before may still be `in_use`."""
        kept = self.bucket.empty(self._ranks if self._zero == 2 else 1) if in_use or self._kept is None else self._kept
        if self._kept is None:
            self._kept = kept
        self._buffer = None if self._zero == 2 else kept
        self.total = self._share(kept) if self._zero == 1 else kept
        self.missing, self._started = None, False
        self._made.clear()

    def take(self, name: str) -> None:
        """Move a gradient to its place in the buffer, if it is not there; further ones are added to it there."""
        if name in self._made:
            return
        if self._zero == 2:
            self.wait()  # for the sum of the pass before, which has the buffer
        parameter = self.bucket.parameters[name]
        place = self.bucket.view(self._whole(), name)
        if parameter.grad is None:
            place.zero_()
        else:
            place.copy_(parameter.grad)
        parameter.grad = place
        self._made.add(name)

    def start(self) -> None:
        """Start to sum what is there over the replicas; zeros of parameters that got no gradient."""
        for name, parameter in self.bucket.parameters.items():
            self.take(name)
            if self._zero:
                parameter.grad = None
        self._made.clear()
        whole = self._whole()
        if self._ranks == 1:
            return
        if self._zero:
            self._work = _reduce_scatter(self._share(whole), whole, group=self._group, async_op=True)
        else:
            self._work = dist.all_reduce(whole, group=self._group, async_op=True)

    def wait(self) -> None:
        """Wait until `total` has the sum, or has it added to those before."""
        if self._work is None:
            return
        self._work.wait()
        self._work = None
        if self._zero == 2:
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
