"""The architectures of the zoo: every causal language model of the installed transformers, and other tasks beside."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.benchmarks.zoo import batches
from tests.benchmarks.zoo.settings import FLOAT32, NOT_RUNNABLE, SETTINGS
from tests.benchmarks.zoo.small_config import CONFIG_MAPPING, small_config
from tests.benchmarks.zoo.tasks import TASKS, Built

# The batches of the causal language models that take more than tokens.
BATCHES = {
    "git": batches.tokens_and_pixels,
    "musicgen": batches.audio_codes,
    "musicgen_melody": batches.audio_codes,
    "roc_bert": batches.chinese,
}
# What configurations call the number of experts, and the width of a state space.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
STATES = ("state_size", "ssm_state_size", "mamba_d_state")
KINDS = ("layer_types", "block_types")
RECURRENT = {"linear_attention", "recurrent", "conv", "hybrid"}  # kinds of layers beside attention
MODALITIES = {"vision_config", "audio_config"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of model.

    `build` gives a model of random weights in training mode and a batch, the keywords of its forward; both are the same
    at every call. Floating-point numbers are of `dtype`, float64 unless the model cannot compute in it.
    """

    name: str
    dtype: str
    build: Callable[[], Built]

    @property
    def family(self) -> str:
        """What the model is made of, as its configuration shows."""
        return TASKS[self.name][0] if self.name in TASKS else _family(_config(self.name))


def architectures() -> tuple[Architecture, ...]:
    """All that run, sorted by name."""
    makers: dict[str, Callable[[], Built]] = {name: task for name, (_, task) in TASKS.items()}
    for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if name not in NOT_RUNNABLE:
            makers[name] = partial(causal_lm, name)
    dtypes = {name: "float32" if name in FLOAT32 else "float64" for name in makers}
    return tuple(
        Architecture(name, dtypes[name], partial(_build, makers[name], dtypes[name])) for name in sorted(makers)
    )


def causal_lm(name: str) -> Built:
    """The causal language model `name` and its batch, as transformers makes it from a configuration."""
    config = _config(name)
    return _model_class(name)(config), BATCHES.get(name, batches.tokens)()


def _config(name: str) -> Any:
    """The small configuration of `name`; where the model takes only that of the text, only that."""
    config = small_config(CONFIG_MAPPING[name], **SETTINGS.get(name, {}))
    for part, part_class in config.sub_configs.items():
        if part_class is _model_class(name).config_class:
            return getattr(config, part)
    return config


def _model_class(name: str) -> Any:
    return MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[name]]


def _family(config: Any) -> str:
    parts = [config, *(getattr(config, part) for part in config.sub_configs)]
    kinds = {kind for part in parts for name in KINDS for kind in getattr(part, name, None) or ()}
    states = _has(parts, STATES)
    attends = _has(parts, ("num_attention_heads",))
    if MODALITIES & set(config.sub_configs):
        return "multimodal"
    if attends and (states or kinds & RECURRENT):
        return "hybrid"
    if not attends:
        return "state space" if states else "recurrent"
    return "experts" if _has(parts, EXPERTS) and getattr(config, "is_moe", True) else "dense transformer"


def _has(parts: Iterable[Any], names: Iterable[str]) -> bool:
    return any(getattr(part, name, None) for part in parts for name in names)


def _build(make: Callable[[], Built], dtype: str) -> Built:
    """What `make` makes from the same random numbers at every call, in `dtype` and in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batch = make()
        _stir(model)
    number = getattr(torch, dtype)
    batch = {
        key: value.to(number) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in batch.items()
    }
    return model.to(number).train(), batch


def _stir(model: nn.Module) -> None:
    """Add noise to all weights: where some begin at zero, others have no gradient, and mistakes do not show."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.02 * torch.randn_like(weight)
