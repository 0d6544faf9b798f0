"""The zoo's models: all are there, small, the same at every call, and train."""

from typing import Any

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.benchmarks.zoo.architectures import Architecture, architectures, causal_lm
from tests.benchmarks.zoo.settings import FLOAT32, NOT_RUNNABLE, SETTINGS
from tests.benchmarks.zoo.small_config import CONFIG_MAPPING, small_config
from tests.benchmarks.zoo.tasks import TASKS

# One of each family, and each of the batches.
SAMPLE = [
    "bart",
    "bart-conditional-generation",
    "clip-contrastive",
    "git",
    "jamba",
    "llama",
    "mamba",
    "mixtral",
    "musicgen",
    "reformer",
    "resnet-image-classification",
    "roc_bert",
    "rwkv",
    "unet-diffusion",
    "vit-image-classification",
    "whisper-conditional-generation",
]


def named(name: str) -> Architecture:
    (found,) = (architecture for architecture in architectures() if architecture.name == name)
    return found


def test_every_causal_language_model_is_there_or_has_a_reason() -> None:
    names = [architecture.name for architecture in architectures()]
    assert names == sorted(set(names))
    assert {*names, *NOT_RUNNABLE} == {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *TASKS}
    assert not {*names} & {*NOT_RUNNABLE}
    assert {*SETTINGS, *FLOAT32} <= {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}, "settings of what does not exist"


@pytest.mark.parametrize("name", SAMPLE)
def test_an_architecture_is_small_repeatable_and_trains(name: str) -> None:
    architecture = named(name)
    losses = []
    for _ in range(2):
        model, batch = architecture.build()
        assert model.training
        assert sum(weight.numel() for weight in model.parameters()) < 3_000_000
        floats = [value for value in (*model.parameters(), *batch.values()) if isinstance(value, torch.Tensor)]
        assert {value.dtype for value in floats if value.is_floating_point()} == {getattr(torch, architecture.dtype)}
        output = model(**batch)
        loss = getattr(output, "loss", output)
        loss.backward()
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        assert len(gradients) > 10
        assert all(gradient.isfinite().all() for gradient in gradients)
        losses.append(loss.item())
    assert losses[0] == losses[1]
    assert 0 < losses[0] < 10


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("bert-masked-lm", "dense transformer"),
        ("deepseek_v3", "experts"),
        ("doge", "dense transformer"),
        ("gemma3", "multimodal"),
        ("jamba", "hybrid"),
        ("llama4", "experts"),
        ("mamba2", "state space"),
        ("rwkv", "recurrent"),
    ],
)
def test_the_family_follows_from_the_configuration(name: str, family: str) -> None:
    assert named(name).family == family


def kinds(config: Any) -> set[str]:
    text = config.get_text_config(decoder=True)
    return {kind for name in ("layer_types", "mlp_layer_types") for kind in getattr(text, name, None) or ()}


def test_four_layers_hold_every_kind_of_the_default_configuration() -> None:
    lost = {
        name: sorted(
            kinds(CONFIG_MAPPING[name]()) - kinds(small_config(CONFIG_MAPPING[name], **SETTINGS.get(name, {})))
        )
        for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        if name not in NOT_RUNNABLE
    }
    assert not {name: missing for name, missing in lost.items() if missing}


def test_grouped_experts_have_no_float64() -> None:
    model, batch = named("mixtral").build()
    with pytest.raises(RuntimeError, match="Double"):
        model.double()(**batch)


@pytest.mark.parametrize("name", NOT_RUNNABLE)
def test_what_cannot_run_still_cannot(name: str) -> None:
    with pytest.raises((ImportError, ValueError), match=r"timm|layer types producing a cache"):
        causal_lm(name)
