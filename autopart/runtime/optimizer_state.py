"""Optimizer state by the original names of parameters, as `torch.distributed.checkpoint.state_dict` flattens it.

`state.<parameter>.<key>` is a value of a parameter's state; `param_groups.<parameter>.<key>` is a hyperparameter of the
group that it is in. Neither depends on how parameters are split, or numbered, or on which ranks they are.
"""

from collections.abc import Container, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.optim import Optimizer

from autopart.errors import CheckpointError, UnsupportedError
from autopart.runtime.held_tensor import HeldTensor

STATE, GROUPS = "optimizer.state.", "optimizer.param_groups."


def optimizer_items(
    optimizer: Optimizer, held: Mapping[str, HeldTensor], written: Container[str], writes_groups: bool
) -> Mapping[str, HeldTensor | Any]:
    """What a checkpoint stores of `optimizer`.

    Args:
        optimizer: of this rank's parameters, or some of them.
        held: those parameters, by their original names.
        written: names of those whose state this rank writes: of parts that several ranks have, one may write all.
        writes_groups: whether this rank writes hyperparameters, which are the same on all ranks of a stage.

    Raises:
        CheckpointError: the optimizer has a parameter that is none of `held`.
        UnsupportedError: state of which it is not known how it is split.
    """
    names = {id(tensor.local): name for name, tensor in held.items()}
    items: dict[str, Any] = {}
    for group in optimizer.param_groups:
        for name, parameter in _named(optimizer, group, names):
            writes = name in written and not _elsewhere(held[name])
            for key, value in optimizer.state.get(parameter, {}).items() if writes else ():
                items[f"{STATE}{name}.{key}"] = _state(optimizer, name, key, value, held[name])
            if writes_groups:
                for key, value in group.items():
                    if key not in ("params", "param_names"):
                        items[f"{GROUPS}{name}.{key}"] = _plain(optimizer, f"{key} of {name}", value)
    return items


class OptimizerLoader:
    """Reads a checkpoint's optimizer state into `optimizer`, whose parameters are `held`, by their original names.

    Raises:
        CheckpointError: the optimizer has a parameter that is none of `held`, or of which the checkpoint has nothing.
    """

    def __init__(self, optimizer: Optimizer, held: Mapping[str, HeldTensor]) -> None:
        self._optimizer = optimizer
        self._held = held
        self._names = {id(tensor.local): name for name, tensor in held.items()}
        self._read: dict[str, HeldTensor] = {}

    def items(self, metadata: Metadata) -> Mapping[str, HeldTensor | None]:
        """What is to be read, by name."""
        stored = metadata.state_dict_metadata
        if not any(name.startswith(GROUPS) for name in stored):
            raise CheckpointError("the checkpoint has no optimizer state: load it without optimizer=")
        states, groups = _by_parameter(stored, STATE), _by_parameter(stored, GROUPS)
        items: dict[str, HeldTensor | None] = {}
        # Whether a key has the shape of its parameter, which that of a parameter without dims does not tell.
        like = {
            key: getattr(stored[f"{STATE}{name}.{key}"], "size", None) == held.shape
            for name, held in self._held.items()
            if held.shape
            for key in states.get(name, ())
        }
        for group in self._optimizer.param_groups:
            for name, parameter in _named(self._optimizer, group, self._names):
                if name not in groups:
                    raise CheckpointError(
                        f"the checkpoint has no optimizer state of {name!r}, which was in no group of the optimizer "
                        "that was saved: give the optimizer the same parameters, or load without optimizer="
                    )
                items.update((f"{GROUPS}{name}.{key}", None) for key in groups[name])
                for key in states.get(name, ()):
                    full = f"{STATE}{name}.{key}"
                    if key in like or not _elsewhere(self._held[name]):
                        items[full] = self._empty(stored[full], parameter, self._held[name], group, like.get(key, True))
        self._read = {name: held for name, held in items.items() if held is not None}
        return items

    def finish(self, objects: Mapping[str, Any]) -> None:
        """Give the optimizer what was read; `objects` are the plain values.

        Raises:
            CheckpointError: parameters that are in one group now were in groups with other hyperparameters.
        """
        values = {**{name: held.local for name, held in self._read.items()}, **objects}
        states, groups = _by_parameter(values, STATE), _by_parameter(values, GROUPS)
        for group in self._optimizer.param_groups:
            settings: dict[str, tuple[str, Any]] = {}
            for name, parameter in _named(self._optimizer, group, self._names):
                for key in groups[name]:
                    value = values[f"{GROUPS}{name}.{key}"]
                    first, earlier = settings.setdefault(key, (name, value))
                    if not _same(earlier, value):
                        raise CheckpointError(
                            f"{first!r} and {name!r} are in one group of the optimizer, and were saved with {key} "
                            f"{earlier} and {value}: give the optimizer the groups that it had"
                        )
                found = {key: values[f"{STATE}{name}.{key}"] for key in states.get(name, ())}
                if found:
                    self._optimizer.state[parameter] = found
                else:
                    self._optimizer.state.pop(parameter, None)
            group.update({key: value for key, (_, value) in settings.items()})

    def _empty(
        self, stored: Any, parameter: nn.Parameter, held: HeldTensor, group: Mapping[str, Any], like: bool
    ) -> HeldTensor | None:
        if not isinstance(stored, TensorStorageMetadata):
            return None
        shape, dtype = tuple(stored.size), stored.properties.dtype
        if shape == held.shape and (shape or like):
            return held.like(torch.empty_like(parameter, dtype=dtype, requires_grad=False))
        # As torch has it: a number lies on the CPU, unless kernels read it.
        on_cpu = not shape and not (group.get("capturable") or group.get("fused"))
        return HeldTensor(shape, torch.empty(shape, dtype=dtype, device="cpu" if on_cpu else parameter.device))


def _elsewhere(held: HeldTensor) -> bool:
    """Whether other replicas have all elements of a parameter: an optimizer's state here is then of no meaning."""
    return held.span is not None and not held.local.numel()


def _named(
    optimizer: Optimizer, group: Mapping[str, Any], names: Mapping[int, str]
) -> Iterator[tuple[str, nn.Parameter]]:
    for parameter in group["params"]:
        name = names.get(id(parameter))
        if name is None and not names and not parameter.numel():
            continue  # what a rank without weights has instead
        if name is None:
            raise CheckpointError(
                f"{type(optimizer).__name__} has a parameter of shape {tuple(parameter.shape)} that is none of "
                "par.parameters(): build the optimizer from these, after parallelize"
            )
        yield name, parameter


def _by_parameter(names: Mapping[str, Any], prefix: str) -> Mapping[str, list[str]]:
    """The keys under `prefix`, for each parameter; a key has no dot."""
    found: dict[str, list[str]] = {}
    for full in names:
        if full.startswith(prefix):
            name, _, key = full.removeprefix(prefix).rpartition(".")
            found.setdefault(name, []).append(key)
    return found


def _state(optimizer: Optimizer, name: str, key: str, value: Any, held: HeldTensor) -> Any:
    if not isinstance(value, torch.Tensor):
        return _plain(optimizer, f"{key} of {name}", value)
    if value.shape == held.local.shape:
        return held.like(value)
    if value.ndim == 0 or (held.shard is None and held.span is None):
        return HeldTensor(tuple(value.shape), value)
    raise UnsupportedError(
        f"{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for {name!r}, of which a rank holds "
        f"{tuple(held.local.shape)} of {held.shape}: only state of the shape of the parameter, and numbers, can be "
        "saved where a parameter is in pieces; save without optimizer="
    )


def _plain(optimizer: Optimizer, what: str, value: Any) -> Any:
    """`value` if it can be read again without executing anything."""
    if value is None or isinstance(value, bool | torch.Tensor):
        return value
    for kind in (int, float, str):  # a number of numpy is one too, and becomes an ordinary one
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list | tuple):
        return type(value)(_plain(optimizer, what, item) for item in value)
    raise UnsupportedError(
        f"{type(optimizer).__name__} keeps {what} as a {type(value).__name__}: only numbers, text, tensors and lists "
        "of them can be saved; save without optimizer="
    )


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return bool(a == b)
