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
from autopart.runtime.pretrained_names import Sources, find_sources


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
    sources = find_sources({key: stored.shape for key, stored in files.stored.items()}, state.first_name, model)
    found = {name: files.stored[keys[0]].shape for name, keys in sources.direct.items()}
    for group in sources.converted:
        found.update(group.shapes)
    _check(state, model, files, sources, found, strict)
    held = state.held
    with torch.no_grad():
        _read(files, {name: keys for name, keys in sources.direct.items() if name in held}, held)
        _convert(files, sources, held)
    state.fill(found)
    if build is not None:
        init_unsaved(state, build, "build")
    elif hasattr(type(model), "from_pretrained"):  # which makes the model so before it reads weights
        init_unsaved(state, lambda: type(model)(copy.deepcopy(model.config)), f"{type(model).__name__}(config)")


def _check(
    state: JobState,
    model: nn.Module,
    files: PretrainedFiles,
    sources: Sources,
    found: Mapping[str, tuple[int, ...]],
    strict: bool,
) -> None:
    shapes = state.shapes
    wanted = [name for name in shapes if name not in state.unsaved]
    missing = [
        repr(name)
        for name in wanted
        if name not in found and not _ignored(name, model, "_keys_to_ignore_on_load_missing")
    ]
    unexpected = [
        repr(key)
        for key in sources.unexpected
        if key not in state.unsaved and not _ignored(key, model, "_keys_to_ignore_on_load_unexpected")
    ]
    stored = [(key, name, files.stored[key].shape) for name, keys in sources.direct.items() for key in keys]
    stored += [(name, name, shape) for group in sources.converted for name, shape in group.shapes.items()]
    different = [f"{key} is {shape}, here {shapes[name][0]}" for key, name, shape in stored if shape != shapes[name][0]]
    if not different and not (strict and (missing or unexpected)):
        return
    text = [
        listed(f"has no ({len(missing)} of {len(wanted)})", missing),
        listed(f"has, and the model has not ({len(unexpected)} of {len(files.stored)}),", unexpected),
        listed(f"differs in shape ({len(different)}):", different),
    ]
    advice = "Build the model from the config that lies beside the checkpoint"
    if not different:
        advice += (
            ", or load what both have with strict=False, after par.init_weights(build, seed) where the model was built "
            "on meta"
        )
    raise CheckpointError(
        f"the checkpoint in {files.directory} is of another model than {state.model_name}: it "
        f"{'; it '.join(item for item in text if item)}. {advice}"
    )


def _ignored(name: str, model: nn.Module, kind: str) -> bool:
    """Whether the model's class says that it does not matter where `name` is missing, or is too much."""
    return any(re.search(pattern, name) for pattern in getattr(model, kind, None) or ())


def _read(files: PretrainedFiles, direct: Mapping[str, Sequence[str]], held: Mapping[str, HeldTensor]) -> None:
    """Each held part from the file into its place; of a tensor that is stored more than once, all must be equal."""
    for again in (False, True):
        parts = [
            (key, name, box)
            for name, keys in direct.items()
            for key in (keys[1:] if again else keys[:1])
            for box in held[name].boxes()
        ]
        parts.sort(key=lambda part: files.stored[part[0]].file)
        for (key, name, box), values in zip(parts, files.read(_windows(parts)), strict=True):
            _check_kind(key, values, box.values)
            if not again:
                box.values.copy_(values)
            elif not torch.equal(box.values, values.to(box.values)):
                raise CheckpointError(
                    f"{files.directory} has other values for {direct[name][0]!r} than for {key!r}, which are one "
                    "tensor in the model: build it without tying them (tie_word_embeddings=False in its config)"
                )


def _windows(parts: Sequence[tuple[str, str, Box]]) -> Iterator[tuple[str, Sequence[slice]]]:
    for key, _, box in parts:
        yield key, [slice(at, at + size) for at, size in zip(box.offsets, box.values.shape, strict=True)]


def _convert(files: PretrainedFiles, sources: Sources, held: Mapping[str, HeldTensor]) -> None:
    """One group of tensors at a time: whole, as a part of the result may need any of them."""
    for group in sources.converted:
        if group.shapes.keys().isdisjoint(held):
            continue
        made = group.convert(
            list(files.read((key, [slice(None)] * len(files.stored[key].shape)) for key in group.keys))
        )
        for name in group.shapes.keys() & held.keys():
            _check_kind(name, made[name], held[name].local)
            held[name].take_from(made[name])


def _check_kind(key: str, stored: torch.Tensor, own: torch.Tensor) -> None:
    if stored.is_floating_point() != own.is_floating_point():
        raise CheckpointError(
            f"{key} is stored as {stored.dtype}, and is {own.dtype} in the model: a quantized checkpoint must be "
            "converted before"
        )
