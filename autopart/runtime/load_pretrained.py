"""Load pretrained: a checkpoint of Hugging Face into a job, each rank only what it holds."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from autopart.errors import CheckpointError
from autopart.runtime.held_tensor import Box, HeldTensor
from autopart.runtime.init_weights import Build, init_unsaved
from autopart.runtime.job_state import JobState
from autopart.runtime.listed import listed
from autopart.runtime.pretrained_files import PretrainedFiles


def load_pretrained(state: JobState, model: nn.Module, directory: Path, build: Build | None, strict: bool) -> None:
    """Fill what this rank holds from `directory`, and then what no checkpoint has.

    Args:
        state: what this rank holds.
        model: says, if it is one of transformers, which names may differ from the checkpoint's, and how.
        directory: has safetensors files.
        build: makes the model; left out, it is made from its config, if it is one of transformers.
        strict: whether the checkpoint must have all names, and no others.

    Raises:
        CheckpointError: there is no checkpoint, or not of this model.
    """
    files = PretrainedFiles(directory)
    sources = _sources(state, model, files, strict)
    held = state.held
    _read(files, [(name, keys, held[name]) for name, keys in sources.items() if name in held])
    state.fill(sources)
    if build is not None:
        init_unsaved(state, build, "build")
    elif hasattr(type(model), "from_pretrained"):  # which makes the model so before it reads weights
        init_unsaved(state, lambda: type(model)(copy.deepcopy(model.config)), f"{type(model).__name__}(config)")


def _sources(state: JobState, model: nn.Module, files: PretrainedFiles, strict: bool) -> Mapping[str, Sequence[str]]:
    """For each name here those that the checkpoint has for it: several where tied tensors are stored more than once."""
    sources: dict[str, list[str]] = {}
    unexpected = []
    for key in files.stored:
        name = _own_name(key, state, getattr(model, "base_model_prefix", ""))
        if name is not None:
            sources.setdefault(name, []).append(key)
        elif key not in state.unsaved and not _ignored(key, model, "_keys_to_ignore_on_load_unexpected"):
            unexpected.append(repr(key))
    shapes = state.shapes
    wanted = [name for name in shapes if name not in state.unsaved]
    missing = [
        repr(name)
        for name in wanted
        if name not in sources and not _ignored(name, model, "_keys_to_ignore_on_load_missing")
    ]
    different = [
        f"{key} is {files.stored[key].shape}, here {shapes[name][0]}"
        for name, keys in sources.items()
        for key in keys
        if files.stored[key].shape != shapes[name][0]
    ]
    if different or (strict and (missing or unexpected)):
        found = [
            listed(f"has no ({len(missing)} of {len(wanted)})", missing),
            listed(f"has, and the model has not ({len(unexpected)} of {len(files.stored)}),", unexpected),
            listed(f"differs in shape ({len(different)}):", different),
        ]
        raise CheckpointError(
            f"the checkpoint in {files.directory} is of another model than {state.model_name}: it "
            f"{'; it '.join(text for text in found if text)}. {_advice(bool(different))}"
        )
    return sources


def _advice(different: bool) -> str:
    if different:
        return "Build the model from the config that lies beside the checkpoint"
    return (
        "Build the model from the config that lies beside the checkpoint, or load what both have with strict=False, "
        "after par.init_weights(build, seed) where the model was built on meta"
    )


def _own_name(key: str, state: JobState, prefix: str) -> str | None:
    """What the model calls a checkpoint's `key`: transformers puts a prefix before names of a base model, or not."""
    own = [key]
    if prefix:
        own += [key.removeprefix(f"{prefix}."), f"{prefix}.{key}"]
    return next((state.first_name[name] for name in own if name in state.first_name), None)


def _ignored(name: str, model: nn.Module, kind: str) -> bool:
    """Whether the model's class says that it does not matter where `name` is missing, or is too much."""
    return any(re.search(pattern, name) for pattern in getattr(model, kind, None) or ())


def _read(files: PretrainedFiles, wanted: Sequence[tuple[str, Sequence[str], HeldTensor]]) -> None:
    first = [(keys[0], held, box) for _, keys, held in wanted for box in held.boxes()]
    first.sort(key=lambda item: files.stored[item[0]].file)
    with torch.no_grad():
        for (key, _, box), part in zip(first, files.read(_parts(first)), strict=True):
            _check_kind(key, part, box.values)
            box.values.copy_(part)
    again = [(key, held, box) for _, keys, held in wanted for key in keys[1:] for box in held.boxes()]
    again.sort(key=lambda item: files.stored[item[0]].file)
    names = {id(held): keys[0] for _, keys, held in wanted}
    for (key, held, box), part in zip(again, files.read(_parts(again)), strict=True):
        if not torch.equal(box.values, part.to(box.values)):
            raise CheckpointError(
                f"{files.directory} has other values for {names[id(held)]!r} than for {key!r}, which are one tensor in "
                "the model: build it without tying them (tie_word_embeddings=False in its config)"
            )


def _parts(wanted: Sequence[tuple[str, HeldTensor, Box]]) -> Iterator[tuple[str, Sequence[slice]]]:
    for key, _, box in wanted:
        yield key, [slice(at, at + size) for at, size in zip(box.offsets, box.values.shape, strict=True)]


def _check_kind(key: str, stored: torch.Tensor, own: torch.Tensor) -> None:
    if stored.is_floating_point() != own.is_floating_point():
        raise CheckpointError(
            f"{key} is stored as {stored.dtype}, and is {own.dtype} in the model: a quantized checkpoint must be "
            "converted before"
        )
