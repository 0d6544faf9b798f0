"""Unsharder: gathers the weights of a step under ZeRO beside its computation, and waits where they are first needed.

Under ZeRO-1 and 2 a rank keeps whole weights, and what the optimizers of all replicas updated is gathered once a step,
from the first weights to the last, while the first are computed with.

Under ZeRO-3 a rank keeps its shares. A block's weights are gathered for each pass of each micro-batch, while the block
before it computes, and freed when another block is reached (Zhao et al. 2023, "PyTorch FSDP", section 3.3). What stands
outside of repeated blocks is gathered for a whole pass of its stage.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from autopart.runtime.bucket import Bucket
from autopart.runtime.flat_collectives import Works
from autopart.runtime.shares import Shares
from autopart.runtime.weights import built_with

Buckets = tuple[Bucket, ...]


@dataclass(frozen=True, eq=False)
class _Walk:
    """What a stage's module needs: for each block, in the order in which they are called, and outside of blocks."""

    blocks: tuple[Buckets, ...]
    outside: Buckets


class Unsharder:
    """Gives parameters their values where modules need them.

    All replicas run the same passes in the same order, as each gathers with the others.

    Args:
        shares: of the weights.
        frees: whether weights are freed where they are not needed, as under ZeRO-3. A parameter is then empty.

    Attributes:
        frees: the same.
    """

    def __init__(self, shares: Shares, frees: bool) -> None:
        self._shares, self.frees = shares, frees
        self._homes = {id(x): bucket for bucket in shares.buckets for x in bucket.parameters.values()}
        self._places = {bucket: {name: x.data for name, x in bucket.parameters.items()} for bucket in shares.buckets}
        self._walks: dict[nn.Module, _Walk] = {}
        self._there: dict[Bucket, Works | None] = dict.fromkeys(shares.buckets)  # with what is to be waited for
        self._backward = False

    def attach(self, stage: nn.Module) -> None:
        """See to the passes of an emitted stage, which has parameters of the shares."""
        blocks = list(blocks_of(stage))
        inside = {id(x) for block in blocks for x in built_with(block).values()}
        outside = self._buckets(x for x in stage.parameters() if id(x) not in inside)
        self._walks[stage] = walk = _Walk(tuple(self._buckets(built_with(block).values()) for block in blocks), outside)
        own = weakref.ref(self)
        for place, block in enumerate(blocks):
            block.register_forward_pre_hook(partial(_entered, own, walk, place))
            if self.frees:
                block.register_forward_hook(partial(_left, own, walk, place))

    def renew(self) -> None:
        """Before the passes of a step, or of an evaluation: what is here may be old. All replicas call it together."""
        if self.frees:
            self.settle()
            return
        walked = (own for walk in self._walks.values() for own in (walk.outside, *walk.blocks))
        for bucket in dict.fromkeys((*(bucket for own in walked for bucket in own), *self._shares.buckets)):
            self._start(bucket)

    def settle(self) -> None:
        """Wait for what is under way; and free all, where weights are freed."""
        for bucket in list(self._there):
            if self.frees:
                self._free(bucket)
            else:
                self._wait(bucket)

    def reach_stage(self, stage: nn.Module, backward: bool) -> None:
        """A pass of `stage` is about to begin."""
        walk, self._backward = self._walks[stage], backward
        near = walk.blocks[-1 if backward else 0] if walk.blocks else ()
        self._bring(walk, walk.outside, near)

    def reach_block(self, walk: _Walk, place: int) -> None:
        """The pass comes to a block."""
        ahead = place - 1 if self._backward else place + 1
        near = walk.blocks[ahead] if 0 <= ahead < len(walk.blocks) else ()
        self._bring(walk, walk.blocks[place], near)

    def kept(self, x: torch.Tensor) -> torch.Tensor:
        """`x`, or a copy if it is a view of a weight that will be freed."""
        if not self.frees or not x.untyped_storage().nbytes():
            return x
        start = x.untyped_storage().data_ptr()
        freed = any(self._shares.buffers[bucket].untyped_storage().data_ptr() == start for bucket in self._there)
        return x.clone() if freed else x

    def leave_block(self, walk: _Walk, place: int, output: Any) -> Any:
        """What a block returns: its backward pass begins where one of these tensors gets its gradient."""
        if self._backward:  # parts of the forward are computed again
            return output
        result = pytree.tree_map_only(torch.Tensor, self.kept, output)
        for x in pytree.tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.requires_grad:
                x.register_hook(partial(_returned, weakref.ref(self), walk, place))
        return result

    def _buckets(self, parameters: Iterable[nn.Parameter]) -> Buckets:
        """Those of the parameters; a frozen one may be in none."""
        return tuple(dict.fromkeys(self._homes[id(x)] for x in parameters if id(x) in self._homes))

    def _bring(self, walk: _Walk, needed: Buckets, near: Buckets) -> None:
        """Have what is `needed` here, and begin to gather what is needed next."""
        if self.frees:
            keep = {*walk.outside, *needed, *near}
            for bucket in [bucket for bucket in self._there if bucket not in keep]:
                self._free(bucket)
            for bucket in (*needed, *near):
                if bucket not in self._there:
                    self._start(bucket)
        for bucket in needed:
            self._wait(bucket)

    def _start(self, bucket: Bucket) -> None:
        if self.frees:
            buffer = self._shares.buffers[bucket]
            buffer.untyped_storage().resize_(buffer.nbytes)
        self._there[bucket] = self._shares.gather(bucket)

    def _wait(self, bucket: Bucket) -> None:
        work = self._there[bucket]
        if work is None:
            return
        work.wait()
        self._there[bucket] = None
        if self.frees:
            for name, parameter in bucket.parameters.items():
                parameter.data = self._places[bucket][name]

    def _free(self, bucket: Bucket) -> None:
        work = self._there.pop(bucket)
        if work is not None:
            work.wait()
        for parameter in bucket.parameters.values():
            # No element is left to be read; what the graph of autograd holds has its storage, which is filled again.
            parameter.data = parameter.data.new_empty(0)
        self._shares.buffers[bucket].untyped_storage().resize_(0)


def blocks_of(stage: nn.Module) -> Iterable[nn.Module]:
    """The repeated blocks of an emitted stage, in the order in which it calls them."""
    return (block for stack in stage.__dict__.get("stacks", ()) for block in stack)


# Modules and graphs outlive a job: what they call must not keep its groups, and their threads, alive.
def _entered(own: "weakref.ref[Unsharder]", walk: _Walk, place: int, *_: Any) -> None:
    unsharder = own()
    if unsharder is not None:
        unsharder.reach_block(walk, place)


def _left(own: "weakref.ref[Unsharder]", walk: _Walk, place: int, block: nn.Module, inputs: Any, output: Any) -> Any:
    unsharder = own()
    return output if unsharder is None else unsharder.leave_block(walk, place, output)


def _returned(own: "weakref.ref[Unsharder]", walk: _Walk, place: int, gradient: torch.Tensor) -> None:
    unsharder = own()
    if unsharder is not None:
        unsharder.reach_block(walk, place)
