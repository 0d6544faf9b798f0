"""Recorder: when this rank computed what in a step, and the timeline of all ranks of the pipeline."""

import time
from typing import Any

import torch
import torch.distributed as dist

from autopart.ir.action import Action, Kind
from autopart.runtime.mesh import Mesh
from autopart.schedules.timeline import Span, Timeline

_KINDS = tuple(Kind)


class Recorder:
    """Made by all ranks together right before a step; its times count from there.

    The clocks of different machines do not agree: each rank counts from when it left a barrier. On a GPU times are
    those of its stream, not of the process that fills it.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._actions: list[Action] = []
        self._marks: list[tuple[Any, Any]] = []  # seconds of this process, or events of a GPU
        dist.barrier()
        self._zero = self._now()
        self._begun = self._zero

    def begin(self) -> None:
        """What `end` names begins now."""
        self._begun = self._now()

    def end(self, action: Action) -> None:
        """`action` ends now."""
        self._actions.append(action)
        self._marks.append((self._begun, self._now()))

    def timeline(self) -> Timeline | None:
        """The timeline of the first replica's first tp ranks, on rank 0; None elsewhere. All ranks call it together."""
        rows = torch.tensor(
            [
                [_KINDS.index(action.kind), action.stage, action.micro_batch, self._since(start), self._since(end)]
                for action, (start, end) in zip(self._actions, self._marks, strict=True)
            ],
            dtype=torch.float64,
            device=self._mesh.device,
        ).reshape(-1, 5)
        longest = torch.tensor([len(rows)], device=self._mesh.device)
        dist.all_reduce(longest, dist.ReduceOp.MAX)
        padded = torch.full((int(longest), 5), -1.0, dtype=torch.float64, device=self._mesh.device)
        padded[: len(rows)] = rows
        everyone = [torch.empty_like(padded) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, padded)
        if dist.get_rank() != 0:
            return None
        ranks = [self._mesh.rank_at(pp_rank, 0, 0) for pp_rank in range(self._mesh.size("pp"))]
        return Timeline(tuple(tuple(_span(row) for row in everyone[rank].tolist() if row[0] >= 0) for rank in ranks))

    def _now(self) -> Any:
        if self._mesh.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _since(self, mark: Any) -> float:
        """Seconds from the start of the step."""
        if self._mesh.device.type != "cuda":
            return float(mark - self._zero)
        mark.synchronize()
        return 1e-3 * float(self._zero.elapsed_time(mark))


def _span(row: list[float]) -> Span:
    kind, stage, micro_batch, start_s, end_s = row
    return Span(Action(_KINDS[int(kind)], int(stage), int(micro_batch)), start_s, end_s)
