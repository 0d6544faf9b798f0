"""Initialize a model shard by shard, with the values that it would have in one process."""

from collections.abc import Callable, Collection, Mapping
from functools import reduce

import torch
from torch import nn

from autopart.errors import CheckpointError
from autopart.runtime.build_recording import BuildRecording
from autopart.runtime.build_replay import draws, replay
from autopart.runtime.build_tape import View
from autopart.runtime.job_state import JobState
from autopart.runtime.listed import listed

Build = Callable[[], nn.Module]
LIFTED = "lifted_tensor"  # what export calls a tensor that no attribute of the model names


def init_weights(state: JobState, build: Build, seed: int) -> None:
    """Give everything that this rank holds the values that `build()` gives it on the CPU after `manual_seed(seed)`.

    Raises:
        CheckpointError: `build` makes another model, or cannot be followed.
    """
    recording = BuildRecording(build, seed)
    _fill(state, recording, _views(state, recording, state.shapes, "build"))


def init_unsaved(state: JobState, build: Build, maker: str) -> None:
    """The same for what is in no `state_dict` and has no values yet, such as tables of rotary positions.

    `maker` is what `build` is called in messages.

    Raises:
        CheckpointError: `build` makes another model, cannot be followed, or draws random numbers for these.
    """
    wanted = state.unsaved & state.waiting
    if not wanted:
        return
    recording = BuildRecording(build, 0)
    views = _views(state, recording, wanted, maker)
    random = [name for name in sorted(views) if draws(recording.tape, [views[name]])]
    if random:
        raise CheckpointError(
            f"{random[0]!r} of {state.model_name} is in no checkpoint, and drawn at random when the model is built: "
            "call par.init_weights(build, seed) first"
        )
    _fill(state, recording, views)


def _views(state: JobState, recording: BuildRecording, names: Collection[str], maker: str) -> Mapping[str, View]:
    """Where the built model has its tensors of these names, which are as here."""
    views, missing, different = {}, [], []
    for name in names:
        tensor, (shape, dtype) = _tensor(recording.model, name), state.shapes[name]
        if tensor is None:
            missing.append(
                f"{name!r} (kept in a list or dict: register it as a buffer)" if LIFTED in name else repr(name)
            )
        elif (tuple(tensor.shape), tensor.dtype) != (shape, dtype):
            different.append(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, here {dtype} {shape}")
        else:
            views[name] = recording.view(tensor)
    if missing or different:
        found = "; ".join(text for text in (listed("has no", missing), listed("differs:", different)) if text)
        raise CheckpointError(
            f"{maker} makes another model, a {type(recording.model).__name__}, than this {state.model_name}: it "
            f"{found}. "
            "Pass build=, the function that made this one, with all that was done to it before parallelize"
        )
    return views


def _fill(state: JobState, recording: BuildRecording, views: Mapping[str, View]) -> None:
    held, names = state.held, dict[View, list[str]]()
    for name in views.keys() & held.keys():
        names.setdefault(views[name], []).append(name)
    with torch.no_grad():
        for view, values in replay(recording.tape, list(names)):
            for name in names[view]:
                held[name].take_from(values)
    state.fill(views)


def _tensor(model: nn.Module, path: str) -> torch.Tensor | None:
    try:
        found = reduce(getattr, path.split("."), model)
    except AttributeError:
        return None
    return found if isinstance(found, torch.Tensor) else None
