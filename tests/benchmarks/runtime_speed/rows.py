"""Rows: what is compared with what, and what is asked of it."""

from dataclasses import dataclass
from functools import partial

from torch.distributed.pipelining import (
    Schedule1F1B,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
    ScheduleZBVZeroBubble,
)

from tests.benchmarks.runtime_speed import side
from tests.benchmarks.runtime_speed.side import Build


@dataclass(frozen=True)
class Peer:
    """What ours is compared with, and the ratio that ours is to stay below."""

    name: str
    build: Build
    bar: float


@dataclass(frozen=True)
class Row:
    """Something of ours on so many processes, and its peers.

    Attributes:
        key: names it on the command line.
        work: names it in the table.
        world: the number of processes.
        ours: builds it.
        peers: what it is compared with.
        layers: of the model, if not as many as its size says: compilers take their time for each.
        memory: whether the peak of a rank is to be no more than the peer's.
    """

    key: str
    work: str
    world: int
    ours: Build
    peers: tuple[Peer, ...]
    layers: int | None = None
    memory: bool = False


def _pipeline(key: str, work: str, world: int, schedule: str, kind: type, virtual: int = 1, v: bool = False) -> Row:
    build = partial(side.torch_pipeline, kind=kind, virtual=virtual, v_shape=v)
    own = partial(side.our_pipeline, schedule=schedule, virtual=virtual)
    return Row(key, work, world, own, (Peer(kind.__name__, build, 0.95),), memory=True)


ROWS = (
    Row("eager", "emitted module", 1, side.emitted, (Peer("the model", side.original, 1.0),)),
    Row("step", "train_step, one process", 1, side.ours, (Peer("the model", side.original, 1.0),)),
    Row(
        "compiled",
        "emitted module, compiled",
        1,
        side.emitted_compiled,
        (Peer("the model, compiled", side.original_compiled, 1.0),),
        layers=2,
    ),
    _pipeline("1f1b-2", "1F1B, 2 stages", 2, "1f1b", Schedule1F1B),
    _pipeline("1f1b-4", "1F1B, 4 stages", 4, "1f1b", Schedule1F1B),
    _pipeline("interleaved", "interleaved 1F1B, 2 × 2 stages", 2, "interleaved-1f1b", ScheduleInterleaved1F1B, 2),
    _pipeline("zb-1p", "ZB-1P, 2 stages", 2, "zb-1p", ScheduleInterleavedZeroBubble),
    _pipeline("zb-v", "ZB-V, 2 × 2 stages", 2, "zb-v", ScheduleZBVZeroBubble, 2, v=True),
    Row(
        "tensor",
        "tensor parallel, 2",
        2,
        partial(side.ours, tp=2),
        (Peer("DTensor", side.dtensor, 0.6), Peer("written by hand", side.megatron, 1.02)),
    ),
    Row("data", "data parallel, 2", 2, side.our_replicas, (Peer("DDP", side.ddp, 1.0),)),
)
