"""Executor: runs the actions of a schedule on this rank's stage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from autopart.ir.action import Action, Kind
from autopart.ir.program import Program, StageProgram, Transfer
from autopart.runtime.comm import Comm
from autopart.runtime.mesh import Mesh
from autopart.runtime.p2p import P2P, Pending

MicroBatch = Mapping[str, torch.Tensor]


@dataclass
class _InFlight:
    """What a forward pass leaves for its backward pass."""

    received: list[torch.Tensor]
    given: list[torch.Tensor]
    loss: torch.Tensor | None


class Executor:
    """Runs forward and backward passes of one stage as its schedule says, receiving one action ahead."""

    def __init__(self, program: Program, stage: torch.nn.Module, comm: Comm, mesh: Mesh) -> None:
        self._stage_program: StageProgram = program.stages[mesh.stage]
        self._stage, self._comm, self._mesh = stage, comm, mesh
        transfers: list[Transfer] = [transfer for own in program.stages for transfer in own.sends]
        self._p2p = P2P(mesh, transfers)

    def run(
        self, actions: Sequence[Action], micro_batches: Sequence[MicroBatch], micro_batch: int, global_batch: int
    ) -> torch.Tensor:
        """All actions of a step; gradients are left in the parameters' `grad`, summed over micro-batches.

        Every micro-batch has `micro_batch` of the `global_batch` samples.

        Returns the loss over the global batch, on every rank.
        """
        self._comm.totals = self._count(micro_batches)
        flying: dict[int, _InFlight] = {}
        total = torch.zeros(
            (), dtype=torch.float64 if self._mesh.device.type == "cpu" else torch.float32, device=self._mesh.device
        )
        ahead = self._receive(actions[0], micro_batch) if actions else []
        for position, action in enumerate(actions):
            pending = ahead
            arrived = [[item.wait() for item in group] for group in pending]
            # Posted before the computation, so that the next input travels while this action computes.
            ahead = self._receive(actions[position + 1], micro_batch) if position + 1 < len(actions) else []
            index = action.micro_batch
            if action.kind is Kind.FORWARD:
                self._comm.fraction = micro_batch / global_batch
                flying[index] = self._forward(micro_batches[index], [group[0] for group in arrived], index)
                if (loss := flying[index].loss) is not None:
                    total += loss.detach()
            else:
                self._backward(flying.pop(index), arrived, index)
        self._p2p.finish()
        return self._everywhere(total)

    def _count(self, micro_batches: Sequence[MicroBatch]) -> list[torch.Tensor]:
        """How many targets of the global batch each averaged loss of this stage counts."""
        if not self._stage_program.counts:
            return []
        names = self._stage_program.count_inputs
        with torch.no_grad():
            counts = [torch.stack(self._stage.counts(*(batch[name] for name in names))) for batch in micro_batches]  # type: ignore[operator]
        total = torch.stack(counts).sum(dim=0)
        dist.all_reduce(total, group=self._mesh.group("dp"))
        return list(total)

    def _receive(self, action: Action, micro_batch: int) -> list[list[Pending]]:
        program, index = self._stage_program, action.micro_batch
        if action.kind is Kind.FORWARD:
            return [[self._p2p.receive_value(transfer, index, micro_batch)] for transfer in program.receives]
        return [
            self._p2p.receive_gradients(transfer, index, micro_batch)
            for transfer in program.sends
            if transfer.requires_grad
        ]

    def _forward(self, batch: MicroBatch, received: list[torch.Tensor], index: int) -> _InFlight:
        program = self._stage_program
        for transfer, tensor in zip(program.receives, received, strict=True):
            tensor.requires_grad_(transfer.requires_grad)
        result: Any = self._stage(*(batch[path] for path in program.inputs), *received)
        results = result if isinstance(result, tuple) else (result,)
        given = list(results[: len(program.sends)])
        for transfer, tensor in zip(program.sends, given, strict=True):
            self._p2p.send_value(transfer, tensor, index)
        return _InFlight(received, given, results[-1] if program.outputs else None)

    def _backward(self, flight: _InFlight, gradients: list[list[torch.Tensor]], index: int) -> None:
        program = self._stage_program
        roots: list[torch.Tensor] = []
        seeds: list[torch.Tensor | None] = []
        differentiable = [t for transfer, t in zip(program.sends, flight.given, strict=True) if transfer.requires_grad]
        for tensor, incoming in zip(differentiable, gradients, strict=True):
            if tensor.requires_grad:
                roots.append(tensor)
                seeds.append(incoming[0] if len(incoming) == 1 else torch.stack(incoming).sum(dim=0))
        if flight.loss is not None and flight.loss.requires_grad:
            roots.append(flight.loss)
            seeds.append(None)
        if roots:
            torch.autograd.backward(roots, seeds)
        for transfer, tensor in zip(program.receives, flight.received, strict=True):
            if transfer.requires_grad:
                gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
                self._p2p.send_gradient(transfer, gradient, index)

    def _everywhere(self, total: torch.Tensor) -> torch.Tensor:
        """The sum over stages and replicas of what one tp rank each has."""
        if self._mesh.tp_rank != 0:
            total.zero_()
        dist.all_reduce(total)
        return total
