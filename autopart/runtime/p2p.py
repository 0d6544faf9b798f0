"""Point-to-point transfers between stages: activations one way, gradients the other."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from autopart.ir.program import Transfer
from autopart.ir.size import evaluate
from autopart.runtime.mesh import Mesh


class P2P:
    """Sends and receives of one rank. Shapes are known from the program, so nothing is negotiated.

    Args:
        mesh: where this rank stands.
        transfers: all transfers of the program, in an order that is the same on every rank; it numbers the messages.
    """

    def __init__(self, mesh: Mesh, transfers: Sequence[Transfer]) -> None:
        self._mesh = mesh
        self._numbers = {(transfer.source, transfer.name): number for number, transfer in enumerate(transfers)}
        self._stages = mesh.size("pp")
        self._sending: list[tuple[dist.Work | None, torch.Tensor]] = []

    def send_value(self, transfer: Transfer, value: torch.Tensor, micro_batch: int) -> None:
        """Start to send an activation to every stage that takes it."""
        for stage in transfer.targets:
            self._send(value, stage, self._tag(transfer, stage, micro_batch), self._mesh.forward_group)

    def send_gradient(self, transfer: Transfer, gradient: torch.Tensor, micro_batch: int) -> None:
        """Start to send the gradient of a received activation back to where it came from."""
        tag = self._tag(transfer, self._mesh.stage, micro_batch)
        self._send(gradient, transfer.source, tag, self._mesh.backward_group)

    def receive_value(self, transfer: Transfer, micro_batch: int, batch: int) -> "Pending":
        """Start to receive an activation for a micro-batch of `batch` samples."""
        tag = self._tag(transfer, self._mesh.stage, micro_batch)
        return self._receive(transfer, transfer.source, tag, batch, self._mesh.forward_group)

    def receive_gradients(self, transfer: Transfer, micro_batch: int, batch: int) -> "list[Pending]":
        """Start to receive the gradients of a sent activation, one from each stage that took it."""
        return [
            self._receive(transfer, stage, self._tag(transfer, stage, micro_batch), batch, self._mesh.backward_group)
            for stage in transfer.targets
        ]

    def finish(self) -> None:
        """Wait until everything has been sent."""
        for work, _ in self._sending:
            if work is not None:
                work.wait()
        self._sending.clear()

    def _tag(self, transfer: Transfer, target: int, micro_batch: int) -> int:
        number = self._numbers[(transfer.source, transfer.name)]
        return (micro_batch * len(self._numbers) + number) * self._stages + target

    def _send(self, tensor: torch.Tensor, stage: int, tag: int, group: dist.ProcessGroup) -> None:
        data = tensor.detach().contiguous()
        self._sending = [(work, held) for work, held in self._sending if work is not None and not work.is_completed()]
        self._sending.append((dist.isend(data, self._mesh.peer(stage), group=group, tag=tag), data))

    def _receive(self, transfer: Transfer, stage: int, tag: int, batch: int, group: dist.ProcessGroup) -> "Pending":
        shape = tuple(evaluate(size, batch) for size in transfer.shape)
        buffer = torch.empty(shape, dtype=getattr(torch, transfer.dtype), device=self._mesh.device)
        return Pending(dist.irecv(buffer, self._mesh.peer(stage), group=group, tag=tag), buffer)


class Pending:
    """A tensor on its way."""

    def __init__(self, work: dist.Work | None, buffer: torch.Tensor) -> None:
        self._work, self._buffer = work, buffer

    def wait(self) -> torch.Tensor:
        """The tensor, once it is here."""
        if self._work is not None:
            self._work.wait()
        return self._buffer
