"""Pretrained names: which tensors of a checkpoint of Hugging Face make which of the model's."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autopart.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
Rename = Callable[[str], tuple[str, str | None]]


@dataclass(frozen=True)
class Converted:
    """Tensors of a checkpoint that become some of the model's only together, such as experts stored one by one.

    Attributes:
        keys: their names there.
        shapes: those of the model's tensors, by their names.
        convert: makes these of those.
    """

    keys: Sequence[str]
    shapes: Shapes
    convert: Callable[[Sequence[torch.Tensor]], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Sources:
    """Where the model's tensors are in a checkpoint.

    Attributes:
        direct: for each name of the model, those that the checkpoint has for it: several for a tied tensor that is
            stored more than once.
        converted: what is stored in other pieces than it is computed with.
        unexpected: names of the checkpoint that the model knows nothing of.
    """

    direct: Mapping[str, Sequence[str]]
    converted: Sequence[Converted]
    unexpected: Sequence[str]


def find_sources(stored: Shapes, first_name: Mapping[str, str], model: nn.Module) -> Sources:
    """Match the names that a checkpoint has `stored` with those of `model`.

    Args:
        stored: the shape of every tensor of the checkpoint.
        first_name: every name of the model's `state_dict` to the one that its tensor is known by.
        model: says, if it is one of transformers, how names and pieces of a checkpoint become its own.

    Raises:
        CheckpointError: transformers knows a conversion, and it fails.
    """
    rename, converters = _transformers_names(model, first_name) or (lambda key: (key, None), {})
    direct: dict[str, list[str]] = {}
    groups: dict[str, list[tuple[str, str]]] = {}
    unexpected = []
    for key in sorted(stored, key=_natural):
        name, pattern = rename(key)
        if name not in first_name:
            unexpected.append(key)
        elif pattern is None:
            direct.setdefault(first_name[name], []).append(key)
        else:
            groups.setdefault(name, []).append((key, pattern))
    converted = [_converted(name, parts, converters, stored, first_name, model) for name, parts in groups.items()]
    return Sources(direct, converted, unexpected)


def _transformers_names(model: nn.Module, names: Mapping[str, str]) -> tuple[Rename, Mapping[str, Any]] | None:
    """How transformers renames a checkpoint's key, and its conversions by the patterns of what they take.

    A prefix of the base model's names may be missing in the checkpoint, or too much.
    """
    if not hasattr(type(model), "from_pretrained"):
        return None
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:  # the model is of another library with such a method
        return None
    mapping = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings = [item for item in mapping if isinstance(item, WeightRenaming)]
    converters = [item for item in mapping if isinstance(item, WeightConverter)]
    prefix = getattr(model, "base_model_prefix", None) or None
    known: Any = names

    def rename(key: str) -> tuple[str, str | None]:
        found = rename_source_key(key, renamings, converters, prefix, known)
        return found if found[0] in names or key not in names else rename_source_key(key, [], [], prefix, known)

    return rename, {pattern: item for item in converters for pattern in item.source_patterns}


def _converted(
    name: str,
    parts: Sequence[tuple[str, str]],
    converters: Mapping[str, Any],
    stored: Shapes,
    first_name: Mapping[str, str],
    model: nn.Module,
) -> Converted:
    def convert(tensors: Sequence[torch.Tensor]) -> Mapping[str, torch.Tensor]:
        converter = copy.deepcopy(converters[parts[0][1]])
        for (key, pattern), tensor in zip(parts, tensors, strict=True):
            converter.add_tensor(name, key, pattern, tensor)
        try:
            found = converter.convert(name, model=model, config=model.config)
        except Exception as error:
            raise CheckpointError(
                f"transformers makes {name} of {len(parts)} tensors of the checkpoint, {parts[0][0]} and others, and "
                f"fails: {type(error).__name__}: {error}. Build the model from the config beside the checkpoint"
            ) from error
        whole = {target: made[0] if isinstance(made, list) else made for target, made in found.items()}
        return {first_name.get(target, target): made for target, made in whole.items()}

    keys = [key for key, _ in parts]
    made = convert([torch.empty(stored[key], device="meta") for key in keys])
    return Converted(keys, {target: tuple(tensor.shape) for target, tensor in made.items()}, convert)


def _natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Numbers in a name in their order: what is put together of numbered tensors has them in it."""
    return tuple((part.isdigit(), int(part) if part.isdigit() else 0, part) for part in name.split("."))
