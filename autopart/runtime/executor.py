"""Executor: runs the actions of a schedule on this rank's stages."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from autopart.ir.action import Action, Kind
from autopart.ir.program import Program, StageProgram, Transfer
from autopart.runtime.comm import Comm
from autopart.runtime.deferred import Deferred
from autopart.runtime.failure import located
from autopart.runtime.flat_collectives import Summing, begin_sum
from autopart.runtime.gradients import Gradients
from autopart.runtime.mesh import Mesh
from autopart.runtime.p2p import P2P, Pending, dtype_of
from autopart.runtime.precision import without_autocast
from autopart.runtime.recorder import Recorder
from autopart.runtime.step_schedule import StepSchedule
from autopart.runtime.unsharder import Unsharder

MicroBatch = Mapping[str, torch.Tensor]


@dataclass
class _InFlight:
    """What a forward pass leaves for its backward pass; `deferred` where that leaves weights' gradients for later.

    `given` is where each value that was sent, and that may have a gradient, stands in the graph of autograd, and its
    dtype; the value itself is not kept. `results` are the model's outputs, where the stage has them; to train, that is
    the loss.
    """

    received: list[torch.Tensor]
    given: list[tuple[GradientEdge, torch.dtype] | None]
    results: tuple[torch.Tensor, ...]
    deferred: Deferred | None


@dataclass(frozen=True)
class _Counting:
    """Counts and totals of this replica, of which those of one dtype are being summed over all replicas together."""

    totals: list[torch.Tensor]
    sums: list[tuple[list[torch.Tensor], Summing]]

    def wait(self) -> list[torch.Tensor]:
        """Those of the global batch."""
        for own, summing in self.sums:
            whole = summing.wait().split([total.numel() for total in own])
            for total, summed in zip(own, whole, strict=True):
                total.copy_(summed.view_as(total))
        return self.totals


@dataclass(frozen=True)
class RankStage:
    """A stage of this rank: its module, the collectives that it calls, and what enters and leaves it."""

    module: torch.nn.Module
    comm: Comm
    program: StageProgram


class Executor:
    """Runs the passes of this rank's stages as the schedule says, receiving one action ahead."""

    def __init__(
        self, program: Program, stages: Mapping[int, RankStage], mesh: Mesh, unsharder: Unsharder | None = None
    ) -> None:
        self._stages, self._mesh, self._unsharder = stages, mesh, unsharder
        transfers: list[Transfer] = [transfer for own in program.stages for transfer in own.sends]
        self._p2p = P2P(mesh, transfers)

    def run(
        self,
        schedule: StepSchedule,
        micro_batches: Sequence[MicroBatch],
        gradients: Gradients,
        scale: float = 1.0,
        recorder: Recorder | None = None,
    ) -> torch.Tensor:
        """This rank's actions of a step; gradients are left summed over micro-batches and ranks.

        Gradients are those of the loss times `scale`. `gradients` are told of backward passes, and finish them, and a
        `recorder` when each action begins and ends.

        Returns the loss over the global batch, on every rank.
        """
        flying: dict[tuple[int, int], _InFlight] = {}
        deferred: dict[tuple[int, int], Deferred] = {}
        splits, final = self._put_off(schedule.actions[self._mesh.pp_rank])
        losses: list[torch.Tensor] = []
        for action, arrived in self._arrivals(schedule, micro_batches, recorder):
            key = action.stage, action.micro_batch
            if action.kind is Kind.FORWARD:
                batch = micro_batches[action.micro_batch]
                flying[key] = self._forward(action, batch, [group[0] for group in arrived], splits or key in final)
                losses += [loss.detach() for loss in flying[key].results]
            elif action.kind is Kind.BACKWARD:
                completes = nullcontext() if key in final else gradients.passing(action)
                with without_autocast(self._mesh.device), completes:
                    # No name here holds it longer; what is put off has its own hold of the activations that it needs.
                    rest = self._backward(action, flying.pop(key), arrived, scale)
                if rest is not None:
                    deferred[key] = rest
            if action.kind is Kind.WEIGHT or (action.kind is Kind.BACKWARD and key in final):
                put_off = deferred.pop(key)
                passing = gradients.passing(action, put_off.weights)
                with without_autocast(self._mesh.device), passing, self._located(action):
                    put_off.add_gradients()
        gradients.start_all()
        total = self.begin_total(losses)
        gradients.finish()
        return total.wait()

    @torch.no_grad()
    def forward(self, schedule: StepSchedule, micro_batches: Sequence[MicroBatch]) -> list[tuple[torch.Tensor, ...]]:
        """Forward passes alone: what the model returns, of each micro-batch; nothing where it is not returned."""
        found: dict[int, tuple[torch.Tensor, ...]] = {}
        for action, arrived in self._arrivals(schedule, micro_batches):
            batch = micro_batches[action.micro_batch]
            flight = self._forward(action, batch, [group[0] for group in arrived], splits=False)
            if self._stages[action.stage].program.outputs:
                found[action.micro_batch] = flight.results
        return [found[micro_batch] for micro_batch in sorted(found)]

    def _put_off(self, actions: Sequence[Action]) -> tuple[bool, frozenset[tuple[int, int]]]:
        """Whether the schedule splits backward passes; if not, the last of each stage, (stage, micro-batch).

        Ranks before wait for the gradients that a last pass sends, and have little else left to do: these gradients go
        first, and those of weights follow in the same action; unless weights have been freed by then (ZeRO-3).
        """
        splits = any(action.kind is Kind.WEIGHT for action in actions)
        if splits or (self._unsharder is not None and self._unsharder.frees):
            return splits, frozenset()
        passes = [(a.stage, a.micro_batch) for a in actions if a.kind is Kind.BACKWARD]
        last = dict(passes)
        return False, frozenset(key for key in last.items() if self._stages[key[0]].program.puts_off)

    def _arrivals(
        self, schedule: StepSchedule, micro_batches: Sequence[MicroBatch], recorder: Recorder | None = None
    ) -> Iterator[tuple[Action, list[list[torch.Tensor]]]]:
        """Each action in turn, with what it receives; at the end everything has been sent."""
        actions, sizes = schedule.actions[self._mesh.pp_rank], schedule.sizes
        # The part that each micro-batch has of the global batch's samples; replicas may have different shares.
        fractions = torch.tensor(sizes, dtype=torch.float64, device=self._mesh.device) / schedule.samples
        firsts = list(accumulate(sizes, initial=schedule.first))
        counting = {
            number: self._begin_count(own, micro_batches, fractions, firsts) for number, own in self._stages.items()
        }
        if self._unsharder is not None:  # after what all wait for anyway, so as not to be in its way
            self._unsharder.renew()
        ahead = self._receive(actions[0], sizes) if actions else []
        for position, action in enumerate(actions):
            pending = ahead
            with self._located(action, "waiting for what it takes"):
                arrived = [[item.wait() for item in group] for group in pending]
            # Posted before the computation, so that the next input travels while this action computes.
            ahead = self._receive(actions[position + 1], sizes) if position + 1 < len(actions) else []
            if (counts := counting.pop(action.stage, None)) is not None:
                self._stages[action.stage].comm.totals = counts.wait()
            # Before a backward pass too, in which parts of the forward may be computed again.
            self._stages[action.stage].comm.fraction = fractions[action.micro_batch]
            self._stages[action.stage].comm.first = firsts[action.micro_batch]
            if recorder is not None:
                recorder.begin()
            if self._unsharder is not None:
                backward = action.kind is not Kind.FORWARD
                self._unsharder.reach_stage(self._stages[action.stage].module, backward)
            yield action, arrived
            if recorder is not None:
                recorder.end(action)
        self._p2p.finish()
        if self._unsharder is not None:
            self._unsharder.settle()

    def _located(self, action: Action, doing: str = "") -> AbstractContextManager[None]:
        stage = self._stages[action.stage]
        return located(stage.module, stage.program, action, doing)

    @torch.no_grad()
    def _begin_count(
        self, stage: RankStage, micro_batches: Sequence[MicroBatch], fractions: torch.Tensor, firsts: Sequence[int]
    ) -> "_Counting | None":
        """Begin to count the targets of the global batch, those of each averaged loss of this stage, and its totals."""
        if not stage.program.counts:
            return None
        parts: list[list[torch.Tensor]] = []
        for batch, stage.comm.fraction, stage.comm.first in zip(micro_batches, fractions, firsts, strict=False):
            parts.append(stage.module.counts(*(batch[name] for name in stage.program.count_inputs)))  # type: ignore[operator]
        totals = [torch.stack(same).sum(dim=0, dtype=same[0].dtype) for same in zip(*parts, strict=True)]
        alike: dict[torch.dtype, list[torch.Tensor]] = {}  # on all ranks in one order
        for total in totals:
            alike.setdefault(total.dtype, []).append(total)
        group = self._mesh.group("dp")
        sums = [(own, begin_sum(torch.cat([x.flatten() for x in own]), group)) for own in alike.values()]
        return _Counting(totals, sums)

    def _receive(self, action: Action, sizes: Sequence[int]) -> list[list[Pending]]:
        program, index = self._stages[action.stage].program, action.micro_batch
        samples = sizes[index]
        if action.kind is Kind.FORWARD:
            return [[self._p2p.receive_value(transfer, action.stage, index, samples)] for transfer in program.receives]
        if action.kind is Kind.WEIGHT:
            return []
        return [
            self._p2p.receive_gradients(transfer, index, samples)
            for transfer in program.sends
            if transfer.requires_grad
        ]

    def _forward(self, action: Action, batch: MicroBatch, received: list[torch.Tensor], splits: bool) -> _InFlight:
        stage = self._stages[action.stage]
        program, deferred = stage.program, Deferred() if splits else None
        for transfer, tensor in zip(program.receives, received, strict=True):
            tensor.requires_grad_(transfer.requires_grad and torch.is_grad_enabled())
        with self._located(action), _putting_off(program, deferred):
            result: Any = stage.module(*(batch[path] for path in program.inputs), *received)
        results = result if isinstance(result, tuple) else (result,)
        if self._unsharder is not None:
            results = tuple(self._unsharder.kept(tensor) for tensor in results)
        given: list[tuple[GradientEdge, torch.dtype] | None] = []
        for transfer, tensor in zip(program.sends, results, strict=False):
            if transfer.requires_grad and torch.is_grad_enabled():  # a weight that is sent as it is has a gradient ever
                given.append((get_gradient_edge(tensor), tensor.dtype) if tensor.requires_grad else None)
            # In the dtype that is expected: under a mixed precision it may have been computed in half.
            self._p2p.send_value(transfer, tensor.detach().to(dtype_of(transfer)), action.micro_batch)
        return _InFlight(received, given, results[len(program.sends) :], deferred)

    def _backward(
        self, action: Action, flight: _InFlight, gradients: list[list[torch.Tensor]], scale: float
    ) -> Deferred | None:
        """Send the gradients of what was received; what is left to do for the weights, if the schedule splits it."""
        program = self._stages[action.stage].program
        # Edges, not tensors: torch hands a backward pass of tensors to the mode that is entered, and what it
        # computes again would run without it.
        roots: list[GradientEdge] = []
        seeds: list[torch.Tensor] = []
        for given, incoming in zip(flight.given, gradients, strict=True):
            if given is not None:
                edge, dtype = given
                roots.append(edge)
                whole = incoming[0] if len(incoming) == 1 else torch.stack(incoming).sum(dim=0)
                seeds.append(whole.to(dtype))
        for loss in flight.results:
            if loss.requires_grad:
                roots.append(get_gradient_edge(loss))
                seeds.append(torch.full_like(loss, scale))
        if roots:
            with self._located(action), _putting_off(program, flight.deferred):
                torch.autograd.backward(roots, seeds)
        for transfer, tensor in zip(program.receives, flight.received, strict=True):
            if transfer.requires_grad:
                gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
                self._p2p.send_gradient(transfer, gradient, action.stage, action.micro_batch)
        return flight.deferred

    def begin_total(self, losses: Sequence[torch.Tensor], shape: Sequence[int] = ()) -> Summing:
        """Begin to sum the losses, or what has `shape`, of all stages and replicas; one tp rank each counts."""
        kind = torch.float64 if self._mesh.device.type == "cpu" else torch.float32
        total = torch.zeros(tuple(shape), dtype=kind, device=self._mesh.device)
        if self._mesh.tp_rank == 0:
            for loss in losses:
                total += loss
        return begin_sum(total, group=None)


def _putting_off(program: StageProgram, deferred: Deferred | None) -> AbstractContextManager[object]:
    """To be entered for a pass of a stage."""
    return deferred if deferred is not None and program.puts_off else nullcontext()
