"""Save pretrained: a job's weights as a checkpoint of Hugging Face, which rank 0 writes a file at a time."""

import copy
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn

from autopart.runtime.pretrained_files import INDEX, SINGLE
from autopart.runtime.together import together
from autopart.runtime.worker import Worker

# What an earlier save may have left: transformers would read it before, or beside, the new files.
OWN_FILES = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


def save_pretrained(worker: Worker, model: nn.Module, directory: Path, max_shard_bytes: int) -> None:
    """Write the weights, and the configs of a model that has some, into `directory`; all ranks call it together.

    Rank 0 holds no more than `max_shard_bytes` of weights at a time, or the largest tensor. Files that an earlier save
    left are replaced when all new ones are complete.

    Raises:
        CheckpointError: on every rank, if it could not be written.
    """
    weights = _weights(worker)
    with together(f"save_pretrained({str(directory)!r})"):
        try:
            if dist.get_rank() == 0:
                directory.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(prefix=".saving-", dir=directory) as folder:
                    _write(weights, Path(folder), max_shard_bytes)
                    _write_configs(model, Path(folder))
                    _install(Path(folder), directory)
        finally:
            for _ in weights:  # every rank has to send what it holds, even where it cannot be written
                pass


def _weights(worker: Worker) -> Iterator[tuple[str, torch.Tensor]]:
    """On rank 0, all that the model's `state_dict` has, each under its first name; nothing elsewhere."""
    state = worker.state
    names = set(state.first_name.values())
    for name, whole in worker.full_state():
        if whole is not None and name in names:
            yield name, whole
    for name, x in state.unused.items():
        if name not in state.waiting:
            yield name, x.detach().cpu()


def _write(weights: Iterable[tuple[str, torch.Tensor]], folder: Path, max_shard_bytes: int) -> None:
    files: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    held_bytes = total_bytes = 0

    def flush() -> None:
        nonlocal held_bytes
        # Transformers wants to be told of which framework the tensors are.
        save_file(held, folder / str(len(files)), metadata={"format": "pt"})
        files.append(list(held))
        held.clear()
        held_bytes = 0

    for name, tensor in weights:
        if held and held_bytes + tensor.nbytes > max_shard_bytes:
            flush()
        held[name] = tensor.contiguous()
        held_bytes += tensor.nbytes
        total_bytes += tensor.nbytes
    flush()
    if len(files) == 1:
        (folder / "0").rename(folder / SINGLE)
        return
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    for number, name in enumerate(names):
        (folder / str(number)).rename(folder / name)
    placed = {weight: name for name, own in zip(names, files, strict=True) for weight in own}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(placed.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write_configs(model: nn.Module, folder: Path) -> None:
    """What transformers needs beside the weights: its own `save_pretrained` of a config writes it."""
    if not hasattr(type(model), "from_pretrained"):
        return
    config = copy.deepcopy(getattr(model, "config", None))
    if config is not None:
        config.architectures = [type(model).__name__]
        config.dtype = next((x.dtype for x in model.parameters() if x.is_floating_point()), None)
        config.save_pretrained(folder)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.save_pretrained(folder)


def _install(folder: Path, directory: Path) -> None:
    for old in directory.iterdir():
        if OWN_FILES.fullmatch(old.name):
            old.unlink()
    for new in folder.iterdir():
        shutil.move(new, directory / new.name)
