"""Point-to-point transfers between stages: activations one way, gradients the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from autopart.ir.program import Transfer
from autopart.ir.size import evaluate
from autopart.runtime.mesh import BACKWARD, FORWARD, Mesh


class P2P:
    """Sends and receives of one rank. Shapes are known from the program, so nothing is negotiated.

    Between two stages of one rank nothing is sent: a tensor is laid down, and picked up when it is waited for.

    Args:
        mesh: where this rank stands.
        transfers: all transfers of the program, in an order that is the same on every rank; it numbers the messages.
    """

    def __init__(self, mesh: Mesh, transfers: Sequence[Transfer]) -> None:
        self._mesh = mesh
        self._numbers = {(transfer.source, transfer.name): number for number, transfer in enumerate(transfers)}
        self._stages = len(mesh.homes)
        self._shapes: dict[tuple[int, int], tuple[int, ...]] = {}
        self._laid_down: dict[tuple[str, int], torch.Tensor] = {}
        self._sending: list[tuple[dist.Work | None, torch.Tensor]] = []
        self._meet(transfers)

    def _meet(self, transfers: Sequence[Transfer]) -> None:
        """Send a first message every way that will be used, all ranks in one order.

        NCCL makes a communicator for two ranks when the first message between them is posted, and there each waits for
        the other. In the middle of a step one would wait that has posted a receive ahead, for what its peer can send
        only after what the first has yet to compute.
        """
        ways: set[tuple[int, int, str]] = set()
        for transfer in transfers:
            source = self._mesh.homes[transfer.source]
            for target in (self._mesh.homes[stage] for stage in transfer.targets):
                ways.add((source, target, FORWARD))
                if transfer.requires_grad:
                    ways.add((target, source, BACKWARD))
        message, own = torch.zeros(1, device=self._mesh.device), self._mesh.pp_rank
        for source, target, way in sorted(ways):
            if source != target and own in (source, target):
                group = self._mesh.transfers[way, source < target]
                exchange, other = (dist.send, target) if own == source else (dist.recv, source)
                exchange(message, self._mesh.rank_at(other, self._mesh.replica, self._mesh.tp_rank), group=group)

    def send_value(self, transfer: Transfer, value: torch.Tensor, micro_batch: int) -> None:
        """Start to send an activation to every stage that takes it."""
        for stage in transfer.targets:
            self._send(value, stage, FORWARD, self._tag(transfer, stage, micro_batch))

    def send_gradient(self, transfer: Transfer, gradient: torch.Tensor, stage: int, micro_batch: int) -> None:
        """Start to send the gradient of an activation that `stage` received back to where it came from."""
        self._send(gradient, transfer.source, BACKWARD, self._tag(transfer, stage, micro_batch))

    def receive_value(self, transfer: Transfer, stage: int, micro_batch: int, batch: int) -> "Pending":
        """Start to receive what `stage` takes, for a micro-batch of `batch` samples."""
        tag = self._tag(transfer, stage, micro_batch)
        return self._receive(transfer, transfer.source, FORWARD, tag, batch)

    def receive_gradients(self, transfer: Transfer, micro_batch: int, batch: int) -> "list[Pending]":
        """Start to receive the gradients of a sent activation, one from each stage that took it."""
        return [
            self._receive(transfer, stage, BACKWARD, self._tag(transfer, stage, micro_batch), batch)
            for stage in transfer.targets
        ]

    def finish(self) -> None:
        """Wait until everything has been sent."""
        for work, _ in self._sending:
            if work is not None:
                work.wait()
        self._sending.clear()

    def _tag(self, transfer: Transfer, target: int, micro_batch: int) -> int:
        number = self._numbers[transfer.source, transfer.name]
        return (micro_batch * len(self._numbers) + number) * self._stages + target

    def _send(self, tensor: torch.Tensor, stage: int, way: str, tag: int) -> None:
        data = tensor.detach().contiguous()
        if stage in self._mesh.stages:
            self._laid_down[way, tag] = data
            return
        self._sending = [(work, held) for work, held in self._sending if work is not None and not work.is_completed()]
        group = self._mesh.transfers[way, self._mesh.pp_rank < self._mesh.homes[stage]]
        self._sending.append((dist.isend(data, self._mesh.peer(stage), group=group, tag=tag), data))

    def _receive(self, transfer: Transfer, stage: int, way: str, tag: int, batch: int) -> "Pending":
        if stage in self._mesh.stages:
            return Pending(lambda: self._laid_down.pop((way, tag)))
        buffer = torch.empty(self._shape(transfer, batch), dtype=dtype_of(transfer), device=self._mesh.device)
        group = self._mesh.transfers[way, self._mesh.homes[stage] < self._mesh.pp_rank]
        work = dist.irecv(buffer, self._mesh.peer(stage), group=group, tag=tag)

        def arrived() -> torch.Tensor:
            if work is not None:
                work.wait()
            return buffer

        return Pending(arrived)

    def _shape(self, transfer: Transfer, batch: int) -> tuple[int, ...]:
        """Evaluated once for each size of a micro-batch."""
        key = self._numbers[transfer.source, transfer.name], batch
        if key not in self._shapes:
            self._shapes[key] = tuple(evaluate(size, batch) for size in transfer.shape)
        return self._shapes[key]


def dtype_of(transfer: Transfer) -> torch.dtype:
    """The dtype in which it is sent."""
    dtype: torch.dtype = getattr(torch, transfer.dtype)
    return dtype


@dataclass(frozen=True, slots=True)
class Pending:
    """A tensor on its way; `wait` gives it, once it is here."""

    wait: Callable[[], torch.Tensor]
