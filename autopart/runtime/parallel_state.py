"""ParallelState: how the weights of a parallel model get their values, and where they are stored."""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from autopart.errors import CheckpointError
from autopart.runtime.checkpoint import load_checkpoint, save_checkpoint
from autopart.runtime.init_weights import Build, init_weights
from autopart.runtime.load_pretrained import load_pretrained
from autopart.runtime.save_pretrained import save_pretrained
from autopart.runtime.together import together
from autopart.runtime.worker import Worker

MAX_SHARD_BYTES = 5 * 10**9


class ParallelState(ABC):
    """Initialization, checkpoints, and whole weights. All ranks must call each of these together."""

    _model: nn.Module

    @abstractmethod
    def _inside(self) -> Worker:
        """This rank's worker, or a `LaunchError`."""

    def _filled(self) -> Worker:
        worker = self._inside()
        worker.check_unbroken()
        worker.state.check_filled()
        return worker

    def full_state_dict(self) -> dict[str, torch.Tensor]:
        """The model's `state_dict` as trained: whole tensors, original names, on the CPU of rank 0; {} elsewhere."""
        worker = self._filled()
        found = {name: whole for name, whole in worker.full_state() if whole is not None}
        if dist.get_rank() != 0:
            return {}
        unused = {name: x.detach().cpu() for name, x in worker.state.unused.items() if name not in worker.state.waiting}
        state = {**unused, **found}
        return {name: state[first] for name, first in worker.state.first_name.items() if first in state}

    def init_weights(self, build: Build, seed: int) -> None:
        """Initialize the model shard by shard, as `torch.manual_seed(seed)` and `build()` do in one process on the CPU.

        For a model that was built on `meta`: with `build` the function that built it, every tensor gets the values, to
        the last bit, that it has there, and no rank ever holds much more than its pieces and the largest tensor. All
        random numbers of the model are drawn on every rank, since each depends on how many there were before.

        Args:
            build: makes the model, with all that was done to it before `parallelize`. It is run as it is, outside of
                `torch.device("meta")`; it may use generators and seeds of its own.
            seed: of torch's generator.

        Raises:
            LaunchError: outside a job of the plan's size.
            CheckpointError: `build` makes a model with other names, shapes or dtypes, or writes into memory that torch
                did not make for it.
            UnsupportedError: `build` makes tensors on other devices than the CPU.
        """
        worker = self._inside()
        with together("init_weights"):
            init_weights(worker.state, build, seed)
        worker.agree()  # CPUs of another kind may round otherwise

    def load_pretrained(self, directory: str | Path, build: Build | None = None, strict: bool = True) -> None:
        """Read a checkpoint of Hugging Face, of one or of several safetensors files, each rank only its pieces.

        Names are the model's own: tied tensors may be stored once, under any of their names, and the prefix of a base
        model of transformers may be missing or too much. Numbers are converted to the dtypes of the model.

        Args:
            directory: has `model.safetensors`, or several files and `model.safetensors.index.json`.
            build: the function that made a model on `meta`; what no checkpoint has, such as tables of positions, gets
                its values from it. Left out, a model of transformers is made from its config for that.
            strict: whether names that only one of both has are an error. Otherwise they stay as they are.

        Raises:
            LaunchError: outside a job of the plan's size.
            CheckpointError: there is no checkpoint, it is damaged, or it is of another model: with what is missing,
                what is too much, and what has another shape.
        """
        state = self._inside().state
        with together(f"load_pretrained({str(directory)!r})"):
            load_pretrained(state, self._model, Path(directory), build, strict)

    def save_pretrained(self, directory: str | Path, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        """Write a checkpoint that `from_pretrained` of transformers reads, and `load_pretrained`; tied tensors once.

        Rank 0 writes safetensors files under the original names, one after another, and holds no more than one of them.
        The config of a model of transformers is written beside them.

        Args:
            directory: what an earlier save left in it is replaced.
            max_shard_bytes: of weights in a file; with more than one, there is an index. A tensor is never cut.

        Raises:
            LaunchError: outside a job of the plan's size.
            CheckpointError: it could not be written, or weights have no values yet.
        """
        if max_shard_bytes <= 0:
            raise CheckpointError(
                f"max_shard_bytes is {max_shard_bytes}: a file needs some bytes, say {MAX_SHARD_BYTES}"
            )
        save_pretrained(self._filled(), self._model, Path(directory), max_shard_bytes)

    def save(self, directory: str | Path, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Write a checkpoint into `directory`, which `load` reads on any layout and number of ranks.

        It is one of `torch.distributed.checkpoint`: weights and buffers as `model.<original name>`, the optimizer's
        state as `optimizer.state.<original name>.<key>`. What dropout draws goes on from it as well. Learning-rate
        schedulers and data loaders have a `state_dict` of their own. The directory is one that all ranks share; a
        checkpoint that it has stays as it is until the new one is complete.

        Raises:
            LaunchError: outside a job of the plan's size.
            CheckpointError: it could not be written, or weights have no values yet.
            UnsupportedError: the optimizer has state of which it is not known how it is split.
        """
        save_checkpoint(Path(directory), self._filled(), optimizer)

    def load(self, directory: str | Path, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Read what `save` wrote, each rank its pieces; on the same layout, training goes on to the last bit.

        Raises:
            LaunchError: outside a job of the plan's size.
            CheckpointError: there is no checkpoint, it is of another model, or its optimizer is another.
        """
        load_checkpoint(Path(directory), self._inside(), optimizer)
