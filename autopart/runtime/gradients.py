"""Gradients: their sums over replicas, tensor-parallel ranks and tied weights, begun while a backward pass still runs.

The sum of a bucket over the replicas starts when its gradients are complete, in the last backward pass that adds to
them (Li et al. 2020, "PyTorch Distributed", section 3.2), and always in the same order. Sums over other groups are
needed for few parameters; they follow at the end.
"""

import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch.distributed as dist
from torch import nn

from autopart.ir.action import Action, Kind
from autopart.runtime.bucket import Bucket
from autopart.runtime.bucket_sum import BucketSum
from autopart.runtime.mesh import Mesh

MOST_UNDER_WAY = 1  # of sums, from ZeRO-2 on: each has a whole buffer, and another one is being filled


class Gradients:
    """The gradients of a rank's trained parameters, in one step after another.

    Args:
        buckets: in the order in which they are expected and summed.
        leaves: what an optimizer is given, by original names: the parameters, or this rank's pieces of them.
        mesh: where this rank stands.
        zero: the ZeRO stage: from 2 on sums are made in every backward pass, and only shares of them are kept.
        late: parameters that may get gradients more than once in a pass, so that they are complete when it ends.
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        leaves: Mapping[str, nn.Parameter],
        mesh: Mesh,
        zero: int,
        late: frozenset[str] = frozenset(),
    ) -> None:
        self._leaves, self._mesh, self._zero, self._late = leaves, mesh, zero, late
        self._sums = tuple(BucketSum(bucket, mesh, zero) for bucket in buckets)
        self._homes = {name: own for own in self._sums for name in own.bucket.parameters}
        self._names = {id(x): name for bucket in buckets for name, x in bucket.parameters.items()}
        self._ends: dict[Action, list[BucketSum]] = {}  # what a pass completes
        self._queue: deque[BucketSum] = deque()  # what is summed next
        self._under_way: deque[BucketSum] = deque()
        self._rounds_left = 0
        self._passing = False
        own = weakref.ref(self)  # a hook that held its owner would keep all groups of the job, and their threads, alive
        for bucket in buckets:
            for name, parameter in bucket.parameters.items():
                parameter.register_post_accumulate_grad_hook(partial(gradient_arrived, own, name))

    def begin(self, actions: Sequence[Action], in_use: frozenset[str], most: int) -> None:
        """Before the passes of a step, when no parameter and no leaf has a `grad`.

        Args:
            actions: what this rank does in the step.
            in_use: the leaves whose gradients of steps before are still needed.
            most: micro-batches of the replica that has the most.
        """
        for own in self._sums:
            own.begin(not in_use.isdisjoint(own.bucket.parameters))
        passes = [action for action in actions if action.kind is not Kind.FORWARD]
        if self._zero >= 2:
            self._ends = {action: [own for own in self._sums if action.stage in own.bucket.stages] for action in passes}
            self._rounds_left = most * len(self._mesh.stages) - len(passes)
            return
        last = {action.stage: position for position, action in enumerate(passes)}
        self._ends = {}
        for own in self._sums:
            final = max(last[stage] for stage in own.bucket.stages)
            self._ends.setdefault(passes[final], []).append(own)
        self._queue.extend(self._sums)

    @contextmanager
    def passing(self, action: Action, weights: Sequence[nn.Parameter] | None = None) -> Iterator[None]:
        """Around a backward pass, or its part for weights.

        Args:
            action: the pass.
            weights: those that get gradients in it, where that is known.
        """
        ending = self._ends.get(action, [])
        if self._zero >= 2:
            self._queue.extend(ending)
        awaited = None if weights is None else self._late.union(self._names.get(id(x), "") for x in weights)
        for own in ending:
            names = own.bucket.parameters.keys()
            own.missing = set(names if awaited is None else names & awaited)
        self._passing = True
        self._start_complete()
        yield
        self._passing = False
        for own in ending:
            own.missing = set()
        self._start_complete()

    def start_all(self) -> None:
        """After the last pass: start what sums are left to start."""
        for own in self._queue:  # of passes that the schedule has and this rank has nothing to do in
            own.missing = set()
        self._start_complete()
        for _ in range(self._rounds_left):
            self._queue.extend(self._sums)
            self._start_complete()

    def finish(self) -> None:
        """Wait for all sums, and give the leaves their `grad`."""
        while self._under_way:
            self._under_way.popleft().wait()
        for own in sorted(self._sums, key=lambda own: (own.bucket.tied, *own.bucket.parameters)):
            for group in own.bucket.groups:
                dist.all_reduce(own.total, group=group)
        for own in self._sums:
            for name in own.bucket.parameters:
                if self._zero:
                    share = own.total, name, self._mesh.replica, self._mesh.size("dp")
                    self._leaves[name].grad = own.bucket.piece(*share)

    def hooked(self, name: str) -> None:
        """The `grad` of a parameter has been added to: called for each of them in each pass."""
        if not self._passing:
            return
        own = self._homes[name]
        if self._zero >= 2:
            own.take(name)
        if own.missing and name not in self._late:
            own.missing.discard(name)
            if not own.missing:
                self._start_complete()

    def _start_complete(self) -> None:
        while self._queue and self._queue[0].missing is not None and not self._queue[0].missing:
            own = self._queue.popleft()
            own.start()
            self._under_way.append(own)
            if self._zero >= 2 and len(self._under_way) > MOST_UNDER_WAY:
                self._under_way.popleft().wait()


def gradient_arrived(gradients: "weakref.ref[Gradients]", name: str, _: nn.Parameter) -> None:
    """A hook of every trained parameter that is summed over ranks."""
    own = gradients()
    if own is not None:
        own.hooked(name)
