"""Checkpoint: a job's weights and optimizer state, saved and loaded by `torch.distributed.checkpoint`.

Names do not depend on the layout, so a checkpoint of one layout loads on any other:
    model.<name>                            parameters and buffers
    optimizer.state.<name>.<key>            see `optimizer_state`
    optimizer.param_groups.<name>.<key>
    constants.<name>                        buffers that are not in the model's state_dict
    autopart                                how far the job's random numbers are, and its loss scale
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from autopart.errors import AutopartError, CheckpointError
from autopart.runtime.checkpoint_planner import PieceLoader, PieceSaver
from autopart.runtime.checkpoint_writer import CheckpointWriter
from autopart.runtime.held_tensor import HeldTensor
from autopart.runtime.job_state import JobState
from autopart.runtime.listed import listed
from autopart.runtime.optimizer_state import OptimizerLoader, optimizer_items
from autopart.runtime.worker import Worker

FORMAT = 1
MODEL, CONSTANTS, JOB = "model.", "constants.", "autopart"
DAMAGED = "; the checkpoint is damaged or incomplete, and weights may be read in part: load another one"


def save_checkpoint(directory: Path, worker: Worker, optimizer: Optimizer | None) -> None:
    """Write what the job has into `directory`; all ranks call it together.

    Raises:
        CheckpointError: on every rank, if it fails on any.
        UnsupportedError: the optimizer has state of which it is not known how it is split.
    """
    state = worker.state
    worker.gather_weights()

    def items() -> Mapping[str, Any]:
        found: dict[str, Any] = {f"{MODEL}{name}": held for name, held in state.parameters.items()}
        # Replicas have the same parameters, and write a share each; buffers differ where they hold statistics.
        first = worker.mesh.replica == 0 and worker.mesh.tp_rank == 0
        if first:
            found.update({_buffer_key(name, state): held for name, held in state.buffers.items()})
        if dist.get_rank() == 0:
            spare = {name: x for name, x in state.unused.items() if name not in state.waiting}
            found.update({f"{MODEL}{name}": HeldTensor(tuple(x.shape), x) for name, x in spare.items()})
            seed, steps = worker.random_state
            found[JOB] = {"format": FORMAT, "model": state.model_name, "seed": seed, "steps": steps}
            if worker.loss_scale is not None:
                found[JOB]["loss_scale"] = worker.loss_scale.state
            if optimizer is not None:
                found[JOB]["optimizer"] = type(optimizer).__name__
        if optimizer is not None:
            found.update(optimizer_items(optimizer, worker.held_leaves(), worker.own_names, first))
        return found

    _together(directory, lambda: save({}, storage_writer=CheckpointWriter(directory), planner=PieceSaver(items)))


def load_checkpoint(directory: Path, worker: Worker, optimizer: Optimizer | None) -> None:
    """Read this rank's part of what `save_checkpoint` wrote on any layout; all ranks call it together.

    Raises:
        CheckpointError: on every rank: there is no checkpoint, it is of another model, or its optimizer does not fit.
    """
    if not (directory / ".metadata").is_file():
        raise CheckpointError(
            f"{directory} has no checkpoint that par.save wrote (no file .metadata): one of Hugging Face is read by "
            "par.load_pretrained"
        )
    state = worker.state
    optimizer_state = None if optimizer is None else OptimizerLoader(optimizer, worker.held_leaves())
    read: set[str] = set()

    def items(metadata: Metadata) -> Mapping[str, HeldTensor | None]:
        stored = metadata.state_dict_metadata
        check_model(directory, stored, state)
        read.update(name.removeprefix(MODEL).removeprefix(CONSTANTS) for name in stored)
        buffers = {_buffer_key(name, state): held for name, held in state.buffers.items()}
        spare = {f"{MODEL}{name}": HeldTensor(tuple(x.shape), x) for name, x in state.unused.items()}
        found: dict[str, HeldTensor | None] = {f"{MODEL}{name}": held for name, held in state.parameters.items()}
        found.update({name: held for name, held in {**buffers, **spare}.items() if name in stored})
        if optimizer_state is not None:
            found.update(optimizer_state.items(metadata))
        return {**found, JOB: None}

    loader = PieceLoader(items)
    _together(directory, lambda: load({}, checkpoint_id=directory, planner=loader), DAMAGED)
    job = loader.objects[JOB]
    if optimizer_state is not None:
        check_optimizer(optimizer, job.get("optimizer"))
        optimizer_state.finish(loader.objects)
    worker.random_state = job["seed"], job["steps"]
    if worker.loss_scale is not None and "loss_scale" in job:
        worker.loss_scale.state = job["loss_scale"]
    state.fill(read)


def check_model(directory: Path, stored: Mapping[str, Any], state: JobState) -> None:
    """Whether what a checkpoint has stored is of this model.

    Raises:
        CheckpointError: the names that only one of them has, and the tensors of other shapes or dtypes.
    """
    if JOB not in stored:
        raise CheckpointError(f"{directory} has a checkpoint that par.save did not write: it has no item {JOB!r}")
    shapes = state.shapes
    names = {name.removeprefix(MODEL) for name in stored if name.startswith(MODEL)}
    missing = [name for name in state.specs if name not in names]
    unexpected = [name for name in names if name not in shapes and name not in state.first_name]
    different = []
    for name in (name for name in shapes if name in names):
        own, other = shapes[name], stored[f"{MODEL}{name}"]
        if isinstance(other, TensorStorageMetadata) and (tuple(other.size), other.properties.dtype) != own:
            different.append(f"{name} is {other.properties.dtype} {tuple(other.size)}, here {own[1]} {own[0]}")
    if missing or unexpected or different:
        found = [
            listed("has no", [repr(name) for name in missing]),
            listed("has, and the model has not,", [repr(name) for name in sorted(unexpected)]),
            listed("differs:", different),
        ]
        raise CheckpointError(
            f"the checkpoint in {directory} is of another model than {state.model_name}: it "
            f"{'; it '.join(text for text in found if text)}. Load it into the model that it was saved from"
        )


def check_optimizer(optimizer: Optimizer | None, stored: str | None) -> None:
    """Whether a checkpoint has the state of such an optimizer; checkpoints of before do not say of which it is.

    Raises:
        CheckpointError: it is of another class.
    """
    own = type(optimizer).__name__
    if stored is not None and stored != own:
        raise CheckpointError(
            f"the checkpoint has the state of {stored}, not of {own}: weights are read, the optimizer is as it was; "
            f"give par.load an optimizer of class {stored}, or load without optimizer="
        )


def _buffer_key(name: str, state: JobState) -> str:
    return f"{MODEL if name in state.first_name else CONSTANTS}{name}"


def _together(directory: Path, act: Callable[[], object], advice: str = "") -> None:
    """Run a save or a load, whose failure on one rank is one on all."""
    try:
        with torch.no_grad():
            act()
    except CheckpointException as error:  # no Exception, so that nothing else may take it for its own
        rank = min(error.failures)
        cause, _ = error.failures[rank]
        if isinstance(cause, AutopartError):
            raise cause from None
        raise CheckpointError(f"{directory}: rank {rank} failed: {type(cause).__name__}: {cause}{advice}") from error
