"""Gather: whole tensors under the original names, brought to rank 0 from the ranks that hold their pieces."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
import torch.distributed as dist

from autopart.ir.program import ParameterShard, Program, StageProgram
from autopart.runtime.mesh import Mesh
from autopart.runtime.pieces import join


def gather(
    program: Program,
    mesh: Mesh,
    local: Callable[[str], torch.Tensor | None],
    held: Callable[[StageProgram], Iterable[ParameterShard]],
) -> Mapping[str, torch.Tensor]:
    """On rank 0, every held tensor whole, on the CPU; elsewhere an empty mapping. See `gathered`."""
    return {name: whole for name, whole in gathered(program, mesh, local, held) if whole is not None}


def gathered(
    program: Program,
    mesh: Mesh,
    local: Callable[[str], torch.Tensor | None],
    held: Callable[[StageProgram], Iterable[ParameterShard]],
) -> Iterator[tuple[str, torch.Tensor | None]]:
    """Every held tensor with its name, one after another: whole, on the CPU of rank 0; None elsewhere.

    All ranks go through all of it together.

    Args:
        program: says who holds which piece.
        mesh: where this rank stands.
        local: this rank's piece of a parameter, or of its gradient; None counts as zeros. All replicas call it.
        held: what is gathered of a stage.
    """
    rank = dist.get_rank()
    done: set[str] = set()
    for stage, own in enumerate(program.stages):
        for parameter in held(own):
            if parameter.name in done:
                continue
            done.add(parameter.name)
            holders = range(mesh.size("tp")) if parameter.layout.shard is not None else range(1)
            ranks = [mesh.rank_of(stage, 0, tp_rank) for tp_rank in holders]
            whole, piece = None, _piece(parameter, mesh, local) if stage in mesh.stages else None
            if rank == 0:
                whole = _collect(parameter, ranks, mesh, piece)
            elif rank in ranks and piece is not None:
                dist.send(piece, 0)
            del piece  # before another one is put together
            yield parameter.name, whole


def _collect(parameter: ParameterShard, ranks: list[int], mesh: Mesh, own: torch.Tensor | None) -> torch.Tensor:
    pieces = []
    for rank in ranks:
        if rank == 0 and own is not None:
            pieces.append(own)
        else:
            buffer = torch.empty(_shape(parameter, mesh), dtype=getattr(torch, parameter.dtype), device=mesh.device)
            dist.recv(buffer, rank)
            pieces.append(buffer)
    shard = parameter.layout.shard
    if shard is not None:
        return join(pieces, shard).to("cpu")
    return pieces[0].to("cpu", copy=ranks == [0])  # what this rank itself holds goes on being trained


def _piece(parameter: ParameterShard, mesh: Mesh, local: Callable[[str], torch.Tensor | None]) -> torch.Tensor:
    tensor = local(parameter.name)
    if tensor is None:
        return torch.zeros(_shape(parameter, mesh), dtype=getattr(torch, parameter.dtype), device=mesh.device)
    return tensor.detach().contiguous()


def _shape(parameter: ParameterShard, mesh: Mesh) -> tuple[int, ...]:
    shard = parameter.layout.shard
    if shard is None:
        return parameter.shape
    return tuple(size // mesh.size("tp") if dim == shard.dim else size for dim, size in enumerate(parameter.shape))
