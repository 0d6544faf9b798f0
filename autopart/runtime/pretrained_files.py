"""Pretrained files: the tensors of a directory of Hugging Face, by name, read a part at a time."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from autopart.errors import CheckpointError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a file: the file's name, and the tensor's shape."""

    file: str
    shape: tuple[int, ...]


class PretrainedFiles:
    """What `directory` has: one file, or several with an index. Only headers are read until a tensor is asked for.

    Attributes:
        stored: every tensor, by its name.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stored: Mapping[str, Stored] = {
            name: stored for file in _files(directory) for name, stored in _header(directory, file)
        }

    def read(self, parts: Iterable[tuple[str, Sequence[slice]]]) -> Iterator[torch.Tensor]:
        """The `parts` of tensors, one after another, each a window on its file: what is not looked at is not read."""
        opened: Any = None
        last = ""
        for name, window in parts:
            stored = self.stored[name]
            if stored.file != last:
                last, opened = stored.file, safe_open(self.directory / stored.file, framework="pt")
            yield opened.get_slice(name)[tuple(window)] if stored.shape else opened.get_tensor(name)


def _files(directory: Path) -> Sequence[str]:
    if (directory / SINGLE).is_file():
        return (SINGLE,)
    index = directory / INDEX
    if not index.is_file():
        other = sorted(path.name for path in directory.glob("*.bin")) if directory.is_dir() else []
        found = f"; it has {other[0]}, which from_pretrained(...).save_pretrained(...) converts" if other else ""
        raise CheckpointError(f"{directory} has neither {SINGLE} nor {INDEX}{found}: pass a directory that has")
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index} has no map of weights to files, and is damaged: fetch it again") from error
    outside = [str(file) for file in files if Path(str(file)).name != file]
    missing = [file for file in files if file not in outside and not (directory / file).is_file()]
    if outside or missing:
        what = f"{outside[0]!r}, a file elsewhere" if outside else f"{missing[0]}, which is not there"
        raise CheckpointError(f"{index} names {what} ({len(outside or missing)} of {len(files)} files): fetch it again")
    return files


def _header(directory: Path, file: str) -> Iterator[tuple[str, Stored]]:
    try:
        with safe_open(directory / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                yield name, Stored(file, tuple(opened.get_slice(name).get_shape()))
    except SafetensorError as error:
        raise CheckpointError(
            f"{directory / file} is not a safetensors file, or is damaged: {error}; fetch it again"
        ) from error
